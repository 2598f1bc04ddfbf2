# SPDX-License-Identifier: Apache-2.0
"""Nodes in a row that are one affine together."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Affine, Refused
from .constants import is_float
from .net import FLOATS, Net, title
from .read import Reading, read


class Chain(NamedTuple):
    """Nodes one after another, each the only reader of the one before, that together are one affine."""

    nodes: list[ir.Node]
    at: int  # the input of the first that is not constant
    affine: Affine

    @property
    def x(self) -> ir.Value:
        value = self.nodes[0].inputs[self.at]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def title(self) -> str:
        return " + ".join(title(n) for n in self.nodes)


def follow(net: Net, frozen: Container[ir.Node], node: ir.Node, reading: Reading) -> Chain:
    """The chain that begins at `node`, as far as it goes."""
    nodes, affine = [node], reading.affine
    while True:
        y = nodes[-1].outputs[0]
        readers = net.readers(y)
        if len(readers) != 1 or len(y.uses()) != 1 or y.is_graph_output() or readers[0].node.graph is not node.graph:
            break
        after = readers[0].node
        try:
            following = None if after in frozen else read(net, after)
        except Refused:
            break
        if following is None or following.at != readers[0].at or following.affine.rank != affine.rank:
            break
        nodes.append(after)
        affine = following.affine.after(affine)
    return Chain(nodes, reading.at, affine)


def part_of(net: Net, chain: Chain, nodes: list[ir.Node]) -> Chain | None:
    """The chain of some of a chain's nodes."""
    affine, index = None, chain.at
    for node in nodes:
        reading = read(net, node)
        if reading is None:
            return None
        index = index if affine is not None else reading.at
        affine = reading.affine if affine is None else reading.affine.after(affine)
    return None if affine is None else Chain(nodes, index, affine)


def outer_product(net: Net, node: ir.Node) -> Reading | None:
    """r * c, r the same along the axes of c: an affine of r once it is broadcast.  As in (x - mean) * (rsqrt * weight).

    Only where what reads it has its size without it, from another operand.
    """
    if node.op_type != "Mul" or node.domain or net.dtype(node.outputs[0]) not in FLOATS:
        return None
    known = [net.constants.is_constant(i) for i in node.inputs]
    c = net.constants.value(node.inputs[known.index(True)]) if known.count(True) == 1 else None
    if c is None or not is_float(c.dtype) or not np.isfinite(c).all():
        return None
    y, index = node.outputs[0], known.index(False)
    x, rank = node.inputs[index], net.rank(y)
    assert x is not None
    larger = {
        k for k in range(1, rank + 1) if k > net.rank(x) or (k <= c.ndim and c.shape[-k] > 1)
    }  # axes, from behind
    for use in net.readers(y):
        others = [i for k, i in enumerate(use.node.inputs) if k != use.at and i is not None]
        if use.node.op_type not in ("Mul", "Div") or use.node.domain or len(others) != 1 or others[0] is y:
            return None
        here, there = net.shape(others[0]), net.shape(use.node.outputs[0])
        if any(k > len(here) or here[-k] != there[-k] for k in larger):
            return None
    return Reading(index, Affine.of(rank, c))
