# SPDX-License-Identifier: Apache-2.0
"""Proof: the original and the folded model on the same inputs, and how far apart they may be.

The bound is a multiple of the original's own error: its distance from float64 where that is quick to compute, else
its distance from itself with every weight moved by at most one unit in the last place, which is what rounding a
folded weight does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from .constants import is_float
from .net import FLOATS, numpy_type

Feeds = Mapping[str, np.ndarray[Any, Any]]
Outputs = list[np.ndarray[Any, Any]]
TIMES_OWN_ERROR = 8.0
SLACK = {ir.DataType.FLOAT: 2e-6, ir.DataType.DOUBLE: 1e-13, ir.DataType.FLOAT16: 4e-3, ir.DataType.BFLOAT16: 3e-2}
DISTRUST = 0.05  # an own error that is rather an error of the reference evaluator (grouped ConvTranspose with bias)
SMALL = 20_000_000  # multiplications: a second of the reference evaluator
SIZES = (2, 8, 32, 64, 16, 4, 224, 1)  # tried in turn for axes of unknown size, until the original runs


class CannotRun(Exception):
    """No runtime here runs the model on inputs that could be found: why."""


@dataclass
class OutputError:
    name: str
    error: float  # max |got - reference| / max |reference|
    own: float  # the same of the unfolded model
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


@dataclass
class Verification:
    outputs: list[OutputError]
    runtime: str  # what ran both models
    reference: str  # "float64", or "itself, weights moved by an ulp"

    @property
    def passed(self) -> bool:
        return all(o.passed for o in self.outputs)

    @property
    def worst(self) -> float:
        return max((o.error for o in self.outputs), default=0.0)


class Reference:
    """The unfolded model's inputs, outputs and error, computed once for all that is compared with it."""

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Feeds] | None = None, seed: int = 0) -> None:
        self.feeds, self.unfolded, self.runtime = _first_run(model, feeds, seed)
        self.names = [o.name for o in model.graph.output]
        self.slack = max(SLACK[t] for t in _types(model))
        try:
            if _multiplications(model) > SMALL:
                raise CannotRun
            self.expected = [_evaluate(as_double(model), _double(f)) for f in self.feeds]
            self.own = _errors(self.unfolded, self.expected)
            if max(self.own) > DISTRUST:
                raise CannotRun
            self.kind = "float64"
        except Exception:  # the evaluator lacks operations, and raises what it likes
            self.expected = self.unfolded
            moved = [run(jittered(model, seed), f)[0] for f in self.feeds]
            self.own = [e if np.isfinite(e) else 0.0 for e in _errors(moved, self.unfolded)]
            self.kind = "itself, weights moved by an ulp"

    def compare(self, model: onnx.ModelProto) -> Verification:
        try:
            got = [run(model, f)[0] for f in self.feeds]
            errors = _errors(got, self.expected)
        except CannotRun as problem:
            return Verification([OutputError(f"does not run: {problem}", np.inf, 0.0, 0.0)], self.runtime, self.kind)
        pairs = zip(self.names, errors, self.own, strict=True)
        made = [OutputError(name, e, own, TIMES_OWN_ERROR * own + self.slack) for name, e, own in pairs]
        return Verification(made, self.runtime, self.kind)


def run(model: onnx.ModelProto, feeds: Feeds) -> tuple[Outputs, str]:
    """In ONNX Runtime without optimizations, or where that cannot in ONNX's reference evaluator."""
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        return _evaluate(model, feeds), "onnx.reference"
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = {i.name for i in (*session.get_inputs(), *session.get_overridable_initializers())}
        return session.run(None, {k: v for k, v in feeds.items() if k in wanted}), "onnxruntime"
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        if "NOT_IMPLEMENTED" in str(error):
            return _evaluate(model, feeds), "onnx.reference"
        raise CannotRun(str(error).strip().splitlines()[0][:300]) from error


def _evaluate(model: onnx.ModelProto, feeds: Feeds) -> Outputs:
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception as error:
        raise CannotRun(f"{type(error).__name__}: {error}"[:300]) from error


def _first_run(model: onnx.ModelProto, feeds: Sequence[Feeds] | None, seed: int) -> tuple[Sequence[Feeds], list[Outputs], str]:
    if feeds is not None:
        ran = [run(model, f) for f in feeds]
        return feeds, [r[0] for r in ran], ran[0][1]
    problem: CannotRun | None = None
    for unknown in SIZES if _has_unknown_sizes(model) else SIZES[:1]:
        made = [random_inputs(model, unknown, seed + k) for k in range(2)]
        try:
            ran = [run(model, f) for f in made]
            return made, [r[0] for r in ran], ran[0][1]
        except CannotRun as error:
            problem = problem or error
    raise problem or CannotRun("it has no outputs")


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    initialized = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in initialized]


def _has_unknown_sizes(model: onnx.ModelProto) -> bool:
    return any(d.dim_value <= 0 for i in _inputs(model) for d in i.type.tensor_type.shape.dim)


def random_inputs(model: onnx.ModelProto, unknown: int = 2, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Normal floats, small integers, fair booleans, of the declared shapes; a first axis of unknown size is 2."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in _inputs(model):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise CannotRun(f"input {value.name!r} is not a tensor")
        sizes = [d.dim_value if d.dim_value > 0 else 2 if k == 0 else unknown for k, d in enumerate(kind.shape.dim)]
        if float(np.prod([float(n) for n in sizes])) > 1 << 28:
            raise CannotRun(f"input {value.name!r} is too large")
        dtype = numpy_type(ir.DataType(kind.elem_type))
        if is_float(dtype):
            made[value.name] = rng.normal(size=sizes).astype(dtype)
        elif dtype == np.bool_:
            made[value.name] = rng.random(sizes) < 0.5
        elif dtype.kind in "iu":
            made[value.name] = rng.integers(0, 3, sizes).astype(dtype)
        else:
            raise CannotRun(f"input {value.name!r} is of type {dtype}")
    return made


def _errors(got: Sequence[Outputs], expected: Sequence[Outputs]) -> list[float]:
    """Per output, the largest over all inputs of max |y - r| / max |r|; infinite where shapes or NaNs differ."""
    worst = [0.0] * len(expected[0])
    for ys, rs in zip(got, expected, strict=True):
        for k, (y, r) in enumerate(zip(ys, rs, strict=True)):
            worst[k] = max(worst[k], _error(np.asarray(y), np.asarray(r)))
    return worst


def _error(y: np.ndarray[Any, Any], r: np.ndarray[Any, Any]) -> float:
    if y.shape != r.shape:
        return float("inf")
    if not (is_float(r.dtype) and is_float(y.dtype)):
        return 0.0 if np.array_equal(y, r) else float("inf")
    y, r = y.astype(np.float64), r.astype(np.float64)
    finite = np.isfinite(r)
    if not np.array_equal(np.isfinite(y), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(y[finite] - r[finite]).max() / (np.abs(r[finite]).max() or 1.0))


def _types(model: onnx.ModelProto) -> set[ir.DataType]:
    found = {ir.DataType(t.data_type) for t in model.graph.initializer}
    found |= {ir.DataType(v.type.tensor_type.elem_type) for v in [*model.graph.input, *model.graph.output]}
    return (found & FLOATS) or {ir.DataType.FLOAT}


def _multiplications(model: onnx.ModelProto) -> float:
    """A rough count for what the evaluator is slow at: each weight is used at every place of the output."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {v.name: [d.dim_value or 8 for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    weights = {n: float(np.prod(s)) for n, s in sizes.items()} | {t.name: float(np.prod(t.dims)) for t in model.graph.initializer}
    total = 0.0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 1:
            shape = sizes.get(node.output[0], []) if node.op_type == "Conv" else sizes.get(node.input[0], [])
            total += weights.get(node.input[1], 0.0) * float(np.prod([float(n) for n in shape[2:]]))
        elif len(node.input) > 1:
            total += max(weights.get(i, 0.0) for i in node.input)
    return total


def _double(feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
    return {k: v.astype(np.float64) if is_float(v.dtype) else v for k, v in feeds.items()}


def as_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float64 for every float type, which the reference evaluator can run."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for function in model.functions:
        _widen_nodes(function.node, set())
    _widen_graph(model.graph)
    return model


def _widen_graph(graph: onnx.GraphProto) -> None:
    sizes = _sizes(graph)
    for tensor in graph.initializer:
        if tensor.name not in sizes:
            _widen(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    _widen_nodes(graph.node, sizes)


def _sizes(graph: onnx.GraphProto) -> set[str]:
    """Floats that decide the shape of a result."""
    return {i for n in graph.node if n.op_type in ("Resize", "Upsample", "Range") for i in n.input[n.op_type != "Range" :]}


def _widen_nodes(nodes: Sequence[onnx.NodeProto], sizes: set[str]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                value = np.asarray(onnx.helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(value)))
            if attribute.type == onnx.AttributeProto.TENSOR and not sizes & set(node.output):
                _widen(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen_graph(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
                attribute.i = onnx.TensorProto.DOUBLE


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in FLOATS:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))


def jittered(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Every float weight moved at random by at most a unit in the last place of its type."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    sizes = _sizes(model.graph)
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS and tensor.name not in sizes:
            a = onnx.numpy_helper.to_array(tensor)
            ulp = float(ml_dtypes.finfo(a.dtype).eps) / 2
            moved = (a.astype(np.float64) * (1 + ulp * rng.uniform(-1, 1, a.shape))).astype(a.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    return model
