# SPDX-License-Identifier: Apache-2.0
"""The gradients of what axes.py has: where they are no view of another's, NumPy in float64, in blocks, rounded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import as_array, as_like, as_number, output_for
from .._types import Array, Float64s, Readable
from ..statistics import moments
from .axes import as_axes, blocks, by_row, lp_norm, pieces
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
    mean, var = moments(array, axes)
    sigma, count = np.sqrt(var), math.prod(array.shape[a] for a in axes)
    scale = 1 / (sigma + as_number("eps", eps, 0.0))
    curve = np.where(sigma > 0, scale * scale / np.where(sigma > 0, sigma, 1) / max(1, count), 0)
    return _backward(array, axes, dy, mean, scale, curve, scale / max(1, count), sigma, 2.0, out)


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
    return _backward(array, axes, dy, np.zeros(norm.shape), scale, curve, np.zeros(norm.shape), norm, p, out)


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
    x: Array, axes: tuple[int, ...], dy: Any, center: Float64s, scale: Float64s, curve: Float64s, offset: Float64s,
    top: Float64s, p: float, out: Any,
) -> Array:  # fmt: skip
    """dx = scale * dy - curve * sum(dy * v) * w - offset * sum(dy), v = x - center, and w: v, for p = 1 sign(v), and
    for p = inf sign(v) where |v| is top, divided by how often that is."""
    gradient = as_like("dy", dy, x, required=True)
    assert gradient is not None
    dx = output_for(out, "dy", gradient, x.dtype, {}, {"x": x})
    for (source, came, target), at in pieces(axes, x, gradient, dx):
        shape = source.shape[:2]
        middle, gain, bend, less, largest = (np.reshape(a[at], shape) for a in (center, scale, curve, offset, top))
        sums, products, ties = (np.zeros(shape) for _ in range(3))
        wide = (..., *[None] * (source.ndim - 2))
        for rows, part in blocks(source):
            g, values = came[rows + part].astype(np.float64), source[rows + part] - middle[rows][wide]
            sums[rows] += by_row(g)
            products[rows] += by_row(g * values)
            ties[rows] += by_row(np.abs(_slope(values, largest[rows][wide], p))) if p == math.inf else 1
        if p == math.inf:
            products /= np.maximum(ties, 1)
        for rows, part in blocks(source):
            g, values = came[rows + part].astype(np.float64), source[rows + part] - middle[rows][wide]
            made = gain[rows][wide] * g - (bend * products)[rows][wide] * _slope(values, largest[rows][wide], p)
            with np.errstate(over="ignore"):
                target[rows + part] = (made - (less * sums)[rows][wide]).astype(x.dtype)
    return dx


def _slope(values: Float64s, top: Float64s, p: float) -> Float64s:
    if p == 2:
        return values
    return np.sign(values) * (np.abs(values) == top if p == math.inf else 1)
