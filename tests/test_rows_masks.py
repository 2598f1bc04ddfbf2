# SPDX-License-Identifier: Apache-2.0
"""The two masks of layer_norm and rms_norm: elements that the statistics are taken of, and where relu passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from bits import digest
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, column
from cases import values
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_batch_norm import SLOPE
from test_rows import AWKWARD, Case

import normcpu
from normcpu import LayerNorm, RMSNorm, _core

Array = np.ndarray
MODERATE = ["random", "mean 1e3", "mean 1e5", "mean 1e7", "outlier first", "integers"]


def draw_mask(case: Case, data: st.DataObject) -> Array | None:
    """Of some elements, of some positions (1 along other axes), or none; every row keeps one."""
    rng, shape = np.random.default_rng(case.seed), case.x.shape
    if data.draw(st.integers(0, 3)) == 0:
        return None
    narrow = [n if data.draw(st.booleans()) or axis in case.axes[:1] else 1 for axis, n in enumerate(shape)]
    mask = rng.random(narrow) < data.draw(st.sampled_from([0.2, 0.7, 1.0]))
    mask[tuple(slice(0, 1) if axis in case.axes else slice(None) for axis in range(len(shape)))] = True
    return mask


@settings(max_examples=100)
@given(st.data(), st.sampled_from([None, "relu", "leaky_relu"]))
def test_forward(data: st.DataObject, activation: str | None) -> None:
    case = Case(data, AWKWARD)
    mask = draw_mask(case, data)
    residual = case.other(data, 1) if data.draw(st.booleans()) else None
    after = {"activation": activation, "negative_slope": SLOPE, "residual": residual, "mask": mask}
    with np.errstate(all="ignore"):
        got = case.norm(case.x, return_stats=True, return_mask=activation == "relu", **after)
    want = reference.row_norm(case.x, case.axes, *case.wide, **case.spec, **after)
    kept = want.size < (2.0**127 if activation == "leaky_relu" and case.dtype != F64 else np.inf)
    budget = BUDGETS[case.kind][column(case.dtype)]
    assert_close(got.y[kept], want.y[kept], want.size[kept], budget, f"{case.kind} masked", activation=activation)
    np.testing.assert_allclose(got.var, want.var.astype(float), rtol=1e-15 if case.dtype == F64 else 1e-6)
    if activation == "relu" and case.dtype in (F32, F64):  # what rounds to zero in 16 bits has passed
        assert np.array_equal(unpacked(got.mask, case), got.y > 0)


def unpacked(bits: Array, case: Case) -> Array:
    """Row by row, as bools like x."""
    outer = [axis for axis in range(case.x.ndim) if axis not in case.axes]
    shape = [case.x.shape[axis] for axis in (*outer, *case.axes)]
    width = int(np.prod(shape[len(outer) :]))
    assert bits.shape == (case.x.size // width, -(-width // 8))
    flags = np.unpackbits(bits, axis=1, count=width, bitorder="little").astype(bool)
    assert np.array_equal(np.packbits(flags, axis=1, bitorder="little"), bits)  # zeros at the end
    return flags.reshape(shape).transpose(np.argsort((*outer, *case.axes)))


@settings(max_examples=150)
@given(st.data(), st.sampled_from([None, "y", "mask"]))
def test_backward(data: st.DataObject, source: str | None) -> None:
    case = Case(data, MODERATE)
    mask, k = draw_mask(case, data), column(case.dtype)
    dy, residual = case.other(data, 2), case.other(data, 1) if data.draw(st.booleans()) else None
    dsum = case.other(data, 3) if data.draw(st.booleans()) else None
    after: dict[str, Any] = {"activation": "relu" if source else None, "residual": residual, "mask": mask}
    made = case.norm(case.x, return_stats=True, return_mask=source == "mask", **after)
    passed: Any = True
    if source:
        passed = ~(np.asarray(made.y, float) <= 0)
        if source == "mask":  # as in test_backward.py
            want = reference.row_norm(case.x, case.axes, *case.wide, **case.spec, **after)
            assume(np.array_equal(passed, want.before > 0))
    undone = {"activation": after["activation"], "statistics_mask": mask, "dsum": dsum, "residual": True}
    undone |= {"y": made.y} if source == "y" else {"mask": made.mask} if source else {}
    got = case.backward(dy, case.x, made.mean, made.var, **undone)
    spec = case.spec | {"dsum": dsum, "mask": mask, "passed": passed}
    want = reference.row_norm_backward(dy, case.x, case.axes, made.mean, made.var, case.wide[0], **spec)
    for name in ("dx", "dweight", *(() if case.rms else ("dbias",))):
        size, budget = getattr(want, f"{name}_size"), BUDGETS[f"rows {name}"][k]
        assert_close(getattr(got, name), getattr(want, name), size, budget, f"rows {name} masked")
    assert np.array_equal(got.dresidual, np.where(passed, dy, 0))
    out = data.draw(st.sampled_from([a for a in (dy, dsum) if a is not None]))
    again = case.backward(dy, case.x, made.mean, made.var, **undone, out=out)
    assert again.dx is out
    for one, other in zip(got, again, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 64, 130, 4095, 4097, 9001])
def test_masked_elements_are_never_looked_at(dtype: str, width: int) -> None:
    """Whatever stands there: the statistics are those of the others alone, in the same bits."""
    x = values("mean 1e3", (5, width), DTYPES[dtype], width)
    mask = np.random.default_rng(width).random(x.shape) < 0.6
    mask[:, 0] = True
    spoiled = np.where(mask, x, x.dtype.type(np.nan))
    for norm in (normcpu.layer_norm, normcpu.rms_norm):
        got = norm(spoiled, width, mask=mask, return_stats=True)
        assert np.array_equal(np.isnan(got.y), ~mask)
        for i in range(len(x)):
            alone = norm(x[i][mask[i]], int(mask[i].sum()), mask=np.ones(mask[i].sum(), bool), return_stats=True)
            assert alone.var[0] == got.var[i, 0]
            assert np.array_equal(alone.y, got.y[i][mask[i]])
            assert norm(x[i], width, mask=mask[i], return_stats=True).var[0] == got.var[i, 0]


def test_a_constant_row_is_exactly_beta_and_positions_broadcast() -> None:
    x = np.full((2, 3, 5), 1 / 3, np.float32)
    x[:, 2] = 99  # padding
    mask = np.array([True, True, False])[None, :, None]
    y = normcpu.layer_norm(x, (3, 5), np.ones((3, 5)), np.full((3, 5), 0.7), mask=mask)
    assert np.array_equal(y[:, :2], np.full((2, 2, 5), np.float32(0.7)))
    whole = np.broadcast_to(mask, x.shape).copy()
    assert np.array_equal(y, normcpu.layer_norm(x, (3, 5), np.ones((3, 5)), np.full((3, 5), 0.7), mask=whole))


@pytest.mark.parametrize("rms", [False, True])
def test_a_row_of_which_no_element_counts(rms: bool) -> None:
    """What the C library makes of it; layer_norm refuses such a mask."""
    x, valid = values("random", (3, 40), F32), np.repeat(np.uint8([1, 0, 1]), 40)
    mean, var, y = np.full(3, 7.0), np.full(3, 7.0), np.empty_like(x)
    _core.layer_norm(
        x, b"\0\1", rms, None, None, False, 1e-5, valid, None, None, 0, 0.0, None, None, y, mean, var, 1.0, 0, None
    )
    assert mean[1] == 0
    assert np.isnan(var[1])
    norm = normcpu.rms_norm if rms else normcpu.layer_norm
    assert np.array_equal(y[::2], norm(x, 40, eps=1e-5, mask=np.ones((1, 1), bool))[::2])


def test_bytes_that_numpy_takes_for_true_are_true() -> None:
    """Views of other dtypes have any: 2 counts once, and is no other bit than 1."""
    flags = np.random.default_rng(0).random((4, 6)) < 0.5
    flags[:, 0] = True
    odd = (flags * np.uint8(2)).view(bool)
    x, dy = values("random", (4, 3, 6), F32), values("random", (4, 3, 6), F32, 1)
    rows = np.ascontiguousarray(x[:, 0])
    zeros, ones = np.zeros((4, 1)), np.ones((4, 1))
    running = np.ones((3, 3), np.float32)
    for call in (
        lambda mask: normcpu.layer_norm(rows, 6, mask=mask, return_stats=True)[2:4],
        lambda mask: normcpu.layer_norm_backward(rows, rows, zeros, ones, 6, statistics_mask=mask)[:1],
        lambda mask: normcpu.group_norm(x, 3, mask=mask, return_stats=True)[:3],
        lambda mask: normcpu.group_norm_backward(dy, x, zeros, ones, 1, statistics_mask=mask)[:3],
        lambda mask: normcpu.batch_norm(x, *running[:2].copy(), training=True, mask=mask),
        lambda mask: normcpu.instance_norm(x, *running[:2].copy(), biased=True, mask=mask, return_stats=True)[:3],
    ):
        assert digest(call(flags)) == digest(call(odd))


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_layers(kind: Any) -> None:
    layer = kind(6, activation="relu")
    x, dy, residual = (values("random", (4, 5, 6), F32, seed) for seed in range(3))
    mask = np.random.default_rng(0).random(x.shape) < 0.7
    mask[..., 0] = True
    norm = normcpu.layer_norm if kind is LayerNorm else normcpu.rms_norm
    y = layer(x, residual=residual, mask=mask)
    made = norm(x, 6, layer.weight, activation="relu", residual=residual, mask=mask, return_stats=True)
    assert np.array_equal(y, made.y)
    dx, residual_grad = layer.backward(dy), layer.residual_grad
    undone = {"activation": "relu", "y": made.y, "statistics_mask": mask, "residual": True}
    if kind is LayerNorm:
        want = normcpu.layer_norm_backward(dy, x, made.mean, made.var, 6, layer.weight, **undone)
    else:
        want = normcpu.rms_norm_backward(dy, x, made.var, 6, layer.weight, **undone)
    assert digest((dx, residual_grad)) == digest((want.dx, want.dresidual))
    assert np.array_equal(layer.weight_grad, want.dweight)
    assert np.array_equal(layer.eval()(x, residual=residual, mask=mask), y)
    y, total = layer.train().add(x, residual, mask=mask)
    assert np.array_equal(y, norm(total, 6, layer.weight, activation="relu", mask=mask))
    layer.backward(dy)
    assert layer.residual_grad is None
    assert repr(layer).endswith(", activation='relu')")
    smooth = kind(6, activation="silu")
    smooth(x)
    with pytest.raises(ValueError, match="activation of the backward pass must be None or 'relu', got 'silu'"):
        smooth.backward(dy)
