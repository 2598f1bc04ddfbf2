# SPDX-License-Identifier: Apache-2.0
"""LayerNorm and RMSNorm that are spelled out in single operations.

    d = x - mean(x);  y = d / sqrt(mean(d^2) + eps)          LayerNorm
                      y = x / sqrt(mean(x^2) + eps)          RMSNorm

N6: where the opset has the operation (17 and 23) it is written as one, whose weights fold as any other's.
N7: where it has not, ONNX Runtime makes one of it, but only together with the Mul and Add that follow.  They fold all
the same: measured on blocks of norm, Linear, ReLU, Linear, the spelled norm costs 1 to 5 % at 128 columns and more,
and other runtimes save two operations.  Without N7 they stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Refused
from .constants import attribute_or_input, integer
from .exact import new_constant
from .net import Net, title


class Spelled(NamedTuple):
    op_type: str
    x: ir.Value
    y: ir.Value
    eps: float
    nodes: list[ir.Node]

    @property
    def differences(self) -> list[ir.Node]:
        """x - mean(x), once or twice, and the means."""
        divided, squared = self.nodes[0].inputs[0], self.nodes[-1].inputs[0]
        found = [v.producer() for v in dict.fromkeys((divided, squared)) if v is not None]
        differences = [node for node in found if node is not None]
        means = [v.producer() for v in dict.fromkeys(node.inputs[1] for node in differences) if v is not None]
        return differences + [node for node in means if node is not None]


SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}


def compose_norms(net: Net, skip: frozenset[str]) -> dict[ir.Node, str]:
    """Writes norms as one operation where that can be; returns the nodes that stay, with the reason."""
    stay: dict[ir.Node, str] = {}
    for node in list(net.nodes()):
        if node.op_type != "Sqrt" or node.domain or node.graph is None:
            continue
        found = _spelled(net, node)
        if found is None:
            continue
        if net.opset >= SINCE[found.op_type] and "N6" not in skip:
            _replace(net, found)
        elif "N7" in skip:
            why = f"belongs to a {found.op_type} that ONNX Runtime fuses only as a whole"
            for after in _weights_behind(net, found):
                stay[after] = why
    return stay


def spelled_norms(net: Net) -> list[Spelled]:
    """Every LayerNorm that stays spelled out, and whose mean nothing else reads."""
    roots = [node for node in net.nodes() if node.op_type == "Sqrt" and not node.domain]
    found = [norm for root in roots if (norm := _spelled(net, root)) and norm.op_type == "LayerNormalization"]
    return [norm for norm in found if _reads_its_mean_alone(norm)]


def _reads_its_mean_alone(norm: Spelled) -> bool:
    means = [node for node in norm.differences if node.op_type == "ReduceMean"]
    readers = {use.node for mean in means for use in mean.outputs[0].uses()}
    return readers <= set(norm.differences) and not any(n.outputs[0].is_graph_output() for n in norm.differences)


def _spelled(net: Net, root: ir.Node) -> Spelled | None:
    plus = _before(root, 0, "Add")
    if plus is None:
        return None
    constant = [k for k, i in enumerate(plus.inputs) if net.constants.is_constant(i)]
    eps = net.constants.value(plus.inputs[constant[0]]) if len(constant) == 1 else None
    mean = _before(plus, 1 - constant[0], "ReduceMean") if eps is not None and eps.size == 1 else None
    if mean is None or eps is None or not _last_axis(net, mean):
        return None
    square = mean.inputs[0].producer() if mean.inputs[0] is not None else None
    d = _squared(net, square)
    uses = [use for use in root.outputs[0].uses() if use.node.op_type == "Div" and use.idx == 1]
    if square is None or d is None or len(uses) != 1 or len(root.outputs[0].uses()) != 1:
        return None
    quotient = uses[0].node
    nodes = [quotient, root, plus, mean, square]
    if any(len(n.outputs[0].uses()) != 1 or n.outputs[0].is_graph_output() for n in nodes[1:]):
        return None
    divided = quotient.inputs[0]
    centred, other = _centred(net, d), _centred(net, divided)
    if centred is not None and other is centred:
        return Spelled("LayerNormalization", centred, quotient.outputs[0], float(eps.ravel()[0]), nodes)
    if divided is d and d is not None:
        return Spelled("RMSNormalization", d, quotient.outputs[0], float(eps.ravel()[0]), nodes)
    return None


def _before(node: ir.Node, index: int, op_type: str) -> ir.Node | None:
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type and not producer.domain else None


def _last_axis(net: Net, mean: ir.Node) -> bool:
    x = mean.inputs[0]
    axes = attribute_or_input(net.constants, mean, "axes", 1)
    try:
        rank = net.rank(x) if x is not None else 0
    except Refused:
        return False
    return bool(rank and axes is not None and [a % rank for a in axes] == [rank - 1] and integer(mean, "keepdims", 1))


def _squared(net: Net, node: ir.Node | None) -> ir.Value | None:
    """d of d^2 or d * d."""
    if node is None or node.domain:
        return None
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    if node.op_type == "Pow":
        exponent = net.constants.value(node.inputs[1])
        return node.inputs[0] if exponent is not None and exponent.size == 1 and exponent.ravel()[0] == 2 else None
    return None


def _centred(net: Net, d: ir.Value | None) -> ir.Value | None:
    """x of x - mean(x)."""
    node = None if d is None else d.producer()
    if node is None or node.op_type != "Sub" or node.domain:
        return None
    mean = _before(node, 1, "ReduceMean")
    if mean is None or mean.inputs[0] is not node.inputs[0] or not _last_axis(net, mean):
        return None
    return node.inputs[0]


def _weights_behind(net: Net, found: Spelled) -> list[ir.Node]:
    behind: list[ir.Node] = []
    value = found.y
    for op_type in ("Mul", "Add") if found.op_type == "LayerNormalization" else ("Mul",):
        readers = net.readers(value)
        if len(readers) != 1 or readers[0].node.op_type != op_type:
            break
        if not any(net.constants.is_constant(i) for i in readers[0].node.inputs):
            break
        behind.append(readers[0].node)
        value = behind[-1].outputs[0]
    return behind


def _replace(net: Net, found: Spelled) -> None:
    try:
        size = net.shape(found.x)[-1]
        dtype = net.float_type(found.x)
    except Refused:
        return
    if not isinstance(size, int):
        return
    name = found.y.name or "norm"
    inputs = [found.x, new_constant(net, np.ones(size), dtype, f"{name}_weight")]
    attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", found.eps)]
    node = ir.Node("", found.op_type, inputs, attributes, name=net.fresh(f"{title(found.nodes[0])}_norm"))
    made = node.outputs[0]
    made.shape, made.type = found.y.shape, found.y.type
    found.nodes[0].append(node)
    found.y.replace_all_uses_with(made, replace_graph_outputs=True)
    found.y.name, made.name = net.fresh(f"{name}_spelled"), name
    for spent in found.nodes:
        assert spent.graph is not None
        spent.graph.remove(spent, safe=True)
