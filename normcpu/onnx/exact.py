# SPDX-License-Identifier: Apache-2.0
"""New weights: in float64 until they are rounded once, checked against the range of their type, and named in refusals.

A folded weight is the original and the product of its factors until the model is written, so that folding twice into
one weight rounds once, and no more than one large tensor is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..fold._scale import Part, multiply, rounded_once
from .affine import Array, Overflows, Refused
from .constants import Evaluated
from .net import Net, numpy_type, title

LARGEST_COPY = 1 << 24  # bytes of a shared weight that is copied to be folded into
BLOCK = 1 << 22  # elements that are float64 at a time


class Scaled(NamedTuple):
    """raw * factors: what a folded weight is until it is written."""

    raw: Callable[[], Evaluated]  # in the type it is stored in
    factors: Array  # broadcast against it

    def exact(self) -> Evaluated:
        return np.asarray(self.raw(), np.float64) * self.factors

    def rounded(self, dtype: np.dtype[Any]) -> Evaluated:
        """A private copy is written over.  In C where the factors are those of one axis; else in blocks of rows, no
        more than one of which is in float64 at a time."""
        raw = self.raw()
        if not raw.ndim:
            return np.asarray(self.exact(), dtype)
        result = raw if raw.flags.writeable and raw.dtype == dtype else np.empty(raw.shape, dtype)
        factors = np.broadcast_to(self.factors, raw.shape)
        axes = [k for k, step in enumerate(factors.strides) if step]
        if len(axes) <= 1 and raw.dtype == dtype and raw.size:
            axis = axes[0] if axes else 0
            vector = factors[tuple(slice(None) if k == axis else 0 for k in range(raw.ndim))]
            multiply(Part(raw, result, vector, axis))
            return result
        rows = max(1, BLOCK // max(1, raw.size // max(1, len(raw))))
        for k in range(0, len(raw), rows):
            exact = np.asarray(raw[k : k + rows], np.float64) * factors[k : k + rows]
            result[k : k + rows] = rounded_once(exact, dtype)
        return result


def scaled_constant(net: Net, weight: ir.Value, factors: Array, dtype: ir.DataType) -> ir.Value:
    """A new initializer that is computed when the model is written."""
    before = net.constants.scaled.get(weight)
    made = (
        Scaled(net.constants.raw(weight), factors) if before is None else Scaled(before.raw, before.factors * factors)
    )
    shape = weight.shape if weight.shape is not None and weight.shape.is_static() else exact_value(net, weight).shape

    def compute() -> ir.Tensor:
        return ir.Tensor(made.rounded(numpy_type(dtype)), dtype=dtype)

    name = weight.name or "weight"
    tensor = ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=None)
    value = net.constant(tensor, name if name.endswith("_folded") else f"{name}_folded")
    net.constants.exact[value] = made.exact
    net.constants.scaled[value] = made
    net.constants.extents[value] = net.constants.extent(weight) * float(np.abs(factors).max(initial=0))
    return value


def not_worth_a_copy(weight: ir.Value) -> None:
    """Folding into a weight that others read copies it: an embedding that is also the last layer, say."""
    size = weight.const_value.nbytes if weight.const_value is not None else 0
    if size > LARGEST_COPY and len(weight.uses()) > 1:
        raise Refused(f"{weight.name!r} is shared, and a copy of its {size >> 20} MiB costs more than it saves")


def exact_value(net: Net, value: ir.Value) -> Evaluated:
    known = net.constants.value(value)
    if known is None:
        raise Refused(f"{value.name!r} is too large to evaluate")
    if not np.isfinite(known).all():
        raise Refused(f"{value.name!r} is not finite")
    return known


def new_constant(net: Net, exact: Evaluated, dtype: ir.DataType, hint: str) -> ir.Value:
    exact = np.array(exact, np.float64)  # a copy: what was passed may be a view of something large
    value = net.constant(ir.Tensor(rounded(exact, dtype), dtype=dtype), hint)
    net.constants.exact[value] = lambda: exact
    return value


def lazy_constant(
    net: Net, exact: Callable[[], Evaluated], shape: tuple[int, ...], dtype: ir.DataType, hint: str
) -> ir.Value:
    """As new_constant, but computed when the model is written."""
    compute = lambda: ir.Tensor(rounded(exact(), dtype), dtype=dtype)  # noqa: E731
    value = net.constant(ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=None), hint)
    net.constants.exact[value] = exact
    return value


def rounded(exact: Evaluated, dtype: ir.DataType) -> Evaluated:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rounded_once(np.asarray(exact, np.float64), numpy_type(dtype)))


def unfolded(net: Net, weight: ir.Value, factors: Array) -> tuple[Evaluated, Array]:
    """A weight as it is stored, and all factors that it is to have: those of earlier folds, and these."""
    before = net.constants.scaled.get(weight)
    raw = (net.constants.raw(weight) if before is None else before.raw)()
    if not np.isfinite(raw).all():
        raise Refused(f"{weight.name!r} is not finite")
    return raw, factors if before is None else before.factors * factors


def check_range(values: Evaluated, factors: Array, dtype: ir.DataType, what: str, axis: int | None) -> None:
    """Refuses what the type cannot hold: a product that overflows, and in float16 a channel so small that its largest
    weight loses three bits.  That is one below 1/8 of the smallest normal number; smaller weights beside a larger one
    only lose what is nothing to the sum.  The other types' ranges begin at 1e-38: what falls below is dead.
    """
    limits = ml_dtypes.finfo(numpy_type(dtype))
    size = _largest(values, factors, axis)
    name = " in channel {}" if size.ndim else ""
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(size.astype(numpy_type(dtype)).astype(np.float64))
    if bad.any():
        raise Overflows(f"{what} would overflow {dtype.name.lower()}{name.format(int(np.argmax(bad)))}")
    if axis is not None and dtype == ir.DataType.FLOAT16:
        small = (size > 0) & (size < float(limits.tiny) / 8)
        if small.any():
            raise Refused(f"{what} would fall below {dtype.name.lower()}'s range{name.format(int(np.argmax(small)))}")


def _largest(values: Evaluated, factors: Array, axis: int | None) -> Array:
    """max |values * factors| over all, or for each index of an axis: in float64, some rows at a time."""
    values, factors = np.broadcast_arrays(values, factors)
    if not values.ndim:
        return np.abs(np.asarray(values, np.float64) * factors)
    others = tuple(k for k in range(values.ndim) if k != axis)
    found = np.zeros(() if axis is None else values.shape[axis])
    rows = max(1, BLOCK // max(1, values.size // max(1, len(values))))
    for k in range(0, len(values), rows):
        here = slice(k, k + rows) if axis == 0 else ...
        with np.errstate(over="ignore", invalid="ignore"):
            part = np.abs(np.asarray(values[k : k + rows], np.float64) * factors[k : k + rows])
        found[here] = np.maximum(found[here], part.max(axis=others, initial=0))
    return found


def whose(node: ir.Node, index: int) -> str:
    names: dict[str, tuple[str, ...]] = {
        "Conv": ("input", "weight", "bias"), "ConvTranspose": ("input", "weight", "bias"),
        "Gemm": ("first operand", "second operand", "bias"), "MatMul": ("first operand", "second operand"),
    }  # fmt: skip
    known = names.get(node.op_type, ())
    what = known[index] if index < len(known) else f"input {index}"
    return f"the {what} of {node.op_type} {title(node)}"


def why_not_constant(net: Net, value: ir.Value | None) -> str:
    if value is None:
        return "absent"
    if value.is_initializer() and value.is_graph_input():
        return "an initializer that callers may override, being a graph input too"
    return "computed at run time"
