# SPDX-License-Identifier: Apache-2.0
"""What folding relies on in a graph: each value is made before it is read.  And how a node is called."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .evaluate import LARGEST


class ModelError(Exception):
    """A file that cannot be read as a model, or written: what and where, in one sentence."""


def put_in_order(model: ir.Model) -> None:
    """Sorts the nodes if they are not, as ONNX wants them; raises ModelError where they cannot be.

    What passes has no cycle, so walks along producers and readers end.
    """
    if _in_order(model.graph, set()):
        return
    try:
        model.graph.sort()
    except ValueError:
        raise ModelError("not a valid ONNX model: its nodes form a cycle") from None


def _in_order(graph: ir.Graph, made: set[ir.Value]) -> bool:
    """`made`: values that are there when the graph begins; those that it makes join them."""
    made.update(graph.inputs, graph.initializers.values())
    result = True
    for node in graph:
        for value in node.inputs:
            if value is None or value in made:
                continue
            if value.producer() is None:
                raise ModelError(f"not a valid ONNX model: {title(node)} reads {value.name!r}, which nothing makes")
            result = False
        for attribute in node.attributes.values():
            for body in _bodies(attribute):
                result &= _in_order(body, made)
        made.update(node.outputs)
    return result


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def make_harmless(graph: onnx.GraphProto) -> None:
    """What ONNX's own shape inference does not survive is hidden from it, under names that it lets be.

    It writes a Range out, also one of a trillion numbers, and what Add makes of an input of 2^63 elements; sizes below
    0 end the process in Slice (onnx 1.23).
    """
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if not 0 <= dim.dim_value <= LARGEST:
                dim.ClearField("dim_value")
    for node in graph.node:
        if node.op_type == "Range" or any(n < 0 for a in node.attribute for n in a.t.dims):
            node.op_type = f"Hidden{node.op_type}"
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                make_harmless(body)


def title(node: ir.Node) -> str:
    """How reports name a node: its name, or what it makes where it has none."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def kind(node: ir.Node) -> str:
    """The operation, and its domain where that is not ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)
