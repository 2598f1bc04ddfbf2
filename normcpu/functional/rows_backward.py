# SPDX-License-Identifier: Apache-2.0
"""The gradients of layer_norm and rms_norm, with what is fused into them."""

from __future__ import annotations

from .._rows import Rows, backward
from .._types import Activation, Array, Bits, Readable, RowNormGradients
from .rows import Extents


def layer_norm_backward(
    dy: Readable,
    x: Readable,
    mean: Readable,
    var: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    eps: float = 1e-5,
    *,
    axis: Extents | None = None,
    activation: Activation | None = None,
    y: Readable | None = None,
    mask: Bits | None = None,
    statistics_mask: Array | None = None,
    residual: bool = False,
    dsum: Readable | None = None,
    out: Array | None = None,
) -> RowNormGradients:
    """The gradients of `layer_norm`, given that of its result, dy.

    With p = dy where the forward's relu passed, else 0, inv = 1 / sqrt(var + eps), normal = (x - mean) * inv and
    g = p * weight, means being those of a row:

        dx = inv * (g - mean(g) - normal * mean(g * normal)) + dsum
        dweight = sum(p * normal)      dbias = sum(p)         over the rows      dresidual = p

    dy: shape and dtype of x.  mean, var: as return_stats gives them.  Of `add_layer_norm`: x is its sum, dsum what
    reached the sum by other ways, and dx the gradient of x and of added.  out: for dx; it may be dy or dsum itself.
    activation: None or "relu", which is undone from y, the forward's output, or from `mask` (return_mask): give one.
    statistics_mask: the forward's `mask`; sums are then divided by how many elements of the row it chose, and the means
        are for those alone.
    residual: whether to return dresidual.

    Returns dx and dresidual (shape and dtype of x), dweight and dbias in float32, for float64 x in float64.

    >>> x = np.array([[1, 3], [10, 30]], np.float32)
    >>> mean, var = np.array([[2.0], [20.0]]), np.array([[1.0], [100.0]])
    >>> layer_norm_backward(np.ones_like(x), x, mean, var, 2).dbias
    array([2., 2.], dtype=float32)
    """
    rows = Rows.of(x, normalized_shape, axis, weight, None, eps, False, False, statistics_mask, "statistics_mask")
    return backward(rows, dy, mean, var, activation, y, mask, residual, dsum, out)


def rms_norm_backward(
    dy: Readable,
    x: Readable,
    var: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    eps: float | None = None,
    *,
    axis: Extents | None = None,
    plus_one: bool = False,
    activation: Activation | None = None,
    y: Readable | None = None,
    mask: Bits | None = None,
    statistics_mask: Array | None = None,
    residual: bool = False,
    dsum: Readable | None = None,
    out: Array | None = None,
) -> RowNormGradients:
    """The gradients of `rms_norm`: those of `layer_norm_backward` with normal = x * inv and

        dx = inv * (g - normal * mean(g * normal)) + dsum

    dbias is None.

    >>> x = np.array([[3, 4]], np.float32)
    >>> rms_norm_backward(x, x, np.array([[12.5]]), 2, eps=0.0).dx  # scaling x by itself changes nothing
    array([[0., 0.]], dtype=float32)
    """
    rows = Rows.of(x, normalized_shape, axis, weight, None, eps, True, plus_one, statistics_mask, "statistics_mask")
    return backward(rows, dy, None, var, activation, y, mask, residual, dsum, out)
