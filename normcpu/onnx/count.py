# SPDX-License-Identifier: Apache-2.0
"""How many affine operations a model has: the number that folding is to make smaller."""

from __future__ import annotations

from .affine import Refused
from .net import FLOATS, Net
from .norms import read_norm
from .read import ARITHMETIC, composites, is_bias


def count_affine(net: Net) -> int:
    """BatchNormalization; Mul, Add, Sub, Div or Neg of an activation with a constant; norms that scale or shift.

    Not constants of a GELU, the epsilon of a norm, or the bias of a MatMul.
    """
    part_of_something = composites(net)
    total = 0
    for node in net.nodes():
        if node.domain or node in part_of_something or is_bias(net, node):
            continue
        if node.op_type == "BatchNormalization":
            total += 1
        elif node.op_type in ARITHMETIC and net.dtype(node.outputs[0]) in FLOATS:
            constant = [net.constants.is_constant(i) for i in node.inputs]
            total += not all(constant) and (any(constant) or node.op_type == "Neg")
        else:
            try:
                total += read_norm(net, node) is not None
            except Refused:
                total += 1
    return total
