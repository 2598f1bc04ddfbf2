# SPDX-License-Identifier: Apache-2.0
"""Operations in a row as layers of `normcpu.embed`: a table of readers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ..embed import layers, pointwise
from ..embed.parts import part_of
from .affine import Refused
from .constants import attribute_or_input, integer, ints, real, text
from .net import Net
from .padded import steps, zeros_around
from .read import read
from .weights import constant_input

Reader = Callable[["Sequential", ir.Node], None]
READERS: dict[str, Reader] = {}


def reads(*op_types: str) -> Callable[[Reader], Reader]:
    def enter(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(op_types, reader))
        return reader

    return enter


class Sequential:
    """Layers so far, and the shape of what they make."""

    def __init__(self, net: Net, shape: tuple[int, ...], stored: str) -> None:
        self.net, self.shape, self.stored = net, shape, stored
        self.layers: list[Any] = []

    def add(self, node: ir.Node, x: ir.Value) -> None:
        """`node`, which reads x; Refused where there are no layers for it."""
        if node.domain or node.op_type not in READERS:
            raise Refused("there is no C for this operation")
        computed = [value for value in node.inputs if value is not None and not self.net.constants.is_constant(value)]
        if computed != [x]:
            names = " and ".join(repr(value.name) for value in computed)
            raise Refused(f"it combines {names}: a model must be one sequence")
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            raise Refused("its second output is used")
        if node.inputs[0] is not x and node.op_type not in ("Add", "Mul", "Sub"):
            raise Refused(f"it reads {x.name!r} as its parameter")
        READERS[node.op_type](self, node)

    def append(self, layer: Any) -> None:
        self.shape = part_of(layer, self.shape, False).out_shape
        self.layers.append(layer)

    def last_sum(self) -> layers.Conv | layers.Linear | None:
        """The convolution or linear layer right before, to whose result nothing has been done yet."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, layers.Conv | layers.Linear) and last.activation is None else None

    def activate(self, name: Any, slope: float = 0.01) -> None:
        last = self.last_sum()
        if last is None:
            self.append(pointwise.Activate(name, slope))
        else:
            part_of(pointwise.Activate(name, slope), (1,), False)
            self.layers[-1] = replace(last, activation=name, negative_slope=slope)

    def weight(self, node: ir.Node) -> Any:
        weight = constant_input(self.net, node, 1)
        if weight is None:
            raise Refused("it has no weight")
        return weight

    def constant(self, node: ir.Node, index: int) -> Any:
        return constant_input(self.net, node, index)


@reads("Conv")
def _conv(to: Sequential, node: ir.Node) -> None:
    weight = to.weight(node)
    strides, dilations = steps(node, weight.ndim - 2)
    padding = _padding(to, node, weight.shape[2:])
    bias, groups = to.constant(node, 2), integer(node, "group", 1)
    to.append(layers.Conv(weight, bias, strides, padding, dilations, groups, stored=to.stored))


@reads("Gemm")
def _gemm(to: Sequential, node: ir.Node) -> None:
    if integer(node, "transA"):
        raise Refused("its input is transposed")
    weight = to.weight(node)
    weight = real(node, "alpha", 1.0) * (weight if integer(node, "transB") else weight.T)
    bias = to.constant(node, 2)
    if bias is not None:
        if math.prod(bias.shape[:-1]) != 1:
            raise Refused(f"its bias differs between rows: {bias.shape}")
        bias = np.broadcast_to(real(node, "beta", 1.0) * bias.ravel(), (len(weight),))
    to.append(layers.Linear(weight, bias, stored=to.stored))


@reads("MatMul")
def _matmul(to: Sequential, node: ir.Node) -> None:
    weight = to.weight(node)
    if weight.ndim != 2:
        raise Refused(f"its weight has {weight.ndim} axes")
    to.append(layers.Linear(weight.T, stored=to.stored))


@reads("Add", "Sub", "Mul", "Div", "BatchNormalization")
def _affine(to: Sequential, node: ir.Node) -> None:
    """x * scale + shift along one axis; right behind a sum what only adds is its bias."""
    reading = read(to.net, node)
    if reading is None:
        raise Refused("it is not x * scale + shift with constants")
    axes = reading.affine.axes
    if len(axes) > 1:
        raise Refused(f"its factors vary along axes {sorted(axes)}, not along one")
    axis = axes.pop() if axes else min(1, len(to.shape) - 1)
    scale, shift = reading.affine.vectors(axis, to.shape[axis])
    last = to.last_sum()
    if last is not None and (scale == 1).all() and axis == (1 if isinstance(last, layers.Conv) else len(to.shape) - 1):
        bias = 0.0 if last.bias is None else np.asarray(last.bias)
        to.layers[-1] = replace(last, bias=bias + shift)
    else:
        to.append(pointwise.ScaleShift(scale, shift, axis))


@reads("Relu", "Sigmoid", "Tanh", "HardSwish")
def _activation(to: Sequential, node: ir.Node) -> None:
    to.activate(node.op_type.lower())


@reads("LeakyRelu")
def _leaky_relu(to: Sequential, node: ir.Node) -> None:
    to.activate("leaky_relu", real(node, "alpha", 0.01))


@reads("Gelu")
def _gelu(to: Sequential, node: ir.Node) -> None:
    to.activate("gelu_tanh" if text(node, "approximate", "none") == "tanh" else "gelu")


@reads("Clip")
def _clip(to: Sequential, node: ir.Node) -> None:
    bounds = []
    for index, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        given = to.constant(node, index)
        bounds.append(real(node, name, default) if given is None else float(given.ravel()[0]))
    if bounds == [0, math.inf]:
        to.activate("relu")
    elif bounds == [0, 6]:
        to.activate("relu6")
    else:
        to.append(pointwise.Clip(*bounds))


@reads("MaxPool", "AveragePool")
def _pool(to: Sequential, node: ir.Node) -> None:
    kernel = ints(node, "kernel_shape") or []
    if len(kernel) not in (1, 2) or len(to.shape) != len(kernel) + 2:
        raise Refused(f"its kernel has {len(kernel)} axes, its input {len(to.shape)}")
    strides, dilations = steps(node, len(kernel))
    padding = _padding(to, node, tuple(kernel))
    if integer(node, "ceil_mode"):
        extents = zip(to.shape[2:], kernel, dilations, padding, strides, strict=True)
        if any((size + sum(pad) - (k - 1) * d - 1) % stride for size, k, d, pad, stride in extents):
            raise Refused("ceil_mode makes windows that reach beyond the padding")
    if node.op_type == "MaxPool":
        to.append(layers.MaxPool(kernel, strides, padding, dilations))
    elif any(d != 1 for d in dilations):
        raise Refused("its windows are dilated")
    else:
        to.append(layers.AveragePool(kernel, strides, padding, bool(integer(node, "count_include_pad"))))


@reads("GlobalAveragePool")
def _global_average_pool(to: Sequential, node: ir.Node) -> None:
    to.append(layers.GlobalAveragePool())


@reads("GlobalMaxPool")
def _global_max_pool(to: Sequential, node: ir.Node) -> None:
    to.append(layers.MaxPool(to.shape[2:]))


@reads("ReduceMean")
def _mean(to: Sequential, node: ir.Node) -> None:
    rank = len(to.shape)
    axes = attribute_or_input(to.net.constants, node, "axes", 1) or range(rank)
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        raise Refused("it is not the mean of all spatial axes")
    to.append(layers.GlobalAveragePool())
    if not integer(node, "keepdims", 1):
        to.append(pointwise.Reshape(to.shape[:2]))


@reads("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")
def _moves(to: Sequential, node: ir.Node) -> None:
    """What leaves the elements where they are, in C order."""
    if node.op_type == "Dropout":
        training = to.constant(node, 2)
        if training is not None and training.any():
            raise Refused("it is in training mode")
        return
    if node.op_type == "Transpose":
        order = ints(node, "perm") or list(range(len(to.shape)))[::-1]
        moved = [axis for axis in order if to.shape[axis] > 1]
        if moved != sorted(moved):
            raise Refused(f"it moves elements: perm {order} of {to.shape}")
    shape = to.net.shape(node.outputs[0])
    if not all(isinstance(n, int) for n in shape):
        raise Refused(f"the sizes that it makes are not known: {shape}")
    if shape == [to.shape[0], math.prod(to.shape[1:])]:
        to.append(pointwise.Reshape())  # for any number of samples
    elif tuple(shape) != to.shape:
        to.append(pointwise.Reshape(tuple(int(n) for n in shape)))


@reads("Softmax")
def _softmax(to: Sequential, node: ir.Node) -> None:
    """Along the last axis; up to opset 12 along all from `axis` on."""
    rank, new = len(to.shape), to.net.opset >= 13
    axis = integer(node, "axis", -1 if new else 1) % rank
    along = to.shape[axis:]
    if new and math.prod(along) != along[0]:
        raise Refused(f"it is along axis {axis}, not the last of {to.shape}")
    shape = to.shape
    if len(along) > 1:
        to.append(pointwise.Reshape((math.prod(shape[:axis]), math.prod(along))))
    to.append(pointwise.Softmax())
    if len(along) > 1:
        to.append(pointwise.Reshape(shape))


def _padding(to: Sequential, node: ir.Node, kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    if text(node, "auto_pad", "NOTSET") == "VALID":
        return [(0, 0)] * len(kernel)
    x = node.inputs[0]
    assert x is not None
    return list(zip(*zeros_around(to.net, node, x, kernel), strict=True))
