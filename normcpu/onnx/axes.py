# SPDX-License-Identifier: Apache-2.0
"""Where the mean of a result over one axis comes from, for operations that are linear.

y - mean(y) over axis a is the same operation of inputs that lose their mean over one axis each: which inputs, and which
axis of each, is the table here.  An axis below 0 is one that the input does not have: it is the same all along, and
losing its mean makes it 0.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .affine import Refused, stretches
from .constants import attribute_or_input, integer, ints, text
from .move import COPIES, RESHAPES, reshape_shapes
from .net import FLOATS, Net, title
from .norms import read_norm
from .read import read

Inputs = list[tuple[int, int]]  # (input, its axis)
TABLE: dict[str, Callable[[Net, ir.Node, int, int], Inputs]] = {}


def inputs_of(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """The inputs that lose their mean where the result loses its own; refused where the operation is not linear."""
    find = None if node.domain else TABLE.get(node.op_type)
    if find is None:
        raise Refused(f"{node.op_type} {title(node)} writes it, and is not linear")
    found = find(net, node, output, axis)
    if found and net.dtype(node.inputs[found[0][0]]) not in FLOATS:
        raise Refused(f"{node.op_type} {title(node)} is not of floats")
    return found


def _enter(*op_types: str) -> Callable[[Callable[[Net, ir.Node, int, int], Inputs]], None]:
    def enter(find: Callable[[Net, ir.Node, int, int], Inputs]) -> None:
        TABLE.update(dict.fromkeys(op_types, find))

    return enter


def _rank(net: Net, node: ir.Node, index: int) -> int:
    value = node.inputs[index]
    if value is None:
        raise Refused(f"{title(node)} lacks an operand")
    return net.rank(value)


def _lead(net: Net, node: ir.Node, index: int) -> int:
    """How many axes of the result an operand does not have."""
    return net.rank(node.outputs[0]) - _rank(net, node, index)


@_enter("Identity")
def _same(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    return [(0, axis)]


@_enter("Add", "Sub", "Sum")
def _sum(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """mean(u + v) = mean(u) + mean(v).  A constant may be broadcast along the axis; an activation may not."""
    size = net.shape(node.outputs[0])[axis]
    for index, value in enumerate(node.inputs):
        at = axis - _lead(net, node, index)
        if value is not None and not net.constants.is_constant(value) and (at < 0 or net.shape(value)[at] != size):
            raise Refused(f"{node.op_type} {title(node)} broadcasts {value.name!r} along the norm's axis")
    return [(index, axis - _lead(net, node, index)) for index in range(len(node.inputs))]


@_enter("Mul", "Div", "Neg")
def _product(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """mean(s y) = s mean(y), where s is the same all along the axis."""
    reading = read(net, node)
    if reading is None or axis in reading.affine.axes:
        raise Refused(f"{node.op_type} {title(node)} multiplies it by something that varies along the norm's axis")
    return [(reading.at, axis)]


@_enter("MatMul")
def _matmul(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """(x W) 1 = x (W 1): columns are W's, rows are x's."""
    rank = net.rank(node.outputs[0])
    if min(_rank(net, node, 0), _rank(net, node, 1)) < 2 or axis < rank - 2:
        raise Refused(f"MatMul {title(node)} has the norm's axis for a batch")
    index = int(axis == rank - 1)
    return [(index, _rank(net, node, index) - (1 if index else 2))]


@_enter("Gemm")
def _gemm(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    transposed = integer(node, "transB" if axis else "transA")
    found = [(axis, 1 - axis if transposed else axis)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append((2, axis - _lead(net, node, 2)))
    return found


@_enter("Conv")
def _conv(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """W (o, i, *k) and b (o) over their outputs; groups share no mean."""
    if axis != 1 or integer(node, "group", 1) != 1:
        raise Refused(f"Conv {title(node)} has groups, or the norm is not over its channels")
    return [(index, 0) for index in range(1, len(node.inputs))]


@_enter("Einsum")
def _einsum(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    terms, arrow, out = text(node, "equation").replace(" ", "").partition("->")
    having = [k for k, term in enumerate(terms.split(",")) if arrow and term.count(out[axis]) == 1]
    if (
        "." in terms
        or len(having) != 1
        or any(terms.split(",")[k].count(out[axis]) > 1 for k in range(len(node.inputs)))
    ):
        raise Refused(f"Einsum {title(node)} has the norm's axis in more than one operand")
    return [(having[0], terms.split(",")[having[0]].index(out[axis]))]


@_enter("Transpose")
def _transpose(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    order = ints(node, "perm") or list(range(net.rank(node.outputs[0])))[::-1]
    return [(0, order[axis])]


@_enter(*RESHAPES)
def _reshape(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    for here, there in stretches(*reshape_shapes(net, node)):
        if there == [axis] and len(here) == 1:
            return [(0, here[0])]
    raise Refused(f"{node.op_type} {title(node)} cuts the norm's axis")


@_enter(*COPIES)
def _copies(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    at = axis - _lead(net, node, 0)
    value = node.inputs[0]
    assert value is not None
    if at < 0 or net.shape(value)[at] != net.shape(node.outputs[0])[axis]:
        raise Refused(f"{node.op_type} {title(node)} copies along the norm's axis")
    return [(0, at)]


@_enter("Concat", "Split", "Slice")
def _parts(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    rank = net.rank(node.outputs[0])
    if node.op_type == "Slice":
        cut = attribute_or_input(net.constants, node, "axes", 3) or list(range(rank))
    else:
        cut = [integer(node, "axis")]
    if axis in [k % rank for k in cut]:
        raise Refused(f"{node.op_type} {title(node)} cuts the norm's axis")
    return [(index, axis) for index in (range(len(node.inputs)) if node.op_type == "Concat" else [0])]


@_enter("Gather")
def _gather(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """Of a table, of an embedding say, or of an activation."""
    rank, wide = _rank(net, node, 0), _rank(net, node, 1)
    cut = integer(node, "axis") % rank
    if cut <= axis < cut + wide:
        raise Refused(f"Gather {title(node)} looks the norm's axis up")
    return [(0, axis if axis < cut else axis - wide + 1)]


@_enter("ReduceMean", "ReduceSum")
def _reduce(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    rank = _rank(net, node, 0)
    given = attribute_or_input(net.constants, node, "axes", 1)
    reduced = {k % rank for k in given or range(rank)}
    left = list(range(rank)) if integer(node, "keepdims", 1) else [k for k in range(rank) if k not in reduced]
    if left[axis] in reduced or (given is None and len(node.inputs) > 1):
        raise Refused(f"{node.op_type} {title(node)} reduces the norm's axis")
    return [(0, left[axis])]


@_enter("LayerNormalization")
def _norm(net: Net, node: ir.Node, output: int, axis: int) -> Inputs:
    """Without weight and bias it has mean 0 as it is."""
    rank = net.rank(node.outputs[0])
    if read_norm(net, node) is not None or axis != rank - 1 or integer(node, "axis", -1) % rank != axis:
        raise Refused(f"LayerNormalization {title(node)} writes it, with a weight or a bias")
    return []
