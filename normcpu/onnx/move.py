# SPDX-License-Identifier: Apache-2.0
"""Rules for operations that only move elements: the factors move along (B14, B16, F4).

Forwards the factors take the same way as the elements.  Backwards each input element gets the factor of the output
elements that it becomes, which must agree; elements that nothing reads are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Dim, Refused, regroup
from .constants import Evaluated, attribute_or_input, integer, ints, text
from .net import FLOATS, Net, title
from .push import Mover, Plan, backward, forward
from .shapes import shape_of

WIDTH = {ir.DataType.BFLOAT16: 0, ir.DataType.FLOAT16: 0, ir.DataType.FLOAT: 1, ir.DataType.DOUBLE: 2}


@backward("B14", "Identity", "Dropout")
def identity_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    _inference(mover.net, node)
    return mover.step(node) + mover.pull(node, 0, affine)


@forward("F4", "Identity", "Dropout")
def identity_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    _inference(mover.net, node)
    return mover.step(node) + mover.push(node.outputs[0], affine)


def _inference(net: Net, node: ir.Node) -> None:
    """A Dropout that drops: training_mode (opset 12) not known to be false, or a mask that is read."""
    if node.op_type != "Dropout":
        return
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    known = net.constants.value(mode)
    if (mode is not None and (known is None or known.any())) or any(o.uses() for o in node.outputs[1:]):
        raise Refused(f"Dropout {title(node)} may be in training mode")


@backward("B14", "Cast")
def cast_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    _toward_wider(mover.net, node.outputs[0], node.inputs[0], node)
    return mover.step(node) + mover.pull(node, 0, affine)


@forward("F4", "Cast")
def cast_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    _toward_wider(mover.net, node.inputs[0], node.outputs[0], node)
    return mover.step(node) + mover.push(node.outputs[0], affine)


def _toward_wider(net: Net, here: ir.Value | None, there: ir.Value | None, node: ir.Node) -> None:
    """Factors that come from float32 lose digits, or overflow, in a float16 weight: only the other way is exact."""
    types = [net.dtype(here), net.dtype(there)]
    if types[0] not in FLOATS or types[1] not in FLOATS:
        raise Refused(f"Cast {title(node)} is not between float types")
    if WIDTH[types[0]] > WIDTH[types[1]]:
        raise Refused(f"Cast {title(node)}: beyond it is {types[1].name.lower()}, which is less exact")


@backward("B14", "Transpose")
def transpose_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    order = ints(node, "perm") or list(range(affine.rank))[::-1]
    return mover.step(node) + mover.pull(node, 0, affine.map(lambda a: a.transpose(np.argsort(order))))


@forward("F4", "Transpose")
def transpose_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    order = ints(node, "perm") or list(range(affine.rank))[::-1]
    return mover.step(node) + mover.push(node.outputs[0], affine.map(lambda a: a.transpose(order)))


RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@backward("B14", *RESHAPES)
def reshape_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    src, dst = _reshape_shapes(mover.net, node)
    return mover.step(node) + mover.pull(node, 0, affine.map(lambda a: regroup(a, dst, src)))


@forward("F4", *RESHAPES)
def reshape_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as a shape")
    src, dst = _reshape_shapes(mover.net, node)
    return mover.step(node) + mover.push(node.outputs[0], affine.map(lambda a: regroup(a, src, dst)))


def _reshape_shapes(net: Net, node: ir.Node) -> tuple[list[Dim], list[Dim]]:
    x = node.inputs[0]
    assert x is not None
    src = net.shape(x)
    unknown = f"-1@{node.outputs[0].name}"
    if node.op_type == "Reshape":
        return src, shape_of(net, node, node.outputs[0].name or "") or net.shape(node.outputs[0])
    if node.op_type == "Flatten":
        axis = integer(node, "axis", 1)
        axis += len(src) if axis < 0 else 0
        sizes: list[Dim] = []
        for part, name in ((src[:axis], "rows"), (src[axis:], "columns")):
            named = [n for n in part if isinstance(n, str)]
            product = int(np.prod([n for n in part if isinstance(n, int)], dtype=np.int64))
            sizes.append(product if not named else named[0] if len(named) == product == 1 else f"{name}@{unknown}")
        return src, sizes
    axes = attribute_or_input(net.constants, node, "axes", 1)
    if node.op_type == "Squeeze":
        if axes is None:
            return src, net.shape(node.outputs[0])
        gone = {a % len(src) for a in axes}
        return src, [n for k, n in enumerate(src) if k not in gone]
    if axes is None:
        raise Refused(f"Unsqueeze {title(node)} has axes that are not constant")
    rank = len(src) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(src)
    return src, [1 if k in new else next(rest) for k in range(rank)]


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
        return [
            ({axis: np.arange(a, b)}, lambda x, a=a, b=b: x if x.shape[axis] == 1 else x.take(range(a, b), axis))
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
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
                a = a[(slice(None),) * axis + (taken[axis],)]
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
def data_movement_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
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
    result = np.full((*a.shape[:axis], size, *a.shape[axis + 1 :]), neutral)
    at = (slice(None),) * axis
    result[(*at, taken)] = a
    if not np.array_equal(result[(*at, taken)], a):
        raise Refused(f"{node.op_type} {title(node)} takes an element twice, with different factors")
    return result


@backward("B8", "Concat")
def concat_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Each input gets its stretch of the factors; every one must take it."""
    axis, edges = _joints(mover.net, node, affine)
    plan = mover.step(node)
    for k in range(len(node.inputs)):
        part = affine
        if edges is not None:
            a, b = edges[k], edges[k + 1]
            part = affine.map(lambda x, a=a, b=b: x if x.shape[axis] == 1 else x.take(range(a, b), axis))
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
        full[(slice(None),) * axis + (slice(edges[index], edges[index + 1]),)] = part
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


@backward("B14", "DepthToSpace")
def depth_to_space_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Input channel (b, c) for DCR, (c, b) for CRD, b one of r * r places in the block."""
    blocks = _blocks(node, affine)
    spread = _by_column(blocks) if text(node, "mode", "DCR") == "CRD" else _by_row(blocks)
    return mover.step(node) + mover.pull(node, 0, affine.map(spread))


@forward("F4", "DepthToSpace")
def depth_to_space_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    blocks = _blocks(node, affine)
    gather = _once(blocks, text(node, "mode", "DCR") == "CRD", node)
    return mover.step(node) + mover.push(node.outputs[0], affine.map(gather))


@backward("B14", "SpaceToDepth")
def space_to_depth_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Output channel (b, c)."""
    return mover.step(node) + mover.pull(node, 0, affine.map(_once(_blocks(node, affine), False, node)))


@forward("F4", "SpaceToDepth")
def space_to_depth_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    return mover.step(node) + mover.push(node.outputs[0], affine.map(_by_row(_blocks(node, affine))))


def _blocks(node: ir.Node, affine: Affine) -> int:
    if affine.axes - {1}:
        raise Refused(f"{node.op_type} {title(node)} mixes the axes that the factors vary along")
    return integer(node, "blocksize") ** 2


def _by_row(blocks: int) -> Selection:
    return lambda a: a if a.shape[1] == 1 else np.concatenate([a] * blocks, 1)


def _by_column(blocks: int) -> Selection:
    return lambda a: a if a.shape[1] == 1 else np.repeat(a, blocks, 1)


def _once(blocks: int, by_column: bool, node: ir.Node) -> Selection:
    def gather(a: Array) -> Array:
        if a.shape[1] == 1:
            return a
        table = a.reshape((-1, blocks) if by_column else (blocks, -1))
        table = table.T if by_column else table
        if not (table == table[0]).all():
            raise Refused(f"{node.op_type} {title(node)} interleaves channels with different factors")
        return table[0].reshape(1, -1, *[1] * (a.ndim - 2))

    return gather


@backward("B16", "Pad")
def pad_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    _padding(mover.net, node, affine)
    return mover.step(node) + mover.pull(node, 0, affine)


@forward("F5", "Pad")
def pad_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"Pad {title(node)} reads it as a parameter")
    _padding(mover.net, node, affine)
    return mover.step(node) + mover.push(node.outputs[0], affine)


def _padding(net: Net, node: ir.Node, affine: Affine) -> None:
    """reflect, edge and wrap copy values; 0 stays 0 under a scale.  Nothing may vary along a padded axis."""
    amounts = attribute_or_input(net.constants, node, "pads", 1)
    if amounts is None or len(amounts) % 2:
        raise Refused(f"Pad {title(node)} has amounts that are not constant")
    axes = attribute_or_input(net.constants, node, "axes", 3)
    if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
        raise Refused(f"Pad {title(node)} has axes that are not constant")
    axes = list(range(affine.rank)) if axes is None else [a % affine.rank for a in axes]
    half = len(amounts) // 2
    padded = {axes[k % half] for k, n in enumerate(amounts) if n}
    if padded & affine.axes:
        raise Refused(f"Pad {title(node)} pads the axis that the factors vary along")
    if text(node, "mode", "constant") == "constant" and padded:
        value = net.constants.value(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        fill = node.attributes["value"].as_float() if "value" in node.attributes else value
        if len(node.inputs) > 2 and node.inputs[2] is not None and value is None:
            raise Refused(f"Pad {title(node)} has a value that is not constant")
        if not affine.keeps_zero or (fill is not None and np.any(fill)):
            raise Refused(f"Pad {title(node)} pads with a constant, which the affine must not reach")
