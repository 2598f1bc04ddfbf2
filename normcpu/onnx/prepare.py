# SPDX-License-Identifier: Apache-2.0
"""Before folding: what hides an affine from the weights it belongs to is brought into the open, one rewrite each."""

from __future__ import annotations

import onnx_ir as ir

from .constants import Constants
from .net import opset

LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
AFFINE = {"BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg"}


def fold_preparations(model: ir.Model, skip: frozenset[str]) -> None:
    """All of them, in order."""
    functions = model.functions.values()
    same_opset = all(f.opset_imports.get("", opset(model)) == opset(model) for f in functions)
    if "S1" not in skip and same_opset and any(_has_affine(f) for f in functions):
        inline_functions(model)
    if "S2" not in skip:
        sink_into_branches(model)


def inline_functions(model: ir.Model) -> None:
    """S1.  A function called twice with different weights is two places to fold: its body goes where it is called."""
    from onnx_ir.passes.common import InlinePass

    InlinePass()(model)


def _has_affine(function: ir.Function) -> bool:
    return any(n.op_type in AFFINE and not n.domain for n in function.all_nodes())


def sink_into_branches(model: ir.Model) -> None:
    """S2.  A linear operation that only the branches of one If read, and an affine in them first, moves into each.

    One branch runs, so one copy does.
    """
    constants = Constants(model.ir_version, lambda value: None if value is None else value.dtype)
    branch_of = _branches(model)
    for node in list(model.graph.all_nodes()):
        if node.op_type not in LINEAR or node.domain or len(node.outputs) != 1 or node.graph is None:
            continue
        value = node.outputs[0]
        uses = list(value.uses())
        graphs = {use.node.graph for use in uses}
        owners = {branch_of.get(graph) for graph in graphs}
        if value.is_graph_output() or len(owners) != 1 or None in owners or not _same_graph(owners, node):
            continue
        if not any(u.node.op_type in AFFINE for u in uses) or not constants.is_constant(node.inputs[1]):
            continue
        for graph in graphs:
            assert isinstance(graph, ir.Graph)
            copy = ir.Node("", node.op_type, node.inputs, node.attributes, name=f"{node.name}_in_{graph.name}")
            made = copy.outputs[0]
            made.name, made.shape, made.type = f"{value.name}_in_{graph.name}", value.shape, value.type
            graph.insert_before(graph[0], copy)
            for use in uses:
                if use.node.graph is graph:
                    use.node.replace_input_with(use.idx, made)
        node.graph.remove(node, safe=True)


def _branches(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """{branch: the If that runs it}."""
    return {
        attribute.as_graph(): node
        for node in model.graph.all_nodes()
        if node.op_type == "If" and not node.domain
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
    }


def _same_graph(owners: set[ir.Node | None], node: ir.Node) -> bool:
    return all(owner is not None and owner.graph is node.graph for owner in owners)
