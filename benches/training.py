# SPDX-License-Identifier: Apache-2.0
"""python benches/training.py: dropout and the optimizers beside torch, in percent of the memory limit, one thread.

The limit is what the loops of limit.c take for the bytes that cannot be avoided: of dropout and its gradient x and y,
of SGD with momentum five arrays and of AdamW seven.  Minima of rounds in which the contestants take turns.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import native  # noqa: E402
import numpy as np  # noqa: E402
import shapes  # noqa: E402
from tabulate import tabulate  # noqa: E402

import normcpu  # noqa: E402

SIZES = [(16, 1024), (256, 1024), (8192, 1024), (24576, 1024)]  # elements: in L1 and L2, in L3, beyond
SECONDS = 1.0


def limits(size):
    """Seconds of the fastest copy and triad of arrays of f32."""
    best = {}
    for row in native.run([(shapes.Shape("training", size), "f32")], 1, 0.3, ("copy", "triad")):
        if row["who"] == "limit" and row["layout"] != "memcpy":
            best[row["op"]] = min(best.get(row["op"], row["min"]), row["min"])
    return best


def ours(x, g):
    y, mask = np.empty_like(x), normcpu.dropout(x, 0.1, rng=0, return_mask=True).mask
    w = x.copy()
    sgd, adamw = normcpu.SGD([w], 1e-9, 0.9, weight_decay=1e-4), normcpu.AdamW([w], 1e-9)
    return {
        "dropout 0.1": lambda: normcpu.dropout(x, 0.1, rng=0, out=y),
        "dropout 0.5": lambda: normcpu.dropout(x, 0.5, rng=0, out=y),
        "dropout backward": lambda: normcpu.dropout_backward(g, mask, 0.1, out=y),
        "SGD momentum": lambda: sgd.step([g]),
        "AdamW": lambda: adamw.step([g]),
    }


def torchs(x, g):
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    torch.set_num_threads(1)
    tensor, gradient = torch.from_numpy(x), torch.from_numpy(g)
    weight = torch.nn.Parameter(tensor.clone())
    weight.grad = gradient
    sgd = torch.optim.SGD([weight], 1e-9, 0.9, weight_decay=1e-4)
    adamw = torch.optim.AdamW([weight], 1e-9, fused=True)
    kept = torch.rand_like(tensor) >= 0.1
    return {
        "dropout 0.1": lambda: torch.nn.functional.dropout(tensor, 0.1),
        "dropout 0.5": lambda: torch.nn.functional.dropout(tensor, 0.5),
        "dropout backward": lambda: torch.ops.aten.native_dropout_backward(gradient, kept, 1 / 0.9),
        "SGD momentum": sgd.step,
        "AdamW": adamw.step,
    }


def minima(calls):
    best, end, rounds = dict.fromkeys(calls, float("inf")), time.perf_counter() + SECONDS * len(calls), 0
    while time.perf_counter() < end or rounds < 4:
        for name in list(calls)[:: 1 - 2 * (rounds % 2)]:
            calls[name]()
            start = time.perf_counter()
            calls[name]()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def main():
    normcpu.set_num_threads(1)
    lines = []
    for size in SIZES:
        rng = np.random.default_rng(0)
        x, g = (rng.standard_normal(size, np.float32) for _ in range(2))
        limit, mine, theirs = limits(size), ours(x, g), torchs(x, g)
        passes = dict.fromkeys(mine, limit["copy"])
        passes |= {"SGD momentum": limit["triad"] + limit["copy"], "AdamW": limit["triad"] + 2 * limit["copy"]}
        times = minima(
            {("normcpu", op): call for op, call in mine.items()} | {("torch", op): c for op, c in theirs.items()}
        )
        for op in mine:
            taken, other = times["normcpu", op], times.get(("torch", op))
            ratio = f"{other / taken:.2f}" if other else "-"
            lines.append([f"{size[0]}x{size[1]}", op, f"{taken * 1e6:.4g}", f"{100 * passes[op] / taken:.0f}", ratio])
    print(tabulate(lines, ("shape f32", "op", "us", "limit %", "torch / ours"), disable_numparse=True))


if __name__ == "__main__":
    main()
