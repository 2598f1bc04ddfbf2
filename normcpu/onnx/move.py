# SPDX-License-Identifier: Apache-2.0
"""Rules for operations that only move elements: the factors move along (B14, B16, F4).

Forwards the factors take the same way as the elements.  Backwards each input element gets the factor of the output
elements that it becomes, which must agree; elements that nothing reads are left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Dim, Refused, regroup
from .constants import attribute_or_input, integer, ints
from .net import FLOATS, Net, title
from .push import Mover, Plan, backward, forward
from .shapes import shape_of

WIDTH = {ir.DataType.BFLOAT16: 0, ir.DataType.FLOAT16: 0, ir.DataType.FLOAT: 1, ir.DataType.DOUBLE: 2}


@backward("B14", "Identity", "Dropout")
def identity_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    inference(mover.net, node)
    return mover.step(node) + mover.pull(node, 0, affine)


@forward("F4", "Identity", "Dropout")
def identity_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    inference(mover.net, node)
    return mover.step(node) + mover.push(node.outputs[0], affine)


def inference(net: Net, node: ir.Node) -> None:
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
    if types[0] is None or types[1] is None or not set(types) <= FLOATS:
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
    src, dst = reshape_shapes(mover.net, node)
    return mover.step(node) + mover.pull(node, 0, affine.map(lambda a: regroup(a, dst, src)))


@forward("F4", *RESHAPES)
def reshape_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as a shape")
    src, dst = reshape_shapes(mover.net, node)
    return mover.step(node) + mover.push(node.outputs[0], affine.map(lambda a: regroup(a, src, dst)))


def reshape_shapes(net: Net, node: ir.Node) -> tuple[list[Dim], list[Dim]]:
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
    if len(new) != len(axes):
        raise Refused(f"Unsqueeze {title(node)} names an axis twice")
    rest = iter(src)
    return src, [1 if k in new else next(rest) for k in range(rank)]


COPIES = ("Expand", "Tile")


@backward("B14", *COPIES)
def copies_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Copies have the factors of what they copy, so nothing may vary along an axis that is copied."""
    lead = _copied_axes(mover.net, node, affine.axes)
    return mover.step(node) + mover.pull(node, 0, affine.map(lambda a: a.reshape(a.shape[lead:])))


@forward("F4", *COPIES)
def copies_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as sizes")
    rank = mover.net.rank(node.outputs[0])
    _copied_axes(mover.net, node, {k + rank - affine.rank for k in affine.axes})
    return mover.step(node) + mover.push(node.outputs[0], Affine.of(rank, affine.scale, affine.shift))


def _copied_axes(net: Net, node: ir.Node, varies: set[int]) -> int:
    """How many axes are new; refused where one of `varies`, axes of the result, is copied."""
    x = node.inputs[0]
    assert x is not None
    here, there = net.shape(x), net.shape(node.outputs[0])
    lead = len(there) - len(here)
    if any(k < lead or here[k - lead] != there[k] for k in varies):
        raise Refused(f"{node.op_type} {title(node)} copies along the axis that the factors vary along")
    return lead
