# SPDX-License-Identifier: Apache-2.0
"""Normalization of rows: what layer_norm, rms_norm and their gradients share."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import (
    FLOAT32,
    FLOAT64,
    as_activation,
    as_array,
    as_axes,
    as_choice,
    as_extents,
    as_like,
    as_number,
    as_quantization,
    as_weight,
    check_apart,
    output_for,
    real_of,
)
from ._masks import as_elements, as_mask, check_undone, new_mask
from ._types import Array, Bits, Float64s, RowNormGradients, RowNormResult


class Layout(NamedTuple):
    """Where the rows of an array lie."""

    extents: tuple[int, ...]  # those of the axes that are normalized over, in their order
    stats_shape: tuple[int, ...]  # one value for each row, broadcasting against the array
    marks: bytes  # one per axis: 1 for those that are normalized over
    rows: int  # how many
    width: int

    @property
    def bits_shape(self) -> tuple[int, int]:
        """Of relu's bits, each row's starting with a byte: see ncpu_layer_norm."""
        return self.rows, -(-self.width // 8)


@lru_cache(maxsize=256)
def _layout(shape: tuple[int, ...], axes: tuple[int, ...]) -> Layout:
    extents = tuple(shape[i] for i in axes)
    stats_shape = tuple(1 if i in axes else n for i, n in enumerate(shape))
    marks = bytes(i in axes for i in range(len(shape)))
    return Layout(extents, stats_shape, marks, math.prod(stats_shape), math.prod(extents))


class Rows(NamedTuple):
    """x and its rows, with parameters that belong to them."""

    x: Array
    layout: Layout
    weight: Array | None  # flat
    bias: Array | None
    eps: float
    rms: bool
    plus_one: bool
    valid: Bits | None  # (rows * width): 1 where an element has a say in the statistics

    @classmethod
    def of(
        cls, x: Any, normalized_shape: Any, axis: Any, weight: Any, bias: Any, eps: Any, rms: bool, plus_one: Any,
        mask: Any, mask_name: str = "mask",
    ) -> Rows:  # fmt: skip
        array = as_array("x", x)
        real = real_of(array)
        if axis is None and normalized_shape is None:
            raise TypeError("normalized_shape or axis must be given, got neither")
        axes = as_extents(normalized_shape, array) if axis is None else as_axes("axis", axis, array)
        layout = _layout(array.shape, axes)
        if axis is not None and normalized_shape is not None:
            as_extents(normalized_shape, array, layout.extents)
        eps = (2.0**-52 if real is FLOAT64 else 2.0**-23) if rms and eps is None else as_number("eps", eps, 0.0)
        gamma, beta = (as_weight(name, p, layout.extents, real) for name, p in (("weight", weight), ("bias", bias)))
        return cls(array, layout, gamma, beta, eps, rms, bool(plus_one), as_elements(mask, array, axes, mask_name))

    @property
    def parameters(self) -> dict[str, Array | None]:
        return {"weight": self.weight, "bias": self.bias}


def forward(
    rows: Rows, added: Any, out_sum: Any, activation: Any, negative_slope: Any, residual: Any, quantize: Any,
    return_stats: bool, return_mask: bool, out: Any, adds: bool = False,
) -> RowNormResult:  # fmt: skip
    x, layout = rows.x, rows.layout
    plus, extra = as_like("added", added, x, required=adds), as_like("residual", residual, x)
    scale, zero_point, dtype = as_quantization(quantize, x)
    if return_mask and quantize is not None:
        raise ValueError("quantize must be None for return_mask, got a Quantization")
    bits = new_mask(layout.bits_shape, activation) if return_mask else None
    inputs, apart = {"added": plus, "residual": extra}, rows.parameters | {"mask": rows.valid}
    if dtype == x.dtype:
        y = output_for(out, "x", x, dtype, inputs, apart)
    else:
        y = output_for(out, "x", x, dtype, {}, inputs | apart)
    total = output_for(out_sum, "x", x, x.dtype, {"added": plus}, apart, "out_sum") if adds else None
    check_apart(("out",), {"out": y, "out_sum": total})
    code, slope = as_activation(activation, negative_slope, x)
    mean, var = _unknown((2, layout.rows)) if return_stats else (None, None)
    scales = np.ones(layout.rows, FLOAT32) if quantize is not None and scale is None else None
    if x.size:
        _core.layer_norm(
            x, layout.marks, rows.rms, rows.weight, rows.bias, rows.plus_one, rows.eps, rows.valid, plus, total, code,
            slope, extra, bits, y, mean, var, 1.0 if scale is None else scale, zero_point, scales,
        )  # fmt: skip
    shaped: list[Any] = [None if a is None else a.reshape(layout.stats_shape) for a in (mean, var, scales)]
    return RowNormResult(y, total, shaped[0], shaped[1], shaped[2], bits)


def backward(
    rows: Rows, dy: Any, mean: Any, var: Any, activation: Any, y: Any, mask: Any, residual: bool, dsum: Any, out: Any
) -> RowNormGradients:
    x, layout = rows.x, rows.layout
    gradient, output, beside = as_like("dy", dy, x, required=True), as_like("y", y, x), as_like("dsum", dsum, x)
    assert gradient is not None
    center = None if rows.rms else _statistic("mean", mean, rows)
    spread = _statistic("var", var, rows)
    relu = as_choice("activation of the backward pass", activation, {None: 0, "relu": 1})
    check_undone(relu, output, mask)
    bits = None if mask is None else as_mask(mask, layout.bits_shape)
    inputs = {"x": x, "y": output, "mask": bits, "mean": center, "var": spread, "statistics_mask": rows.valid}
    dx = output_for(out, "dy", gradient, x.dtype, {"dsum": beside}, inputs | rows.parameters)
    dresidual = np.empty_like(gradient, subok=False) if residual else None
    real = real_of(x)
    dweight, dbias = np.zeros(layout.width, real), None if rows.rms else np.zeros(layout.width, real)
    if x.size:
        passed = (output, bits) if relu else (None, None)
        _core.layer_norm_backward(
            gradient, x, layout.marks, rows.rms, rows.weight, rows.plus_one, rows.eps, rows.valid, center, spread, relu,
            *passed, beside, dx, dresidual, dweight, dbias,
        )  # fmt: skip
    shaped = None if dbias is None else dbias.reshape(layout.extents)
    return RowNormGradients(dx, dweight.reshape(layout.extents), shaped, dresidual)


def _unknown(shape: tuple[int, ...]) -> Float64s:
    values = np.empty(shape)
    values.fill(math.nan)
    return values


def _statistic(name: str, value: Any, rows: Rows) -> Float64s:
    array, expected = as_array(name, value), rows.layout.stats_shape
    if array.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, one value for each row, got {array.shape}")
    return np.ascontiguousarray(array, FLOAT64).reshape(-1)
