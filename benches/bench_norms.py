# SPDX-License-Identifier: Apache-2.0
"""The Python functions against torch, ONNX Runtime and NumPy, each in the layouts it has.

Every contestant has two turns per problem, the second in the opposite order.
"""

import math
import time
from typing import NamedTuple

import numpy as np
from contestants import EPS, PEERS, problem

import normcpu

TURNS = 2
SECONDS = 0.05  # of a turn, about

# Bytes an operation moves at least, in sizes of x, and the loop of limit.c that moves as many.
OPS = {"eval": (2, "copy"), "train": (2, "copy"), "backward": (3, "triad"), "moments": (1, "read"),
       "scale_shift": (2, "copy"), "scale_axis": (2, "copy")}  # fmt: skip
ROW_OPS = {"layer_norm": (2, "copy"), "rms_norm": (2, "copy"), "add_layer_norm": (4, "copy"),
           "layer_norm int8": (1.25, "copy"), "layer_norm backward": (3, "triad")}  # fmt: skip


class Case(NamedTuple):
    shape: tuple
    dtype: str
    op: str
    who: str
    layout: str
    turn: int
    threads: int
    limit: float | None  # seconds

    def __str__(self):
        return f"{'x'.join(map(str, self.shape))}-{self.dtype}-{self.op}-{self.who}-{self.layout}-{self.turn}"


def cases(pairs, threads, limits):
    for (_, dims), dtype in pairs:
        n, s = dims[0], math.prod(dims[2:])
        for op, (_, loop) in (OPS | ROW_OPS if len(dims) == 2 else OPS).items():
            if op == "train" and n * s == 1:  # an error, as in torch
                continue
            limit = limits.get((dims, dtype), {}).get(loop)
            for turn in range(TURNS):
                for (who, layout), peer in list(PEERS.items())[:: 1 - 2 * turn]:
                    if hasattr(peer, op.replace(" ", "_")) and (layout == "first" or s > 1):
                        yield Case(dims, dtype, op, who, layout, turn, threads, limit)


def test_speed(benchmark, case):
    normcpu.set_num_threads(case.threads)
    p = problem(case.shape, case.dtype)
    call = getattr(PEERS[case.who, case.layout], case.op.replace(" ", "_"))(p)
    passes, _ = (OPS | ROW_OPS)[case.op]
    moved = passes * p.x["first"].nbytes
    rounds, runs = plan(call)
    benchmark.pedantic(call, rounds=rounds, iterations=runs, warmup_rounds=1)
    benchmark.extra_info |= case._asdict()
    if case.turn == 0 and case.op in ("eval", "train"):
        benchmark.extra_info["ulp"] = error(p, case)
    if case.turn == 0 and case.op in ("layer_norm", "rms_norm"):
        benchmark.extra_info["ulp"] = row_error(p, case)
    if benchmark.stats:
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["GB/s"] = moved / seconds * 1e-9
        benchmark.extra_info["percent of limit"] = 100 * case.limit / seconds if case.limit else None


def plan(call):
    """(rounds, runs a round): rounds of 100 us or more, about SECONDS in all, yet three of the slowest."""
    once = math.inf
    for _ in range(3):
        start = time.perf_counter()
        call()
        once = min(once, time.perf_counter() - start)
    runs = max(1, round(100e-6 / once))
    return max(3, min(200, round(SECONDS / runs / once))), runs


def error(p, case):
    """The largest error in some channels, in ulp of |normalized * weight| + |bias|, which are added last."""
    channels = slice(0, 4)
    view = (slice(None), channels)
    x, y = p.x[case.layout][view].astype("f8"), p.y[case.layout][view].astype("f8")
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    weight, bias, mean, var = (
        getattr(p, name)[channels].astype("f8").reshape(shape) for name in ("weight", "bias", "mean", "var")
    )
    if case.op == "train":
        mean, var = x.mean(p.axes, keepdims=True), x.var(p.axes, keepdims=True)
    normalized = (x - mean) / np.sqrt(var + EPS) * weight
    return in_ulp(y, normalized, bias, case.dtype)


def row_error(p, case):
    """The same of some rows."""
    x, y = p.x["first"][:16].astype("f8"), p.y["first"][:16].astype("f8")
    centred = x if case.op == "rms_norm" else x - x.mean(1, keepdims=True)
    bias = np.zeros_like(p.bias) if case.op == "rms_norm" else p.bias
    scale = p.weight.astype("f8") / np.sqrt((centred**2).mean(1, keepdims=True) + EPS)
    return in_ulp(y, centred * scale, bias.astype("f8"), case.dtype)


def in_ulp(y, scaled, added, dtype):
    bits = {"f32": 23, "f64": 52, "f16": 10, "bf16": 7}[dtype]
    unit = np.exp2(np.floor(np.log2(np.abs(scaled) + np.abs(added))) - bits)
    return float(np.max(np.abs(y - (scaled + added)) / unit))
