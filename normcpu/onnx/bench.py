# SPDX-License-Identifier: Apache-2.0
"""Latency of models in ONNX Runtime with all of its optimizations: one thread, in turns, so that what slows the machine
down slows all of them down."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from .run import SIZES, CannotRun, Feeds, random_inputs
from .save import first_line, load

WARM_UP = 3  # runs before the first that counts: memory is allocated, caches fill


@dataclass
class Timing:
    """Seconds of each run of one model."""

    model: str
    seconds: list[float] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def bench(
    paths: Sequence[str | os.PathLike[str]], rounds: int = 100, inputs: Feeds | None = None, seed: int = 0
) -> list[Timing]:
    """Runs the models on the same inputs, each once a round, every other round in the opposite order.

    Args:
        paths: of ONNX files with the same inputs.
        rounds: at least 1.
        inputs: {name: array}; random ones of the shapes that the first declares where None.
        seed: of the random inputs.

    Raises:
        ModelError: a file is no model.
        CannotRun: ONNX Runtime cannot run a model on these inputs.
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: rounds is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    models = [_Session(path) for path in paths]
    feeds = _random(paths[0], models[0], seed) if inputs is None else inputs
    for model in models:
        for _ in range(WARM_UP):
            model.seconds(feeds)
    timings = [Timing(model.path) for model in models]
    in_turn = list(zip(models, timings, strict=True))
    for _ in range(rounds):
        for model, timing in in_turn:
            timing.seconds.append(model.seconds(feeds))
        in_turn.reverse()
    return timings


def table(timings: Sequence[Timing]) -> str:
    """Milliseconds, and how each minimum stands beside the first model's."""
    import onnxruntime as ort
    from tabulate import tabulate

    rows = [[t.model, f"{t.minimum * 1e3:.3f}", f"{t.median * 1e3:.3f}", _beside(t, timings[0])] for t in timings]
    head = ["model", "minimum, ms", "median, ms", "minimum beside the first"]
    told = f"{len(timings[0].seconds)} rounds in turns, one thread, ONNX Runtime {ort.__version__}"
    alignment = ("left", "right", "right", "right")
    return f"{tabulate(rows, head, 'simple', disable_numparse=True, colalign=alignment)}\n\n{told}"


def _beside(timing: Timing, first: Timing) -> str:
    return "" if timing is first else f"{100 * (timing.minimum / first.minimum - 1):+.1f} %"


class _Session:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        import onnxruntime as ort

        self.path = os.fspath(path)
        load(path)  # says what is wrong with a file in words
        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self.session = ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise CannotRun(f"{self.path}: {first_line(error)}") from error

    def seconds(self, feeds: Feeds) -> float:
        """Of one run."""
        start = time.perf_counter()
        try:
            self.session.run(None, feeds)
        except Exception as error:
            raise CannotRun(f"{self.path}: {first_line(error)}") from error
        return time.perf_counter() - start


def _random(path: str | os.PathLike[str], model: _Session, seed: int) -> Feeds:
    """Inputs that the model runs on: axes of unknown size get one after the other, until it does."""
    proto = ir.to_proto(load(path))
    problem: CannotRun | None = None
    for unknown in SIZES:
        feeds = random_inputs(proto, unknown, seed)
        try:
            model.seconds(feeds)
            return feeds
        except CannotRun as error:
            problem = problem or error
    assert problem is not None
    raise problem
