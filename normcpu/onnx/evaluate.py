# SPDX-License-Identifier: Apache-2.0
"""Operations on constants, in float64, and the attributes of nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

Evaluated = np.ndarray[Any, Any]
LARGEST = 1 << 28  # elements that evaluating a constant may create: ConstantOfShape of a hostile file asks for more


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


def of_attribute(node: ir.Node) -> Evaluated | None:
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


def _split(node: ir.Node, x: Evaluated, sizes: Evaluated | None = None) -> list[Evaluated]:
    """Every part: of the given sizes, or else of equal ones, the last of which may be smaller."""
    axis = integer(node, "axis")
    given = ints(node, "split") if sizes is None else [int(n) for n in sizes]
    if given is not None and sum(given) != x.shape[axis]:
        raise ValueError("its sizes do not add up")
    each = -(-x.shape[axis] // len(node.outputs))
    joints = np.cumsum(given)[:-1] if given is not None else np.arange(1, len(node.outputs)) * each
    return np.split(x, joints, axis)


def whole_of(node: ir.Node) -> ir.Node | None:
    """The SplitToSequence that a SequenceAt takes its part from."""
    value = node.inputs[0] if node.op_type == "SequenceAt" else None
    whole = None if value is None else value.producer()
    return whole if whole is not None and whole.op_type == "SplitToSequence" and not whole.domain else None


def part_of_sequence(
    whole: ir.Node, index: Evaluated | None, x: Evaluated | None, size: Evaluated | None = None
) -> Evaluated | None:
    """split is the size of each part, or a list of sizes; without it each is one element, its axis gone if so asked."""
    if index is None or x is None:
        return None
    axis, at = integer(whole, "axis"), int(index)
    count = x.shape[axis]
    each = np.ones((), np.int64) if size is None else size
    ends = np.cumsum(each) if each.ndim else np.minimum(np.arange(1, -(-count // int(each)) + 1) * int(each), count)
    begins = [0, *ends[:-1]]
    part = np.take(x, np.arange(begins[at], ends[at]), axis)
    return part.squeeze(axis) if size is None and not integer(whole, "keepdims", 1) else part


Reduce = Callable[..., Any]


def _reduce(reduce: Reduce) -> Callable[..., Evaluated | None]:
    def act(node: ir.Node, x: Evaluated, axes: Evaluated | None = None) -> Evaluated | None:
        chosen = _axes(node, axes)
        if not chosen and integer(node, "noop_with_empty_axes"):
            return None
        kept = bool(integer(node, "keepdims", 1))
        return np.asarray(reduce(x, axis=tuple(chosen) if chosen else None, keepdims=kept))

    return act


def _root_of_squares(x: Evaluated, **where: Any) -> Evaluated:
    return np.asarray(np.sqrt(np.square(x).sum(**where)))


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


OPERATIONS: dict[str, Callable[..., Evaluated | list[Evaluated] | None]] = {
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
    "MatMul": lambda node, a, b: a @ b if a.size * b.shape[-1] <= LARGEST else None,
    "Max": lambda node, *xs: functools.reduce(np.maximum, xs),
    "Min": lambda node, *xs: functools.reduce(np.minimum, xs),
    "ReduceL2": _reduce(_root_of_squares),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Split": _split,
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
