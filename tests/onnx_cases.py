# SPDX-License-Identifier: Apache-2.0
"""Small models in ONNX's text form: onnx_folded.txt, one or more per rule, and onnx_kept.txt, one per reason to stay;
onnx_aggressive.txt and onnx_aggressive_kept.txt likewise, with the rules that are off by default.

A model begins with its name, and a line that says how many affine operations it has before and after folding, and
which rules must have been used, or words of the reason.  Its input is x and its output y, unless it says otherwise.
In its body a capital name with sizes, W[5,4,3,3], is an initializer: G gammas of both signs away from 0, P positive
ones, V variances, Z zeros, S scales of integers, Q int8, anything else normal.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

X = "float[2,4,6,6] x"


class Case(NamedTuple):
    name: str
    rules: str  # that must have been used; for what stays, words of the reason
    before: int
    after: int
    body: str
    inputs: str = X
    outputs: str = "float[] y"
    opset: int = 17
    reference: bool = True  # ONNX's reference evaluator can run it; ONNX Runtime does otherwise, in float32


def read(name: str) -> list[Case]:
    """The models in a file beside this one."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return [_case(part) for part in text.split("\n## ")[1:]]


def _case(part: str) -> Case:
    name, counts, *rest = part.rstrip().split("\n")
    before, after, rules = re.fullmatch(r"(\d+) -> (\d+): (.*)", counts).groups()  # type: ignore[union-attr]
    said = dict(line.split(": ", 1) for line in rest if not line.startswith(" "))
    body = "\n".join(line.strip() for line in rest if line.startswith(" "))
    return Case(
        name, rules, int(before), int(after), body, said.get("inputs", X), said.get("outputs", "float[] y"),
        int(said.get("opset", 17)), "runtime" not in said,
    )  # fmt: skip


FOLDED, KEPT = read("onnx_folded.txt"), read("onnx_kept.txt")
AGGRESSIVE, AGGRESSIVE_KEPT = read("onnx_aggressive.txt"), read("onnx_aggressive_kept.txt")

WEIGHT = re.compile(r"\b([A-Z]\w*)\[([\d,]*)\]")


def build(case: Case) -> Any:
    """The onnx.ModelProto of a case; its weights depend on their names and shapes alone."""
    import onnx

    weights = {name: tuple(int(n) for n in sizes.split(",") if n) for name, sizes in WEIGHT.findall(case.body)}
    body = WEIGHT.sub(r"\1", case.body)
    head = f'<ir_version: 8, opset_import: ["" : {case.opset}]>'
    model = onnx.parser.parse_model(f"{head} g ({case.inputs}) => ({case.outputs}) {{\n{body}\n}}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight(name, shape), name))
    for k, node in enumerate(model.graph.node):
        node.name = f"n{k}"
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.type.CopyFrom(known.type)
        output.type.tensor_type.shape.SetInParent()
    return model


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
    constants = {"Z": 0.0, "Half": 0.5, "One": 1.0, "Three": 3.0, "Minus3": -3.0, "Six": 6.0, "Sixth": 1 / 6}
    if name in constants:
        return np.full(shape, constants[name], np.float32)
    if name == "Q":
        return rng.integers(-127, 128, shape).astype(np.int8)
    if name == "Least":
        return np.full(shape, -128, np.int8)
    kind = name.rstrip("0123456789")
    positive = rng.uniform(0.5, 2.0, shape)
    if kind == "G":
        signs = np.where(np.arange(positive.size) % 2, 1.0, -1.0).reshape(shape)
        return (positive * signs).astype(np.float32)
    return (positive if kind in ("P", "V", "S") else rng.normal(size=shape)).astype(np.float32)
