# SPDX-License-Identifier: Apache-2.0
"""Files that mean harm, or are broken: refused with a sentence or left alone, soon, in little memory, and no output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import AGGRESSIVE, FOLDED, Case, build
from peers import peer

from normcpu import cli

pytestmark = pytest.mark.peers
ROOT = str(Path(__file__).parents[1])
CONV = next(c for c in FOLDED if c.name == "conv, padded")


@pytest.fixture(autouse=True)
def tools() -> Any:
    peer("onnx")
    return peer("normcpu.onnx")


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said; the folder is as it was."""
    before = sorted(path.parent.iterdir())
    assert cli.main(["fold", str(path), "-o", str(path.parent / "out.onnx")]) == cli.FILE
    assert sorted(path.parent.iterdir()) == before
    told = capsys.readouterr().err
    assert told.startswith("normcpu: ")
    assert path.name in told
    return told


def write(folder: Path, proto: Any) -> Path:
    path = folder / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "text", "truncated", "short data"])
def test_what_is_no_model(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = build(CONV).SerializeToString()
    path = tmp_path / "bad.onnx"
    if damage == "folder":
        path.mkdir()
    elif damage == "short data":
        proto = build(CONV)
        proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-8]
        write(tmp_path, proto)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not a model\n", "truncated": held[: len(held) // 2]}[damage])
    refused(path, capsys)


def test_damaged_models() -> None:
    """5,000 of them; `make fuzz` tries 100,000."""
    command = [sys.executable, Path(__file__).with_name("fuzz_onnx.py"), "5000"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert done.returncode == 0, done.stdout + done.stderr
    read, refused = (int(n) for n in re.findall(r"(\d+) (?:read|refused)", done.stdout))
    assert read + refused == 5000
    assert min(read, refused) > 1000


def test_a_loop_without_end_is_not_waited_for(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peer("onnxruntime")
    from normcpu.onnx import run

    monkeypatch.setattr(run, "LONGEST", 0.5)
    case = next(c for c in FOLDED if "Loop" in c.body)
    proto = build(case)
    count = next(n for n in proto.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value_int")
    count.attribute[0].i = 1 << 62
    _, report = tools.fold(proto)
    assert "cannot be run here" in report.not_verified
    assert report.folded


def test_the_evaluator_is_not_waited_for(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler of the caller's is there again afterwards."""
    from normcpu.onnx import run

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(run, "LONGEST_HERE", 0.0)
    before = sys.getprofile()
    _, report = tools.fold(build(CONV))
    assert "ONNX's evaluator more than" in report.not_verified
    assert report.folded
    assert sys.getprofile() is before


# ---- External data -----------------------------------------------------------------------------------------


def external(folder: Path, **changes: str) -> Path:
    """A model whose first weight lies in weights.bin beside it, with other entries."""
    proto = build(CONV)
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    entries = {"location": "weights.bin", "offset": "0", "length": str(len(tensor.raw_data))} | changes
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return write(folder, proto)


def outside(folder: Path) -> Path:
    """A file elsewhere, with as much in it as is asked for."""
    secret = folder.parent / "secret.bin"
    secret.write_bytes(bytes(100_000))
    return secret


LOCATIONS: dict[str, Callable[[Path], str]] = {
    "parent folder": lambda folder: f"../{outside(folder).name}",
    "parent folder, further down": lambda folder: f"sub/../../{outside(folder).name}",
    "absolute path": lambda folder: str(outside(folder)),
    "link": lambda folder: _link(folder / "link.bin", outside(folder)),
    "link within the folder": lambda folder: _link(folder / "link.bin", folder / "weights.bin"),
    "folder that is a link": lambda folder: _link(folder / "sub", outside(folder).parent) + "/secret.bin",
    "hard link": lambda folder: (os.link(outside(folder), folder / "hard.bin"), "hard.bin")[1],
    "pipe": lambda folder: (os.mkfifo(folder / "pipe"), "pipe")[1],
    "device": lambda folder: _link(folder / "zero", Path("/dev/zero")),
    "folder": lambda folder: ((folder / "sub").mkdir(), "sub")[1],
    "nothing": lambda folder: "nowhere.bin",
    "empty name": lambda folder: "",
}


def _link(path: Path, to: Path) -> str:
    path.symlink_to(to)
    return path.name


@pytest.mark.parametrize("which", LOCATIONS)
def test_external_data_elsewhere_is_not_read(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = external(folder)
    path = external(folder, location=LOCATIONS[which](folder))
    assert "external data" in refused(path, capsys)
    monkeypatch.chdir(folder)
    assert cli.main(["inspect", path.name]) == cli.FILE


@pytest.mark.parametrize(
    "changes",
    [{"offset": "4"}, {"offset": "-4"}, {"length": "8"}, {"length": str(1 << 62)}, {"offset": str(1 << 62)},
     {"offset": "many"}],
    ids=str,
)  # fmt: skip
def test_external_data_of_other_sizes(
    changes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(external(tmp_path, **changes), capsys)


def test_external_data_of_a_constant_in_a_function(tmp_path: Path, tools: Any) -> None:
    """Attributes may name files, too: one outside is not read, and what would need it stays."""
    import onnx

    outside(tmp_path)
    tensor = onnx.TensorProto(name="s", data_type=1, dims=[4, 1, 1], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    constant = onnx.helper.make_node("Constant", [], ["s"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=tensor))
    proto = build(Case("", "", 1, 1, "y = Mul(x, x)"))
    del proto.graph.node[:]
    proto.graph.node.append(onnx.helper.make_node("Scaled", ["x"], ["y"], domain="own"))
    opsets = [onnx.helper.make_opsetid("", 17)]
    multiply = onnx.helper.make_node("Mul", ["a", "s"], ["b"])
    proto.functions.append(onnx.helper.make_function("own", "Scaled", ["a"], ["b"], [constant, multiply], opsets))
    proto.opset_import.add(domain="own", version=1)
    folder = tmp_path / "in"
    folder.mkdir()
    path = write(folder, proto)
    _, report = tools.fold(path, verify=False)
    assert not report.folded


# ---- Sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 40, 1 << 40], [1 << 62, 4], [-1, -20], [0, 1 << 62]], ids=str)
def test_dimensions_that_overflow(dims: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = build(CONV)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    refused(write(tmp_path, proto), capsys)


def test_sparse_initializers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """39 bytes that declare four terabytes."""
    import onnx

    proto = build(CONV)
    values = onnx.helper.make_tensor("sparse", 1, [1], [1.0])
    indices = onnx.helper.make_tensor("indices", 7, [1], [0])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [1 << 40])
    proto.graph.sparse_initializer.append(sparse)
    assert "sparse" in refused(write(tmp_path, proto), capsys)


def test_a_sparse_constant(tmp_path: Path, tools: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    proto = build(Case("", "", 1, 1, "k = Constant<value_int=1>()\ny = Mul(x, k)"))
    values = onnx.helper.make_tensor("v", 1, [1], [1.0])
    indices = onnx.helper.make_tensor("i", 7, [1], [0])
    proto.graph.node[0].attribute[0].CopyFrom(
        onnx.helper.make_attribute("sparse_value", onnx.helper.make_sparse_tensor(values, indices, [1 << 40]))
    )
    assert "sparse" in refused(write(tmp_path, proto), capsys).lower()
    with pytest.raises(tools.ModelError, match=r"(?i)sparse"):
        tools.fold(proto, verify=False)


@pytest.mark.parametrize(
    "body",
    ["k = Constant<value_ints=[1099511627776]>()\nm = ConstantOfShape(k)\ny = Mul(x, m)",
     "a = Constant<value_int=0>()\nb = Constant<value_int=1099511627776>()\nc = Constant<value_int=1>()\n"
     "k = Sum(a, b, c)\nf = Cast<to=1>(k)\ny = Mul(x, f)",
     "k = Constant<value_ints=[1048576, 1048576, 6]>()\ne = Expand(One[1,1,1], k)\ny = Mul(x, e)"],
    ids=["ConstantOfShape", "Range", "Expand"],
)  # fmt: skip
def test_a_constant_of_terabytes_is_left_alone(body: str, tools: Any) -> None:
    proto = build(Case("", "", 1, 1, body))
    for node in proto.graph.node:
        node.op_type = "Range" if node.op_type == "Sum" else node.op_type  # building a model infers, too
    _, report = tools.fold(proto, verify=False)
    assert not report.folded


def test_an_input_of_more_elements_than_there_are(tools: Any) -> None:
    """ONNX's inference writes out what an Add makes of it."""
    body = "k = ReduceSum(x, B[6])\nt = Transpose<perm=[0, 2, 1]>(k)\np = MatMul(x, t)\ny = Add(p, mask)"
    proto = build(Case("", "", 1, 1, body, "float[2,5,6] x, float[5] mask"))
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = (1 << 63) - 1
    _, report = tools.fold(proto, verify=False)
    assert not report.folded


def test_strides_of_another_length(tools: Any) -> None:
    proto = build(Case("", "", 1, 1, "c = Conv(x, W[5,4,3,3])\nd = Conv(c, W1[3,5,1,1])\ny = Relu(d)"))
    attribute = proto.graph.node[1].attribute.add(name="strides", type=7)
    attribute.ints.append(1)
    _, report = tools.fold(proto, aggressive=True, verify=False)
    assert not report.folded


def test_a_zero_point_of_another_type(tools: Any) -> None:
    body = "w = DequantizeLinear<axis=0>(Q[5,4,3,3], S[5], Z[5])\nc = Conv(x, w)\ny = Mul(c, P[5,1,1])"
    _, report = tools.fold(build(Case("", "", 1, 1, body)), verify=False)
    assert "zero point of another type" in report.table()


def test_an_addend_that_is_not_finite(tools: Any) -> None:
    """What would be added to it goes another way."""
    import onnx

    proto = build(next(c for c in AGGRESSIVE if c.name == "a map behind, joined with an Add"))
    tensor = next(t for t in proto.graph.initializer if t.name == "B2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 1, 1), np.inf, np.float32), "B2"))
    _, report = tools.fold(proto, aggressive=True, verify=False)
    assert not {"F2d", "F3"} & {rule for record in report.folded for rule in record.rules}


def test_a_convolution_whose_weight_is_integer(tools: Any) -> None:
    """Beside one on the same input."""
    body = "a = Conv<pads=[1,1,1,1]>(x, W[4,4,3,3])\nb = Conv(x, W1[4,4,1,1])\ny = Add(a, b)"
    proto = build(Case("", "", 1, 1, body))
    tensor = next(t for t in proto.graph.initializer if t.name == "W")
    tensor.data_type = tensor.UINT32
    _, report = tools.fold(proto, verify=False)
    assert not report.folded


def test_shapes_that_do_not_fit(tools: Any) -> None:
    """What was six channels comes out of a product that cannot be as four."""
    import onnx

    body = "a = Mul(x, G[6,1])\nb = Add(a, B[6,1])\nm = MatMul(x, b)\nc = Mul(m, a)\ny = Sub(c, P[])"
    proto = build(Case("", "", 3, 3, body, "float[2,6,4] x"))
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 4]))
    _, report = tools.fold(proto, verify=False)
    assert (report.before, report.after) == (3, 3)


# ---- Values --------------------------------------------------------------------------------------------------


def changed(name: str, values: Any) -> Any:
    import onnx

    proto = build(CONV)
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
    return proto


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("G", np.ones(4), "4"), ("B1", np.ones(6), "6"), ("M", np.ones(1), ""), ("V", np.ones((5, 1)), ""),
        ("V", [1, 1, np.nan, 1, 1], "channel 2"), ("V", [1, -1, 1, 1, 1], "channel 1"),
        ("V", [1, 1, 1, 1, np.inf], ""), ("G", [1, np.nan, 1, 1, 1], "finite"), ("M", [1, 1, 1, np.inf, 1], "finite"),
        ("W", np.full((5, 4, 3, 3), np.nan), "finite"), ("V", [1, 1, -1e-5, 1, 1], "channel 2"),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_that_are_none(name: str, values: Any, reason: str, tools: Any) -> None:
    """Left alone, with the reason, and the channel where one is to blame."""
    _, report = tools.fold(changed(name, values), verify=False)
    assert (report.before, report.after) == (1, 1)
    assert reason in report.kept[0].reason


def test_training_mode_is_left_alone(tools: Any) -> None:
    import onnx

    proto = build(CONV)
    node = next(n for n in proto.graph.node if n.op_type == "BatchNormalization")
    node.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    _, report = tools.fold(proto, verify=False)
    assert not report.folded
    assert "training mode" in report.kept[0].reason


@pytest.mark.parametrize("name", ["W", "G", "V"])
def test_an_initializer_that_callers_may_override(name: str, tools: Any) -> None:
    import onnx

    proto = build(CONV)
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    _, report = tools.fold(proto)
    assert report.after == 1
    assert "overrid" in report.kept[0].reason


@pytest.mark.parametrize("opset", [5, 99])
def test_an_unknown_opset(opset: int, tools: Any) -> None:
    proto = build(CONV)
    proto.opset_import[0].version = opset
    _, report = tools.fold(proto, verify=False)
    assert not report.folded
    assert f"opset {opset} is not one that is known" in report.kept[0].reason


def test_an_operation_of_another_domain_is_left_alone_and_named(tools: Any) -> None:
    proto = build(CONV)
    proto.graph.node[0].domain = "elsewhere"
    proto.opset_import.add(domain="elsewhere", version=1)
    _, report = tools.fold(proto, verify=False)
    assert not report.folded
    assert "elsewhere.Conv" in report.kept[0].reason


# ---- Graphs --------------------------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted(tools: Any) -> None:
    proto = build(CONV)
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _, report = tools.fold(proto)
    assert report.after == 0
    assert report.verification.passed


def test_graphs_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cycle, absent, twice = build(CONV), build(CONV), build(CONV)
    cycle.graph.node[0].input[0] = "y"
    absent.graph.node[0].input[0] = "nobody"
    twice.graph.node[1].output[0] = twice.graph.node[0].output[0]
    assert "cycle" in refused(write(tmp_path, cycle), capsys)
    assert "'nobody', which nothing makes" in refused(write(tmp_path, absent), capsys)
    assert "declar" in refused(write(tmp_path, twice), capsys)
