# SPDX-License-Identifier: Apache-2.0
"""How long folding takes: python -m pytest benches/bench_fold.py --benchmark-enable"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

# {what: (its model, affine operations left)}; a chain of n nodes is to take time proportional to n.
MODELS = {
    "ResNet-50": ("resnet50", (), 0),
    "MobileOne": ("mobileone", (), 0),
    "chain of 2,500": ("chain", (2_500,), 0),
    "chain of 10,000": ("chain", (10_000,), 0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnx_ir")
    return tmp_path_factory.mktemp("models")


@functools.cache
def file_of(what, folder):
    import onnx_graphs

    name, arguments, _ = MODELS[what]
    path = folder / f"{what}.onnx"
    path.write_bytes(getattr(onnx_graphs, name)(*arguments).SerializeToString())
    return path


@pytest.mark.parametrize("what", MODELS)
def test_read_fold_write(benchmark, what, folder, monkeypatch):
    """In one process, into a new file, without verification; the wait for the disk is the disk's."""
    import normcpu.onnx

    path, out = file_of(what, folder), folder / "out.onnx"
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def fold():
        model, report = normcpu.onnx.fold(path, verify=False)
        normcpu.onnx.save(model, out)
        return report

    report = benchmark.pedantic(fold, setup=lambda: out.unlink(missing_ok=True), rounds=7, warmup_rounds=1)
    assert report.after == MODELS[what][2]


@pytest.mark.parametrize("what", ["ResNet-50", "MobileOne"])
@pytest.mark.parametrize("options", [["--no-verify"], []], ids=["fold", "fold and verify"])
def test_command(benchmark, what, options, folder):
    """From the shell's point of view: interpreter, imports, fsync and all."""
    path, out = file_of(what, folder), folder / "out.onnx"
    run = functools.partial(_normcpu, "fold", str(path), "-o", str(out), "-q", *options)
    benchmark.pedantic(run, rounds=3)


def test_help(benchmark):
    benchmark.pedantic(functools.partial(_normcpu, "--help"), rounds=15)


def _normcpu(*arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-m", "normcpu", *arguments], check=True, stdout=subprocess.DEVNULL, env=environment
    )
