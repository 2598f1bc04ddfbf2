# SPDX-License-Identifier: Apache-2.0
"""Factors into weights, and what no fold may do to them: leave the dtype's range, or drown in its smallest numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._arrays import FLOAT32, FLOAT64, as_array, as_axis, as_parameter, output_for
from .._sums import tree_sums
from .._types import Array, Float64s, Readable

# The smallest normal number, and the first that rounds to infinity: the largest and half an ulp.
RANGES = {
    "float32": (2.0**-126, 2.0**128 - 2.0**103),
    "float64": (2.0**-1022, float("inf")),
    "float16": (2.0**-14, 65520.0),
    "bfloat16": (2.0**-126, 2.0**128 - 2.0**119),
}


class FoldError(ValueError):
    """A fold that was refused, since the result would not be finite or would lose digits; `channel` says where."""

    def __init__(self, message: str, channel: int | None = None) -> None:
        super().__init__(message)
        self.channel = channel


def scale_axis(array: Readable, factors: Readable, axis: int, *, out: Array | None = None) -> Array:
    """result[..., c, ...] = array[..., c, ...] * factors[c] along `axis`: what every fold ends in.

    The product is formed in float64 and rounded once to the array's dtype.  https://arxiv.org/abs/1712.05877, 3.2.

    array: float32, float64, float16 or bfloat16, any strides.  factors: (c), c = array.shape[axis], finite.
    out: an ndarray of the shape and dtype of array for the result, of any strides; it may be array itself, which then
        changes only if nothing is refused.

    FoldError where a channel overflows or is not finite, and where it underflows: its largest product is below the
    dtype's smallest normal number.  Otherwise no element is off by more than half an ulp of its channel's largest.

    >>> scale_axis(np.array([[1, 2], [3, 4]], np.float32), [10, -1], 0)
    array([[10., 20.],
           [-3., -4.]], dtype=float32)
    """
    weight = as_array("array", array)
    axis = as_axis("axis", axis, weight, "array")
    times = finite("factors", as_parameter("factors", factors, weight.shape[axis], FLOAT64, required=True))
    y = output_for(out, "array", weight, weight.dtype, {}, {"factors": times})
    scale_parts("array", [Part(weight, y, times, axis)], out is not None)
    return y


class Part(NamedTuple):
    x: Array
    y: Array  # like x: x itself, or apart from it
    factors: Float64s  # (x.shape[axis])
    axis: int
    first: int = 0  # the channel of the affine that factors[0] belongs to, for messages
    repeats: int = 1  # of each channel in factors


def grouped(x: Array, y: Array, factors: Float64s, groups: int) -> list[Part]:
    """x (groups * a, b, ...) times factors (groups * b): those of its own group along axis 1."""
    a, b = x.shape[0] // groups, x.shape[1]
    if b == 1:  # depthwise
        return [Part(x, y, np.repeat(factors, a), 0, repeats=a)]
    rows = (slice(g * a, (g + 1) * a) for g in range(groups))
    return [Part(x[r], y[r], factors[g * b : (g + 1) * b], 1, g * b) for g, r in enumerate(rows)]


def scale_parts(name: str, parts: list[Part], in_place: bool) -> None:
    """y = x * factors for all parts; in place for all or none.  name: of x, for messages."""
    for look in (True, False) if in_place else (False,):
        for part in parts:
            _check_products(name, part, multiply(part, look))


def multiply(part: Part, look: bool = False) -> Float64s:
    """y = x * factors in double, rounded once, whatever comes of it; look: y stays.  Returns the largest |product| of
    each channel, NaN where one is not finite."""
    peak = np.empty(part.factors.size)
    _core.scale_axis(part.x, part.axis, np.ascontiguousarray(part.factors), None if look else part.y, peak)
    return peak


def _check_products(name: str, part: Part, peak: Float64s) -> None:
    """peak (c): the largest |x * factor| of each channel, NaN where one is not finite."""
    x, _, factors, axis, first, repeats = part
    least, beyond = RANGES[x.dtype.name]
    if ((peak >= least) & (peak < beyond)).all():
        return
    for c in np.flatnonzero(~(peak < beyond)).tolist():
        got = "infinity or NaN" if np.isnan(peak[c]) else f"{peak[c]:.6g}"
        what = f"{name} times {factors[c]:.6g} must fit {x.dtype}"
        raise FoldError(f"{what}, got {got} in channel {first + c // repeats}", first + c // repeats)
    for c in np.flatnonzero((peak < least) & (factors != 0)).tolist():
        if np.any(x[(slice(None),) * axis + (c,)]):
            what = f"{name} times {factors[c]:.6g} must keep {x.dtype}'s digits"
            got = f"got at most {peak[c]:.6g} in channel {first + c // repeats}, below {least:.6g}"
            raise FoldError(f"{what}, {got}", first + c // repeats)


def finite(name: str, values: Any) -> Float64s:
    """values (c)."""
    for c in np.flatnonzero(~np.isfinite(values)).tolist():
        raise FoldError(f"{name} must be finite, got {values[c]} in channel {c}", c)
    return values  # type: ignore[no-any-return]


# ---- What is computed in double and stored ---------------------------------------------------------------


def stored(name: str, doubles: Float64s, dtype: np.dtype[Any], digits: bool = False) -> Array:
    """doubles (c, ...) rounded once to dtype.  digits: refuse a channel that lies below the normal numbers."""
    least, beyond = RANGES[dtype.name]
    peak = np.abs(doubles).reshape(len(doubles), -1).max(axis=1, initial=0)
    for c in np.flatnonzero(~(peak < beyond)).tolist():
        raise FoldError(f"{name} must fit {dtype}, got {peak[c]:.6g} in channel {c}", c)
    for c in np.flatnonzero((peak < least) & (peak > 0)).tolist() if digits else ():
        got = f"got at most {peak[c]:.6g} in channel {c}, below {least:.6g}"
        raise FoldError(f"{name} must keep {dtype}'s digits, {got}", c)
    return rounded_once(doubles, dtype)


def rounded_once(doubles: Float64s, dtype: np.dtype[Any]) -> Array:
    """As dtype; NumPy goes to bfloat16 by way of float32, which rounds twice."""
    return (to_odd(doubles) if dtype.name == "bfloat16" else doubles).astype(dtype)


def to_odd(doubles: Float64s) -> Array:
    """As float32, inexact results with an odd last bit: rounding these to bfloat16 rounds the doubles once."""
    single = doubles.astype(FLOAT32)
    bits = single.view(np.uint32)
    inexact = (single != doubles) & (bits % 2 == 0)
    away = np.abs(single.astype(FLOAT64)) > np.abs(doubles)
    return np.where(inexact, np.where(away, bits - 1, bits + 1), bits).view(FLOAT32)


def weighted_sums(x: Array, weights: Float64s) -> Float64s:
    """sum(x * weights, axis=(1, 2, ...)) of x (r, c, ...), weights (c), in double."""
    sums = np.zeros(len(x))
    rows = max(1, (1 << 18) * len(x) // max(1, x.size))  # 2 MB of doubles
    for at in range(0, len(x), rows):
        terms = x[at : at + rows].astype(FLOAT64)
        terms *= weights.reshape(-1, *[1] * (x.ndim - 2))
        sums[at : at + rows] = tree_sums(terms.reshape(len(terms), -1))
    return sums
