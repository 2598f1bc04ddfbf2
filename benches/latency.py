# SPDX-License-Identifier: Apache-2.0
"""python benches/latency.py: networks that packages ship, as they are and folded, in ONNX Runtime.

All of its optimizations, one thread, in turns on the same inputs.  What counts is the minimum: folding must not cost
more than 2 % on any of them, and is to save what the last column says.

The networks that come with onnx have one number for all weights of a layer.  ONNX Runtime computes two equal layers on
the same input once, which folding, whose weights differ, would forgo, and no trained network has: they get weights
drawn at random, one half of them negative.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
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


def drawn(path, folder):
    """The model with normal numbers of that size in place of each ConstantOfShape, which are its weights."""
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape"]:
        shape = shapes[node.input[0]]
        size = onnx.numpy_helper.to_array(node.attribute[0].t).item()
        weight = size * (rng.normal(size=shape) if len(shape) > 1 else rng.uniform(0.5, 2.0, shape))
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype("f4"), node.output[0]))
        model.graph.node.remove(node)
    weights = {t.name for t in model.graph.initializer}
    for given in [i for i in model.graph.input if i.name in weights]:
        model.graph.input.remove(given)
    model.ir_version = 4  # the first that allows it
    made = Path(folder, "drawn.onnx")
    onnx.save(model, made)
    return made


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
            path = drawn(path, folder) if model.package is None else path
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
