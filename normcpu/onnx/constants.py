# SPDX-License-Identifier: Apache-2.0
"""What is known before a model runs: values that are constant, evaluated in float64, whatever they hide behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from .evaluate import LARGEST as LARGEST
from .evaluate import OPERATIONS, of_attribute, part_of_sequence, to_double, whole_of
from .evaluate import Evaluated as Evaluated
from .evaluate import dequantize as dequantize
from .evaluate import integer as integer
from .evaluate import ints as ints
from .evaluate import is_float as is_float
from .evaluate import node_end as node_end
from .evaluate import real as real
from .evaluate import text as text
from .external import OnDisk

BUDGET = 1 << 26  # elements of all results together: what is constant beyond is treated as if it were not
DEEPEST = 64  # operations between a constant and its initializer


def read_only(a: Evaluated) -> Evaluated:
    view = a.view()
    view.flags.writeable = False
    return view


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

    def __init__(
        self,
        ir_version: int,
        dtype: Callable[[ir.Value | None], ir.DataType | None],
        sizes: Callable[[ir.Node], list[int] | None] = lambda node: None,
    ) -> None:
        self.inputs_are_constant = ir_version < 4
        self.sizes = sizes  # what Shape gives of an activation whose sizes are known
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
        if node is None or node.domain or (value.index() != 0 and node.op_type != "Split"):
            return False
        if node.op_type == "Constant":
            return "sparse_value" not in node.attributes
        if node.op_type == "Shape" and not self.is_constant(node.inputs[0], depth + 1):
            return self.sizes(node) is not None
        if node.op_type == "SequenceAt":
            parts = whole_of(node)
            return parts is not None and all(self.is_constant(i, depth + 1) for i in (*parts.inputs, node.inputs[1]))
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
            return of_attribute(node)
        if node.op_type == "CastLike":
            x, dtype = self.value(node.inputs[0]), self.dtype(node.inputs[1])
            return None if x is None or dtype is None else to_double(x.astype(dtype.numpy()))
        if node.op_type == "Shape" and not self.is_constant(node.inputs[0]):
            return np.asarray(self.sizes(node), np.int64)
        whole = whole_of(node)
        inputs = [self.value(i) for i in (node.inputs if whole is None else (node.inputs[1], *whole.inputs))]
        if whole is None and any(a is None and i is not None for a, i in zip(inputs, node.inputs, strict=True)):
            return None
        try:
            with np.errstate(all="ignore"):
                made = OPERATIONS[node.op_type](node, *inputs) if whole is None else part_of_sequence(whole, *inputs)
            if isinstance(made, list):
                made = made[value.index() or 0]
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError):  # not valid
            return None
        return None if made is None or made.size > LARGEST else to_double(made)
