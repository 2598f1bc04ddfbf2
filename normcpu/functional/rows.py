# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm, with a residual connection in front (add_layer_norm, add_rms_norm), and their gradients."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._arrays import (
    FLOAT32,
    FLOAT64,
    as_activation,
    as_array,
    as_axes,
    as_extents,
    as_like,
    as_number,
    as_quantization,
    as_weight,
    check_apart,
    output_for,
    real_of,
)
from .._types import Activation, Array, Float64s, Quantization, Readable, RowNormGradients, RowNormResult

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
    return_stats: bool = False,
    out: Array | None = None,
) -> Array | RowNormResult:
    """Layer normalization: y = act((x - mean) / sqrt(var + eps) * weight + bias + residual).

    mean and (biased) var are those of a row: the positions of the last axes, whose extents are normalized_shape, or of
    any axes, named by `axis`.  A row's bits do not depend on other rows' values; rows one after the other in memory and
    rows side by side, as for axis 1 of (n, c, h, w), add up in two orders.  x is not copied, whatever its strides.

    x: at least 1 dimension.  weight, bias: x's extents along these axes, in their order.  axis: -1, (1, 2), ...; 1 for
    the channels of (n, c, h, w).  activation, residual, out: see the module.  quantize: y is int8 or uint8, see
    `Quantization`; not for float64.  return_stats: a RowNormResult instead of y, and for dynamic quantization.

    https://arxiv.org/abs/1607.06450, https://docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html

    >>> x = np.array([[1, 3], [10, 30]], np.float32)
    >>> layer_norm(x, 2, weight=[1, 2], eps=0.0)
    array([[-1.,  2.],
           [-1.,  2.]], dtype=float32)
    """
    if axis is None and activation is None and residual is None and quantize is None and not return_stats:
        plain = _core.layer_norm_plain(x, normalized_shape, weight, bias, eps, False, out)
        if plain is not None:
            return plain
    rows = _Rows.of("x", x, normalized_shape, axis, weight, bias, eps, False, False)
    result = _forward(rows, None, None, activation, negative_slope, residual, quantize, return_stats, out)
    return result if return_stats or result.scales is not None else result.y


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
    return_stats: bool = False,
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
    usual = axis is None and activation is None and residual is None and quantize is None
    if usual and not plus_one and not return_stats:
        plain = _core.layer_norm_plain(x, normalized_shape, weight, None, eps, True, out)
        if plain is not None:
            return plain
    rows = _Rows.of("x", x, normalized_shape, axis, weight, None, eps, True, plus_one)
    result = _forward(rows, None, None, activation, negative_slope, residual, quantize, return_stats, out)
    return result if return_stats or result.scales is not None else result.y


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
    return_stats: bool = False,
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
    rows = _Rows.of("x", x, normalized_shape, axis, weight, bias, eps, False, False)
    return _forward(rows, added, out_sum, activation, negative_slope, None, quantize, return_stats, out, adds=True)


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
    return_stats: bool = False,
    out: Array | None = None,
    out_sum: Array | None = None,
) -> RowNormResult:
    """sum = x + added, y = rms_norm(sum, ...), in one pass: see `add_layer_norm` and `rms_norm`.

    >>> x = np.array([[3, 4]], np.float32)
    >>> add_rms_norm(x, x, 2, eps=0.0).sum
    array([[6., 8.]], dtype=float32)
    """
    rows = _Rows.of("x", x, normalized_shape, axis, weight, None, eps, True, plus_one)
    return _forward(rows, added, out_sum, activation, negative_slope, None, quantize, return_stats, out, adds=True)


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
    dsum: Readable | None = None,
    out: Array | None = None,
) -> RowNormGradients:
    """The gradients of `layer_norm` (without activation), given that of its result, dy.

    With inv = 1 / sqrt(var + eps), normal = (x - mean) * inv and g = dy * weight, means being those of a row:

        dx = inv * (g - mean(g) - normal * mean(g * normal)) + dsum
        dweight = sum(dy * normal)      dbias = sum(dy)         over the rows

    dy: shape and dtype of x.  mean, var: as return_stats gives them.  Of `add_layer_norm`: x is its sum, dsum what
    reached the sum by other ways, and dx the gradient of x and of added.  out: for dx; it may be dy or dsum itself.

    Returns dx (shape and dtype of x), dweight and dbias in float32, for float64 x in float64.

    >>> x = np.array([[1, 3], [10, 30]], np.float32)
    >>> y, _, mean, var, _ = layer_norm(x, 2, return_stats=True)
    >>> layer_norm_backward(np.ones_like(x), x, mean, var, 2).dbias
    array([2., 2.], dtype=float32)
    """
    rows = _Rows.of("x", x, normalized_shape, axis, weight, None, eps, False, False)
    return _backward(rows, dy, mean, var, dsum, out)


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
    dsum: Readable | None = None,
    out: Array | None = None,
) -> RowNormGradients:
    """The gradients of `rms_norm`: those of `layer_norm_backward` with normal = x * inv and

        dx = inv * (g - normal * mean(g * normal)) + dsum

    dbias is None.

    >>> x = np.array([[3, 4]], np.float32)
    >>> y, _, _, var, _ = rms_norm(x, 2, eps=0.0, return_stats=True)
    >>> rms_norm_backward(x, x, var, 2, eps=0.0).dx  # scaling x by itself changes nothing
    array([[0., 0.]], dtype=float32)
    """
    rows = _Rows.of("x", x, normalized_shape, axis, weight, None, eps, True, plus_one)
    return _backward(rows, dy, None, var, dsum, out)


# ---- What they share -------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """x and its rows, with parameters that belong to them."""

    x: Array
    axes: tuple[int, ...]
    weight: Array | None  # flat
    bias: Array | None
    eps: float
    rms: bool
    plus_one: bool

    @classmethod
    def of(
        cls, name: str, x: Any, normalized_shape: Any, axis: Any, weight: Any, bias: Any, eps: Any, rms: bool,
        plus_one: Any,
    ) -> _Rows:  # fmt: skip
        array = as_array(name, x)
        real = real_of(array)
        if axis is None and normalized_shape is None:
            raise TypeError("normalized_shape or axis must be given, got neither")
        axes = as_extents(normalized_shape, array) if axis is None else as_axes("axis", axis, array)
        shape = tuple(array.shape[i] for i in axes)
        if axis is not None and normalized_shape is not None:
            as_extents(normalized_shape, array, shape)
        eps = (2.0**-52 if real is FLOAT64 else 2.0**-23) if rms and eps is None else as_number("eps", eps, 0.0)
        gamma, beta = as_weight("weight", weight, shape, real), as_weight("bias", bias, shape, real)
        return cls(array, axes, gamma, beta, eps, rms, bool(plus_one))

    @property
    def marks(self) -> bytes:
        return bytes(i in self.axes for i in range(self.x.ndim))

    @property
    def extents(self) -> tuple[int, ...]:
        """Those of x's axes that are normalized over, in their order."""
        return tuple(n for i, n in enumerate(self.x.shape) if i in self.axes)

    @property
    def stats_shape(self) -> tuple[int, ...]:
        """One value for each row, broadcasting against x."""
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.x.shape))

    @property
    def parameters(self) -> dict[str, Array | None]:
        return {"weight": self.weight, "bias": self.bias}


def _forward(
    rows: _Rows, added: Any, out_sum: Any, activation: Any, negative_slope: Any, residual: Any, quantize: Any,
    return_stats: bool, out: Any, adds: bool = False,
) -> RowNormResult:  # fmt: skip
    x = rows.x
    plus, extra = as_like("added", added, x, required=adds), as_like("residual", residual, x)
    scale, zero_point, dtype = as_quantization(quantize, x)
    inputs = {"added": plus, "residual": extra}
    if dtype == x.dtype:
        y = output_for(out, "x", x, dtype, inputs, rows.parameters)
    else:
        y = output_for(out, "x", x, dtype, {}, inputs | rows.parameters)
    total = output_for(out_sum, "x", x, x.dtype, {"added": plus}, rows.parameters, "out_sum") if adds else None
    check_apart(("out",), {"out": y, "out_sum": total})
    code, slope = as_activation(activation, negative_slope, x)
    count = math.prod(rows.stats_shape)
    mean, var = (np.full(count, math.nan) for _ in range(2)) if return_stats else (None, None)
    scales = np.ones(count, FLOAT32) if quantize is not None and scale is None else None
    if x.size:
        _core.layer_norm(
            x, rows.marks, rows.rms, rows.weight, rows.bias, rows.plus_one, rows.eps, plus, total, code, slope, extra,
            y, mean, var, 1.0 if scale is None else scale, zero_point, scales,
        )  # fmt: skip
    shaped: list[Any] = [None if a is None else a.reshape(rows.stats_shape) for a in (mean, var, scales)]
    return RowNormResult(y, total, *shaped)


def _backward(rows: _Rows, dy: Any, mean: Any, var: Any, dsum: Any, out: Any) -> RowNormGradients:
    x, count = rows.x, math.prod(rows.stats_shape)
    gradient, beside = as_like("dy", dy, x, required=True), as_like("dsum", dsum, x)
    assert gradient is not None
    center = None if rows.rms else _statistic("mean", mean, rows)
    spread = _statistic("var", var, rows)
    inputs = {"x": x, "mean": center, "var": spread, **rows.parameters}
    dx = output_for(out, "dy", gradient, x.dtype, {"dsum": beside}, inputs)
    real, width = real_of(x), x.size // count if count else math.prod(rows.extents)
    dweight, dbias = np.zeros(width, real), None if rows.rms else np.zeros(width, real)
    if x.size:
        _core.layer_norm_backward(
            gradient, x, rows.marks, rows.rms, rows.weight, rows.plus_one, rows.eps, center, spread, beside, dx,
            dweight, dbias,
        )  # fmt: skip
    return RowNormGradients(dx, dweight.reshape(rows.extents), None if dbias is None else dbias.reshape(rows.extents))


def _statistic(name: str, value: Any, rows: _Rows) -> Float64s:
    array = as_array(name, value)
    if array.shape != rows.stats_shape:
        raise ValueError(f"{name} must have shape {rows.stats_shape}, one value for each row, got {array.shape}")
    return np.ascontiguousarray(array, FLOAT64).reshape(-1)
