# SPDX-License-Identifier: Apache-2.0
"""Reading: which nodes are affine, whatever they are spelled as, and which belong to something a runtime fuses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Affine, Refused
from .constants import integer, is_float, real
from .net import FLOATS, Net

MATMULS = {"MatMul", "Einsum", "MatMulInteger"}
ARITHMETIC = {"Mul", "Add", "Sub", "Div", "Neg"}


class Reading(NamedTuple):
    at: int  # the input that is not constant
    affine: Affine


def read(net: Net, node: ir.Node) -> Reading | None:
    """The affine that a node is, None if it is none; refused if it looks like one and is not."""
    if node.domain or not node.outputs:
        return None
    if node.op_type == "BatchNormalization":
        return Reading(0, batch_norm(net, node).check_finite())
    if node.op_type not in ARITHMETIC or net.dtype(node.outputs[0]) not in FLOATS:
        return None
    if node.op_type == "Neg":
        value = node.inputs[0]
        if value is None or net.constants.is_constant(value):
            return None
        return Reading(0, Affine.of(net.rank(value), -1.0))
    return arithmetic(net, node)


def arithmetic(net: Net, node: ir.Node) -> Reading | None:
    """x * c, x + c, x - c, c - x = -x + c, x / c = x * (1 / c); c / x is not affine."""
    if len(node.inputs) != 2:
        return None
    known = [net.constants.is_constant(i) for i in node.inputs]
    if known[0] == known[1]:
        return None
    index = int(known[0])
    value, other = node.inputs[index], node.inputs[1 - index]
    if value is None or other is None or (node.op_type == "Div" and index == 1):
        return None
    c = net.constants.value(other)
    if c is None or not is_float(c.dtype):
        raise Refused(f"constant {other.name!r} is too large to evaluate")
    shape = net.shape(value)
    padded = (1,) * (len(shape) - c.ndim) + c.shape
    if len(padded) > len(shape) or any(n != 1 and n != d for n, d in zip(padded, shape, strict=True)):
        raise Refused(f"constant {other.name!r} {c.shape} may broadcast its operand to a larger shape")
    if not np.isfinite(c).all():
        raise Refused(f"constant {other.name!r} is not finite")
    rank = len(shape)
    if node.op_type == "Mul":
        return Reading(index, Affine.of(rank, c))
    if node.op_type == "Add":
        return Reading(index, Affine.of(rank, 1.0, c))
    if node.op_type == "Sub":
        return Reading(index, Affine.of(rank, -1.0, c) if index else Affine.of(rank, 1.0, -c))
    if not c.all():
        raise Refused(f"constant {other.name!r} divides by zero")
    return Reading(index, Affine.of(rank, 1 / c).check_finite())


def batch_norm(net: Net, node: ir.Node) -> Affine:
    """(x - mean) / sqrt(var + eps) * weight + bias, per channel of axis 1.

    Opset 7 and 8 keep statistics per element where spatial is 0; up to opset 13 more than one output means training, be
    it read or not, after that training_mode does.  eps is added in float64: variances may be denormal.
    """
    trains = integer(node, "training_mode") if net.opset >= 14 else any(o.name for o in node.outputs[1:])
    if trains:
        raise Refused("it uses the statistics of the batch (training mode)")
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise Refused("its statistics are read, which there are none of outside training mode")
    if not integer(node, "spatial", 1):
        raise Refused("it has spatial = 0: statistics per element")
    x = node.inputs[0]
    if x is None:
        raise Refused("it has no input")
    shape = net.shape(x)
    if len(shape) < 2:
        raise Refused(f"its input has {len(shape)} axes")
    vectors = []
    for k, what in enumerate(("scale", "bias", "mean", "variance"), 1):
        value = node.inputs[k] if k < len(node.inputs) else None
        known = net.constants.value(value)
        if known is None:
            overridable = value is not None and value.is_initializer()
            raise Refused(f"its {what} {'can be overridden by callers' if overridable else 'is computed at run time'}")
        vectors.append(known)
    scale, bias, mean, var = vectors
    channels = scale.size
    for what, vector in zip(("scale", "bias", "mean", "variance"), vectors, strict=True):
        if vector.shape != (channels,):
            raise Refused(f"its {what} has shape {vector.shape}, its scale {scale.shape}")
    if isinstance(shape[1], int) and shape[1] != channels:
        raise Refused(f"it has {channels} channels, its input {shape[1]}")
    eps = real(node, "epsilon", 1e-5)
    if not np.isfinite(var).all() or (var < 0).any():
        channel = int(np.argmax(~(var >= 0) | ~np.isfinite(var)))
        raise Refused(f"its variance in channel {channel} is {var[channel]:g}")
    if (var + eps <= 0).any():
        raise Refused(f"its variance plus epsilon is 0 in channel {int(np.argmax(var + eps <= 0))}")
    s = scale / np.sqrt(var + eps)
    return Affine.along(len(shape), 1, s, bias - mean * s).check_finite()


def is_bias(net: Net, node: ir.Node) -> bool:
    """An Add of a constant right after a MatMul is that MatMul's bias, not an operation to remove."""
    if node.op_type != "Add" or node.domain:
        return False
    return any(
        i is not None and (p := i.producer()) is not None and p.op_type in MATMULS and not p.domain for i in node.inputs
    )


def composites(net: Net, gelu: bool = True) -> dict[ir.Node, str]:
    """{node: what it is part of}: constants of GELU and the epsilon of a norm, which mean nothing on their own.

    Where no runtime makes one operation of a GELU, its 0.5 is a scale like any other.
    """
    found: dict[ir.Node, str] = {}
    for node in net.nodes():
        if node.op_type in ("Erf", "Tanh") and not node.domain and gelu:
            _gelu(net, node, found)
        elif node.op_type == "Sqrt" and not node.domain:
            plus = _producer(node, 0)
            if plus is not None and plus.op_type == "Add" and _has_constant(net, plus):
                found[plus] = "adds the epsilon of a norm"
    return found


def masked_attention(net: Net) -> dict[ir.Node, str]:
    """softmax(q k^T / c + mask) v, which ONNX Runtime's Attention takes as a whole, with the scale and all biases."""
    why = "belongs to a masked attention that ONNX Runtime fuses as a whole"
    found: dict[ir.Node, str] = {}
    for node in net.nodes():
        if node.op_type != "Softmax" or node.domain:
            continue
        mask = _producer(node, 0)
        if mask is None or mask.op_type != "Add":
            continue
        for index in (0, 1):
            scale = _producer(mask, index)
            if scale is not None and scale.op_type in ("Mul", "Div") and _has_constant(net, scale):
                product = _producer(scale, 0) or _producer(scale, 1)
                if product is not None and product.op_type == "MatMul":
                    found |= dict.fromkeys([scale, *(n for n in _readers(node) if n.op_type == "MatMul")], why)
    return found


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()


def _gelu(net: Net, function: ir.Node, found: dict[ir.Node, str]) -> None:
    """x * (1 + erf(x / sqrt 2)) * 0.5, the 0.5 anywhere; tanh(0.7979 (x + 0.0447 x^3)) for erf in the other GELU."""
    name = "is part of a GELU"
    for plus in _readers(function):
        if plus.op_type != "Add" or not any(net.constants.is_constant(i) for i in plus.inputs):
            continue
        for product in _readers(plus):
            if product.op_type != "Mul":
                continue
            if _has_constant(net, product):  # x * (0.5 * (1 + erf)), which no runtime makes one operation of
                found |= {function: name, plus: name}
                _inside(net, function, found, name)
                continue
            found |= {function: name, plus: name, product: name}
            for value in product.inputs:
                node = None if value is None else value.producer()
                if node is not None and node.op_type in ("Mul", "Div") and _has_constant(net, node):
                    found[node] = name
            for half in _readers(product):
                if half.op_type in ("Mul", "Div") and _has_constant(net, half):
                    found[half] = name
            _inside(net, function, found, name)


def _inside(net: Net, function: ir.Node, found: dict[ir.Node, str], name: str) -> None:
    """What computes the argument of erf or tanh: only products and sums with constants, and powers."""
    stack = [function]
    while stack:
        node = stack.pop()
        for value in node.inputs:
            before = None if value is None else value.producer()
            if before is None or before in found or before.op_type not in ("Mul", "Div", "Add", "Pow"):
                continue
            if _has_constant(net, before) or (node.op_type in ("Mul", "Add") and node in found):
                if before.op_type == "Add" and _has_constant(net, before):
                    continue
                found[before] = name
                if function.op_type == "Tanh":
                    stack.append(before)


def _has_constant(net: Net, node: ir.Node) -> bool:
    return any(net.constants.is_constant(i) for i in node.inputs)


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for use in node.outputs[0].uses() if not use.node.domain]
