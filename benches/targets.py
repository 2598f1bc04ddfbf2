# SPDX-License-Identifier: Apache-2.0
"""What every row of the table is held to."""

import math
from pathlib import Path
from typing import NamedTuple


def _cache(index, fallback):
    path = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    return int(path.read_text().strip().removesuffix("K")) << 10 if path.exists() else fallback


# Bytes, of one core.
L1 = _cache(0, 32 << 10)
L2 = _cache(2, 1 << 20)
SIZES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}

PEERS = (
    "onednn nhwc",
    "onednn nChw16c",
    "onednn first",
    "torch first",
    "torch last",
    "onnxruntime first",
    "numpy first",
)


class Row(NamedTuple):
    shape: tuple
    dtype: str
    threads: int
    op: str
    layout: str  # first: channel-major; last: channels innermost in memory
    seconds: float
    median: float
    limit: float  # seconds, of the passes over memory this operation needs
    faster: dict  # peer -> its time / ours
    peers: dict  # peer -> its time
    ulp: float | None
    evaluation: float | None  # seconds of inference in the same layout, for training

    @property
    def s(self):
        return math.prod(self.shape[2:])

    @property
    def bytes(self):
        return math.prod(self.shape) * SIZES[self.dtype]

    @property
    def percent(self):
        return 100 * self.limit / self.seconds

    @property
    def rate(self):
        """GB/s of the bytes an operation cannot avoid: in and out once."""
        return PASSES[self.op] * self.bytes / self.seconds * 1e-9


PASSES = {"eval": 2, "scale_shift": 2, "train": 2, "backward": 3, "moments": 1, "scale_axis": 2,
          "layer_norm": 2, "rms_norm": 2, "add_layer_norm": 4, "layer_norm int8": 1.25,
          "layer_norm backward": 3}  # fmt: skip


def limit_loops(op, layout, shape, dtype):
    """The loops of limit.c whose times add up to the limit of an operation.

    A gradient needs both arrays twice: from memory, unless those of a channel (channels-last: of all, since a
    cache line has many channels) are still in L2 the second time.
    """
    if op in ("add_layer_norm", "layer_norm backward"):
        return ("triad",) if op == "layer_norm backward" else ("copy", "copy")
    if op != "backward":
        return ("read",) if op == "moments" else ("copy",)
    elements = math.prod(shape) // (shape[1] if layout == "first" else 1)
    return ("triad",) if 2 * elements * SIZES[dtype] <= L2 else ("read2", "triad")


def short_rows(row):
    """Targets of normalized rows: most in memory, less in a core's own cache, where calls and sums show."""
    width, half = row.shape[1], row.dtype in ("f16", "bf16")
    if row.op in ("layer_norm", "rms_norm") and 2 * row.bytes > L1:
        wanted = 80 if 2 * row.bytes > 16 * L2 else 60 if 768 <= width <= 8192 else 35
        wanted *= 0.65 if half else 1
        yield f"{wanted:.0f} % of the limit", wanted / row.percent
    if row.op == "layer_norm backward" and 2 * row.bytes > L1:
        yield "70 % of the limit", 70 / row.percent
    if row.faster:
        peer = min(row.faster, key=row.faster.get)
        yield peer, 1 / row.faster[peer]


def short(row):
    """Yields (what is wanted, by how much it is missed: 1.1 is 10 % too slow)."""
    if "norm" in row.op:
        yield from short_rows(row)
        return
    c = row.shape[1]
    channel = row.bytes // c
    in_memory_or_cache = 2 * row.bytes > L1  # below, calls cost more than bytes
    few = row.op == "train" and row.layout == "first" and row.s < 64
    if row.op == "eval" and in_memory_or_cache:
        long_rows = row.s >= 196 if row.layout == "first" and row.s > 1 else c >= 64
        wanted = (80 if row.dtype in ("f16", "bf16") else 90) if long_rows else 60
        yield f"{wanted} % of the limit", wanted / row.percent
    if row.op == "backward" and in_memory_or_cache:
        yield "75 % of the limit", 75 / row.percent
    if row.op == "train" and row.evaluation and not few:
        slower = row.seconds / row.evaluation
        if row.layout == "last":
            yield "2.2 x inference", slower / 2.2
        elif row.bytes > L2 and channel <= L2:
            yield "1.4 x inference", slower / 1.4
        elif 2 * row.bytes <= L2:
            yield "1.8 x inference", slower / 1.8
    if row.faster:
        peer = min(row.faster, key=row.faster.get)
        yield f"{'1.3 x ' if few else ''}{peer}", 1 / row.faster[peer] / (1.3 if few else 1)
    if row.shape == (32, 64, 56, 56) and row.dtype == "f32" and row.op == "train" and row.layout == "first":
        yield "a ninth of torch first", 9 / row.faster.get("torch first", math.inf)
