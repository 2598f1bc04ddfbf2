# SPDX-License-Identifier: Apache-2.0
"""The layers around a normalization, in evaluation: what a folded network is made of, for `function`.

x and y are as in PyTorch: samples, channels, and one or two spatial axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import as_choice
from .._types import Activation, Array, Readable
from ..fold._weights import as_bias, as_groups, as_weight
from .activations import activation_of
from .convolution import Convolution
from .params import STORE
from .parts import Part, Shape, alone, as_constant, part_of
from .pool import Pool
from .windows import Axis, axes, each

STORED = {"float32": False, "int8": True}


@dataclass(frozen=True, eq=False)
class Conv:
    """activation(a convolution of x (n, i, h, w) or (n, i, l)).

    weight (o, i / groups, *kernel), bias (o) or None, of any float dtype, rounded to float32.
    stride, dilation: a number, or one for each spatial axis.  padding, of zeros: likewise, or a pair (before, after)
    for each; some of x must be left in each window.
    Sums begin with the bias and take input channels, then rows and columns of the kernel, one after the other.
    stored "int8": weights of a byte, symmetric, with a float32 scale for each output channel; x and sums stay float.
    """

    weight: Readable
    bias: Readable | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    activation: Activation | None = None
    negative_slope: float = 0.01
    stored: str = "float32"


@dataclass(frozen=True, eq=False)
class Linear:
    """activation(weight @ x + bias), on the last axis of x (..., i).

    weight (o, i), bias (o) or None; stored: as in Conv.
    """

    weight: Readable
    bias: Readable | None = None
    activation: Activation | None = None
    negative_slope: float = 0.01
    stored: str = "float32"


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window of x (n, c, h, w) or (n, c, l); NaN where there is one.  stride: kernel where None.

    padding: as in Conv; what is beside x does not count.
    """

    kernel: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1


@dataclass(frozen=True)
class AveragePool:
    """The mean of each window, where padding counts as zeros if count_include_pad, else not at all; as MaxPool."""

    kernel: Any
    stride: Any = None
    padding: Any = 0
    count_include_pad: bool = True


@dataclass(frozen=True)
class GlobalAveragePool:
    """The mean of all spatial axes, which stay with extent 1."""


@part_of.register
def _conv(layer: Conv, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    weight = as_weight(layer.weight, 3, 4, "(o, i/groups, kernel) or (o, i/groups, rows, columns)")
    groups = as_groups(layer.groups, len(weight), "output")
    channels, spatial = weight.shape[1] * groups, weight.ndim - 2
    if len(shape) != weight.ndim or shape[1] != channels:
        raise ValueError(f"shape must be (n, {channels}, {'h, w' if spatial == 2 else 'l'}), got {shape}")
    found = axes(shape[2:], weight.shape[2:], layer.stride, layer.padding, layer.dilation)
    out = (shape[0], len(weight), *(axis.out for axis in found[2 - spatial :]))
    return _products(layer, weight, found, groups, shape[0], shape, out)


@part_of.register
def _linear(layer: Linear, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    weight = as_weight(layer.weight, 2, 2, "(o, i)")
    if shape[-1] != weight.shape[1]:
        raise ValueError(f"shape must be (..., {weight.shape[1]}), got {shape}")
    found = (Axis(1), Axis(1))
    return _products(layer, weight, found, 1, math.prod(shape[:-1]), shape, (*shape[:-1], len(weight)))


def _products(
    layer: Conv | Linear, weight: Array, plane: tuple[Axis, Axis], groups: int, repeats: int, shape: Shape, out: Shape
) -> Part:
    if not weight.size:
        raise ValueError(f"weight must have an element, got shape {weight.shape}")
    bias = as_bias(layer.bias, len(weight), weight)
    bias = None if bias is None else as_constant("bias", bias)
    scale = None
    if as_choice("stored", layer.stored, STORED):
        made = STORE["int8"]("weight", as_constant("weight", weight).astype(np.float64))
        weight, scale = made.values, made.scales
    else:
        weight = as_constant("weight", weight)
    weight = weight.reshape(*weight.shape[:2], plane[0].kernel, plane[1].kernel)
    activation = activation_of(layer.activation, layer.negative_slope)
    kind = type(layer).__name__.lower()
    return Convolution(kind, weight, bias, scale, plane, groups, activation, repeats, shape, out)


@part_of.register(MaxPool)
@part_of.register(AveragePool)
def _pool(layer: MaxPool | AveragePool, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    spatial = _spatial(shape)
    stride = layer.kernel if layer.stride is None else layer.stride
    is_max = isinstance(layer, MaxPool)
    found = axes(shape[2:], tuple(each("kernel", layer.kernel, spatial, 1)), stride, layer.padding,
                 layer.dilation if isinstance(layer, MaxPool) else 1)  # fmt: skip
    counts = is_max or layer.count_include_pad  # type: ignore[union-attr]
    out = (*shape[:2], *(axis.out for axis in found[2 - spatial :]))
    return Pool("max_pool" if is_max else "average_pool", found, bool(counts), shape, out)


@part_of.register
def _global_average_pool(layer: GlobalAveragePool, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    return _pool(AveragePool(shape[2:][: _spatial(shape)]), shape, False)


def _spatial(shape: Shape) -> int:
    if len(shape) not in (3, 4):
        raise ValueError(f"shape must be (n, c, h, w) or (n, c, l), got {shape}")
    return len(shape) - 2
