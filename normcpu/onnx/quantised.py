# SPDX-License-Identifier: Apache-2.0
"""Weights that are integers and scales (Q1): a fold changes the scales and the signs, never the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .constants import Evaluated, integer
from .exact import check_range, new_constant, whose
from .net import Net, title

MOVES = {"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast"}
LEAST: dict[ir.DataType | None, int] = {
    ir.DataType.INT4: -8, ir.DataType.INT8: -128, ir.DataType.INT16: -(1 << 15), ir.DataType.INT32: -(1 << 31),
}  # fmt: skip


def is_quantised(value: ir.Value) -> bool:
    """Whether a DequantizeLinear makes this constant, perhaps followed by operations that only move it."""
    node = value.producer()
    while node is not None and node.op_type in MOVES:
        first = node.inputs[0]
        node = None if first is None else first.producer()
    return node is not None and node.op_type == "DequantizeLinear"


class _Requantised(NamedTuple):
    dequantize: ir.Node
    q: Evaluated | None  # None where the integers stay
    scale: Array
    zero: Evaluated | None
    axis: int


def scale_quantised(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> list[Callable[[], None]]:
    """Q1.  (q - zero) scale s = (+-q - zero) (scale |s|): the scales take |s|, the integers the sign."""
    _requantise(net, node, index, factors, axis)

    def act() -> None:
        made = _requantise(net, node, index, factors, axis)
        old, weight = made.dequantize, node.inputs[index]
        q, scale = old.inputs[0], old.inputs[1]
        assert q is not None
        assert scale is not None
        assert weight is not None
        assert node.graph is not None
        inputs = [q, new_constant(net, made.scale, net.float_type(scale), f"{scale.name}_folded"), *old.inputs[2:]]
        if made.q is not None:
            inputs[0] = net.constant(ir.Tensor(made.q, dtype=net.dtype(q)), f"{q.name}_folded")
        if made.zero is not None:
            inputs[2] = net.constant(ir.Tensor(made.zero, dtype=net.dtype(q)), f"{q.name}_zero_folded")
        attributes = [a for a in old.attributes.values() if a.name != "axis"]
        if net.opset >= 13:
            attributes.append(ir.AttrInt64("axis", made.axis))
        new = ir.Node("", "DequantizeLinear", inputs, attributes, name=net.fresh(f"{title(old)}_folded"))
        output = new.outputs[0]
        output.name = net.fresh(f"{weight.name}_folded")
        output.shape, output.type = weight.shape, ir.TensorType(net.float_type(scale))
        node.graph.insert_before(node, new)
        net.set_input(node, index, output)

    return [act]


def _requantise(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> _Requantised:
    """The new integers and scales, refused where the grid would have to change."""
    what, weight = whose(node, index), node.inputs[index]
    dequantize = None if weight is None else weight.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise Refused(f"{what} is quantised, and moved after its DequantizeLinear")
    q, scale, zero = (net.constants.value(i) for i in (*dequantize.inputs, None)[:3])
    if q is None or scale is None or (len(dequantize.inputs) > 2 and dequantize.inputs[2] is not None and zero is None):
        raise Refused(f"{what} is quantised with parameters that are not constant")
    if zero is not None and zero.dtype != q.dtype:
        raise Refused(f"{what} has a zero point of another type")
    if integer(dequantize, "block_size") or scale.ndim > 1:
        raise Refused(f"{what} is quantised in blocks")
    s = factors.ravel()
    where = integer(dequantize, "axis", 1) % q.ndim
    if s.size > 1 and (axis is None or (scale.size > 1 and where != axis)):
        raise Refused(f"{what} is quantised along axis {where}, and the factors vary along another")
    if s.size > 1 and scale.size == 1 and net.opset < 13:
        raise Refused(f"{what} is quantised per tensor, and opset {net.opset} knows no other way")
    if s.size > 1 and axis is not None:
        where = axis
    per_channel = s.size > 1 or scale.size > 1
    new_scale = np.asarray(scale.ravel() * np.abs(s) if per_channel else scale * abs(float(s[0])))
    scale_type = net.float_type(dequantize.inputs[1])
    check_range(new_scale, np.ones(()), scale_type, f"the scale of {what}", 0 if new_scale.ndim else None)
    if not (new_scale > 0).all():
        raise Refused(f"{what} is quantised, and a scale would be 0")
    if per_channel and zero is not None:
        zero = np.broadcast_to(zero.ravel(), new_scale.shape).copy()
    return _Requantised(dequantize, _flipped(net, dequantize, q, s, zero, where, what), new_scale, zero, where)


def _flipped(
    net: Net, dequantize: ir.Node, q: Evaluated, s: Array, zero: Evaluated | None, axis: int, what: str
) -> Evaluated | None:
    """The integers with the signs of s; the least of a type has no negative, and a zero point would have to move."""
    if not (s < 0).any():
        return None
    shape = [1] * q.ndim
    if s.size > 1:
        shape[axis] = -1
    flip = np.broadcast_to((s < 0).reshape(shape), q.shape)
    if zero is not None and zero.any():
        raise Refused(f"{what} has a zero point, so a negative factor cannot flip its signs")
    if net.dtype(dequantize.inputs[0]) not in LEAST or (q[flip] == LEAST[net.dtype(dequantize.inputs[0])]).any():
        raise Refused(f"{what} has integers that have no negative")
    return np.where(flip, -q, q).astype(q.dtype)
