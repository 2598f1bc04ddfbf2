# SPDX-License-Identifier: Apache-2.0
"""Factors into weights, and what no fold may do to them: leave the dtype's range, or drown in its smallest numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._arrays import FLOAT64, as_array, as_axis, as_parameter, output_for
from .._types import Array, Float64s, Readable

# Smallest normal number, and the first number that rounds to infinity: largest + ulp/2.
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
    return scale_named("array", as_array("array", array), factors, axis, out)


def scale_named(name: str, array: Array, factors: Any, axis: int, out: Array | None) -> Array:
    """scale_axis with the array's name for messages."""
    axis = as_axis("axis", axis, array, name)
    times = finite("factors", as_parameter("factors", factors, array.shape[axis], FLOAT64, required=True))
    peak = np.empty(times.size)
    y = output_for(out, name, array, array.dtype, {}, {"factors": times})
    if out is not None and _core.bounds_meet(array, y):
        _core.scale_axis(array, axis, times, None, peak)
        check_range(name, array, times, axis, peak)
    _core.scale_axis(array, axis, times, y, peak)
    check_range(name, array, times, axis, peak)
    return y


def finite(name: str, values: Any) -> Float64s:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise FoldError(f"{name} must be finite, got {values[bad[0]]} in channel {bad[0]}", int(bad[0]))
    return values  # type: ignore[no-any-return]


def check_range(name: str, array: Array, factors: Float64s, axis: int, peak: Float64s) -> None:
    """peak (c): the largest |array * factor| of each channel, NaN where one is not finite."""
    least, beyond = RANGES[array.dtype.name]
    bad = np.flatnonzero(~(peak < beyond))
    if bad.size:
        c = int(bad[0])
        got = "infinity or NaN" if np.isnan(peak[c]) else f"{peak[c]:.6g}"
        raise FoldError(
            f"{name} times {factors[c]:.6g} must fit {array.dtype}, got {got} in channel {c} of axis {axis}", c
        )
    for c in np.flatnonzero((peak < least) & (factors != 0)).tolist():
        if peak[c] or np.any(array[(slice(None),) * axis + (c,)]):
            raise FoldError(
                f"{name} times {factors[c]:.6g} must keep {array.dtype}'s digits, got at most {peak[c]:.6g} in "
                f"channel {c} of axis {axis}, below {least:.6g}",
                c,
            )
