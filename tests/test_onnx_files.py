# SPDX-License-Identifier: Apache-2.0
"""Files and the command line: written whole or not at all, never over the input; what is no model is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import FOLDED, KEPT, Case, build
from peers import peer

from normcpu import cli

pytestmark = pytest.mark.peers
CONV = next(c for c in FOLDED if c.name == "conv, padded")
STAYS = next(c for c in KEPT if c.name == "padded conv")


@pytest.fixture(autouse=True)
def tools() -> Any:
    peer("onnx")
    peer("tabulate")
    return peer("normcpu.onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.onnx", CONV)


def write(path: Path, case: Case, **changes: Any) -> Path:
    import onnx

    proto = build(case)
    for name, value in changes.items():
        setattr(proto, name, value)
    onnx.save(proto, path)
    return path


def count(path: Path, op_type: str = "BatchNormalization") -> int:
    import onnx

    return sum(n.op_type == op_type for n in onnx.load(path).graph.node)


def test_fold(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("out.onnx")
    report = model.with_name("report.json")
    assert cli.main(["fold", str(model), "-o", str(out), "--report", str(report), "-v"]) == cli.DONE
    assert (count(model), count(out)) == (1, 0)
    told = json.loads(report.read_text())
    assert (told["before"], told["after"], told["verification"]["passed"]) == (1, 0, True)
    printed = capsys.readouterr().out
    assert "Conv n0 (B1)" in printed
    assert "verified" in printed
    assert cli.main(["verify", str(model), str(out)]) == cli.DONE
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.onnx", "out.onnx", "report.json"]


def test_the_input_is_not_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = model.read_bytes()
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    for output in (model, link):
        assert cli.main(["fold", str(model), "-o", str(output)]) == cli.USAGE
        assert "--in-place" in capsys.readouterr().err
    assert model.read_bytes() == held
    assert cli.main(["fold", str(model), "--dry-run"]) == cli.DONE
    assert model.read_bytes() == held
    assert cli.main(["fold", str(model), "--in-place", "-q"]) == cli.DONE
    assert count(model) == 0


def test_nothing_to_fold_is_the_same_file(tmp_path: Path) -> None:
    path = write(tmp_path / "stays.onnx", STAYS)
    assert cli.main(["fold", str(path), "-q"]) == cli.DONE
    assert (tmp_path / "stays.folded.onnx").read_bytes() == path.read_bytes()


def test_rules_that_there_are_not(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--skip", "--only"):
        assert cli.main(["inspect", str(model), option, "B99"]) == cli.USAGE
        assert "there is no rule 'B99'" in capsys.readouterr().err
    assert cli.main(["inspect", str(model), "--only", "F1", "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["after"] == 1


def test_nodes_that_there_are_not(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(model), "--keep", "nonesuch"]) == cli.USAGE
    assert "there is no node 'nonesuch'" in capsys.readouterr().err
    assert cli.main(["inspect", str(model), "--keep", "n1", "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["after"] == 1


def test_aggressive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "model.onnx", STAYS), tmp_path / "out.onnx"
    assert cli.main(["inspect", str(path), "--aggressive", "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["added"] == {"operations": 1, "parameters": 3 * 6 * 6}
    page = tmp_path / "report.html"
    assert cli.main(["fold", str(path), "--aggressive", "-o", str(out), "--report", str(page)]) == cli.DONE
    assert "aggressive rules: +1 operations, +108 parameters" in capsys.readouterr().out
    assert "(F2d, +1 operation, +108 parameters)" in page.read_text(encoding="utf-8")
    assert (count(path), count(out), count(out, "Add")) == (1, 0, 1)
    assert cli.main(["verify", str(path), str(out)]) == cli.DONE


def test_inspect_writes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(model), "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["after"] == 0
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]


def test_models_that_differ(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "other.onnx", Case("", "", 0, 0, CONV.body.replace("G[5]", "P[5]")))
    assert cli.main(["verify", str(model), str(other)]) == cli.DIFFERS
    assert "WORSE" in capsys.readouterr().out


def test_external_data(tmp_path: Path) -> None:
    import onnx

    path, out = tmp_path / "external.onnx", tmp_path / "out.onnx"
    onnx.save(build(CONV), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert cli.main(["fold", str(path), "-o", str(out), "-q"]) == cli.DONE
    assert count(out) == 0
    assert cli.main(["verify", str(path), str(out)]) == cli.DONE
    assert cli.main(["fold", str(path), "--in-place", "-q"]) == cli.DONE
    assert count(path) == 0
    assert cli.main(["verify", str(path), str(out)]) == cli.DONE


def test_up_to_ir_3_initializers_are_inputs(tmp_path: Path, tools: Any) -> None:
    """They are constants all the same, and new ones must be inputs too."""
    import onnx

    proto = build(Case("", "", 1, 0, CONV.body, opset=8))
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    path, out = tmp_path / "old.onnx", tmp_path / "out.onnx"
    onnx.save(proto, path)
    assert cli.main(["fold", str(path), "-o", str(out), "-q"]) == cli.DONE
    made = onnx.load(out)
    onnx.checker.check_model(made)
    assert count(out) == 0
    assert {t.name for t in made.graph.initializer} == {i.name for i in made.graph.input} - {"x"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double"])
def test_other_types(dtype: str, tools: Any) -> None:
    """Weights keep their type; one that would overflow it is refused, with the channel."""
    import onnx
    import onnx_ir

    code = {"float16": 10, "bfloat16": 16, "double": 11}[dtype]
    proto = build(CONV)
    for tensor in proto.graph.initializer:
        wide = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(code))
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = code
    folded, report = tools.fold(proto, verify=dtype != "bfloat16")
    assert report.after == 0
    assert {v.const_value.dtype for v in folded.graph.initializers.values()} == {onnx_ir.DataType(code)}
    if dtype == "float16":
        gamma = next(t for t in proto.graph.initializer if t.name == "G")
        gamma.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, 1, 6e4, 1], np.float16), "G"))
        variance = next(t for t in proto.graph.initializer if t.name == "V")
        variance.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, 1, 1e-2, 1], np.float16), "V"))
        _, report = tools.fold(proto, skip=["P1"], verify=False)
        assert "would overflow float16 in channel 3" in report.kept[0].reason
        folded, report = tools.fold(proto)
        assert [n.op_type for n in folded.graph] == ["Cast", "Conv", "Cast"]
        assert report.verification is None or report.verification.passed


def test_shared_weights_are_copied(tools: Any) -> None:
    body = "b = BatchNormalization(c, G[4], B[4], M[4], V[4])\nr = Relu(b)\ny = Conv<pads=[1,1,1,1]>(r, W)"
    case = Case("", "", 1, 0, f"c = Conv<pads=[1,1,1,1]>(x, W[4,4,3,3])\n{body}")
    folded, report = tools.fold(build(case))
    assert report.after == 0
    assert report.verification.passed
    weights = [n.inputs[1].name for n in folded.graph if n.op_type == "Conv"]
    assert weights[0] != weights[1] == "W"


def test_help_and_version() -> None:
    run = [sys.executable, "-m", "normcpu"]
    told = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True).stdout
    assert "exit status" in told
    assert "normcpu fold model.onnx -o folded.onnx" in told
    assert subprocess.run([*run, "--version"], capture_output=True, text=True, check=True).stdout.startswith("normcpu ")
    assert subprocess.run(run, capture_output=True, text=True).returncode == cli.USAGE


def test_importing_normcpu_does_not_import_onnx() -> None:
    code = (
        "import sys, normcpu, normcpu.cli; assert not {'onnx', 'onnx_ir', 'tabulate', 'ml_dtypes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
