# SPDX-License-Identifier: Apache-2.0
"""Running a model on given or random inputs, in ONNX Runtime or ONNX's reference evaluator, as it is or in float64."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from .constants import is_float
from .net import FLOATS, numpy_type
from .valid import ModelError

Feeds = Mapping[str, np.ndarray[Any, Any]]
Outputs = list[np.ndarray[Any, Any]]
SIZES = (2, 8, 32, 64, 16, 4, 224, 1)  # tried in turn for axes of unknown size, until the original runs


LONGEST = 600  # seconds for one run: a file may ask for a loop of 2^62 rounds
LONGEST_HERE = 60  # in ONNX's evaluator, of which several runs make a verification


class CannotRun(Exception):
    """No runtime here runs the model on inputs that could be found: why."""


class TooLong(CannotRun):
    """It ran, but not to its end: larger inputs would not either."""


class _Late(BaseException):
    """Not an Exception, which the evaluator catches."""


def run(model: onnx.ModelProto | str, feeds: Feeds) -> tuple[Outputs, str]:
    """In ONNX Runtime without optimizations, or where that cannot in ONNX's evaluator; a file only in the first."""
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        if isinstance(model, str):
            raise CannotRun("a model of this size takes ONNX Runtime, which is not installed") from None
        return evaluate(model, feeds), "onnx.reference"
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        source = model if isinstance(model, str) else model.SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        wanted = {i.name for i in (*session.get_inputs(), *session.get_overridable_initializers())}
        return _in_time(session, {k: v for k, v in feeds.items() if k in wanted}), "onnxruntime"
    except TooLong:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        if "NOT_IMPLEMENTED" in str(error) and not isinstance(model, str):
            return evaluate(model, feeds), "onnx.reference"
        raise CannotRun(str(error).strip().splitlines()[0][:300]) from error


def _in_time(session: Any, feeds: Feeds) -> Outputs:
    import onnxruntime as ort

    options = ort.RunOptions()
    alarm = threading.Timer(LONGEST, lambda: setattr(options, "terminate", True))
    alarm.daemon = True
    alarm.start()
    try:
        return list(session.run(None, feeds, options))
    except Exception as error:
        if options.terminate:
            raise TooLong(f"it takes ONNX Runtime more than {LONGEST} s") from error
        raise
    finally:
        alarm.cancel()


def evaluate(model: onnx.ModelProto, feeds: Feeds) -> Outputs:
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(), _deadline(LONGEST_HERE):
            warnings.simplefilter("ignore")
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(feeds))]
    except _Late as late:
        raise TooLong(f"it takes ONNX's evaluator more than {LONGEST_HERE} s; ONNX Runtime is faster") from late
    except Exception as error:
        raise CannotRun(f"{type(error).__name__}: {error}"[:300]) from error


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends what Python computes, between two calls of whatever function: the evaluator's operations are loops."""
    end = time.monotonic() + seconds

    def look(frame: Any, event: str, argument: Any) -> None:
        if time.monotonic() > end:
            raise _Late

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


def first_run(
    model: onnx.ModelProto, feeds: Sequence[Feeds] | None, seed: int, file: str | None = None
) -> tuple[Sequence[Feeds], list[Outputs], str]:
    """(inputs, outputs, where it ran), of the file if there is one: then `model` has its graph alone."""
    if feeds is not None:
        ran = [run(file or model, f) for f in feeds]
        return feeds, [r[0] for r in ran], ran[0][1]
    problem: CannotRun | None = None
    for unknown in SIZES if _has_unknown_sizes(model) else SIZES[:1]:
        made = [random_inputs(model, unknown, seed + k) for k in range(2)]
        try:
            ran = [run(file or model, f) for f in made]
            return made, [r[0] for r in ran], ran[0][1]
        except TooLong:
            raise
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


def read_feeds(path: str) -> Feeds:
    """One array per input, by name, from a .npz file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable .npz file: {error}") from error


def double(feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
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
    return {
        i for n in graph.node if n.op_type in ("Resize", "Upsample", "Range") for i in n.input[n.op_type != "Range" :]
    }


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
