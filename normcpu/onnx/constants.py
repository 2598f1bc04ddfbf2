# SPDX-License-Identifier: Apache-2.0
"""What is known before a model runs: values that are constant, evaluated in float64, whatever they hide behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .external import OnDisk

Evaluated = np.ndarray[Any, Any]
LARGEST = 1 << 28  # elements that evaluating a constant may create: ConstantOfShape of a hostile file asks for more
BUDGET = 1 << 26  # elements of all results together: what is constant beyond is treated as if it were not
DEEPEST = 64  # operations between a constant and its initializer


def read_only(a: Evaluated) -> Evaluated:
    view = a.view()
    view.flags.writeable = False
    return view


def to_double(a: Evaluated) -> Evaluated:
    """Floats of every width as float64; integers and booleans as they are."""
    return a.astype(np.float64, copy=False) if is_float(a.dtype) else a


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def ints(node: ir.Node, name: str, default: Sequence[int] | None = None) -> list[int] | None:
    attribute = node.attributes.get(name)
    return list(attribute.as_ints()) if attribute is not None else None if default is None else list(default)


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def real(node: ir.Node, name: str, default: float) -> float:
    """A float attribute: stored as float32, so 1e-5 is 9.99999974737875e-06, which is what the model computes with."""
    attribute = node.attributes.get(name)
    return float(np.float32(attribute.as_float() if attribute is not None else default))


def text(node: ir.Node, name: str, default: str = "") -> str:
    attribute = node.attributes.get(name)
    return attribute.as_string() if attribute is not None else default


def attribute_or_input(constants: Constants, node: ir.Node, name: str, index: int) -> list[int] | None:
    """Integers that older opsets keep in an attribute and newer ones in an input; None where absent or not constant."""
    if name in node.attributes:
        attribute = node.attributes[name]
        return [attribute.as_int()] if attribute.type == ir.AttributeType.INT else list(attribute.as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    known = None if value is None else constants.value(value)
    return None if known is None else [int(n) for n in known.ravel()]


class Constants:
    """Which values of a model are constant, and what they are.

    An initializer that is also a graph input can be overridden at run time since IR 4, so it is no constant then.
    """

    def __init__(self, ir_version: int, dtype: Callable[[ir.Value | None], ir.DataType | None]) -> None:
        self.inputs_are_constant = ir_version < 4
        self.dtype = dtype  # of values that are not constant: CastLike(constant, x) needs the type of x
        self.made: dict[ir.Value, Evaluated | None] = {}  # results of operations; initializers are not kept
        self.known: dict[ir.Value, bool] = {}  # which results are constant
        self.budget = BUDGET
        self.exact: dict[ir.Value, Callable[[], Evaluated]] = {}  # folded weights, before their rounding
        self.scaled: dict[ir.Value, Any] = {}  # those of them that are a weight times factors
        self.extents: dict[ir.Value, float] = {}  # no element is larger than this

    def is_constant(self, value: ir.Value | None, depth: int = 0) -> bool:
        if value is None or depth > DEEPEST:
            return False
        if value.is_initializer():
            return value.const_value is not None and (self.inputs_are_constant or not value.is_graph_input())
        if value not in self.known:
            self.known[value] = self._is_result_constant(value, depth)
        return self.known[value]

    def _is_result_constant(self, value: ir.Value, depth: int) -> bool:
        node = value.producer()
        if node is None or node.domain or value.index() != 0:
            return False
        if node.op_type == "Constant":
            return "sparse_value" not in node.attributes
        if node.op_type == "CastLike":
            return self.dtype(node.inputs[1]) is not None and self.is_constant(node.inputs[0], depth + 1)
        return (
            node.op_type in OPERATIONS
            and any(i is not None for i in node.inputs)
            and all(i is None or self.is_constant(i, depth + 1) for i in node.inputs)
        )

    def value(self, value: ir.Value | None) -> Evaluated | None:
        """The constant, floats as float64; None where it is not constant or too large to write out."""
        if value is None or not self.is_constant(value):
            return None
        if value in self.exact:
            return self.exact[value]()
        if value.is_initializer():
            tensor = value.const_value
            assert tensor is not None
            if tensor.size > LARGEST or tensor.dtype == ir.DataType.STRING:
                return None
            return to_double(tensor.numpy())
        if value not in self.made:
            made = self._evaluate(value)
            if made is not None and any(made.strides):
                self.budget -= made.size
                made = made if self.budget >= 0 else None
            self.made[value] = made
        return self.made[value]

    def raw(self, value: ir.Value) -> Callable[[], Evaluated]:
        """How to get at a constant again, after the graph no longer has it: in its own type, where it is stored.

        An array that is writeable is the caller's own.
        """
        tensor = value.const_value if value.is_initializer() else None
        if value in self.exact:
            get = self.exact[value]
        elif isinstance(tensor, OnDisk):
            return tensor.numpy
        elif tensor is not None:
            get = tensor.numpy
        else:
            made = self.value(value)
            assert made is not None
            get = lambda: made  # noqa: E731
        return lambda: read_only(get())

    def extent(self, value: ir.Value) -> float:
        """The largest magnitude in a constant, or more; NaN where it has one."""
        if value not in self.extents:
            a = self.raw(value)()
            self.extents[value] = float(max(abs(float(a.max())), abs(float(a.min())))) if a.size else 0.0
            if a.size and np.isnan(float(a.max())):
                self.extents[value] = float("nan")
        return self.extents[value]

    def _evaluate(self, value: ir.Value) -> Evaluated | None:
        node = value.producer()
        assert node is not None
        if node.op_type == "Constant":
            return _of_attribute(node)
        if node.op_type == "CastLike":
            x, dtype = self.value(node.inputs[0]), self.dtype(node.inputs[1])
            return None if x is None or dtype is None else to_double(x.astype(dtype.numpy()))
        inputs = [self.value(i) for i in node.inputs]
        if any(a is None and i is not None for a, i in zip(inputs, node.inputs, strict=True)):
            return None
        try:
            with np.errstate(all="ignore"):
                made = OPERATIONS[node.op_type](node, *inputs)
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError):  # not valid
            return None
        return None if made is None or made.size > LARGEST else to_double(made)


def _of_attribute(node: ir.Node) -> Evaluated | None:
    for attribute in node.attributes.values():
        if attribute.name == "value":
            tensor = attribute.as_tensor()
            if tensor.size > LARGEST or tensor.dtype == ir.DataType.STRING:
                return None
            with suppress(ValueError):  # what it says of its size, and what it holds, are two things
                return to_double(tensor.numpy())
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(attribute.value, np.float32).astype(np.float64)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(attribute.value, np.int64)
    return None


def _cast(node: ir.Node, x: Evaluated) -> Evaluated:
    dtype = ir.DataType(integer(node, "to")).numpy()
    return x.astype(dtype)


def _constant_of_shape(node: ir.Node, shape: Evaluated) -> Evaluated | None:
    sizes = [int(n) for n in shape]
    if any(n < 0 for n in sizes) or float(np.prod([float(n) for n in sizes])) > LARGEST:
        return None
    fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return np.broadcast_to(to_double(fill).ravel()[0], sizes)


def _axes(node: ir.Node, axes: Evaluated | None) -> list[int] | None:
    return [int(n) for n in axes.ravel()] if axes is not None else ints(node, "axes")


def _unsqueeze(node: ir.Node, x: Evaluated, axes: Evaluated | None = None) -> Evaluated:
    return np.expand_dims(x, tuple(_axes(node, axes) or ()))


def _squeeze(node: ir.Node, x: Evaluated, axes: Evaluated | None = None) -> Evaluated:
    chosen = _axes(node, axes)
    return np.squeeze(x, None if chosen is None else tuple(chosen))


def _reshape(node: ir.Node, x: Evaluated, shape: Evaluated) -> Evaluated:
    copied = not integer(node, "allowzero")
    return x.reshape([x.shape[k] if n == 0 and copied else int(n) for k, n in enumerate(shape)])


def _flatten(node: ir.Node, x: Evaluated) -> Evaluated:
    axis = integer(node, "axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _divide(node: ir.Node, a: Evaluated, b: Evaluated) -> Evaluated:
    return a / b if is_float(a.dtype) else np.trunc(a / b).astype(a.dtype)


def _expand(node: ir.Node, x: Evaluated, shape: Evaluated) -> Evaluated:
    wanted = np.broadcast_shapes(x.shape, tuple(int(n) for n in shape))
    if float(np.prod([float(n) for n in wanted])) > LARGEST:
        raise MemoryError
    return np.broadcast_to(x, wanted)


def _slice(node: ir.Node, x: Evaluated, *inputs: Evaluated | None) -> Evaluated:
    given = [None if a is None else [int(n) for n in a] for a in inputs] + [None] * 4
    starts = given[0] or ints(node, "starts") or []
    ends = given[1] or ints(node, "ends") or []
    axes = given[2] or ints(node, "axes") or list(range(len(starts)))
    steps = given[3] or [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def dequantize(
    node: ir.Node, q: Evaluated, scale: Evaluated, zero: Evaluated | None = None, real: type[np.floating] = np.float64
) -> Evaluated | None:
    """(q - zero) * scale, along the axis that the node has them on; None where they are in blocks."""
    if "block_size" in node.attributes and integer(node, "block_size"):
        return None
    axis = integer(node, "axis", 1)
    shape = [1] * q.ndim
    if scale.size > 1:
        shape[axis] = -1
    made = q.astype(real)
    if zero is not None:
        made -= zero.astype(real).reshape(shape)
    made *= scale.astype(real).reshape(shape)
    return made


OPERATIONS: dict[str, Callable[..., Evaluated | None]] = {
    "Identity": lambda node, x: x,
    "Cast": _cast,
    "Sqrt": lambda node, x: np.sqrt(x),
    "Reciprocal": lambda node, x: 1 / x,
    "Exp": lambda node, x: np.exp(x),
    "Abs": lambda node, x: np.abs(x),
    "Neg": lambda node, x: -x,
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": _divide,
    "Pow": lambda node, a, b: np.power(a, b) if is_float(a.dtype) else None,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda node, x: np.transpose(x, ints(node, "perm")),
    "Concat": lambda node, *xs: np.concatenate(xs, integer(node, "axis")),
    "Slice": _slice,
    "Gather": lambda node, x, i: np.take(x, i, integer(node, "axis")),
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Shape": lambda node, x: np.asarray(x.shape, np.int64)[integer(node, "start") : node_end(node)],
    "Range": lambda node, a, b, step: np.arange(a, b, step) if (b - a) / step < LARGEST else None,
    "DequantizeLinear": dequantize,
}


def node_end(node: ir.Node) -> int | None:
    return integer(node, "end") if "end" in node.attributes else None
