# SPDX-License-Identifier: Apache-2.0
"""Fold the BatchNorms of a trained network into its weights, and see that it reads the same digits.

digits.onnx was trained by train_network.py on 1,400 of scikit-learn's handwritten digits and exported with all its
BatchNorms.  Here it is folded, verified on images that it has never seen, written, and run beside the original in
ONNX Runtime, or where that is not installed in ONNX's reference evaluator.
"""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import normcpu.onnx

Array = np.ndarray[Any, Any]
MODEL = Path(__file__).with_name("digits.onnx")
FOLDED = Path(__file__).parents[1] / "build" / "digits.folded.onnx"
SEEN = 1400  # the first images, which were trained on
BATCH, ROUNDS = 100, 200


def digits() -> tuple[Array, Array]:
    """Pixels from 0 to 16, (1797, 1, 8, 8), and what they show, (1797,)."""
    data = load_digits()
    return data.images[:, None].astype(np.float32), data.target


def reader(path: Path) -> tuple[Callable[[Array], Array], str]:
    """A function from images (n, 1, 8, 8) to scores (n, 10), and the runtime that it uses."""
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        return lambda images: evaluator.run(None, {"image": images})[0], "ONNX's reference evaluator"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0], "ONNX Runtime, one thread"


def guesses(read: Callable[[Array], Array], images: Array) -> Array:
    batches = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([read(batch).argmax(1) for batch in batches])


def interleaved(calls: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each call in each of ROUNDS rounds: what disturbs the machine disturbs all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, seconds in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return taken


def print_accuracy(networks: dict[str, Path], images: Array, shown: Array) -> None:
    readers = {name: reader(path) for name, path in networks.items()}
    found = {name: guesses(read, images) for name, (read, _) in readers.items()}
    print(f"\n{len(images)} digits that were not trained on, in {readers['original'][1]}:\n")
    print(f"{'network':10}{'read right':>12}{'bytes':>10}")
    for name, path in networks.items():
        print(f"{name:10}{(found[name] == shown).mean():12.1%}{path.stat().st_size:10,}")
    print(f"\nread differently: {np.count_nonzero(found['original'] != found['folded'])}")


def print_times(networks: dict[str, Path], images: Array) -> None:
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError:
        print("\nNot timed: ONNX Runtime is not installed (.venv/bin/pip install onnxruntime).")
        return
    readers = [reader(path)[0] for path in networks.values()]
    print(f"\n{'network':10}{'batch':>7}{'shortest, us':>14}{'median, us':>12}")
    for n in (1, BATCH):
        taken = interleaved([partial(read, images[:n]) for read in readers])
        for name, seconds in zip(networks, taken, strict=True):
            print(f"{name:10}{n:7}{min(seconds) * 1e6:14.0f}{statistics.median(seconds) * 1e6:12.0f}")


def main() -> None:
    images, shown = digits()
    images, shown = images[SEEN:], shown[SEEN:]

    folded, report = normcpu.onnx.fold(MODEL, inputs=[{"image": images[:BATCH]}])
    print(report.table(width=48))
    for record in report.kept:
        print("\n" + textwrap.fill(f"{record.node} stays: {record.reason}", 120, subsequent_indent="    "))
    FOLDED.parent.mkdir(exist_ok=True)
    normcpu.onnx.save(folded, FOLDED)

    networks = {"original": MODEL, "folded": FOLDED}
    print_accuracy(networks, images, shown)
    print_times(networks, images)
    print(f"\nWritten: {FOLDED}.  Your own model, from the root of this tree:")
    print("    .venv/bin/python -m normcpu inspect model.onnx                  what would happen, and why")
    print("    .venv/bin/python -m normcpu fold model.onnx -o folded.onnx -v   fold, verify, write")


if __name__ == "__main__":
    main()
