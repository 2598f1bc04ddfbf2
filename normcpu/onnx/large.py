# SPDX-License-Identifier: Apache-2.0
"""Verification of files; of those that no message holds one is in memory at a time, and only when asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from .constants import Evaluated
from .exact import BLOCK
from .fold import with_data
from .net import FLOATS
from .run import CannotRun, Feeds, first_run, run
from .save import PROTOBUF_LIMIT, load, size
from .verify import RANDOM, Reference, Verification, errors, float_types, slack_of
from .write import write_model


def compare_files(
    original: str | os.PathLike[str], folded: str | os.PathLike[str], feeds: Sequence[Feeds] | None, seed: int
) -> Verification:
    """Of any size."""
    models = [load(path) for path in (original, folded)]
    if any(size(model) > PROTOBUF_LIMIT for model in models):
        return LargeReference(original, feeds, seed).compare(os.fspath(folded))
    first, second = map(with_data, models)
    return Reference(first, feeds, seed).compare(second)


class LargeReference(Reference):
    """Of the model in a file; its own error is its distance from a copy whose weights are moved by an ulp."""

    def __init__(self, path: str | os.PathLike[str], feeds: Sequence[Feeds] | None = None, seed: int = 0) -> None:
        graph = onnx.load(path, load_external_data=False)
        if any(node.op_type in RANDOM for node in graph.graph.node):
            raise CannotRun("its results are random")
        self.feeds, self.unfolded, self.runtime = first_run(graph, feeds, seed, os.fspath(path))
        self.expected, self.kind = self.unfolded, "itself, weights moved by an ulp"
        self.names, self.slack = [o.name for o in graph.graph.output], slack_of(float_types(graph))
        with tempfile.TemporaryDirectory(prefix="normcpu-") as folder:
            copy = Path(folder, "moved.onnx")
            write_model(moved(load(path), seed), copy, "moved.data")
            results = [run(str(copy), f)[0] for f in self.feeds]
        self.own = [e if np.isfinite(e) else 0.0 for e in errors(results, self.unfolded)]


def moved(model: ir.Model, seed: int) -> ir.Model:
    """Every float initializer moved at random by at most a unit in the last place, when it is read."""
    for k, value in enumerate(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS:
            value.const_value = ir.LazyTensor(
                lambda tensor=tensor, k=k: ir.Tensor(_moved(tensor.numpy(), seed + k), dtype=tensor.dtype),
                dtype=tensor.dtype, shape=ir.Shape(tensor.shape), name=value.name,
            )  # fmt: skip
    return model


def _moved(a: Evaluated, seed: int) -> Evaluated:
    rng, ulp = np.random.default_rng(seed), float(ml_dtypes.finfo(a.dtype).eps) / 2
    result = np.empty(a.size, a.dtype)
    flat = a.reshape(-1)
    for k in range(0, a.size, BLOCK):
        part = flat[k : k + BLOCK].astype(np.float64)
        result[k : k + BLOCK] = part * (1 + ulp * rng.uniform(-1, 1, part.shape))
    return result.reshape(a.shape)
