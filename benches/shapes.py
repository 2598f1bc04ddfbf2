# SPDX-License-Identifier: Apache-2.0
"""The BatchNorm layers that are timed: distinct activation shapes of published networks, and the corners.

A network's list holds (channels, height), images of 224 x 224; each is timed at batch 1 and 32.
The largest array is 32 x 64 x 112 x 112, 98 MiB in f32.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    source: str
    dims: tuple[int, ...]  # (n, c, *s), whatever the memory order

    def __str__(self):
        return "x".join(map(str, self.dims))


# https://arxiv.org/abs/1512.03385, table 1; the stride in the 3x3 convolution, as everyone trains it.
RESNET50 = [
    (64, 112),
    (64, 56), (256, 56), (128, 56),
    (128, 28), (512, 28), (256, 28),
    (256, 14), (1024, 14), (512, 14),
    (512, 7), (2048, 7),
]  # fmt: skip

# https://arxiv.org/abs/1905.02244, table 1 (Large): expansion, depthwise and projection of each row.
MOBILENETV3 = [
    (16, 112), (64, 112),
    (64, 56), (24, 56), (72, 56),
    (72, 28), (40, 28), (120, 28), (240, 28),
    (240, 14), (80, 14), (200, 14), (184, 14), (480, 14), (112, 14), (672, 14),
    (672, 7), (160, 7), (960, 7),
]  # fmt: skip


def densenet121(growth=32, blocks=(6, 12, 24, 16), features=64, bottleneck=4):
    """https://arxiv.org/abs/1608.06993, table 1: every layer normalizes all features gathered before it."""
    yield features, 112
    for height, layers in zip((56, 28, 14, 7), blocks, strict=True):
        yield bottleneck * growth, height
        for layer in range(layers + 1):  # the last one is the transition's, or the classifier's
            yield features + layer * growth, height
        features = (features + layers * growth) // 2


NETWORKS = {"ResNet-50": RESNET50, "MobileNetV3": MOBILENETV3, "DenseNet-121": list(densenet121())}

CORNERS = [
    Shape("perceptron", (256, 1024)),
    Shape("video", (8, 64, 8, 28, 28)),
    Shape("pooled", (64, 4096, 1, 1)),
    Shape("one element", (1, 1, 1, 1)),
]


# (rows, width) of layer normalization: one token, BERT-base and Llama-2-7B prompts, heads, and the widths between.
# https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/2307.09288
ROWS = [
    Shape("token", (1, 64)), Shape("token", (1, 4096)),
    Shape("prompt", (128, 768)), Shape("prompt", (512, 4096)), Shape("prompt", (2048, 8192)),
    Shape("heads", (2048, 64)), Shape("heads", (262144, 64)),
    Shape("wide", (256, 16384)),
]  # fmt: skip


def _distinct():
    shapes = {}
    for source, layers in NETWORKS.items():
        for batch in (32, 1):
            for channels, height in layers:
                shape = Shape(source, (batch, channels, height, height))
                shapes.setdefault(shape.dims, shape)  # the first network that has it names it
    for corner in CORNERS:
        shapes.setdefault(corner.dims, corner)
    return list(shapes.values())


ALL = _distinct()

# What `make bench` prints: ResNet-50 and the corners in full, of the others every channel count that is
# no multiple of 16 or of 32, at the heights where MobileNetV3 and DenseNet-121 have most of their layers.
_ODD = {(32, 24, 56, 56), (32, 72, 28, 28), (32, 200, 14, 14), (1, 184, 14, 14), (1, 960, 7, 7),
        (32, 160, 56, 56), (32, 416, 28, 28), (32, 992, 14, 14), (1, 992, 7, 7)}  # fmt: skip
TABLE = [shape for shape in ALL if shape.source not in ("MobileNetV3", "DenseNet-121") or shape.dims in _ODD]

# Seconds, not minutes: one per kernel path (long rows, short rows, rows of channels, single values).
_SMOKE = {(1, 64, 56, 56), (1, 2048, 7, 7), (256, 1024), (1, 1, 1, 1)}
SMOKE = [shape for shape in ALL if shape.dims in _SMOKE]

# The storage dtypes of the half tables.
DTYPES = ("f32", "f16", "bf16", "f64")
DTYPE_TABLE = [shape for shape in ALL
               if shape.dims in {(32, 64, 56, 56), (32, 256, 14, 14), (1, 256, 56, 56), (1, 64, 56, 56),
                                 (32, 512, 7, 7), (1, 2048, 7, 7), (256, 1024)}]  # fmt: skip


def select(smoke=False, everything=False, text=""):
    """The (shape, dtype) pairs of a run; text: keep those whose 'source shape dtype' contains it."""
    shapes = SMOKE if smoke else ALL if everything else TABLE
    shapes = shapes + (ROWS[1:3] if smoke else ROWS)
    halves = [] if smoke else DTYPE_TABLE + ROWS[1:4]
    pairs = [(shape, "f32") for shape in shapes] + [(s, d) for d in DTYPES[1:] for s in halves]
    return [(s, d) for s, d in pairs if text in f"{s.source} {s} {d}"]
