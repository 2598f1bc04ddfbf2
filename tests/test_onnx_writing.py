# SPDX-License-Identifier: Apache-2.0
"""What is written is whole, or what was there before; and large models take the memory of one weight."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import FOLDED, KEPT, build
from peers import peer

from normcpu import cli

pytestmark = pytest.mark.peers
CONV = next(c for c in FOLDED if c.name == "conv, padded")
ROOT = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def tools() -> Any:
    peer("onnx")
    return peer("normcpu.onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(build(CONV).SerializeToString())
    return path


@pytest.mark.parametrize("case", [*FOLDED[::7], *KEPT[::5]], ids=lambda c: c.name)
@pytest.mark.parametrize("large", [0, 1 << 30])
def test_what_is_written_is_the_model(
    case: Any, large: int, tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same message, whether weights are in their places, at the end, or in a file of their own."""
    import onnx
    import onnx_ir

    from normcpu.onnx import write

    monkeypatch.setattr(write, "LARGE", large)
    model = onnx_ir.from_proto(build(case))
    want = onnx_ir.to_proto(model)
    for external in (False, True):
        tools.save(model, tmp_path / "out.onnx", external)
        got = onnx.load(tmp_path / "out.onnx")
        onnx.checker.check_model(got)
        assert sorted(map(value_of, got.graph.initializer)) == sorted(map(value_of, want.graph.initializer))
        for proto in (got, want):
            proto.graph.ClearField("initializer")
        assert got == want
        want = onnx_ir.to_proto(model)
    assert (tmp_path / "out.onnx.data").exists() == bool(model.graph.initializers and not large)


def value_of(tensor: Any) -> tuple[str, int, tuple[int, ...], bytes]:
    import onnx

    return tensor.name, tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=str)
def test_a_write_that_fails_leaves_what_was_there(
    problem: BaseException, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model.with_name("out.onnx")
    out.write_bytes(b"before")

    def fail(descriptor: int) -> None:
        raise problem

    monkeypatch.setattr(os, "fsync", fail)
    if isinstance(problem, OSError):
        assert cli.main(["fold", str(model), "-o", str(out)]) == cli.FILE
        assert "out.onnx: cannot be written: No space left on device" in capsys.readouterr().err
    else:
        with pytest.raises(KeyboardInterrupt):
            cli.main(["fold", str(model), "-o", str(out)])
    assert out.read_bytes() == b"before"
    assert {p.name for p in model.parent.iterdir()} == {"model.onnx", "out.onnx"}


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file that may not grow any more: 100 kB of weights do not fit."""
    large(tmp_path, 1, 160)
    code = (
        "import resource, sys; from normcpu.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "sys.exit(main(['fold', 'model.onnx', '-o', 'out.onnx', '--no-verify']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == cli.FILE
    assert "out.onnx: cannot be written: File too large" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.data"}


@pytest.mark.parametrize("folder", ["nowhere", "/proc", "model.onnx"])
def test_a_folder_that_cannot_be_written(folder: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = model.read_bytes()
    out = model.parent / folder / "out.onnx"
    assert cli.main(["fold", str(model), "-o", str(out)]) == cli.FILE
    assert "cannot be written" in capsys.readouterr().err
    assert model.read_bytes() == held
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]


def test_links_and_permissions_stay(model: Path) -> None:
    behind, link = model.with_name("behind.onnx"), model.with_name("link.onnx")
    behind.write_bytes(b"before")
    behind.chmod(0o640)
    link.symlink_to(behind)
    assert cli.main(["fold", str(model), "-o", str(link), "-q"]) == cli.DONE
    assert link.is_symlink()
    assert behind.read_bytes() != b"before"
    assert behind.stat().st_mode & 0o777 == 0o640


# ---- Large models ----------------------------------------------------------------------------------------------


def large(folder: Path, count: int, channels: int) -> None:
    """`count` 1x1 convolutions with BatchNorm and ReLU; the weights, of 4 * channels^2 bytes, lie in model.data."""
    import onnx
    from onnx import helper

    rng = np.random.default_rng(0)
    weight = rng.normal(0, channels**-0.5, (channels, channels, 1, 1)).astype(np.float32)
    nodes, tensors, x = [], [], "x"
    with (folder / "model.data").open("wb") as file:
        for k in range(count):
            tensor = onnx.TensorProto(name=f"W{k}", data_type=1, dims=weight.shape, data_location=1)
            for key, value in (("location", "model.data"), ("offset", k * weight.nbytes), ("length", weight.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(weight.data)
            parameters = [f"{p}{k}" for p in "gbmv"]
            tensors.append(tensor)
            tensors += [
                onnx.numpy_helper.from_array(rng.uniform(0.5, 1.5, channels).astype(np.float32), p) for p in parameters
            ]
            nodes.append(helper.make_node("Conv", [x, f"W{k}"], [f"c{k}"]))
            nodes.append(helper.make_node("BatchNormalization", [f"c{k}", *parameters], [f"n{k}"]))
            nodes.append(helper.make_node("Relu", [f"n{k}"], [f"r{k}"]))
            x = f"r{k}"
    ends = [helper.make_tensor_value_info(name, 1, [1, channels, 2, 2]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())


PEAK = """
import resource, sys
import normcpu.onnx as tools
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
folded, report = tools.fold("model.onnx", verify=sys.argv[1] == "verify")
tools.save(folded, "out.onnx", report.external_data)
print(before, peak(), report.before, report.after, report.not_verified, sep=",")
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": ROOT}


def fold_apart(folder: Path, verify: str) -> tuple[int, int, str]:
    """(bytes that folding model.onnx in a process of its own takes at most, what is left, why it was not verified)"""
    command = [sys.executable, "-c", PEAK, verify]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment())
    before, peak, _, left, why = done.stdout.strip().split(",", 4)
    return int(peak) - int(before), int(left), why


def test_memory_of_a_large_model(tmp_path: Path) -> None:
    """400 MB in 20 weights.  The rest, above one weight, are copies of small things and blocks of float64."""
    import onnx

    large(tmp_path, 20, 2240)
    taken, left, _ = fold_apart(tmp_path, "do not verify")
    assert left == 0
    assert taken < 4 * 2240**2 + (100 << 20)
    assert (tmp_path / "out.onnx").stat().st_size < 500_000
    proto = onnx.load(tmp_path / "out.onnx")  # as others read it
    assert len(proto.graph.node) == 40
    check_weights(proto, tmp_path / "model.data", 2240)


def check_weights(proto: Any, data: Path, channels: int) -> None:
    """Each is the first one times its own factors: in float32 within one rounding of the products."""
    import onnx

    raw = np.fromfile(data, np.float32, channels * channels).reshape(channels, channels)
    for k, node in enumerate(n for n in proto.graph.node if n.op_type == "Conv"):
        weight = next(t for t in proto.graph.initializer if t.name == node.input[1])
        got = onnx.numpy_helper.to_array(weight).reshape(channels, channels)
        factors = np.median(got / raw, axis=1, keepdims=True)
        assert np.abs(got - raw * factors).max() <= 2e-7 * np.abs(got).max(), k


def test_models_of_any_size_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large ones from their files, which any model is where the limit is 0."""
    peer("onnxruntime")
    from normcpu.onnx import large as large_models

    large(tmp_path, 3, 64)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fold", "model.onnx", "-o", "out.onnx", "-q", "--no-verify"]) == cli.DONE
    monkeypatch.setattr(large_models, "PROTOBUF_LIMIT", 0)
    assert cli.main(["verify", "model.onnx", "out.onnx"]) == cli.DONE
    assert "weights moved by an ulp" in capsys.readouterr().out
    data = np.fromfile("out.onnx.data", np.float32)
    data[: 64 * 64] *= 1.01
    data.tofile("out.onnx.data")
    assert cli.main(["verify", "model.onnx", "out.onnx"]) == cli.DIFFERS


@pytest.mark.slow
@pytest.mark.huge
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """22 weights of 100 MB: no protobuf holds them, so verification is left out, and said to be."""
    large(tmp_path, 22, 5000)
    taken, left, why = fold_apart(tmp_path, "verify")
    assert left == 0
    assert taken < 4 * 5000**2 + (300 << 20)
    assert why.startswith("it is larger than 2 GB")
    assert (tmp_path / "out.onnx.data").stat().st_size >= 22 * 4 * 5000**2
