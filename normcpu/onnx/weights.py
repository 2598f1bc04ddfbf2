# SPDX-License-Identifier: Apache-2.0
"""The end of every fold: weights times factors, in float64 and rounded once to the weight's type.

A folded weight is the original and the product of its factors until the model is written, so that folding twice
into one weight rounds once, and so that no more than one large tensor is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .constants import Evaluated, integer
from .net import Net, numpy_type, title

Action = Callable[[], None]
BLOCK = 1 << 22  # elements that are float64 at a time
SIGNED = {ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32}


def scale_weight(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> list[Action]:
    """Input `index` of `node` times `factors`, which broadcast against it.

    `axis` is the only axis along which the factors vary, or None if there are more: int8 weights, whose scales are
    per tensor or along one axis, need to know.
    """
    weight = node.inputs[index]
    if weight is None or not net.constants.is_constant(weight):
        raise Refused(f"{_whose(node, index)} is {_why_not_constant(net, weight)}")
    dequantize = _dequantize_behind(weight)
    if dequantize is not None:
        return _scale_quantised(net, node, index, dequantize, factors, axis)
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
    """Refuses what the type cannot hold: a product that overflows, or a channel so small that its largest weight
    loses three bits.  That is one below 1/8 of the smallest normal number; smaller weights beside a larger one only
    lose what is nothing to the sum.
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
    if axis is not None:
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
    value = net.constant(tensor, f"{weight.name}_folded" if not (weight.name or "").endswith("_folded") else weight.name or "")
    net.constants.exact[value] = exact
    return value


def _dequantize_behind(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that makes this constant, looking through operations that only move it."""
    node = value.producer()
    while node is not None and node.op_type in ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast"):
        first = node.inputs[0]
        node = None if first is None else first.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _scale_quantised(
    net: Net, node: ir.Node, index: int, dequantize: ir.Node, factors: Array, axis: int | None
) -> list[Action]:
    """(q - zero) scale s = (+-q - 0) (scale |s|): the scales take |s|, the integers the sign, the grid stays.

    Source: the integers are negated only where zero is 0, and the least one has no negative.
    """
    weight = node.inputs[index]
    if weight is None or weight.producer() is not dequantize:
        raise Refused(f"{_whose(node, index)} is quantised, and moved after its DequantizeLinear")
    if integer(dequantize, "block_size"):
        raise Refused(f"{_whose(node, index)} is quantised in blocks")
    q_value, scale_value = dequantize.inputs[0], dequantize.inputs[1]
    assert q_value is not None and scale_value is not None
    q, scale = net.constants.value(q_value), net.constants.value(scale_value)
    zero = net.constants.value(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    if q is None or scale is None:
        raise Refused(f"{_whose(node, index)} is quantised with scales that are not constant")
    if factors.size > 1 and axis is None:
        raise Refused(f"{_whose(node, index)} is quantised: its scales vary along one axis, these factors along two")
    s = factors.ravel()
    where = integer(dequantize, "axis", 1) % max(q.ndim, 1)
    if s.size > 1 and scale.size > 1 and where != axis:
        raise Refused(f"{_whose(node, index)} is quantised along axis {where}, the factors go along axis {axis}")
    if s.size > 1 and scale.size == 1:
        if net.opset < 13:
            raise Refused(f"{_whose(node, index)} is quantised per tensor, and opset {net.opset} knows no other way")
        assert axis is not None
        where = axis
    flipped = np.broadcast_to(s < 0, (q.shape[where],) if s.size > 1 or scale.size > 1 else (1,))
    dtype = net.dtype(q_value)
    if flipped.any():
        lines = np.moveaxis(q, where, 0) if flipped.size > 1 else q[None]
        if zero is not None and zero.any():
            raise Refused(f"{_whose(node, index)} has a zero point, so a negative scale cannot flip its signs")
        if dtype not in SIGNED or (lines[flipped] == np.iinfo(q.dtype).min).any():
            raise Refused(f"{_whose(node, index)} has integers that have no negative")
        q = np.where(np.moveaxis(np.broadcast_to(flipped.reshape((-1,) + (1,) * (lines.ndim - 1)), lines.shape), 0, where)
                     if flipped.size > 1 else True, -q, q).astype(q.dtype)  # fmt: skip
    scale_type = net.float_type(scale_value)
    new_scale = scale * np.abs(s) if s.size > 1 or scale.ndim == 0 or scale.size > 1 else scale * np.abs(s[0])
    if s.size == 1:
        new_scale = (scale * abs(float(s[0]))).reshape(scale.shape)
    check_range(new_scale, np.ones(()), scale_type, f"the scale of {_whose(node, index)}", 0 if new_scale.ndim else None)
    if not (new_scale > 0).all():
        raise Refused(f"{_whose(node, index)} is quantised, and a scale would be zero")

    def act() -> None:
        inputs = list(dequantize.inputs)
        inputs[0] = net.constant(ir.Tensor(q, dtype=dtype), f"{q_value.name}_folded") if flipped.any() else q_value
        inputs[1] = new_constant(net, new_scale, scale_type, f"{scale_value.name}_folded")
        if len(inputs) > 2 and zero is not None and zero.size == 1 and new_scale.size > 1:
            spread = np.broadcast_to(zero.ravel(), new_scale.shape).copy()
            inputs[2] = net.constant(ir.Tensor(spread, dtype=net.dtype(inputs[2])), f"{scale_value.name}_zero")
        attributes = [a for a in dequantize.attributes.values() if a.name != "axis"]
        if net.opset >= 13:
            attributes.append(ir.AttrInt64("axis", where))
        made = ir.Node("", "DequantizeLinear", inputs, attributes, name=net.fresh(f"{title(dequantize)}_folded"))
        made.outputs[0].name = net.fresh(f"{weight.name}_folded")
        made.outputs[0].shape, made.outputs[0].type = weight.shape, ir.TensorType(scale_type)
        assert node.graph is not None
        node.graph.insert_before(node, made)
        net.set_input(node, index, made.outputs[0])

    return [act]


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


def describe(node: ir.Node, index: int) -> str:
    return _whose(node, index)


__all__ = ["Action", "check_range", "constant_input", "describe", "new_constant", "rounded", "scale_weight", "set_constant", "weight_shape"]


