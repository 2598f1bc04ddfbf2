# SPDX-License-Identifier: Apache-2.0
"""The end of every fold: weights times factors, in float64 and rounded once to the weight's type.

A folded weight is the original and the product of its factors until the model is written, so that folding twice
into one weight rounds once, and so that no more than one large tensor is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .constants import Evaluated, integer
from .net import Net, numpy_type, title

Action = Callable[[], None]
BLOCK = 1 << 22  # elements that are float64 at a time
MOVES = {"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast"}
LEAST: dict[ir.DataType | None, int] = {
    ir.DataType.INT4: -8, ir.DataType.INT8: -128, ir.DataType.INT16: -(1 << 15), ir.DataType.INT32: -(1 << 31),
}  # fmt: skip


def scale_weight(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> list[Action]:
    """Input `index` of `node` times `factors`, which broadcast against it.

    `axis` is the only axis along which the factors vary, or None if there are more: int8 weights, whose scales are
    per tensor or along one axis, need to know.
    """
    weight = node.inputs[index]
    if weight is None or not net.constants.is_constant(weight):
        raise Refused(f"{_whose(node, index)} is {_why_not_constant(net, weight)}")
    if _is_quantised(weight):
        return _scale_quantised(net, node, index, factors, axis)
    dtype = net.float_type(weight)
    check_range(_exact(net, weight), factors, dtype, f"{_whose(node, index)}", axis)

    def act() -> None:
        now = node.inputs[index]
        assert now is not None
        net.set_input(node, index, _scaled(net, now, factors, dtype))

    return [act]


def set_constant(net: Net, node: ir.Node, index: int, exact: Evaluated, dtype: ir.DataType, hint: str) -> Action:
    """Input `index` of `node` becomes `exact`, rounded to `dtype`; checked now, done later."""
    check_range(exact, np.ones(()), dtype, f"{_whose(node, index)}", None)
    return lambda: net.set_input(node, index, new_constant(net, exact, dtype, hint))


def new_constant(net: Net, exact: Evaluated, dtype: ir.DataType, hint: str) -> ir.Value:
    exact = np.array(exact, np.float64)  # a copy: what was passed may be a view of something large
    value = net.constant(ir.Tensor(rounded(exact, dtype), dtype=dtype), hint)
    net.constants.exact[value] = lambda: exact
    return value


def rounded(exact: Evaluated, dtype: ir.DataType) -> Evaluated:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(exact.astype(numpy_type(dtype)))


def check_range(exact: Evaluated, factors: Array, dtype: ir.DataType, what: str, axis: int | None) -> None:
    """Refuses what the type cannot hold: a product that overflows, and in float16 a channel so small that its largest
    weight loses three bits.  That is one below 1/8 of the smallest normal number; smaller weights beside a larger one
    only lose what is nothing to the sum.  The other types' ranges begin at 1e-38: what falls below is dead.
    """
    limits = ml_dtypes.finfo(numpy_type(dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(exact * factors)
    channel = -1
    if axis is not None and size.ndim:
        channel = axis
        size = size.max(axis=tuple(k for k in range(size.ndim) if k != axis), initial=0)
    name = "" if channel < 0 else " in channel {}"
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(size.astype(numpy_type(dtype)).astype(np.float64))
    if bad.any():
        raise Refused(f"{what} would overflow {dtype.name.lower()}{name.format(int(np.argmax(bad)))}")
    if axis is not None and dtype == ir.DataType.FLOAT16:
        small = (size > 0) & (size < float(limits.tiny) / 8)
        if small.any():
            raise Refused(f"{what} would fall below {dtype.name.lower()}'s range{name.format(int(np.argmax(small)))}")


def constant_input(net: Net, node: ir.Node, index: int) -> Evaluated | None:
    """Input `index` as float64, None where the node has none; refused where it is not constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    known = net.constants.value(value)
    if known is None:
        raise Refused(f"{_whose(node, index)} is {_why_not_constant(net, value)}")
    return known


def weight_shape(net: Net, node: ir.Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not net.constants.is_constant(value):
        raise Refused(f"{_whose(node, index)} is {_why_not_constant(net, value)}")
    shape = value.shape
    if shape is not None and shape.is_static():
        return tuple(shape.numpy())
    return tuple(_exact(net, value).shape)


def _exact(net: Net, value: ir.Value) -> Evaluated:
    known = net.constants.value(value)
    if known is None:
        raise Refused(f"{value.name!r} is too large to evaluate")
    if not np.isfinite(known).all():
        raise Refused(f"{value.name!r} is not finite")
    return known


def _scaled(net: Net, weight: ir.Value, factors: Array, dtype: ir.DataType) -> ir.Value:
    """A new initializer that is computed when the model is written."""
    base = net.constants.source(weight)
    shape = tuple(_exact(net, weight).shape) if weight.shape is None else tuple(weight.shape.numpy())

    def exact() -> Evaluated:
        return base() * factors

    tensor = ir.LazyTensor(
        lambda: ir.Tensor(rounded(exact(), dtype), dtype=dtype), dtype=dtype, shape=ir.Shape(shape), name=None
    )
    value = net.constant(
        tensor, f"{weight.name}_folded" if not (weight.name or "").endswith("_folded") else weight.name or ""
    )
    net.constants.exact[value] = exact
    return value


def _is_quantised(value: ir.Value) -> bool:
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


def _scale_quantised(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> list[Action]:
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
    what, weight = _whose(node, index), node.inputs[index]
    dequantize = None if weight is None else weight.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise Refused(f"{what} is quantised, and moved after its DequantizeLinear")
    q, scale, zero = (net.constants.value(i) for i in (*dequantize.inputs, None)[:3])
    if q is None or scale is None or (len(dequantize.inputs) > 2 and dequantize.inputs[2] is not None and zero is None):
        raise Refused(f"{what} is quantised with parameters that are not constant")
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


def _whose(node: ir.Node, index: int) -> str:
    names: dict[str, tuple[str, ...]] = {
        "Conv": ("input", "weight", "bias"), "ConvTranspose": ("input", "weight", "bias"),
        "Gemm": ("first operand", "second operand", "bias"), "MatMul": ("first operand", "second operand"),
    }  # fmt: skip
    known = names.get(node.op_type, ())
    what = known[index] if index < len(known) else f"input {index}"
    return f"the {what} of {node.op_type} {title(node)}"


def _why_not_constant(net: Net, value: ir.Value | None) -> str:
    if value is None:
        return "absent"
    if value.is_initializer() and value.is_graph_input():
        return "an initializer that callers may override, being a graph input too"
    return "computed at run time"
