# SPDX-License-Identifier: Apache-2.0
"""Rules for DepthToSpace and SpaceToDepth, which move channels as blocks, and for Pad, which adds elements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused, one_value
from .constants import attribute_or_input, integer, text
from .net import Net, title
from .push import Mover, Plan, backward, forward
from .weights import Action, set_constant

Move = Callable[[Array], Array]


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


def _by_row(blocks: int) -> Move:
    return lambda a: a if a.shape[1] == 1 else np.concatenate([a] * blocks, 1)


def _by_column(blocks: int) -> Move:
    return lambda a: a if a.shape[1] == 1 else np.repeat(a, blocks, 1)


def _once(blocks: int, by_column: bool, node: ir.Node) -> Move:
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
    """s pad(x, v) + t = pad(s x + t, s v + t), where s v + t is the same in all channels, as 0 is under a scale."""
    actions = _padding(mover.net, node, affine, lambda v: affine.scale * v + affine.shift)
    return mover.step(node) + mover.pull(node, 0, affine) + Plan([], actions, [node] * len(actions))


@forward("F5", "Pad")
def pad_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """pad(s x + t, v) = s pad(x, (v - t) / s) + t, where (v - t) / s is the same in all channels."""
    if index != 0:
        raise Refused(f"Pad {title(node)} reads it as a parameter")
    actions = _padding(mover.net, node, affine, lambda v: (v - affine.shift) / affine.scale)
    return mover.step(node) + mover.push(node.outputs[0], affine) + Plan([], actions, [node] * len(actions))


def _padding(net: Net, node: ir.Node, affine: Affine, becomes: Callable[[float], Array]) -> list[Action]:
    """What makes a Pad pad with another value; reflect, edge and wrap copy values, and need nothing.

    Nothing may vary along a padded axis.
    """
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
    if text(node, "mode", "constant") != "constant" or not padded:
        return []
    fill = node.attributes["value"].as_float() if "value" in node.attributes else 0.0
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        known = net.constants.value(node.inputs[2])
        if known is None or known.size != 1:
            raise Refused(f"Pad {title(node)} has a value that is not constant")
        fill = float(known.ravel()[0])
    with np.errstate(all="ignore"):
        value = one_value(becomes(fill))
    if fill == 0 and affine.keeps_zero:
        return []
    if value is None:
        raise Refused(f"Pad {title(node)} pads with a constant, which becomes another in each channel")
    return [_pad_with(net, node, value)]


def _pad_with(net: Net, node: ir.Node, value: float) -> Action:
    dtype = net.float_type(node.inputs[0])
    if net.opset >= 11:
        return set_constant(net, node, 2, np.array(value), dtype, f"{title(node)}_value")
    if dtype == ir.DataType.DOUBLE:
        raise Refused(f"Pad {title(node)} is of float64, and opset {net.opset} pads with float32 values")
    return lambda: node.attributes.update(value=ir.AttrFloat32("value", value))
