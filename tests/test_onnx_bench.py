# SPDX-License-Identifier: Apache-2.0
"""Timing in ONNX Runtime: in turns, on the same inputs, and in words where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import Case, build
from peers import peer

from normcpu import cli

pytestmark = pytest.mark.peers
BODY = "c = Conv(x, W[5,4,3,3])\ny = BatchNormalization(c, G[5], B[5], M[5], V[5])"


@pytest.fixture(autouse=True)
def tools() -> Any:
    for name in ("onnx", "tabulate", "onnxruntime"):
        peer(name)
    return peer("normcpu.onnx")


def write(path: Path, body: str = BODY, inputs: str = "float[N,4,H,H] x") -> str:
    import onnx

    onnx.save(build(Case("", "", 1, 0, body, inputs)), path)
    return str(path)


def test_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    assert cli.main(["fold", first, "-o", second, "-q"]) == cli.DONE
    assert cli.main(["bench", first, second, "--rounds", "5"]) == cli.DONE
    printed = capsys.readouterr().out.splitlines()
    (before,) = (line.split() for line in printed if line.startswith(first))
    (after,) = (line.split() for line in printed if line.startswith(second))
    assert 0 < float(before[1]) <= float(before[2])
    assert 0 < float(after[1]) <= float(after[2])
    assert float(after[3]) == pytest.approx(100 * (float(after[1]) / float(before[1]) - 1), abs=20)


def test_they_run_in_turns_in_alternating_order(tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx.bench import WARM_UP, _Session

    paths = [write(tmp_path / f"{name}.onnx") for name in "ab"]
    feeds = {"x": np.ones((1, 4, 8, 8), np.float32)}
    ran: list[str] = []
    run = _Session.seconds

    def told(self: Any, given: Any) -> float:
        assert given is feeds
        ran.append(Path(self.path).stem)
        return run(self, given)

    monkeypatch.setattr(_Session, "seconds", told)
    timings = tools.bench(paths, 3, feeds)
    assert "".join(ran) == "a" * WARM_UP + "b" * WARM_UP + "ab" + "ba" + "ab"
    assert [t.model for t in timings] == paths
    assert [len(t.seconds) for t in timings] == [3, 3]
    assert timings[0].minimum == min(timings[0].seconds)
    assert timings[0].median == sorted(timings[0].seconds)[1]


def test_given_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, inputs = write(tmp_path / "a.onnx"), tmp_path / "x.npz"
    np.savez(inputs, x=np.ones((1, 4, 8, 8), np.float32))
    assert cli.main(["bench", path, path, "--rounds", "1", "--inputs", str(inputs)]) == cli.DONE
    np.savez(inputs, x=np.ones((1, 3, 8, 8), np.float32))
    assert cli.main(["bench", path, path, "--rounds", "1", "--inputs", str(inputs)]) == cli.FILE
    assert f"cannot be run here: {path}: " in capsys.readouterr().err


def test_models_of_other_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a.onnx")
    other = write(tmp_path / "other.onnx", "y = Relu(z)", "float[2,2] z")
    assert cli.main(["bench", first, other]) == cli.FILE
    assert f"cannot be run here: {other}: " in capsys.readouterr().err


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.onnx")
    (tmp_path / "text.onnx").write_text("not a model\n")
    assert cli.main(["bench", path, str(tmp_path / "text.onnx")]) == cli.FILE
    assert "text.onnx: not a readable ONNX model" in capsys.readouterr().err


def test_rounds(tmp_path: Path, tools: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.onnx")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", path, path, "--rounds", "0"])
    assert stopped.value.code == cli.USAGE
    assert "--rounds: expected a whole number of at least 1, got '0'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        tools.bench([path], 0)


def test_without_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["bench", path, path]) == cli.MISSING
    assert "which is not installed: pip install onnxruntime" in capsys.readouterr().err
