# SPDX-License-Identifier: Apache-2.0
"""Every example runs as a user would run it, README's too, and the stored network is what they say it is."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from native import tool
from peers import peer

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FOLDING = ("sklearn", "onnx", "onnx_ir", "ml_dtypes", "tabulate")
NEEDS = {"train_digits": ("sklearn",), "lenet_batchnorm": ("sklearn", "tqdm"), "fold_network": FOLDING,
         "train_network": (*FOLDING, "torch")}  # fmt: skip
MARKS = {"fold_network": [pytest.mark.peers], "train_network": [pytest.mark.peers, pytest.mark.slow]}
MODEL = ROOT / "examples" / "digits.onnx"
LARGEST = 150_000  # bytes
STAYS = ["/preact/body/first/norm/BatchNormalization"]  # reads a stream that another reads; a ReLU and zero pads follow


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=MARKS.get(path.stem, ())) for path in EXAMPLES]
)
def test_runs(path, tmp_path):
    for needed in NEEDS.get(path.stem, ()):
        peer(needed)
    stored = MODEL.read_bytes()
    made = [tmp_path / "digits.onnx"] if path.stem == "train_network" else []
    done = subprocess.run([sys.executable, path, *made], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr
    assert MODEL.read_bytes() == stored
    if made:
        assert outline(made[0]) == outline(MODEL)
    if path.stem == "lenet_batchnorm":
        found = re.findall(r"^(\w+ \w+) .* ([\d.]+)%", done.stdout, re.MULTILINE)
        right = {name: float(share) for name, share in found}
        assert right["with BatchNorm"] >= 97
        assert right["BatchNorm folded"] == right["with BatchNorm"] > right["without BatchNorm"]
        assert "Read differently after folding: 0;" in done.stdout


@pytest.mark.peers
def test_lenet_on_a_device():
    """Digits as NumPy reads them, and 1.5 times fewer instructions than loops by hand."""
    for needed in (*FOLDING, "sklearn"):
        peer(needed)
    for program in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(program)
    script = ROOT / "examples" / "embed_lenet" / "run.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    accuracy = {row[0]: row[5:] for row in rows if row[0] in ("float32", "int8")}
    for on_device, in_numpy, differently in accuracy.values():
        assert (on_device, differently) == (in_numpy, "0")
        assert float(on_device.rstrip("%")) >= 97
    ratios = {row[0]: (float(row[4]), float(row[8])) for row in rows if len(row) == 9 and row[4].count(".") == 1}
    assert len(ratios) == 7
    assert all(min(both) >= 1.5 for name, both in ratios.items() if "linear" not in name), ratios


def outline(path):
    """What does not depend on the processor that trained it."""
    import onnx

    graph = onnx.load(path).graph
    nodes = [(n.name, n.op_type, list(n.input), list(n.output)) for n in graph.node]
    return nodes, [(t.name, t.data_type, list(t.dims)) for t in graph.initializer]


@pytest.fixture(scope="module")
def folded():
    """The stored network and the folded one as ONNX messages, and the report."""
    for needed in FOLDING:
        peer(needed)
    import onnx
    import onnx_ir

    import normcpu.onnx

    model, report = normcpu.onnx.fold(MODEL)
    return onnx.load(MODEL), onnx_ir.to_proto(model), report


@pytest.mark.peers
def test_network_has_every_kind_of_norm(folded):
    original = folded[0]
    assert MODEL.stat().st_size <= LARGEST
    operations = Counter(node.op_type for node in original.graph.node)
    assert operations["BatchNormalization"] == 9
    assert operations["HardSwish"] == 2
    made_by = {y: node.op_type for node in original.graph.node for y in node.output}
    before = Counter(made_by[node.input[0]] for node in norms(original))
    assert before == {"Conv": 6, "MatMul": 1, "HardSwish": 1, "BatchNormalization": 1}
    assert {a.i for n in original.graph.node for a in n.attribute if a.name == "group"} == {1, 16}


def norms(model):
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


@pytest.mark.peers
def test_network_folds_to_what_must_stay(folded):
    _, model, report = folded
    assert report.verification is not None
    assert report.verification.passed, report.summary()
    assert not report.switched_off
    assert (report.before, report.after) == (10, 1), report.table()
    assert [node.name for node in norms(model)] == STAYS
    assert [record.node for record in report.kept] == STAYS
    assert Counter(node.op_type for node in model.graph.node)["Conv"] == 6  # of 7: one has taken a branch in


@pytest.mark.peers
def test_network_reads_the_same_digits(folded):
    from onnx.reference import ReferenceEvaluator
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, shown = digits.images[1400:, None].astype(np.float32), digits.target[1400:]
    before, after = (ReferenceEvaluator(model).run(None, {"image": images})[0] for model in folded[:2])
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    assert np.array_equal(before.argmax(1), after.argmax(1))
    assert (after.argmax(1) == shown).mean() > 0.97


def test_readme():
    text = (ROOT / "README.md").read_text()
    assert "FILL-ME" not in text, "figures that are still to be measured"
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})
