# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm, with a residual connection in front (add_layer_norm, add_rms_norm)."""

from __future__ import annotations

from .. import _core
from .._rows import Rows, forward
from .._types import Activation, Array, Quantization, Readable, RowNormResult

Extents = int | tuple[int, ...]


def layer_norm(
    x: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    bias: Readable | None = None,
    eps: float = 1e-5,
    *,
    axis: Extents | None = None,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    quantize: Quantization | None = None,
    mask: Array | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
) -> Array | RowNormResult:
    """Layer normalization: y = act((x - mean) / sqrt(var + eps) * weight + bias + residual).

    mean and (biased) var are those of a row: the positions of the last axes, whose extents are normalized_shape, or of
    any axes, named by `axis`.  A row's bits do not depend on other rows' values; rows one after the other in memory and
    rows side by side, as for axis 1 of (n, c, h, w), add up in two orders.  x is not copied, whatever its strides.

    x: at least 1 dimension.  weight, bias: x's extents along these axes, in their order.  axis: -1, (1, 2), ...; 1 for
    the channels of (n, c, h, w).  activation, residual, out: see the module.  quantize: y is int8 or uint8, see
    `Quantization`; not for float64.  mask: bool, which elements of x the statistics are taken of, at least one of each
    row: of the shape of x, or 1 along some axes, as (n, t, 1) has it for positions.  y is computed everywhere.
    return_stats: a RowNormResult instead of y, and for dynamic quantization; return_mask with "relu" too, and its mask
    says where relu passed its argument on.

    https://arxiv.org/abs/1607.06450, https://docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html

    >>> x = np.array([[1, 3], [10, 30]], np.float32)
    >>> layer_norm(x, 2, weight=[1, 2], eps=0.0)
    array([[-1.,  2.],
           [-1.,  2.]], dtype=float32)
    """
    usual = axis is None and activation is None and residual is None and quantize is None and mask is None
    if usual and not return_stats and not return_mask:
        plain = _core.layer_norm_plain(x, normalized_shape, weight, bias, eps, False, out)
        if plain is not None:
            return plain
    rows = Rows.of(x, normalized_shape, axis, weight, bias, eps, False, False, mask)
    result = forward(rows, None, None, activation, negative_slope, residual, quantize, return_stats, return_mask, out)
    return result if return_stats or return_mask or result.scales is not None else result.y


def rms_norm(
    x: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    eps: float | None = None,
    *,
    axis: Extents | None = None,
    plus_one: bool = False,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    quantize: Quantization | None = None,
    mask: Array | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
) -> Array | RowNormResult:
    """Root mean square normalization: y = act(x / sqrt(mean(x^2) + eps) * weight + residual), for each row.

    Everything as for `layer_norm`, but there is no bias, and the result's `var` is mean(x^2).  eps: None for the
    distance of 1 from the next number of the type computed in, 2^-23 (float64 x: 2^-52), as PyTorch has it.
    plus_one: the factor is 1 + weight, as in Gemma.

    https://arxiv.org/abs/1910.07467, https://docs.pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html

    >>> rms_norm(np.array([[3, 4, 0, 0]], np.float32), 4, [0, 0, 0, 0], eps=0.0, plus_one=True)
    array([[1.2, 1.6, 0. , 0. ]], dtype=float32)
    """
    usual = axis is None and activation is None and residual is None and quantize is None and mask is None
    if usual and not plus_one and not return_stats and not return_mask:
        plain = _core.layer_norm_plain(x, normalized_shape, weight, None, eps, True, out)
        if plain is not None:
            return plain
    rows = Rows.of(x, normalized_shape, axis, weight, None, eps, True, plus_one, mask)
    result = forward(rows, None, None, activation, negative_slope, residual, quantize, return_stats, return_mask, out)
    return result if return_stats or return_mask or result.scales is not None else result.y


def add_layer_norm(
    x: Readable,
    added: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    bias: Readable | None = None,
    eps: float = 1e-5,
    *,
    axis: Extents | None = None,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    quantize: Quantization | None = None,
    mask: Array | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
    out_sum: Array | None = None,
) -> RowNormResult:
    """A residual connection and the norm behind it, in one pass: sum = x + added, y = layer_norm(sum, ...).

    The same bits as in two steps.  added: shape and dtype of x.  out, for y, may be x or added; so may out_sum, but
    the two are apart.  Everything else as for `layer_norm`; mean and var only for return_stats.

    >>> x = np.array([[1, 2]], np.float32)
    >>> y, total, *_ = add_layer_norm(x, x, 2, eps=0.0)
    >>> y, total
    (array([[-1.,  1.]], dtype=float32), array([[2., 4.]], dtype=float32))
    """
    rows = Rows.of(x, normalized_shape, axis, weight, bias, eps, False, False, mask)
    return forward(
        rows, added, out_sum, activation, negative_slope, None, quantize, return_stats, return_mask, out, adds=True
    )


def add_rms_norm(
    x: Readable,
    added: Readable,
    normalized_shape: Extents | None = None,
    weight: Readable | None = None,
    eps: float | None = None,
    *,
    axis: Extents | None = None,
    plus_one: bool = False,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    quantize: Quantization | None = None,
    mask: Array | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
    out_sum: Array | None = None,
) -> RowNormResult:
    """sum = x + added, y = rms_norm(sum, ...), in one pass: see `add_layer_norm` and `rms_norm`.

    >>> x = np.array([[3, 4]], np.float32)
    >>> add_rms_norm(x, x, 2, eps=0.0).sum
    array([[6., 8.]], dtype=float32)
    """
    rows = Rows.of(x, normalized_shape, axis, weight, None, eps, True, plus_one, mask)
    return forward(
        rows, added, out_sum, activation, negative_slope, None, quantize, return_stats, return_mask, out, adds=True
    )
