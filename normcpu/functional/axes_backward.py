# SPDX-License-Identifier: Apache-2.0
"""The gradients of what axes.py has: where they are no view of another's, NumPy in float64, in blocks, rounded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from .._arrays import as_array, as_like, as_number, output_for, real_of
from .._types import Array, Float64s, Readable
from ..statistics import moments
from .axes import as_axes, blocks, by_row, lp_norm, pieces, samples
from .rows_backward import rms_norm_backward


def mean_variance_normalization_backward(
    dy: Readable,
    x: Readable,
    axis: int | tuple[int, ...] = (0, 2, 3),
    *,
    eps: float = 1e-9,
    out: Array | None = None,
) -> Array:
    """dx of `mean_variance_normalization` without activation, given the gradient of its result, dy.

    With sigma = sqrt(var), scale = 1 / (sigma + eps) and averages over the axes:

        dx = scale * (dy - average(dy)) - (x - mean) * scale^2 / sigma * average(dy * (x - mean))

    dy: of the shape and dtype of x.  out: for dx; it may be dy itself.

    >>> x = np.array([[1, 3, 8]], np.float32)
    >>> mean_variance_normalization_backward(np.ones_like(x), x, axis=1)
    array([[0., 0., 0.]], dtype=float32)
    """
    array = as_array("x", x)
    axes = as_axes(axis, array)
    gradient, least = as_like("dy", dy, array, required=True), as_number("eps", eps, 0.0)
    assert gradient is not None
    dx = output_for(out, "dy", gradient, array.dtype, {}, {"x": array})
    mean, var = moments(array, axes)
    sigma = np.sqrt(var)
    # A normalization's gradient with inv^2 = scale / sigma and the weight scale / inv; where sigma is 0, x is mean.
    spread = np.where(sigma == 0, least * least, var + sigma * least)
    weight = np.sqrt(np.divide(sigma, sigma + least, out=np.ones_like(sigma), where=sigma != 0)).astype(real_of(array))
    for (source, came, target), channel_axis, at in samples(axes, array, gradient, dx):
        shape = len(source), source.shape[channel_axis]
        center, square, gamma = (np.ascontiguousarray(a[at]).reshape(shape) for a in (mean, spread, weight))
        together = len(source) if (gamma == gamma[0]).all() else 1  # a call has one weight per channel
        for i in range(0, len(source), together):
            rows = slice(i, i + together)
            _core.group_norm_backward(
                came[rows], source[rows], channel_axis, shape[1], center[rows].reshape(-1), square[rows].reshape(-1),
                None, False, gamma[i], 0.0, 0, None, None, target[rows], None, None, None,
            )  # fmt: skip
    return dx


def lp_normalize_backward(
    dy: Readable,
    x: Readable,
    p: float = 2.0,
    axis: int | tuple[int, ...] = 1,
    *,
    eps: float = 1e-12,
    out: Array | None = None,
) -> Array:
    """dx of `lp_normalize` without activation, given the gradient of its result, dy.

    dx = (dy - sum(dy * x) * d norm / dx / norm) / norm where norm is above eps, else dy / eps; with d norm / dx = x /
    norm for p = 2, sign(x) for p = 1, and for p = inf sign(x) shared by the largest ones, 0 for the others.

    dy: of the shape and dtype of x.  out: for dx; it may be dy itself.

    >>> x = np.array([[3, 4]], np.float32)
    >>> lp_normalize_backward(np.array([[1, 0]], np.float32), x).round(4)
    array([[ 0.128, -0.096]], dtype=float32)
    """
    array = as_array("x", x)
    axes = as_axes(axis, array)
    norm = lp_norm(array, p, axes)
    least = as_number("eps", eps, 0.0)
    if p == 2 and axes and array.size:
        return _as_rows(dy, array, tuple(sorted(axes)), norm, least, out)
    scale = 1 / np.where(norm > least, norm, least or 1.0)
    curve = np.where(norm > least, scale * scale * (scale if p == 2 else 1), 0)
    return _backward(array, axes, dy, scale, curve, norm, p, out)


def _as_rows(dy: Any, x: Array, axes: tuple[int, ...], norm: Float64s, least: float, out: Any) -> Array:
    """x / norm is rms_norm by sqrt(width); where norm is no more than `least` it is x / least."""
    gradient = as_like("dy", dy, x, required=True)
    assert gradient is not None
    extents = tuple(x.shape[a] for a in axes)
    width, small = math.prod(extents), np.expand_dims(norm <= least, axes)
    divided = (gradient.astype(np.float64) / (least or 1.0)).astype(x.dtype) if small.any() else None
    var = np.where(small, 1, np.expand_dims(norm * norm / width, axes))
    dx = rms_norm_backward(gradient, x, var, None, np.full(extents, width**-0.5), 0.0, axis=axes, out=out).dx
    if divided is not None:
        np.copyto(dx, divided, where=small)
    return dx


def _backward(
    x: Array, axes: tuple[int, ...], dy: Any, scale: Float64s, curve: Float64s, top: Float64s, p: float, out: Any
) -> Array:
    """dx = scale * dy - curve * sum(dy * x) * w, and w: x, for p = 1 sign(x), and for p = inf sign(x) where |x| is top,
    divided by how often that is."""
    gradient = as_like("dy", dy, x, required=True)
    assert gradient is not None
    dx = output_for(out, "dy", gradient, x.dtype, {}, {"x": x})
    for (source, came, target), at in pieces(axes, x, gradient, dx):
        shape = source.shape[:2]
        gain, bend, largest = (np.reshape(a[at], shape) for a in (scale, curve, top))
        products, ties = np.zeros(shape), np.zeros(shape)
        wide = (..., *[None] * (source.ndim - 2))
        for rows, part in blocks(source):
            g, values = came[rows + part].astype(np.float64), source[rows + part].astype(np.float64)
            products[rows] += by_row(g * values)
            ties[rows] += by_row(np.abs(_slope(values, largest[rows][wide], p))) if p == math.inf else 1
        if p == math.inf:
            products /= np.maximum(ties, 1)
        for rows, part in blocks(source):
            g, values = came[rows + part].astype(np.float64), source[rows + part].astype(np.float64)
            made = gain[rows][wide] * g - (bend * products)[rows][wide] * _slope(values, largest[rows][wide], p)
            with np.errstate(over="ignore"):
                target[rows + part] = made.astype(x.dtype)
    return dx


def _slope(values: Float64s, top: Float64s, p: float) -> Float64s:
    if p == 2:
        return values
    return np.sign(values) * (np.abs(values) == top if p == math.inf else 1)
