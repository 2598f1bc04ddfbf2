# SPDX-License-Identifier: Apache-2.0
"""batch_norm_backward against reference.py, within budgets.py."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, column
from cases import batches, lay_out, layouts, samples_per_channel, values
from hypothesis import assume, given
from hypothesis import strategies as st

import normcpu


@given(st.data())
def test_backward(data: st.DataObject) -> None:
    b = data.draw(batches(kinds=["random", "mean 1e3", "mean 1e5", "mean 1e7", "outlier first", "integers"]))
    dtype, axis, k = b.x.dtype, b.channel_axis, column(b.x.dtype)
    training, source = data.draw(st.booleans()), data.draw(st.sampled_from([None, "y", "mask"]))
    assume(samples_per_channel(b.x, axis) > 1 or not training)
    dy = lay_out(values("random", b.x.shape, dtype, b.seed + 2), data.draw(layouts(b.x.ndim)))
    mean, var = (np.asarray(m, float) for m in (b.mean, b.var))
    given_by, passed = {}, True
    after = {"channel_axis": axis, "residual": b.residual, "activation": "relu" if source else None}
    running = (None, None) if training else (b.mean, b.var)
    forward = normcpu.batch_norm(
        b.x, *running, b.weight, b.bias, training, eps=b.eps, return_stats=True, return_mask=source == "mask", **after
    )
    mean, var = forward.mean, forward.var
    if source:
        given_by = {"y": forward.y} if source == "y" else {"mask": forward.mask}
        passed = ~(np.asarray(forward.y, float) <= 0)
        if source == "mask":  # bits are of the value before rounding to the data's type: look at where they agree
            want = reference.batch_norm(b.x, mean, var, b.weight, b.bias, eps=b.eps, **after)
            assume(np.array_equal(passed, want.before > 0))
    got = normcpu.batch_norm_backward(
        dy,
        b.x,
        mean,
        var,
        b.weight,
        b.eps,
        training,
        channel_axis=axis,
        activation=after["activation"],
        residual=b.residual is not None,
        **given_by,
    )
    want = reference.batch_norm_backward(
        dy, b.x, mean, var, b.weight, b.eps, training, channel_axis=axis, passed=passed
    )
    kind = "backward dx" if training else "backward frozen dx"
    assert_close(got.dx, want.dx, want.dx_size, BUDGETS[kind][k], kind)
    assert got.dweight.dtype == got.dbias.dtype == (F64 if dtype == F64 else F32)
    assert_close(got.dweight, want.dweight, want.dweight_size, BUDGETS["backward dweight"][k], "backward dweight")
    assert_close(got.dbias, want.dbias, want.dbias_size, BUDGETS["backward dbias"][k], "backward dbias")
    if b.residual is not None:
        assert_close(got.dresidual, want.dresidual, 0.0, 0.0, "backward dresidual")
    else:
        assert got.dresidual is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 4, 5003), 1), ((67, 3, 7, 7), 1), ((1, 2, 70_001), 1), ((1500, 37), 1)]
)
@pytest.mark.parametrize("kind", ["random", "mean 1e5", "mean 1e7"])
def test_backward_of_many_blocks(dtype: str, shape: tuple[int, ...], axis: int, kind: str) -> None:
    x, dy = values(kind, shape, DTYPES[dtype], 1), values("random", shape, DTYPES[dtype], 2)
    mean, var = reference.moments(x, reference.other_axes(x, axis))
    mean, var, k = mean.astype(float), var.astype(float), column(DTYPES[dtype])
    got = normcpu.batch_norm_backward(dy, x, mean, var, channel_axis=axis)
    want = reference.batch_norm_backward(dy, x, mean, var, channel_axis=axis)
    for name in ("dx", "dweight", "dbias"):
        size = getattr(want, f"{name}_size")
        assert_close(
            getattr(got, name), getattr(want, name), size, BUDGETS[f"backward {name}"][k], f"backward {name} {kind}"
        )
