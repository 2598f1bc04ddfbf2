# SPDX-License-Identifier: Apache-2.0
"""An affine behind integer weights goes into their scales: the integers' grid stays what it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arrays import as_array, as_axis
from .._types import Array, Readable
from ._scale import FoldError, Part, scale_parts, stored
from ._weights import as_bias
from .affine import Affine, as_affine
from .linear import scaled_bias


class QuantizedWeights(NamedTuple):
    weight: Array  # int8
    scale: Array  # (o)
    zero_point: Array | None  # int8 (o), None: 0
    bias: Array | None


def quantized_then_affine(
    weight: Any,
    scale: Readable,
    zero_point: Any | None,
    bias: Readable | None,
    affine: Affine,
    *,
    axis: int = 0,
) -> QuantizedWeights:
    """s (q - z) r = (q' - z') (r |s|): r is the scale; q' = q and z' = z where s > 0, -q and -z where s < 0, and the
    bias becomes s b + t.  Where s is 0, q' = z' = z and r stays.

    weight: int8, its outputs along `axis` (0 for convolutions and Linear, 1 for MatMul).  scale: float, (o), or one
    number for all, which becomes (o).  zero_point: int8, likewise, or None.  bias: float (o), or None.
    FoldError where -128 would have to be negated, and as in `scale_axis` for the scales.

    https://arxiv.org/abs/1806.08342, 3.2; https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html.

    >>> q = np.array([[100], [-5]], np.int8)
    >>> folded = quantized_then_affine(q, np.float32(0.5), None, None, Affine.of([3, -1]))
    >>> folded.weight.ravel(), folded.scale
    (array([100,   5], dtype=int8), array([1.5, 0.5], dtype=float32))
    """
    q = np.asarray(weight)
    if q.dtype != np.int8:
        raise TypeError(f"weight must be int8, got {q.dtype}")
    axis = as_axis("axis", axis, q, "weight")
    channels = q.shape[axis]
    factor, shift = as_affine("affine", affine, channels)
    number = np.asarray(scale) if isinstance(scale, float | np.floating) else scale
    step = _per_channel("scale", as_array("scale", number), channels)
    zero = None if zero_point is None else np.asarray(zero_point)
    if zero is not None:
        if zero.dtype != np.int8:
            raise TypeError(f"zero_point must be int8, got {zero.dtype}")
        zero = _per_channel("zero_point", zero, channels)
    b = as_bias(bias, channels, step)
    negative = factor < 0
    _refuse_128("weight", q, negative, axis)
    if zero is not None:
        _refuse_128("zero_point", zero, negative, 0)
    made_scale = np.empty_like(step)
    scale_parts("scale", [Part(step, made_scale, np.where(factor == 0, 1.0, np.abs(factor)), 0)], False)
    sums = scaled_bias(b, factor, shift)
    made_bias = None if sums is None else stored("bias", sums, step.dtype if b is None else b.dtype)
    sign = np.sign(factor).astype(np.int8)
    made_zero = None if zero is None else np.where(negative, -zero, zero)
    made = q * sign.reshape([-1 if k == axis else 1 for k in range(q.ndim)])
    if made_zero is not None:
        dead = np.where(factor == 0, made_zero, 0).astype(np.int8)
        made += dead.reshape([-1 if k == axis else 1 for k in range(q.ndim)])
    return QuantizedWeights(made, made_scale, made_zero, made_bias)


def _per_channel(name: str, value: Array, channels: int) -> Array:
    if value.shape not in ((), (1,), (channels,)):
        raise ValueError(f"{name} must have shape ({channels},) or be one number, got shape {value.shape}")
    return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (channels,)))


def _refuse_128(name: str, integers: Array, negative: Array, axis: int) -> None:
    lowest = (integers == -128).any(axis=tuple(k for k in range(integers.ndim) if k != axis))
    for c in np.flatnonzero(lowest & negative).tolist():
        raise FoldError(f"{name} must be above -128 where the affine's scale is negative, got -128 in channel {c}", c)
