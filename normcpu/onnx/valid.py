# SPDX-License-Identifier: Apache-2.0
"""What folding relies on in a graph: each value is made once, and before it is read."""

from __future__ import annotations

import onnx_ir as ir

from .net import title


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
    names: set[str] = set()
    for value in [*graph.inputs, *graph.initializers.values()]:
        if value not in made:
            _declare(value, names, made, "an input or initializer")
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
        for value in node.outputs:
            if value.name:
                _declare(value, names, made, title(node))
    return result


def _declare(value: ir.Value, names: set[str], made: set[ir.Value], maker: str) -> None:
    if value.name in names:
        raise ModelError(f"not a valid ONNX model: {maker} makes {value.name!r}, which something else makes too")
    names.add(value.name or "")
    made.add(value)


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
