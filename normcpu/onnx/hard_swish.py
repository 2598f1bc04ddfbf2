# SPDX-License-Identifier: Apache-2.0
"""X2.  A HardSwish that is spelled out becomes the operation it is.

    x * clip(x + 3, 0, 6) / 6 = x * HardSigmoid(x; 1/6, 1/2) = HardSwish(x)

The 6 may stand on either factor, behind the product or nowhere, and clip be Relu6, or Min and Max.  What the scalars
leave is one Mul, an affine like any other.  ONNX Runtime computes a HardSwish within the convolution in front of it and
in that one's blocked layout, which x + 3 and clip break up: PP-OCRv4's text detection takes a fifth less time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Refused
from .constants import real
from .exact import new_constant
from .net import Net, numpy_type, title
from .push import Record, Step, followed
from .read import read

SINCE = 14  # the opset that has HardSwish
TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16}  # which ONNX Runtime computes HardSigmoid of
CLOSE = 1e-6  # relative: how far the constants may be from 3 and 6


class Part(NamedTuple):
    """A value, and the nodes between it and where the search began, in the order of computation."""

    value: ir.Value
    nodes: list[ir.Node]
    factor: float = 1.0


class Clipped(NamedTuple):
    """min(max(x, low), high)."""

    x: ir.Value
    low: float = -math.inf
    high: float = math.inf


class Spelled(NamedTuple):
    """y = factor * HardSwish(x)."""

    x: ir.Value
    y: ir.Value
    factor: float
    nodes: list[ir.Node]


def compose_hard_swish(net: Net, frozen: dict[ir.Node, str], records: list[Record]) -> None:
    """Wherever nothing else reads what is inside, and none of it is to stay."""
    for node in list(net.nodes()):
        if node.op_type != "Mul" or node.domain or net.dtype(node.outputs[0]) not in TYPES:
            continue
        try:
            with followed():
                found = _spelled(net, node)
        except Refused:
            continue
        if found is None or any(n in frozen or n.graph is not node.graph for n in found.nodes):
            continue
        step = Step("X2", title(node), "HardSwish")
        affine = [n for n in found.nodes if _scalar(net, n) is not None]
        records += [Record(title(n), n.op_type, "merged", [step]) for n in affine]
        _replace(net, found)


def _spelled(net: Net, product: ir.Node) -> Spelled | None:
    for index in (0, 1):
        gate, other = (_unscaled(net, product.inputs[k]) for k in (index, 1 - index))
        clipped, bounding = _unclipped(net, gate.value)
        plus = _alone(clipped.x)
        inside = _scalar(net, plus)
        if plus is None or inside is None or clipped.low != 0 or not 0 < clipped.high < math.inf:
            continue
        x, alpha, beta = inside[0], inside[1] / clipped.high, inside[2] / clipped.high
        if max(abs(6 * alpha - 1), abs(2 * beta - 1)) > CLOSE or other.value is not x:
            continue
        behind = _scaled(net, product.outputs[0])
        nodes = [plus, *bounding, *gate.nodes, *other.nodes, product, *behind.nodes]
        return Spelled(x, behind.value, clipped.high * gate.factor * other.factor * behind.factor, nodes)
    return None


def _alone(value: ir.Value | None) -> ir.Node | None:
    """What computes a value that one input alone reads."""
    return value.producer() if value is not None and len(value.uses()) == 1 and not value.is_graph_output() else None


def _scalar(net: Net, node: ir.Node | None) -> tuple[ir.Value, float, float] | None:
    """(x, s, t) of s x + t, one operation with one number."""
    reading = read(net, node) if node is not None and node.op_type != "BatchNormalization" else None
    if node is None or reading is None or reading.affine.axes:
        return None
    x = node.inputs[reading.at]
    assert x is not None
    return x, reading.affine.scale.item(), reading.affine.shift.item()


def _unscaled(net: Net, value: ir.Value | None) -> Part:
    """What a value is a multiple of."""
    assert value is not None
    part = Part(value, [])
    while (node := _alone(part.value)) is not None:
        found = _scalar(net, node)
        if found is None or found[2]:
            break
        part = Part(found[0], [node, *part.nodes], found[1] * part.factor)
    return part


def _scaled(net: Net, value: ir.Value) -> Part:
    """The last of the multiples of a value that are computed one from the other."""
    part = Part(value, [])
    while _alone(part.value) is not None:
        node = next(iter(part.value.uses())).node
        found = _scalar(net, node)
        if found is None or found[2]:
            break
        part = Part(node.outputs[0], [*part.nodes, node], found[1] * part.factor)
    return part


def _unclipped(net: Net, value: ir.Value) -> tuple[Clipped, list[ir.Node]]:
    """What a value is the clipped one of, and the nodes that clip it."""
    whole = Clipped(value)
    nodes: list[ir.Node] = []
    while (node := _alone(whole.x)) is not None:
        found = _bounds(net, node)
        if found is None:
            break
        whole = Clipped(found.x, max(whole.low, found.low), min(whole.high, found.high))
        nodes.insert(0, node)
    return whole, nodes


def _bounds(net: Net, node: ir.Node) -> Clipped | None:
    x = node.inputs[0] if node.inputs else None
    if node.domain or node.op_type not in ("Relu", "Clip", "Min", "Max") or x is None:
        return None
    if node.op_type == "Relu":
        return Clipped(x, 0.0)
    if node.op_type == "Clip" and net.opset < 11:
        return Clipped(x, real(node, "min", -math.inf), real(node, "max", math.inf))
    if node.op_type == "Clip":
        bounds = [_number(net, v, default) for v, default in zip(node.inputs[1:], (-math.inf, math.inf), strict=False)]
        return None if None in bounds else Clipped(x, *(b for b in bounds if b is not None))
    if len(node.inputs) != 2:
        return None
    first, second = (_number(net, v, math.nan) for v in node.inputs)
    if (first is None) == (second is None):
        return None
    x, bound = (node.inputs[1], first) if second is None else (x, second)
    assert x is not None
    assert bound is not None
    return Clipped(x, low=bound) if node.op_type == "Max" else Clipped(x, high=bound)


def _number(net: Net, value: ir.Value | None, absent: float) -> float | None:
    """A constant of one element, None where it is another or computed."""
    if value is None:
        return absent
    known = net.constants.value(value)
    return None if known is None or known.shape not in ((), (1,)) else float(known.item())


def _replace(net: Net, found: Spelled) -> None:
    dtype, y = net.float_type(found.x), found.y
    name = y.name or "y"
    if net.opset >= SINCE:
        made = [ir.Node("", "HardSwish", [found.x], name=net.fresh(f"{name}_hardswish"))]
    else:
        attributes = [ir.AttrFloat32("alpha", 1 / 6), ir.AttrFloat32("beta", 0.5)]
        made = [ir.Node("", "HardSigmoid", [found.x], attributes, name=net.fresh(f"{name}_hardsigmoid"))]
        made.append(ir.Node("", "Mul", [found.x, made[0].outputs[0]], name=net.fresh(f"{name}_hardswish")))
    if abs(found.factor - 1) > np.finfo(numpy_type(dtype)).eps:
        factor = new_constant(net, np.asarray(found.factor), dtype, f"{name}_factor")
        made.append(ir.Node("", "Mul", [made[-1].outputs[0], factor], name=net.fresh(f"{name}_times")))
    for node in made:
        out = node.outputs[0]
        out.shape, out.type, out.name = y.shape, y.type, net.fresh(f"{node.name}_out")
        net.types[out] = dtype
        net.shapes[out] = net.shape(y)
    found.nodes[-1].append(made)
    last, kept = made[-1].outputs[0], y.name
    y.replace_all_uses_with(last, replace_graph_outputs=True)
    y.name = net.fresh(f"{kept}_spelled")
    last.name = kept
    for node in reversed(found.nodes):
        assert node.graph is not None
        node.graph.remove(node, safe=True)
