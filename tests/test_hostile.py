# SPDX-License-Identifier: Apache-2.0
"""The gradients of rows, groups and instances on what breaks naive formulas, in every width, within budgets.py.

The forward passes meet the same lists in test_rows.py and test_group_norm.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from bits import digest
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, column
from cases import VALUES, values
from test_rows import WIDTHS

import normcpu

Array = np.ndarray
# (n, c, ...), the channel axis and groups: squares of 7, one channel, one element, both views, many blocks.
GROUPED = [
    ((3, 6, 7, 7), 1, 3), ((3, 6, 7, 7), 1, 6), ((2, 1, 7, 7), 1, 1), ((3, 1), 1, 1), ((2, 4, 1), 1, 2),
    ((2, 7, 7, 8), 3, 4), ((2, 50, 3), -1, 3), ((1, 2, 4097), 1, 2), ((1, 4097, 4), 2, 1),
]  # fmt: skip


def fitting(kind: str, dtype: str) -> str:
    """Squares of 1e-150 are no doubles."""
    return "1e30" if dtype == "f64" and kind in ("subnormal", "extremes") else kind


def check(got: Any, want: Any, what: str, names: tuple[str, ...] = ("dx", "dweight", "dbias")) -> None:
    k = column(got.dx.dtype)
    for name in names:
        budget = BUDGETS[f"{'rows' if what.startswith('rows') else 'backward'} {name}"][k]
        assert_close(getattr(got, name), getattr(want, name), getattr(want, f"{name}_size"), budget, f"{what} {name}")


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_width(dtype: str, kind: str) -> None:
    kind, real = fitting(kind, dtype), F64 if dtype == "f64" else F32
    for width in WIDTHS[:: 1 if dtype == "f32" else 11]:
        x, dy = values(kind, (3, width), DTYPES[dtype], width), values("random", (3, width), DTYPES[dtype], 1)
        weight = np.random.default_rng(3).normal(1, 2, width).astype(real)
        stats = normcpu.layer_norm(x, width, return_stats=True)
        got = normcpu.layer_norm_backward(dy, x, stats.mean, stats.var, width, weight)
        check(got, reference.row_norm_backward(dy, x, (1,), stats.mean, stats.var, weight), f"rows {kind}")
        var = normcpu.rms_norm(x, width, eps=1e-5, return_stats=True).var
        got = normcpu.rms_norm_backward(dy, x, var, width, weight, 1e-5)
        want = reference.row_norm_backward(dy, x, (1,), None, var, weight, rms=True)
        check(got, want, f"rows rms {kind}", ("dx", "dweight"))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_groups(dtype: str, kind: str) -> None:
    kind, real = fitting(kind, dtype), F64 if dtype == "f64" else F32
    widths = [((2, 2, width), 1, 2) for width in WIDTHS[:-1]] if dtype == "f32" else []
    for shape, axis, groups in [*GROUPED, *widths]:
        x, dy = values(kind, shape, DTYPES[dtype], 1), values("random", shape, DTYPES[dtype], 2)
        weight = np.linspace(-2, 2, shape[axis], dtype=real)
        stats = normcpu.group_norm(x, groups, channel_axis=axis, return_stats=True)
        given = dy, x, stats.mean, stats.var, groups, weight
        got = normcpu.group_norm_backward(*given, channel_axis=axis)
        check(got, reference.group_norm_backward(*given, channel_axis=axis), f"group backward {kind}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_in_its_row_and_group(value: float) -> None:
    x, dy = values("random", (6, 8, 40), F32), values("random", (6, 8, 40), F32, 1)
    rows = normcpu.layer_norm(x, 40, return_stats=True)
    groups = normcpu.group_norm(x, 4, return_stats=True)

    def gradients(dy: Array, x: Array) -> tuple[Array, Array, Array]:
        return (
            normcpu.layer_norm_backward(dy, x, rows.mean, rows.var, 40).dx,
            normcpu.rms_norm_backward(dy, x, rows.var, 40).dx,
            normcpu.group_norm_backward(dy, x, groups.mean, groups.var, 4).dx,
        )

    clean = gradients(dy, x)
    for spoiled in range(2):
        given = [dy.copy(), x.copy()]
        given[spoiled][2, 3, 4] = value
        for made, before, width in zip(gradients(*given), clean, (1, 1, 2), strict=True):
            touched = np.zeros(x.shape, bool)
            touched[2, 3 // width * width : 3 // width * width + width] = True
            assert digest((made[~touched],)) == digest((before[~touched],))
            assert not np.isfinite(made[touched]).all()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("axis", [1, -1])
def test_batches_of_subnormals(axis: int, dtype: str) -> None:
    """Products below float's range keep their digits: dweight is them by a small sigma."""
    x, dy = values("subnormal", (40, 3, 33), DTYPES[dtype], 1), values("random", (40, 3, 33), DTYPES[dtype], 2)
    stats = normcpu.batch_norm(x, None, None, training=True, channel_axis=axis, return_stats=True)
    got = normcpu.batch_norm_backward(dy, x, stats.mean, stats.var, channel_axis=axis)
    want = reference.batch_norm_backward(dy, x, stats.mean, stats.var, channel_axis=axis)
    check(got, want, "backward subnormal")
