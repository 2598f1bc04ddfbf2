# SPDX-License-Identifier: Apache-2.0
"""Statistics over any axes, without parameters: mean_variance_normalization and lp_normalize."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from .._arrays import as_activation, as_array, as_axis, as_like, as_number, output_for
from .._sums import tree_sums
from .._types import Activation, Array, Float64s, Readable
from ..statistics import moments

BLOCK = 32768  # elements that are copied at once
MOST_DIMENSIONS = _core.max_ndim - 2  # samples and channels are axes of their own


def mean_variance_normalization(
    x: Readable,
    axis: int | tuple[int, ...] = (0, 2, 3),
    *,
    eps: float = 1e-9,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
) -> Array:
    """y = act((x - mean) / (sqrt(var) + eps) + residual), mean and (biased) variance over the axes.

    ONNX's MeanVarianceNormalization: eps is added to the standard deviation, not to the variance.

    x: float32, float64, float16 or bfloat16.  axis: those that are reduced.  activation, residual, out: see the module.

    https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html

    >>> mean_variance_normalization(np.array([[1, 3], [10, 30]], np.float32), axis=1)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    array = as_array("x", x)
    axes = as_axes(axis, array)
    count, kept = math.prod(array.shape[a] for a in axes), [n for a, n in enumerate(array.shape) if a not in axes]
    mean, tail, squares, rest = state = tuple(np.zeros(math.prod(kept)) for _ in range(4))
    if array.size:
        _core.moments(array, bytes(a in axes for a in range(array.ndim)), state)
    spread = np.sqrt((squares + rest) / max(1, count)) + as_number("eps", eps, 0.0)
    mean, tail, spread = (values.reshape(kept) for values in (mean, tail, spread))
    # Of other data than float64, a mean of float64 leaves nothing to the tail.
    tails = tail if array.dtype == np.float64 else None
    return _given(array, axes, mean, spread, activation, negative_slope, residual, out, tails)


def lp_normalize(
    x: Readable,
    p: float = 2.0,
    axis: int | tuple[int, ...] = 1,
    *,
    eps: float = 1e-12,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
) -> Array:
    """y = act(x / max(norm, eps) + residual), norm = sum(|x|^p)^(1/p) over the axes; all zeros stay zeros.

    torch.nn.functional.normalize, and with eps=0 ONNX's LpNormalization.

    x: float32, float64, float16 or bfloat16.  p: 1, 2 or inf, for the largest |x|.  axis: those that are summed over.
    activation, residual, out: see the module.

    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.normalize.html

    >>> lp_normalize(np.array([[3, -4]], np.float32))
    array([[ 0.6, -0.8]], dtype=float32)
    """
    array = as_array("x", x)
    axes = as_axes(axis, array)
    norm = np.maximum(lp_norm(array, p, axes), as_number("eps", eps, 0.0))
    norm = np.where(norm == 0, 1, norm)
    return _given(array, axes, np.zeros(norm.shape), norm, activation, negative_slope, residual, out)


def lp_norm(x: Array, p: float, axes: tuple[int, ...]) -> Float64s:
    """sum(|x|^p)^(1/p) over the axes, in float64."""
    count = math.prod(x.shape[a] for a in axes)
    if p == 2:
        mean, var = moments(x, axes)
        return np.asarray(np.sqrt((var + mean * mean) * count)) if count else np.zeros(mean.shape)
    if p == math.inf:
        with np.errstate(invalid="ignore"):
            sides = x.max(axes, initial=-math.inf), x.min(axes, initial=math.inf)
        largest: Float64s = np.maximum(sides[0].astype(np.float64), -sides[1].astype(np.float64))
        return largest if count else np.zeros(largest.shape)
    if p != 1:
        raise ValueError(f"p must be 1, 2 or inf, got {p!r}")
    total = np.zeros([n for a, n in enumerate(x.shape) if a not in axes])
    for (piece,), at in pieces(axes, x):
        sums = np.zeros(piece.shape[:2])
        for rows, part in blocks(piece):
            sums[rows] += by_row(np.abs(piece[rows + part], dtype=np.float64))
        total[at] = sums.reshape(total[at].shape)
    return total


def blocks(piece: Array) -> Iterator[tuple[tuple[slice, slice], tuple[slice, ...]]]:
    """(rows, part of a row) of (n, c, reduced axes...), of about BLOCK elements."""
    n, c, first, *others = piece.shape
    inner = max(1, math.prod(others))
    channels, step = max(1, BLOCK // max(1, first * inner)), max(1, BLOCK // inner)
    together = max(1, channels // max(1, c))
    for i in range(0, n, together):
        for j in range(0, c, channels):
            for part in range(0, first, step):
                yield (slice(i, i + together), slice(j, j + channels)), (slice(part, part + step),)


def by_row(values: Float64s) -> Float64s:
    """The (n, c) sums."""
    n, c = values.shape[:2]
    return tree_sums(np.array(values, order="C").reshape(n * c, values[:1, :1].size)).reshape(n, c)


def as_axes(axis: Any, x: Array) -> tuple[int, ...]:
    if x.ndim > MOST_DIMENSIONS:
        raise ValueError(f"x must have at most {MOST_DIMENSIONS} dimensions, got {x.ndim}")
    axes = tuple(as_axis("axis", a, x) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must not name an axis twice, got {axis}")
    return axes


def pieces(axes: tuple[int, ...], *arrays: Array) -> Iterator[tuple[list[Array], tuple[int, ...]]]:
    """Views (n, c, reduced axes...) of the arrays, with their place among the kept axes but the last two, n and c."""
    kept = [a for a in range(arrays[0].ndim) if a not in axes]
    wholes = [array.transpose(*kept, *axes) for array in arrays]
    wholes = [(whole if axes else whole[..., None])[(None,) * (2 - len(kept))] for whole in wholes]
    for index in np.ndindex(*wholes[0].shape[: max(0, len(kept) - 2)]):
        yield [whole[index] for whole in wholes], index


def samples(axes: tuple[int, ...], *arrays: Array) -> Iterator[tuple[list[Array], int, tuple[int, ...]]]:
    """Views whose first axis counts samples, with the axis of the channels, each of which has statistics of its own,
    and their place among the kept axes; none of what is empty."""
    kept = [a for a in range(arrays[0].ndim) if a not in axes]
    if not arrays[0].size:
        return
    if len(kept) == 1:  # nothing moves, so that C finds in order what is in order
        yield [array[None] for array in arrays], kept[0] + 1, ()
        return
    for views, at in pieces(axes, *arrays):
        yield views, 1, at


def _given(
    x: Array, axes: tuple[int, ...], mean: Float64s, spread: Float64s, activation: Any, negative_slope: Any,
    residual: Any, out: Any, tail: Float64s | None = None,
) -> Array:  # fmt: skip
    """y = act((x - (mean + tail)) / spread + residual); mean, tail, spread: of the shape of the kept axes."""
    code, slope = as_activation(activation, negative_slope, x)
    added = as_like("residual", residual, x)
    y = output_for(out, "x", x, x.dtype, {"residual": added}, {})
    arrays = (x, y) if added is None else (x, y, added)
    for (source, target, *extra), channel_axis, at in samples(axes, *arrays):
        n, c = len(source), source.shape[channel_axis]
        center, sigma = (np.ascontiguousarray(a[at]).reshape(n, c) for a in (mean, spread))
        together = n if tail is None else 1  # a tail is a bias, of which a call has one per channel
        for i in range(0, n, together):
            rows, bias = slice(i, i + together), None if tail is None else (-tail[at].reshape(n, c) / sigma)[i]
            _core.group_norm(
                source[rows], channel_axis, c, center[rows].reshape(-1), (sigma * sigma)[rows].reshape(-1), None, True,
                None, bias, 0.0, code, slope, extra[0][rows] if extra else None, None, target[rows],
            )  # fmt: skip
    return y
