# SPDX-License-Identifier: Apache-2.0
"""python benches/latency.py: networks that packages ship, as they are and folded, in ONNX Runtime.

All of its optimizations, one thread, in turns on the same inputs.  What counts is the minimum: folding must not cost
more than 2 % on any of them, and is to save what the last column says.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from real_models import MODELS, path_of  # noqa: E402

import normcpu.onnx  # noqa: E402


def inputs(session, model):
    rng = np.random.default_rng(0)
    shapes = [s for s in (model.shape, model.second) if s]
    return {
        given.name: rng.normal(size=shape).astype("f4")
        if given.type == "tensor(float)"
        else rng.integers(0, 256, shape, "i4")
        for given, shape in zip(session.get_inputs(), shapes, strict=True)
    }


def main():
    import onnxruntime as ort

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--filter", default="", help="only models whose name contains this")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            if chosen.filter not in model.name:
                continue
            path, out = path_of(model), Path(folder, "folded.onnx")
            folded, report = normcpu.onnx.fold(path, verify=False)
            normcpu.onnx.save(folded, out)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            feeds = inputs(ort.InferenceSession(str(path), options), model)
            before, after = normcpu.onnx.bench([path, out], chosen.rounds, feeds)
            saved = [100 * (1 - getattr(after, kind) / getattr(before, kind)) for kind in ("minimum", "median")]
            times = [f"{1e3 * t:.3f}" for t in (before.minimum, after.minimum, before.median, after.median)]
            rows.append([model.name, f"{report.before} -> {report.after}", *times, *(f"{s:+.1f}" for s in saved),
                         f"{model.gain:+.0f}"])  # fmt: skip
            print(f"\r{len(rows)} of {len(MODELS)}", end="", file=sys.stderr)
    head = ["model", "affine", "min, ms", "folded", "median, ms", "folded", "saved, %", "of median", "at least"]
    print("\r" + tabulate(rows, head, "simple", disable_numparse=True, colalign=["left", *["right"] * 8]))


if __name__ == "__main__":
    main()
