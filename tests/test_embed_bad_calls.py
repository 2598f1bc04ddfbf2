# SPDX-License-Identifier: Apache-2.0
"""Bad input: an error that names the argument, and no file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcpu
from normcpu import embed

NAN, INF = float("nan"), float("inf")


def frozen(**changed: Any) -> normcpu.FrozenBatchNorm:
    values = {"weight": [1, 2], "bias": [0, 0], "running_mean": [0, 0], "running_var": [1, 1]} | changed
    return normcpu.FrozenBatchNorm(*values.values())


def layer_norm(**changed: Any) -> normcpu.LayerNorm:
    layer = normcpu.LayerNorm(2).eval()
    for name, value in changed.items():
        getattr(layer, name)[...] = value
    return layer


f = embed.function
STATIC = "shape must be static, a tuple of integers of at least 1, got"
KNOWN = "layer must be one of Activate, Affine, AveragePool, BatchNorm1d, BatchNorm2d, BatchNorm3d,"
CALLS = [
    (lambda: f(frozen(weight=[1, NAN]), (1, 2)), ValueError, "weight must be finite, got nan in channel 1"),
    (lambda: f(frozen(bias=[INF, 0]), (1, 2)), ValueError, "bias must be finite, got inf in channel 0"),
    (lambda: f(frozen(running_mean=[0, NAN]), (1, 2)), ValueError, "running_mean must be finite, got nan in channel 1"),
    (lambda: f(frozen(running_var=[1, -3]), (1, 2)), ValueError, "running_var + eps must be positive, got -2.99999 in"),
    (lambda: f(frozen(weight=[3e38, 1], running_var=[1e-5, 1]), (1, 2)), ValueError, "scale must fit float32, got"),
    (lambda: f(layer_norm(weight=NAN), (3, 2)), ValueError, "weight must be finite, got nan"),
    (lambda: f(layer_norm(bias=-INF), (3, 2)), ValueError, "bias must be finite, got -inf"),
    (lambda: f(normcpu.LayerNorm(2, eps=3e38).eval(), (3, 2)), ValueError, "eps * count must fit float32, got"),
    (
        lambda: f(normcpu.GroupNorm(1, 2, activation="leaky_relu", negative_slope=1e39).eval(), (3, 2)), ValueError,
        "negative_slope must fit float32, got 1e+39",
    ),
    (lambda: f(frozen(), (0, 2)), ValueError, STATIC + " (0, 2)"),
    (lambda: f(frozen(), (-1, 2)), ValueError, STATIC + " (-1, 2)"),
    (lambda: f(frozen(), (None, 2)), ValueError, STATIC + " (None"),
    (lambda: f(frozen(), ("n", 2)), ValueError, STATIC + " ('n', 2)"),
    (lambda: f(frozen(), (1.0, 2)), ValueError, STATIC + " (1.0, 2)"),
    (lambda: f(frozen(), (True, 2)), ValueError, STATIC + " (True, 2)"),
    (lambda: f(frozen(), ()), ValueError, STATIC + " ()"),
    (lambda: f(frozen(), 2), ValueError, STATIC + " 2"),
    (lambda: f(frozen(), (2, 3)), ValueError, "weight must have shape (3,), one value per channel, got (2,)"),
    (lambda: f(normcpu.BatchNorm2d(2).eval(), (1, 2)), ValueError, "expected 4D input (got 2D input)"),
    (lambda: f(normcpu.LayerNorm(4).eval(), (3, 2)), ValueError, "normalized_shape must be the extents of x, (3, 2)"),
    (lambda: f(normcpu.BatchNorm1d(2), (1, 2)), ValueError, "layer must be in evaluation, got one in training: call"),
    (lambda: f(normcpu.LayerNorm(2), (3, 2)), ValueError, "layer must be in evaluation, got one in training: call"),
    (
        lambda: f(normcpu.BatchNorm1d(2, track_running_stats=False).eval(), (3, 2)), ValueError,
        "layer must have running statistics, got track_running_stats=False",
    ),
    (lambda: f(normcpu.Dropout().eval(), (3, 2)), TypeError, KNOWN),
    (lambda: f("relu", (3, 2)), TypeError, KNOWN),
    (lambda: f(None, (3, 2)), TypeError, KNOWN),
    (lambda: f(normcpu.fold.Affine.of([1, 2]), (2,)), ValueError, "shape must have channels on axis 1 for"),
    (lambda: f(normcpu.fold.Affine.of([1, 2]), (1, 3)), ValueError, "layer.scale must have shape (3,), one value per"),
    (lambda: f(normcpu.fold.Affine.of([1e39]), (1, 1)), ValueError, "scale must fit float32, got 1e+39 in channel 0"),
    (lambda: f([], (3, 2)), ValueError, "layer must be a layer or a list of layers, got an empty one"),
    (lambda: f(frozen(), (1, 2), samples=0), ValueError, "samples must be at least 1, got 0"),
    (lambda: f(frozen(), (1, 2), inputs=[[1, 2]]), ValueError, "inputs must have shape (k, 1, 2), got (1, 2)"),
    (lambda: f(frozen(), (1, 2), inputs=[[[1, NAN]]]), ValueError, "inputs must be finite, got NaN or infinity"),
    (lambda: f(frozen(), (1, 2), inputs=np.zeros((0, 1, 2))), ValueError, "inputs must have shape (k, 1, 2), got (0,"),
    (lambda: embed.params({"a": [NAN]}), ValueError, "params_a must be finite, got nan"),
    (lambda: embed.params({"a": [1, -INF]}, "int8"), ValueError, "params_a must be finite, got -inf"),
    (lambda: embed.params({"a": np.zeros((0, 3))}), ValueError, "params_a must have elements, got shape (0, 3)"),
    (lambda: embed.params({"a": [1e39]}), ValueError, "params_a must fit float32, got 1e+39"),
    (lambda: embed.params({"a": [65520.0]}, "float16"), ValueError, "params_a must fit float16, got 65520"),
    (lambda: embed.params({"a": [3.4e38]}, "bfloat16"), ValueError, "params_a must fit bfloat16, got 3.4e+38"),
    (lambda: embed.params({"a": [1]}, "int4"), ValueError, "dtype must be one of float32, float16, bfloat16, int8,"),
    (lambda: embed.params({}), ValueError, "arrays must have at least one array, got none"),
    (lambda: embed.params([1]), TypeError, "arrays must be a mapping of names to arrays, got list"),
    (lambda: embed.params({"a": [1j]}), TypeError, "params_a must be an array of real numbers, got list (complex128)"),
    (lambda: embed.params({3: [1]}), TypeError, "name must be a str, got int"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CALLS, ids=[str(k) for k in range(len(CALLS))])
def test_bad_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_a_frozen_layer_may_be_in_training_and_stays_as_it_was() -> None:
    layer = normcpu.BatchNorm1d(2).freeze()
    assert embed.function(layer, (3, 2)).flash == 16
    assert layer.training
    assert layer.frozen


# ---- Writing ---------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_are_written_into_a_new_folder_and_over_old_ones(tmp_path: Path) -> None:
    made = embed.function(frozen(), (1, 2), name="bn")
    paths = made.write(tmp_path / "new")
    assert contents(tmp_path / "new") == dict(made.files)
    assert paths == [tmp_path / "new" / name for name in ("bn.h", "bn.c", "bn_test.c")]
    again = embed.function(frozen(bias=[3, 4]), (1, 2), name="bn")
    again.write(str(tmp_path / "new"))
    assert contents(tmp_path / "new") == dict(again.files)


@pytest.mark.parametrize("where", ["file", "file/folder", "missing/folder"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    tmp_path.joinpath("file").write_text("kept")
    made = embed.function(frozen(), (1, 2), name="bn")
    with pytest.raises(OSError, match=r"cannot be written: ") as raised:
        made.write(tmp_path / where)
    assert str(tmp_path / where) in str(raised.value)
    assert contents(tmp_path) == {"file": "kept"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that even root cannot write to")
def test_a_folder_that_nobody_writes_to() -> None:
    before = set(os.listdir("/proc/self"))
    with pytest.raises(OSError, match=r"/proc/self cannot be written: "):
        embed.function(frozen(), (1, 2)).write("/proc/self")
    assert set(os.listdir("/proc/self")) == before


@pytest.mark.parametrize("blocked", ["bn.h", "bn.c", "bn_test.c"])
@pytest.mark.parametrize("is_new", [True, False])
def test_where_one_file_cannot_be_put_none_is(tmp_path: Path, blocked: str, is_new: bool) -> None:
    """A folder stands where a file is to be."""
    folder = tmp_path / "out"
    if not is_new:
        embed.function(frozen(bias=[5, 6]), (1, 2), name="bn").write(folder)
        folder.joinpath(blocked).unlink()
    folder.joinpath(blocked).mkdir(parents=True)
    folder.joinpath(blocked, "inside").write_text("kept")
    before = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(OSError, match=r"out cannot be written: "):
        embed.function(frozen(), (1, 2), name="bn").write(folder)
    assert {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} == before
    assert folder.joinpath(blocked, "inside").read_text() == "kept"


def test_an_interrupt_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    embed.function(frozen(bias=[5, 6]), (1, 2), name="bn").write(folder)
    before, put, count = contents(folder), os.replace, 0

    def interrupted(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        put(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed.function(frozen(), (1, 2), name="bn").write(folder)
    assert contents(folder) == before
