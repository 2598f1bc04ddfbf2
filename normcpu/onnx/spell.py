# SPDX-License-Identifier: Apache-2.0
"""Writing an affine down as operations: nothing, Mul, Add, one BatchNormalization, or at worst Mul and Add."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .exact import check_range, new_constant
from .net import FLOATS, Net
from .weights import Action

Form = Literal["nothing", "Mul", "Add", "BatchNormalization", "Mul and Add"]


def form(net: Net, y: ir.Value, affine: Affine) -> Form:
    """The shortest spelling for an affine whose result is y.  One BatchNormalization is faster than Mul and Add."""
    if affine.is_identity:
        return "nothing"
    if affine.keeps_zero:
        return "Mul"
    if affine.keeps_scale:
        return "Add"
    shape = net.shape(y)
    dtype = net.dtype(y)
    if affine.axes <= {1} and len(shape) > 1 and isinstance(shape[1], int) and dtype in FLOATS - {ir.DataType.BFLOAT16}:
        return "BatchNormalization"
    return "Mul and Add"


COUNT: dict[Form, int] = {"nothing": 0, "Mul": 1, "Add": 1, "BatchNormalization": 1, "Mul and Add": 2}


def spelled(net: Net, y: ir.Value, affine: Affine) -> int:
    """How many operations the shortest spelling has."""
    return COUNT[form(net, y, affine)]


def respell(net: Net, nodes: list[ir.Node], index: int, affine: Affine) -> Action:
    """Replaces a chain of nodes, whose data is input `index` of the first, by the shortest spelling of `affine`."""
    y = nodes[-1].outputs[0]
    chosen = form(net, y, affine)
    dtype = net.float_type(y)
    for array, what in ((affine.scale, "scale"), (affine.shift, "shift")):
        check_range(array, np.ones(()), dtype, f"the {what} of {y.name!r}", None)
    if chosen == "nothing":
        raise Refused("nothing is left of it")
    if chosen == "BatchNormalization":
        affine.vectors(1, int(net.shape(y)[1]))

    def act() -> None:
        x = nodes[0].inputs[index]
        assert x is not None
        made = [_node(net, op, x, affine, dtype, y) for op in chosen.split(" and ")]
        if len(made) > 1:
            made[1].replace_input_with(0, made[0].outputs[0])
        nodes[-1].append(made)
        last = made[-1].outputs[0]
        last.shape, last.type = y.shape, y.type
        name = y.name
        y.replace_all_uses_with(last, replace_graph_outputs=True)
        y.name = net.fresh(f"{name}_unfolded")
        last.name = name
        for node in reversed(nodes):
            assert node.graph is not None
            node.graph.remove(node, safe=True)

    return act


def _node(net: Net, op_type: str, x: ir.Value, affine: Affine, dtype: ir.DataType, y: ir.Value) -> ir.Node:
    name = net.fresh(f"{y.name}_{op_type.lower()}")
    if op_type == "BatchNormalization":
        channels = int(net.shape(y)[1])
        full = [*affine.vectors(1, channels), np.zeros(channels), np.ones(channels)]
        names = ("scale", "bias", "mean", "var")
        inputs = [new_constant(net, a, dtype, f"{name}_{what}") for a, what in zip(full, names, strict=True)]
        node = ir.Node("", op_type, [x, *inputs], [ir.AttrFloat32("epsilon", 0.0)], name=name)
    else:
        array: Array = affine.scale if op_type == "Mul" else affine.shift
        constant = new_constant(net, trimmed(array), dtype, f"{name}_constant")
        node = ir.Node("", op_type, [x, constant], name=name)
    node.outputs[0].name = net.fresh(f"{name}_out")
    net.types[node.outputs[0]] = dtype
    return node


def trimmed(a: Array, least: int = 0) -> Array:
    """Without leading axes of size 1, which broadcasting adds again: a vector along the last axis, a scalar."""
    while a.ndim > least and a.shape[0] == 1:
        a = a[0]
    return a
