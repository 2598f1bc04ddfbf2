# SPDX-License-Identifier: Apache-2.0
"""Rules for operations that take parts of an axis, or join them: Slice, Gather, Split, Concat (B8, B14, F4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Dim, Refused
from .constants import Evaluated, attribute_or_input, integer
from .net import Net, title
from .push import Mover, Plan, backward, forward

# Slice, Gather and Split take parts of an axis: output j has the elements parts[j] of it.
Selection = Callable[[Array], Array]


def _selections(net: Net, node: ir.Node, shape: Sequence[Dim]) -> list[tuple[dict[int, Evaluated], Selection]]:
    """For each output: {axis: which indices of it}, and the same as a function of an array that broadcasts."""
    rank = len(shape)
    if node.op_type == "Slice":
        return [_slice(net, node, shape)]
    axis = integer(node, "axis") % rank
    if node.op_type == "Split":
        sizes = attribute_or_input(net.constants, node, "split", 1)
        size = shape[axis]
        if sizes is None and isinstance(size, int):
            if len(node.inputs) > 1 and node.inputs[1] is not None:
                raise Refused(f"Split {title(node)} has sizes that are not constant")
            each = -(-size // len(node.outputs))
            sizes = [min(each, size - k * each) for k in range(len(node.outputs))]
        if sizes is None:
            return [({axis: np.empty(0, np.int64)}, _unless_varies(node, axis)) for _ in node.outputs]
        edges = np.cumsum([0, *sizes])
        return [({axis: np.arange(a, b)}, partial(_stretch, a, b, axis)) for a, b in pairwise(edges)]
    indices = node.inputs[1]
    known = net.constants.value(indices)
    assert indices is not None
    wide = known.ndim if known is not None else net.rank(indices)

    def gather(a: Array) -> Array:
        if a.shape[axis] == 1:
            return a.reshape(*a.shape[:axis], *[1] * wide, *a.shape[axis + 1 :])
        if known is None:
            raise Refused(f"Gather {title(node)} has indices that are not constant")
        return a.take(known, axis)

    return [({axis: known if known is not None else np.empty(0, np.int64)}, gather)]


def _stretch(first: int, end: int, axis: int, a: Array) -> Array:
    return a if a.shape[axis] == 1 else a.take(range(first, end), axis)


def _unless_varies(node: ir.Node, axis: int) -> Selection:
    def select(a: Array) -> Array:
        if a.shape[axis] != 1:
            raise Refused(f"{node.op_type} {title(node)} has sizes that are not known")
        return a

    return select


def _slice(net: Net, node: ir.Node, shape: Sequence[Dim]) -> tuple[dict[int, Evaluated], Selection]:
    starts = attribute_or_input(net.constants, node, "starts", 1)
    ends = attribute_or_input(net.constants, node, "ends", 2)
    axes = attribute_or_input(net.constants, node, "axes", 3)
    steps = attribute_or_input(net.constants, node, "steps", 4)
    absent = [len(node.inputs) <= k or node.inputs[k] is None for k in range(5)]
    if axes is None and absent[3]:
        axes = list(range(len(starts) if starts is not None else len(shape)))
    if axes is None or (steps is None and not absent[4]):
        raise Refused(f"Slice {title(node)} has axes or steps that are not constant")
    axes = [a % len(shape) for a in axes]
    taken: dict[int, slice] = {}
    for k, axis in enumerate(axes):
        if starts is not None and ends is not None:
            taken[axis] = slice(starts[k], ends[k], steps[k] if steps else 1)

    def select(a: Array) -> Array:
        for axis in axes:
            if a.shape[axis] > 1:
                if axis not in taken:
                    raise Refused(f"Slice {title(node)} has bounds that are not constant")
                a = a[(*[slice(None)] * axis, taken[axis])]
        return a

    which = {}
    for axis in axes:
        size = shape[axis]
        known = axis in taken and isinstance(size, int)
        which[axis] = np.arange(size)[taken[axis]] if known and isinstance(size, int) else np.empty(0, np.int64)
    return which, select


PARTS = ("Slice", "Split")


def forward_parts(net: Net, node: ir.Node, affine: Affine) -> list[Affine | None]:
    """What an affine on the input is on each output of Slice, Gather or Split."""
    x = node.inputs[0]
    assert x is not None
    chosen = _selections(net, node, net.shape(x))
    return [affine.map(select) for _, select in chosen]


@forward("F4", *PARTS, "Gather")
def parts_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as an index")
    plan = mover.step(node)
    for value, part in zip(node.outputs, forward_parts(mover.net, node, affine), strict=True):
        if part is not None:
            plan += mover.push(value, part)
    return plan


@backward("B14", *PARTS)
def parts_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Factor 1 and shift 0 for elements that other readers take, and for those that nobody takes.

    Where the whole input is read here alone, what is the same for all elements taken is also given to the others.
    """
    net = mover.net
    x = node.inputs[0]
    assert x is not None
    shape = net.shape(x)
    which, _ = _selections(net, node, shape)[output]
    others = [o for o in node.outputs if o is not node.outputs[output]]
    alone = len(net.readers(x)) == 1 and not any(o.uses() or o.is_graph_output() for o in others)

    def inward(a: Array, neutral: float) -> Array:
        if node.op_type == "Gather":
            (axis,) = which
            indices = node.inputs[1]
            assert indices is not None
            wide = net.rank(indices)
            if a.shape[axis : axis + wide].count(1) == wide:
                a = a.reshape(*a.shape[:axis], 1, *a.shape[axis + wide :])
                if alone:
                    return a
            else:
                full = np.broadcast_to(a, (*a.shape[:axis], *which[axis].shape, *a.shape[axis + wide :]))
                a = full.reshape(*a.shape[:axis], -1, *a.shape[axis + wide :])
            return _scatter(a, axis, which[axis].ravel(), shape[axis], neutral, node)
        for axis, taken in which.items():
            if alone and a.shape[axis] == 1:
                continue
            a = _scatter(a, axis, taken, shape[axis], neutral, node)
        return a

    scale, shift = inward(affine.scale, 1.0), inward(affine.shift, 0.0)
    return mover.step(node) + mover.pull(node, 0, Affine.of(scale.ndim, scale, shift))


def _scatter(a: Array, axis: int, taken: Evaluated, size: Dim, neutral: float, node: ir.Node) -> Array:
    """An array of `size` along `axis` with a at the indices taken, which agree where an index comes twice."""
    if not isinstance(size, int) or taken.size == 0:
        raise Refused(f"{node.op_type} {title(node)} takes elements that are not known in advance")
    taken = taken % size
    if a.shape[axis] == 1:
        a = np.repeat(a, taken.size, axis)
    result = np.full((size, *a.shape[:axis], *a.shape[axis + 1 :]), neutral)
    result[taken] = np.moveaxis(a, axis, 0)
    if not np.array_equal(result[taken], np.moveaxis(a, axis, 0)):
        raise Refused(f"{node.op_type} {title(node)} takes an element twice, with different factors")
    return np.moveaxis(result, 0, axis)


@backward("B8", "Concat")
def concat_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Each input gets its stretch of the factors; every one must take it."""
    axis, edges = _joints(mover.net, node, affine)
    plan = mover.step(node)
    for k in range(len(node.inputs)):
        part = affine
        if edges is not None:
            part = affine.map(partial(_stretch, edges[k], edges[k + 1], axis))
        plan += mover.pull(node, k, part)
    return plan


@forward("F4", "Concat")
def concat_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """The other inputs' elements have factor 1 and shift 0."""
    axis, _ = _joints(mover.net, node, affine)
    sizes = [mover.net.shape(i)[axis] for i in node.inputs if i is not None]
    if not all(isinstance(n, int) for n in sizes):
        raise Refused(f"Concat {title(node)} joins inputs of unknown sizes")
    edges = np.cumsum([0, *(int(n) for n in sizes)])

    def outward(a: Array, neutral: float) -> Array:
        part = a if a.shape[axis] > 1 else np.repeat(a, int(sizes[index]), axis)
        full = np.full((*part.shape[:axis], int(edges[-1]), *part.shape[axis + 1 :]), neutral)
        full[(*[slice(None)] * axis, slice(edges[index], edges[index + 1]))] = part
        return full

    out = Affine.of(affine.rank, outward(affine.scale, 1.0), outward(affine.shift, 0.0))
    return mover.step(node) + mover.push(node.outputs[0], out)


def _joints(net: Net, node: ir.Node, affine: Affine) -> tuple[int, list[int] | None]:
    """The axis, and where each input begins along it; None where the factors do not vary along it."""
    axis = integer(node, "axis") % affine.rank
    if axis not in affine.axes:
        return axis, None
    sizes = [net.shape(i)[axis] for i in node.inputs if i is not None]
    if not all(isinstance(n, int) for n in sizes):
        raise Refused(f"Concat {title(node)} joins inputs of unknown sizes")
    return axis, [int(n) for n in np.cumsum([0, *(int(n) for n in sizes)])]
