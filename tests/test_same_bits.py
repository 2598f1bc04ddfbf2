# SPDX-License-Identifier: Apache-2.0
"""Results depend on values, shape and view alone, bit for bit: not on the instruction set, the threads, the
alignment or the run (and test_same_bits_views.py: not on strides, nor in evaluation on other samples).
A NaN equals a NaN."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import bits
import numpy as np
import pytest
from bits import DTYPES, OPERATIONS, Inputs, digest
from cases import lay_out, moved, plain, values

import normcpu
from normcpu import _core

Array = np.ndarray
ISAS = [name for name in _core.isas_built() if _core.isa_supported(name)]
TAILS = range(1, 71)
BOTH_VIEWS = [((3, 5, 0), 1), ((6, 0), -1)]  # where the tail goes; (n, c, s) channel-major and (r, c) channels-last
OPERATION_DTYPES = [(op, dtype) for op in OPERATIONS for dtype in DTYPES if bits.runs_on(op, dtype)]
AWKWARD = ["random", "mean 1e7", "outlier first", "constant", "1e30", "subnormal", "extremes"]


def with_extent(shape: tuple[int, ...], extent: int) -> tuple[int, ...]:
    return tuple(e or extent for e in shape)


def test_more_than_one_instruction_set_is_compared() -> None:
    assert "scalar" in ISAS
    assert _core.isa() in ISAS
    assert len(ISAS) > 1 or len(_core.isas_built()) == 1 or not _core.isa_supported(_core.isas_built()[-2])


@pytest.mark.parametrize(("operation", "dtype"), OPERATION_DTYPES)
def test_instruction_sets_and_tails(operation: str, dtype: str) -> None:
    for shape, axis in BOTH_VIEWS:
        for extent in TAILS:
            inputs = Inputs(with_extent(shape, extent), DTYPES[dtype], axis, seed=extent)
            _core.use_isa("scalar")
            want = digest(OPERATIONS[operation](inputs))
            for isa in ISAS:
                _core.use_isa(isa)
                assert digest(OPERATIONS[operation](inputs)) == want, (isa, inputs.shape)


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_on_awkward_values(dtype: str, kind: str) -> None:
    for shape, axis in [((2, 5, 5003), 1), ((67, 6, 49), 1), ((1029, 37), 1), ((300, 7), -1), ((4, 9, 9, 24), 3)]:
        inputs = Inputs(shape, DTYPES[dtype], axis, seed=3)
        inputs.x = values(kind, shape, DTYPES[dtype], 4)
        inputs.x.reshape(-1)[[11, 77]] = np.nan, np.inf
        want = {}
        for isa in ["scalar", *ISAS]:
            _core.use_isa(isa)
            for name in (
                "eval",
                "eval relu",
                "train",
                "backward",
                "backward relu",
                "group_norm",
                "moments all",
                "scale_shift",
                "scale_axis",
                "layer_norm",
                "layer_norm channels",
                "add_rms_norm",
                "rows backward",
                "rms_norm backward",
                "rows masked",
            ):
                with np.errstate(all="ignore"):
                    made = digest(OPERATIONS[name](inputs))
                assert want.setdefault(name, made) == made, (isa, name, shape)


@pytest.mark.parametrize(("operation", "dtype"), OPERATION_DTYPES)
def test_alignment(operation: str, dtype: str) -> None:
    """Every offset of elements within a cache line, and offsets that are no multiple of the element."""
    size = DTYPES[dtype].itemsize
    offsets = [*range(0, 16 * size, size), 1, 3, size + 1]
    for shape, axis in [((2, 3, 77), 1), ((9, 37), -1), ((2, 3, 5003), 1)]:
        inputs = Inputs(shape, DTYPES[dtype], axis, seed=1)
        want = digest(OPERATIONS[operation](inputs))
        for offset in offsets:
            assert digest(OPERATIONS[operation](moved(inputs, plain(len(shape), offset)))) == want, (shape, offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_alignment_of_the_output(dtype: str) -> None:
    """Large enough for streaming stores, which begin at a full line."""
    size = DTYPES[dtype].itemsize
    inputs = Inputs((2, 3, 300_007), DTYPES[dtype])
    want = digest(bits.train(inputs)[:1])
    for offset in [*range(0, 16 * size, size), 1]:
        out = lay_out(np.zeros_like(inputs.x), plain(3, offset))
        normcpu.batch_norm(inputs.x, None, None, inputs.weight, inputs.bias, True, residual=inputs.residual, out=out)
        assert digest((out,)) == want, offset


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4, 6, 300_000), 1), ((2, 1, 1_500_001), 1), ((64, 96, 28, 28), 1), ((40_000, 40), -1), ((900, 3001), 1),
     ((3000, 700), 0)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_threads(dtype: str, shape: tuple[int, ...], axis: int) -> None:
    inputs = Inputs(shape, DTYPES[dtype], axis)
    want = {}
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        for name in (
            "eval",
            "train",
            "backward",
            "backward relu",
            "moments channels",
            "moments all",
            "moments first axis",
            "group_norm",
            "group_norm one",
            "group_norm masked",
            "instance_norm",
            "scale_shift residual",
            "scale_axis",
            "layer_norm",
            "layer_norm channels",
            "add_rms_norm",
            "rows backward",
            "rms_norm backward",
            "rows masked",
        ):
            if name == "layer_norm channels" and shape[axis] == 1:
                continue  # millions of rows of one element
            made = digest(OPERATIONS[name](inputs))
            assert want.setdefault(name, made) == made, (threads, name)


def test_runs_repeat() -> None:
    inputs = Inputs((8, 32, 56, 56), DTYPES["f32"])
    assert len({digest(bits.train(inputs) + bits.backward(inputs)) for _ in range(5)}) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_chooses_the_instruction_set(isa: str) -> None:
    """And bits.py, which compares machines, sees no difference in a sample of its rows."""
    show = f"""if True:
        import itertools, sys
        sys.path.insert(0, {str(Path(bits.__file__).parent)!r})
        import bits, normcpu._core as core
        print(core.isa())
        for row in itertools.islice(bits.rows(), 0, 400, 7):
            print(*row)
    """
    done = subprocess.run(
        [sys.executable, "-c", show],
        env=os.environ | {"NORMCPU_ISA": isa},
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    )
    used, *lines = done.stdout.splitlines()
    assert used == isa
    here = dict(itertools.islice(bits.rows(), 0, 400))
    assert lines
    assert dict(line.split() for line in lines).items() <= here.items()
