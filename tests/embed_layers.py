# SPDX-License-Identifier: Apache-2.0
"""Layers, shapes and options for generated C."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import normcpu

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish")
RANK = {"1d": 3, "2d": 4, "3d": 5}


class Case(NamedTuple):
    layer: Any
    shape: tuple[int, ...]
    x: np.ndarray
    residual: np.ndarray | None

    def __repr__(self) -> str:
        return f"Case({self.layer!r}, {self.shape}, residual={self.residual is not None})"


@st.composite
def cases(draw: Any, kinds: tuple[str, ...] = ()) -> Case:
    kind = draw(st.sampled_from(kinds or sorted(KINDS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layer, shape = KINDS[kind](draw)
    for name in ("weight", "bias", "running_mean"):
        array = getattr(layer, name, None)
        if array is not None and array.flags.writeable:
            array[...] = rng.normal(0.5, 2, array.shape)
    if getattr(layer, "running_var", None) is not None and layer.running_var.flags.writeable:
        layer.running_var[...] = rng.uniform(0.01, 9, layer.running_var.shape)
    centre, spread = draw(st.sampled_from([(0, 1), (3, 0.5), (-100, 1), (1e4, 7), (0, 1e-3), (0, 1e6)]))
    x = (centre + spread * rng.normal(size=shape)).astype(np.float32)
    residual = rng.normal(size=shape).astype(np.float32) if draw(st.booleans()) else None
    return Case(layer.eval(), shape, x, residual)


def _options(draw: Any, axes: tuple[int, ...] = (1, -1)) -> dict[str, Any]:
    return {
        "channel_axis": draw(st.sampled_from(axes)), "activation": draw(st.sampled_from(ACTIVATIONS)),
        "negative_slope": draw(st.sampled_from([0.01, 0.25, 1.5])), "eps": draw(st.sampled_from([1e-5, 1e-3])),
    }  # fmt: skip


def _shape(draw: Any, rank: int, channels: int, axis: int) -> tuple[int, ...]:
    shape = [draw(st.integers(1, 3)), *(draw(st.integers(1, 7)) for _ in range(rank - 1))]
    shape[axis] = channels
    return tuple(shape)


def _batch_norm(draw: Any) -> tuple[Any, tuple[int, ...]]:
    size, options, c = draw(st.sampled_from(sorted(RANK))), _options(draw), draw(st.integers(1, 9))
    layer = getattr(normcpu, f"BatchNorm{size}")(c, affine=draw(st.booleans()), **options)
    return layer, _shape(draw, RANK[size] - (size == "1d" and draw(st.booleans())), c, options["channel_axis"])


def _frozen(draw: Any) -> tuple[Any, tuple[int, ...]]:
    c, rng, options = draw(st.integers(1, 9)), np.random.default_rng(1), _options(draw, (1, -1, 2))
    values = rng.normal(size=(3, c))
    layer = normcpu.FrozenBatchNorm(*values, rng.uniform(0.1, 4, c), options.pop("eps"), **options)
    return layer, _shape(draw, draw(st.integers(3, 5)), c, options["channel_axis"])


def _instance_norm(draw: Any) -> tuple[Any, tuple[int, ...]]:
    size, options, c = draw(st.sampled_from(sorted(RANK))), _options(draw), draw(st.integers(1, 6))
    flags = {"affine": draw(st.booleans()), "track_running_stats": draw(st.booleans())}
    shape = _shape(draw, RANK[size], c, options["channel_axis"])
    if np.prod(shape) == shape[0] * c:  # one position alone has no variance
        shape = (shape[0], c, 2, *shape[3:]) if options["channel_axis"] == 1 else (shape[0], 2, *shape[2:])
    single = shape[0] == 1 and draw(st.booleans())
    return getattr(normcpu, f"InstanceNorm{size}")(c, **flags, **options), shape[1:] if single else shape


def _group_norm(draw: Any) -> tuple[Any, tuple[int, ...]]:
    options, groups = _options(draw), draw(st.integers(1, 4))
    c = groups * draw(st.integers(1, 4))
    layer = normcpu.GroupNorm(groups, c, affine=draw(st.booleans()), **options)
    return layer, _shape(draw, draw(st.integers(2, 5)), c, options["channel_axis"])


def _rows(draw: Any, rms: bool) -> tuple[Any, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    axis: tuple[int, ...] | None = None
    if draw(st.booleans()):
        axis = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    last = draw(st.integers(1, len(shape)))
    extents = shape[-last:] if axis is None else tuple(shape[a] for a in axis)
    options = {"eps": draw(st.sampled_from([1e-5, 1e-3])), "elementwise_affine": draw(st.booleans()), "axis": axis}
    if rms:
        return normcpu.RMSNorm(extents, plus_one=draw(st.booleans()), **options), shape
    return normcpu.LayerNorm(extents, bias=draw(st.booleans()), **options), shape


KINDS = {
    "batch_norm": _batch_norm,
    "frozen": _frozen,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": lambda draw: _rows(draw, False),
    "rms_norm": lambda draw: _rows(draw, True),
}
