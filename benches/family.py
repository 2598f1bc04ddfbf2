# SPDX-License-Identifier: Apache-2.0
"""python -m benches --family: the whole family beside its peers, forward and backward, in float32 on one thread.

Times are minima of rounds in which the contestants take turns.  GB/s count what cannot be avoided to read and write,
once; the limit is what the loops of limit.c take for as much.  Errors are of some samples, in ulp as tests/budgets.py
has them.  It prints the table of the README.
"""

import math
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import budgets
import family_contests as contests
import native
import numpy as np
import reference
import shapes
from family_contests import FEW, GROUPS, P
from tabulate import tabulate

import normcpu

SECONDS = 0.3  # of a contestant


class Entry(NamedTuple):
    name: str
    make: Callable
    where: list  # of (shape, layout)
    moved: tuple = (2, 3)  # arrays, forward and backward
    loops: tuple = (("copy",), ("triad",))  # of limit.c, which move as much


TOKENS, PROMPT, MEMORY = (((128, 768), "first"), ((512, 4096), "first"), ((4096, 4096), "first"))
IMAGES = [((8, 64, 56, 56), layout) for layout in ("first", "last")]
LATENTS = [((8, 320, 32, 32), layout) for layout in ("first", "last")]
FAMILY = [
    Entry("LayerNorm", contests.layer_norm, [TOKENS, PROMPT, MEMORY]),
    Entry("RMSNorm", contests.rms_norm, [TOKENS, PROMPT]),
    Entry(f"GroupNorm {GROUPS}", contests.group_norm, [*IMAGES, *LATENTS]),
    Entry("InstanceNorm", contests.instance_norm, IMAGES),
    Entry("LocalResponseNorm 5", contests.local_response_norm, IMAGES[:1]),
    Entry("LpNormalization", contests.lp_normalize, IMAGES[:1]),
    Entry("MeanVarianceNormalization", contests.mean_variance_normalization, IMAGES[:1]),
    Entry(f"Dropout {P}", contests.dropout, [TOKENS, PROMPT], (2, 2), (("copy",), ("copy",))),
    Entry("SGD momentum", contests.sgd, [PROMPT], (5, 0), (("triad", "copy"), ())),
    Entry("AdamW", contests.adamw, [PROMPT], (7, 0), (("triad", "copy", "copy"), ())),
]


# ---- How ---------------------------------------------------------------------------------------------------


def measured(shape, seconds):
    """Seconds of the fastest loops of limit.c, and of C functions by who has them."""
    best, functions = {}, {}
    ops = ("copy", "triad", "layer_norm", "rms_norm", "layer_norm backward")
    for row in native.run([(shapes.Shape("family", shape), "f32")], 1, seconds, ops):
        if row["who"] != "machine" and row["layout"] != "memcpy":
            table = best if row["who"] == "limit" else functions.setdefault(row["who"], {})
            table[row["op"]] = min(table.get(row["op"], row["min"]), row["min"])
    return best, functions


def problem(shape, layout, functions):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) + np.float32(0.1) for _ in range(2)]
    if layout == "last":
        arrays = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in arrays]
    weight, bias = rng.uniform(0.5, 1.5, (2, shape[1])).astype(np.float32)
    y, dx = (np.zeros_like(a) for a in arrays)  # keeps the order of the axes
    return SimpleNamespace(shape=shape, layout=layout, c=shape[1], x=arrays[0], dy=arrays[1], y=y, dx=dx,
                           weight=weight, bias=bias, functions=functions)  # fmt: skip


def minima(calls, seconds):
    """What is a number instead of a call was measured elsewhere."""
    best = {name: math.inf if callable(call) else call for name, call in calls.items() if call}
    calls = {name: call for name, call in calls.items() if callable(call)}
    end, rounds = time.perf_counter() + seconds * len(calls), 0
    while time.perf_counter() < end or rounds < 4:
        for name in list(calls)[:: 1 - 2 * (rounds % 2)]:
            calls[name]()
            start = time.perf_counter()
            calls[name]()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def errors(contest):
    """The largest, of y and of dx."""
    made = contest.want() if contest.want else (None, None)
    for got, want in zip((contest.y, contest.dx), made or (), strict=True):
        off = None if want is None else np.abs(reference.wide(got[FEW]) - want[0])
        yield "-" if off is None else f"{float((off / budgets.ulp(want[1], budgets.F32)).max()):.1f}"


def line(entry, shape, layout, seconds):
    limits, functions = measured(shape, seconds)
    contest = entry.make(problem(shape, layout, functions))
    times = minima(contest.calls, seconds)
    cells = []
    for way, arrays, loops in zip(("forward", "backward"), entry.moved, entry.loops, strict=True):
        python = times.get(("normcpu", way))
        mine = times.get(("normcpu in C", way), python)
        if not mine:
            cells += ["-", "-"]
            continue
        rate, share = arrays * 4 * math.prod(shape) / mine * 1e-9, 100 * sum(limits[loop] for loop in loops) / mine
        peers = {
            who: taken / (mine if who == "oneDNN" else python)
            for (who, where), taken in times.items()
            if where == way and not who.startswith("normcpu")
        }
        best = min(peers, key=peers.get) if peers else None
        taken = f"{mine * 1e6:.0f}" if mine >= 1e-4 else f"{mine * 1e6:.3g}"
        cells += [f"{taken} us, {rate:.3g} GB/s ({share:.0f} %)", f"{best} {peers[best]:.2f}" if best else "-"]
    lies = "" if len(shape) == 2 else ", NCHW" if layout == "first" else ", NHWC"
    return [entry.name, f"{shape}{lies}", *cells, " / ".join(errors(contest))]


def table(smoke=False, text=""):
    """Markdown.  A peer's column is the fastest one's time over ours: C functions are compared with C functions."""
    normcpu.set_num_threads(1)
    seconds = 0.01 if smoke else SECONDS
    lines = []
    for entry in FAMILY:
        for shape, layout in entry.where[:1] if smoke else entry.where:
            if text in f"{entry.name} {shape}":
                print(entry.name, shape, layout, file=sys.stderr)
                lines.append(line(entry, shape, layout, seconds))
    header = ("operation", "shape", "forward", "best peer", "backward", "best peer", "error in ulp, y / dx")
    return tabulate(lines, header, "github", disable_numparse=True)
