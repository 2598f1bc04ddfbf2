# SPDX-License-Identifier: Apache-2.0
"""Proof: the original and the folded model on the same inputs, and how far apart they may be.

The bound is a multiple of the original's own error: its distance from float64 where that is quick to compute, else
its distance from itself with every weight moved by at most one unit in the last place, which is what rounding a
folded weight does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from .constants import is_float
from .net import FLOATS
from .run import CannotRun, Feeds, Outputs, as_double, double, evaluate, first_run, jittered, run

TIMES_OWN_ERROR = 8.0
SLACK = {ir.DataType.FLOAT: 2e-6, ir.DataType.DOUBLE: 1e-13, ir.DataType.FLOAT16: 4e-3, ir.DataType.BFLOAT16: 3e-2}
INTEGER_SLACK = 0.01  # part of an integer output, of ArgMax say, that may differ: near ties
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
DISTRUST = 0.05  # an own error that is rather an error of the reference evaluator (grouped ConvTranspose with bias)
SMALL = 20_000_000  # multiplications: a second of the reference evaluator


@dataclass
class OutputError:
    name: str
    error: float  # max |got - reference| / max |reference|
    own: float  # the same of the unfolded model
    bound: float
    ulp: tuple[float, float] | None = None  # of single elements: the median and the largest, in units in the last place
    top_1: float | None = None  # part of the rows whose largest element is the same one, where there are rows of scores

    @property
    def passed(self) -> bool:
        return self.error <= self.bound

    @property
    def ulps(self) -> list[str]:
        return ["", ""] if self.ulp is None else [f"{u:.3g}" for u in self.ulp]

    @property
    def same(self) -> str:
        return "" if self.top_1 is None else f"{100 * self.top_1:.4g} %"


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

    def table(self) -> str:
        """One line per output."""
        from tabulate import tabulate

        rows = [
            [o.name, f"{o.error:.2e}", f"{o.own:.2e}", f"{o.bound:.2e}", *o.ulps, o.same, "ok" if o.passed else "WORSE"]
            for o in self.outputs
        ]
        head = ["output", "error", "original's own", "bound", "ulp, median", "ulp, largest", "top-1", ""]
        told = f"both ran in {self.runtime}; errors are relative to the largest value, against {self.reference};\n"
        told += "ulp are of single elements; top-1 is how many rows have their largest element in the same place"
        return f"{tabulate(rows, head, 'simple', disable_numparse=True)}\n\n{told}"


class Reference:
    """The unfolded model's inputs, outputs and error, computed once for all that is compared with it."""

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Feeds] | None = None, seed: int = 0) -> None:
        if any(node.op_type in RANDOM for node in model.graph.node):
            raise CannotRun("its results are random")
        self.feeds, self.unfolded, self.runtime = first_run(model, feeds, seed)
        self.names = [o.name for o in model.graph.output]
        self.slack = slack_of(float_types(model))
        try:
            if _multiplications(model) > SMALL:
                raise CannotRun
            self.expected = [evaluate(as_double(model), double(f)) for f in self.feeds]
            self.own = errors(self.unfolded, self.expected)
            if max(self.own) > DISTRUST:
                raise CannotRun
            self.kind = "float64"
        except Exception:  # the evaluator lacks operations, and raises what it likes
            self.expected = self.unfolded
            moved = [run(jittered(model, seed), f)[0] for f in self.feeds]
            self.own = [e if np.isfinite(e) else 0.0 for e in errors(moved, self.unfolded)]
            self.kind = "itself, weights moved by an ulp"

    def compare(self, model: onnx.ModelProto | str) -> Verification:
        try:
            got = [run(model, f)[0] for f in self.feeds]
            found = errors(got, self.expected)
        except CannotRun as problem:
            return Verification([OutputError(f"does not run: {problem}", np.inf, 0.0, 0.0)], self.runtime, self.kind)
        made: list[OutputError] = []
        for name, e, own, y in zip(self.names, found, self.own, self.unfolded[0], strict=True):
            slack = self.slack if is_float(np.asarray(y).dtype) else INTEGER_SLACK
            k = len(made)
            pairs = [(np.asarray(ys[k]), np.asarray(rs[k])) for ys, rs in zip(got, self.expected, strict=True)]
            made.append(OutputError(name, e, own, TIMES_OWN_ERROR * own + slack, _ulps(pairs), _top_1(pairs)))
        return Verification(made, self.runtime, self.kind)


def errors(got: Sequence[Outputs], expected: Sequence[Outputs]) -> list[float]:
    """Per output, the largest over all inputs of max |y - r| / max |r|, or of integers the part that differs; infinite
    where shapes or NaNs differ."""
    worst = [0.0] * len(expected[0])
    for ys, rs in zip(got, expected, strict=True):
        for k, (y, r) in enumerate(zip(ys, rs, strict=True)):
            worst[k] = max(worst[k], _error(np.asarray(y), np.asarray(r)))
    return worst


def _error(y: np.ndarray[Any, Any], r: np.ndarray[Any, Any]) -> float:
    if y.shape != r.shape:
        return float("inf")
    if not (is_float(r.dtype) and is_float(y.dtype)):
        return float(np.mean(y != r)) if r.size else 0.0
    y, r = y.astype(np.float64), r.astype(np.float64)
    finite = np.isfinite(r)
    if not np.array_equal(np.isfinite(y), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(y[finite] - r[finite]).max() / (np.abs(r[finite]).max() or 1.0))


Pairs: TypeAlias = Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]  # of one output: got, expected


def _ulps(pairs: Pairs) -> tuple[float, float] | None:
    """|y - r| in units in the last place of each r, in the type of y: median and largest over the finite elements."""
    found = []
    for y, r in pairs:
        if y.shape != r.shape or not (is_float(y.dtype) and is_float(r.dtype)):
            return None
        limits = ml_dtypes.finfo(y.dtype)
        wide, exact = y.astype(np.float64), r.astype(np.float64)
        finite = np.isfinite(wide) & np.isfinite(exact)
        wide, exact = wide[finite], exact[finite]
        _, exponent = np.frexp(np.maximum(np.abs(exact), float(limits.tiny)))
        found.append(np.abs(wide - exact) / np.ldexp(float(limits.eps), exponent - 1))
    every = np.concatenate(found) if found else np.empty(0)
    return (float(np.median(every)), float(every.max())) if every.size else None


def _top_1(pairs: Pairs) -> float | None:
    """Of scores, (n, classes) or (n, t, classes): rows whose largest element is where the reference has it."""
    if any(r.ndim not in (2, 3) or r.shape[-1] < 2 or y.shape != r.shape or not is_float(r.dtype) for y, r in pairs):
        return None
    same = [(y.argmax(-1) == r.argmax(-1)).ravel() for y, r in pairs]
    every = np.concatenate(same) if same else np.empty(0)
    return float(every.mean()) if every.size else None


def slack_of(types: set[ir.DataType]) -> float:
    return max(SLACK[t] for t in types)


def float_types(model: onnx.ModelProto) -> set[ir.DataType]:
    found = {ir.DataType(t.data_type) for t in model.graph.initializer}
    found |= {ir.DataType(v.type.tensor_type.elem_type) for v in [*model.graph.input, *model.graph.output]}
    return (found & FLOATS) or {ir.DataType.FLOAT}


def _multiplications(model: onnx.ModelProto) -> float:
    """A rough count for what the evaluator is slow at: each weight is used at every place of the output."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {v.name: [d.dim_value or 8 for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    weights = {n: float(np.prod(s)) for n, s in sizes.items()} | {
        t.name: float(np.prod(t.dims)) for t in model.graph.initializer
    }
    total = 0.0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 1:
            shape = sizes.get(node.output[0], []) if node.op_type == "Conv" else sizes.get(node.input[0], [])
            total += weights.get(node.input[1], 0.0) * float(np.prod([float(n) for n in shape[2:]]))
        elif len(node.input) > 1:
            total += max(weights.get(i, 0.0) for i in node.input)
    return total
