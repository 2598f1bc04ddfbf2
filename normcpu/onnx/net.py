# SPDX-License-Identifier: Apache-2.0
"""A model while it is being folded: shapes, types, readers, constants, and the few ways of changing the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from .affine import Dim, Refused
from .constants import LARGEST, Constants, Evaluated, integer, is_float, node_end
from .shapes import SAME_TYPE, shape_of
from .valid import kind, make_harmless
from .valid import title as title

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
SEES_NO_VALUES = {("Shape", 0), ("Size", 0), ("CastLike", 1)}  # inputs whose sizes or type alone matter


class Use(NamedTuple):
    """Input `at` of a node."""

    node: ir.Node
    at: int


class Net:
    """What rules may ask of a model, and do to it."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opset = opset(model)
        self.ir_version = model.ir_version
        self.constants = Constants(model.ir_version, self.dtype, self._sizes)
        self.inferred = infer(model)
        self.types: dict[ir.Value, ir.DataType | None] = {}
        self.shapes: dict[ir.Value, list[Dim] | None] = {}  # what shapes.py found out
        self._shapes_in_order()
        self.names = {v.name for graph in self.graphs() for v in _values(graph) if v.name}
        self.names |= {n.name for n in self.nodes() if n.name}

    def _shapes_in_order(self) -> None:
        """Each from the ones before: asked for the last first, a long chain would go deep."""
        for node in self.nodes():
            for value in node.outputs:
                if value.name not in self.inferred and value.shape is None:
                    self.types[value] = self.dtype(value)
                if _unsure(self._told(value)):
                    with suppress(Refused):
                        self.shape(value)

    def graphs(self) -> Iterator[ir.Graph]:
        yield self.model.graph
        yield from self.model.graph.subgraphs()

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, those of a branch or loop body after the node that holds it."""
        yield from self.model.graph.all_nodes()

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        if value is None:
            return None
        if value.dtype is not None:
            return value.dtype
        if value.const_value is not None:
            return value.const_value.dtype
        if value in self.types:
            return self.types[value]
        found = self.inferred.get(value.name or "", (None, None))[0]
        node = value.producer()
        if found is None and node is not None and not node.domain and node.op_type in SAME_TYPE and node.inputs:
            return self.dtype(node.inputs[0])
        return found

    def _sizes(self, node: ir.Node) -> list[int] | None:
        """What Shape gives, where all of it is known before the model runs."""
        value = node.inputs[0]
        if value is None:
            return None
        with suppress(Refused):
            chosen = self.shape(value)[integer(node, "start") : node_end(node)]
            sizes = [n for n in chosen if isinstance(n, int)]
            return sizes if len(sizes) == len(chosen) else None
        return None

    def float_type(self, value: ir.Value | None) -> ir.DataType:
        found = self.dtype(value)
        if found not in FLOATS:
            raise Refused("its type is not known" if found is None else f"its type is {found.name.lower()}")
        return found

    def shape(self, value: ir.Value) -> list[Dim]:
        """Sizes, and for each unknown one a name of its own."""
        dims = self._told(value)
        node = value.producer()
        if _unsure(dims) and node is not None and (value.index() == 0 or node.op_type == "Split"):
            if value not in self.shapes:
                self.shapes[value] = shape_of(self, node, value.name or "")
            dims = _surer(dims, self.shapes[value])
        if dims is None and (constant := self.constants.value(value)) is not None:
            return list(constant.shape)
        if dims is None:
            made = "" if node is None else f", made by {kind(node)} {title(node)},"
            raise Refused(f"the number of axes of {value.name!r}{made} is not known")
        return [
            d if isinstance(d, int) and 0 <= d <= LARGEST else _symbol(d) or f"{k}@{value.name}"
            for k, d in enumerate(dims)
        ]

    def _told(self, value: ir.Value) -> list[Any] | None:
        """The sizes that the model declares, or ONNX infers."""
        known: Any = value.shape
        if known is not None:
            return list(known)
        return self.inferred.get(value.name or "", (0, None))[1]

    def rank(self, value: ir.Value) -> int:
        return len(self.shape(value))

    def readers(self, value: ir.Value) -> list[Use]:
        """Inputs that see the values, not only their sizes or type."""
        return [Use(*u) for u in value.uses() if (u.node.op_type, u.idx) not in SEES_NO_VALUES or u.node.domain]

    def fresh(self, hint: str) -> str:
        name, k = hint, 0
        while name in self.names:
            k += 1
            name = f"{hint}_{k}"
        self.names.add(name)
        return name

    def constant(self, tensor: ir.TensorProtocol, hint: str) -> ir.Value:
        """A new initializer of the outermost graph, which subgraphs see too; up to IR 3 an input as well."""
        name = self.fresh(hint)
        tensor.name = name
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        if self.ir_version < 4:
            self.model.graph.inputs.append(value)
        return value

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        if len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def insert_after(
        self, value: ir.Value, op_type: str, *operands: ir.Value, to: ir.DataType | None = None
    ) -> ir.Node:
        """op_type(value, *operands) for all readers of `value`, whose name it takes if that is a graph output's."""
        producer = value.producer()
        assert producer is not None
        assert producer.graph is not None
        attributes = [] if to is None else [ir.AttrInt64("to", to)]
        name = self.fresh(f"{value.name}_{op_type.lower()}")
        node = ir.Node("", op_type, [value, *operands], attributes, name=name)
        made = node.outputs[0]
        made.shape, made.type = value.shape, value.type
        self.types[made] = to or self.dtype(value)
        with suppress(Refused):
            self.shapes[made] = self.shape(value)
        producer.graph.insert_after(producer, node)
        final = value.is_graph_output()
        for use in list(value.uses()):
            if use.node is not node:
                use.node.replace_input_with(use.idx, made)
        name = value.name
        if final:
            outputs = value.graph.outputs if value.graph is not None else []
            for k, output in enumerate(outputs):
                if output is value:
                    outputs[k] = made
            value.name = self.fresh(f"{name}_before")
            made.name = name
        else:
            made.name = self.fresh(f"{name}_{op_type.lower()}_out")
        return node

    def can_bypass(self, y: ir.Value, x: ir.Value) -> bool:
        """Whether readers of y may read x instead: a graph output keeps its name, which x must then be free to take."""
        if not y.is_graph_output():
            return True
        return x.producer() is not None and x.graph is y.graph and not x.is_graph_output()

    def bypass(self, y: ir.Value, x: ir.Value) -> None:
        """Readers of y, and the graph's outputs, read x."""
        assert self.can_bypass(y, x)
        if y.is_graph_output():
            name, shape, type_ = y.name, y.shape, y.type
            y.replace_all_uses_with(x, replace_graph_outputs=True)
            y.name = self.fresh(f"{name}_gone")
            x.name = name
            x.shape, x.type = shape or x.shape, type_ or x.type
        else:
            y.replace_all_uses_with(x)

    def sweep(self) -> None:
        """Remove nodes and initializers that nothing reads."""
        for graph in list(self.graphs()):
            for node in reversed(list(graph)):
                if not any(o.uses() or o.is_graph_output() for o in node.outputs):
                    for inner in _subgraphs(node):
                        for n in reversed(list(inner)):
                            inner.remove(n, safe=False)
                    graph.remove(node, safe=True)
        for graph in self.graphs():
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output():
                    overridable = value.is_graph_input()
                    if overridable and not self.constants.inputs_are_constant:
                        continue
                    del graph.initializers[name]
                    if overridable:
                        graph.inputs.remove(value)


def opset(model: ir.Model) -> int:
    return int(model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0)))


def numpy_type(dtype: ir.DataType) -> np.dtype[Any]:
    return np.dtype(dtype.numpy())


def as_float(array: Evaluated | None, what: str) -> Evaluated:
    if array is None:
        raise Refused(f"{what} is not constant")
    if not is_float(array.dtype):
        raise Refused(f"{what} is not of a float type")
    return array


def infer(model: ir.Model) -> dict[str, tuple[ir.DataType | None, list[Any] | None]]:
    """{value name: (type, sizes)} as ONNX infers them, and {} where it cannot.

    The names of two branches of an If may be the same: those that disagree are left out.
    """
    found: dict[str, tuple[ir.DataType | None, list[Any] | None]] = {}
    clashes = set()

    def walk(graph: onnx.GraphProto) -> None:
        for info in [*graph.value_info, *graph.output]:
            if info.type.WhichOneof("value") != "tensor_type":
                continue
            of = info.type.tensor_type
            sizes = None
            if of.HasField("shape"):
                sizes = [_size(d) for d in of.shape.dim]
            entry = (ir.DataType(of.elem_type), sizes or None)  # [] is what a MatMul of something unknown gets, too
            if found.setdefault(info.name, entry) != entry:
                clashes.add(info.name)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)

    proto = without_weights(model)
    make_harmless(proto.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # whatever the C++ raises: without shapes less folds, and the report says so
        return {}
    walk(inferred.graph)
    return {name: entry for name, entry in found.items() if name not in clashes}


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model with inputs in place of its larger initializers: shapes follow from sizes, and those are small."""
    graph = model.graph
    large = [v for v in graph.initializers.values() if v.const_value is not None and v.const_value.nbytes > 1024]
    inputs = len(graph.inputs)
    for value in large:
        value.shape = value.shape or ir.Shape(value.const_value.shape)
        value.type = value.type or ir.TensorType(value.const_value.dtype)
        graph.initializers.pop(value.name)
    graph.inputs.extend([v for v in large if not v.is_graph_input()])
    try:
        return ir.to_proto(model)
    finally:
        while len(graph.inputs) > inputs:
            graph.inputs.pop()
        for value in large:
            graph.register_initializer(value)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """A size below 0 stands for an unknown one, which some exporters write."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None


def _unsure(told: list[Any] | None) -> bool:
    """Whether there is more to find out than the size of a batch."""
    return told is None or any(not isinstance(d, int) for d in told[1:])


def _surer(told: list[Any] | None, found: list[Dim] | None) -> list[Any] | None:
    """Sizes that were found out in place of those that inference does not know."""
    if told is None or found is None or len(told) != len(found):
        return told if told is not None else found
    return [f if isinstance(f, int) and not isinstance(t, int) else t for t, f in zip(told, found, strict=True)]


def _symbol(dim: Any) -> str | None:
    if isinstance(dim, int):
        return None
    name = dim if isinstance(dim, str) else getattr(dim, "value", None)
    return str(name) if name else None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
