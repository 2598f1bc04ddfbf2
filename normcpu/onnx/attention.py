# SPDX-License-Identifier: Apache-2.0
"""Biases in attention (D2): that of the keys is nothing to a softmax over them, that of the values passes."""

from __future__ import annotations

import onnx_ir as ir

from .affine import Affine, Refused
from .constants import integer
from .move import inference
from .net import Net, title
from .push import Elsewhere, Mover, Plan, forward


@forward("D2", "MatMul")
def attention_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """softmax(q (k + b)^T) = softmax(q k^T), q b being the same for all keys; softmax(..) (v + b) = softmax(..) v + b,
    each row of a softmax having the sum 1.
    """
    net, rank = mover.net, affine.rank
    scores, other = node.outputs[0], node.inputs[1 - index]
    if index != 1 or not affine.keeps_scale or net.constants.is_constant(other) or rank != net.rank(scores):
        raise Elsewhere(f"MatMul {title(node)} does not take a shift")
    if rank - 1 not in affine.axes and _only_softmax(mover, scores):
        return mover.step(node)
    if rank - 2 in affine.axes or not _sums_to_one(net, other):
        raise Refused(f"MatMul {title(node)} of two activations takes a shift only in attention")
    here, there = net.shape(node.inputs[index] or scores), net.shape(scores)
    if any(k < rank - 2 and here[k] != there[k] for k in affine.axes):
        raise Refused(f"MatMul {title(node)} broadcasts the axis that the shift varies along")
    return mover.step(node) + mover.push(scores, affine)


def _only_softmax(mover: Mover, value: ir.Value, depth: int = 0) -> bool:
    """Whether all that reads the value is indifferent to what is the same along its last axis."""
    net = mover.net
    readers = net.readers(value)
    if value.is_graph_output() or not readers or depth > 8:
        return False
    for node, at in readers:
        if node.domain or node in mover.frozen:
            return False
        if node.op_type == "Softmax":
            rank = net.rank(value)
            if integer(node, "axis", -1 if net.opset >= 13 else 1) % rank != rank - 1:
                return False
            continue
        others = [net.constants.value(i) for k, i in enumerate(node.inputs) if k != at]
        scaled = node.op_type == "Mul" or (node.op_type == "Div" and at == 0)
        if scaled and not all(c is not None and c.size == 1 for c in others):
            return False
        if not scaled and node.op_type not in ("Add", "Sub", "Identity"):
            return False
        if net.rank(node.outputs[0]) != net.rank(value) or not _only_softmax(mover, node.outputs[0], depth + 1):
            return False
    return True


def _sums_to_one(net: Net, value: ir.Value | None) -> bool:
    """A softmax over the last axis, perhaps behind a Dropout that drops nothing."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Identity", "Dropout") and not node.domain:
        inference(net, node)
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if node is None or value is None or node.op_type != "Softmax" or node.domain:
        return False
    rank = net.rank(value)
    return integer(node, "axis", -1 if net.opset >= 13 else 1) % rank == rank - 1
