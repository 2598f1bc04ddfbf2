# SPDX-License-Identifier: Apache-2.0
"""group_norm and instance_norm, with and without a mask of positions, against reference.py, within budgets.py."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from bits import digest
from budgets import BUDGETS, DTYPES, F32, F64, assert_close, assert_moments, column
from cases import VALUES, Batch, batches, lay_out, layouts, values
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_batch_norm import ACTIVATIONS, activation_for, check_forward

import normcpu
from normcpu import _core

Array = np.ndarray
TRAINABLE = [kind for kind in VALUES if kind != "extremes"]  # of f64: the square of 1e-150 is no double
MODERATE = ["random", "mean 1e3", "mean 1e5", "mean 1e7", "outlier first", "integers"]


class Case(NamedTuple):
    b: Batch
    axis: int
    groups: int
    mask: Array | None


@st.composite
def cases(draw: st.DrawFn, kinds: Any = TRAINABLE) -> Case:
    b = draw(batches(least=1, kinds=kinds))
    axis = b.channel_axis % b.x.ndim
    assume(axis)
    c = b.x.shape[axis]
    groups = draw(st.sampled_from([g for g in (1, 2, 3, c // 2, c) if g and c % g == 0]))
    rng, shape = np.random.default_rng(b.seed), b.x.shape[:axis] + b.x.shape[axis + 1 :]
    masks: list[Array | None] = [None, None]
    if len(shape) > 1:
        masks += [rng.random(shape) < 0.7, np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))]
    mask = draw(st.sampled_from(masks))
    if mask is not None:
        mask.reshape(len(mask), -1)[:, 0] = True
    return Case(b, b.channel_axis, groups, mask)


def check(c: Case, activation: str | None = None, what: str = "group") -> normcpu.GroupNormResult:
    b = c.b
    after = {"activation": activation, "residual": b.residual, "channel_axis": c.axis, "mask": c.mask}
    with np.errstate(all="ignore"):
        out = normcpu.group_norm(b.x, c.groups, b.weight, b.bias, b.eps, return_stats=True, **after)
    want = reference.group_norm(b.x, c.groups, b.weight, b.bias, b.eps, **after)
    assert out.y.dtype == b.x.dtype
    assert_moments(out.mean, out.var, (want.mean, want.var), b.x.dtype, f"{what} moments")
    check_forward(out.y, want, "train", activation, f"{what} train")
    return out


@settings(max_examples=100)
@given(cases(), st.sampled_from(ACTIVATIONS))
def test_forward(c: Case, activation: str | None) -> None:
    check(c, activation_for(c.b.x.dtype, activation))


SHAPES = [
    ((2, 4, 5003), 1, 2), ((67, 6, 7, 7), 1, 3), ((1, 2, 70_001), 1, 1), ((3, 37, 900), 2, 4), ((3, 5, 300), -1, 30),
    ((4, 9, 9, 24), 3, 8), ((2, 700, 33), -1, 1), ((1, 96, 40), 1, 96), ((1, 4097, 130), 2, 1), ((3, 1, 7, 7), 1, 1),
    ((3, 1), 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_values(dtype: str, kind: str) -> None:
    """Shapes of more than one block, chunk, unit and level of the tree, in both views."""
    if dtype == "f64" and kind in ("subnormal", "extremes"):
        kind = "1e30"  # see TRAINABLE
    real = F64 if dtype == "f64" else F32
    for shape, axis, groups in SHAPES:
        c = shape[axis]
        weight, bias = np.linspace(-2, 2, c, dtype=real), np.linspace(3, -1, c, dtype=real)
        x = values(kind, shape, DTYPES[dtype])
        b = Batch(x, axis, weight, bias, weight, bias, None, 1e-5, 0)
        check(Case(b, axis, groups, None), what=f"group {kind}")


@pytest.mark.parametrize("width", [*range(1, 131), 4095, 4096, 4097])
def test_widths(width: int) -> None:
    views = [((2, 2, width), 1, 2), ((2, 2, width), 1, 1), ((2, 3, width), 2, width), ((2, width), 1, 1)]
    for shape, axis, groups in views:
        if np.prod(shape[1:]) == groups:
            continue
        x = values("mean 1e3", shape, F32)
        b = Batch(x, axis, *[None] * 5, 1e-5, 0)
        check(Case(b, axis, groups, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_constant_group_is_exactly_beta(dtype: str, groups: int) -> None:
    real = F64 if dtype == "f64" else F32
    beta = np.linspace(-1.7, 2.9, 8).astype(real)
    for constant in (0.0, -0.1, 1 / 3, 6e4, 1e-40, -1e-45):
        for shape in [(2, 8, 1), (2, 8, 777), (1, 8, 3, 5)]:
            x = np.full(shape, constant, np.float32 if dtype != "f64" else float).astype(DTYPES[dtype])
            want = np.broadcast_to(beta.astype(x.dtype).reshape(8, *[1] * (len(shape) - 2)), shape)
            for axis in (1, -1):
                y = normcpu.group_norm(
                    np.moveaxis(x, 1, axis).copy(), groups, np.full(8, 1.3, real), beta, channel_axis=axis
                )
                assert np.array_equal(np.moveaxis(y, axis, 1), want)


def test_nan_stays_in_its_group() -> None:
    x = values("random", (3, 8, 50), F32)
    clean = normcpu.group_norm(x, 4)
    x[1, 3, 7], x[2, 0, 0] = np.nan, np.inf
    for axis in (1, -1):
        y = np.moveaxis(normcpu.group_norm(np.moveaxis(x, 1, axis).copy(), 4, channel_axis=axis), axis, 1)
        bad = np.isnan(y).reshape(3, 4, 100)
        assert bad.all(2).nonzero()[0].tolist() == [1, 2]
        assert bad.any(2).sum() == 2
    assert np.array_equal(normcpu.group_norm(x, 4)[0], clean[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(40, 12, 7, 7), (6, 12, 1), (5, 96, 4100), (9, 320, 33)])
def test_batch_invariance(shape: tuple[int, ...], last: bool, dtype: str) -> None:
    """A sample has the same bits alone, among others and wherever it stands, on any number of threads."""
    x, dy = values("mean 1e3", shape, DTYPES[dtype]), values("random", shape, DTYPES[dtype], 1)
    axis = -1 if last else 1
    if last:
        x, dy = (np.moveaxis(a, 1, -1).copy() for a in (x, dy))
    for groups in (1, 4, shape[1]):
        seen = set()
        for part in (slice(None), slice(2, 3), slice(1, 4), slice(2, 0, -1)):
            for threads in (1, 2, 3):
                _core.set_num_threads(threads)
                out = normcpu.group_norm(x[part], groups, channel_axis=axis, return_stats=True)
                dx = normcpu.group_norm_backward(dy[part], x[part], out.mean, out.var, groups, channel_axis=axis).dx
                i = range(len(x))[part].index(2)
                seen.add(digest((out.y[i], out.mean[i], out.var[i], dx[i])))
        assert len(seen) == 1


@settings(max_examples=100)
@given(cases(), st.data())
def test_strides_change_no_bit(c: Case, data: st.DataObject) -> None:
    """x, dy, residual and out of any layout, and out being x, against plain memory with the same view of a sample."""
    x, axis = c.b.x, c.axis % c.b.x.ndim
    last = _core.is_channels_last(x[0], axis - 1)
    order = [*(i for i in range(x.ndim) if i != axis), axis] if last else list(range(x.ndim))
    plain = x.transpose(order).copy().transpose(np.argsort(order))
    assume(_core.is_channels_last(plain[0], axis - 1) == last)
    dy = values("random", x.shape, x.dtype, 7)
    made = []
    for array, gradient in ((plain, dy), (x, lay_out(dy, data.draw(layouts(x.ndim))))):
        after = {"channel_axis": axis, "residual": c.b.residual, "activation": "relu"}
        out = lay_out(np.zeros_like(x), data.draw(layouts(x.ndim)))
        with np.errstate(all="ignore"):
            got = normcpu.group_norm(
                array, c.groups, c.b.weight, c.b.bias, mask=c.mask, out=out, return_stats=True, **after
            )
            assert got.y is out
            back = normcpu.group_norm_backward(
                gradient, array, got.mean, got.var, c.groups, c.b.weight, channel_axis=axis, statistics_mask=c.mask,
                activation="relu", y=out, residual=True,
            )  # fmt: skip
        made.append(digest((*got[:3], *back)))
    assert made[0] == made[1]
    with np.errstate(all="ignore"):
        normcpu.group_norm(x, c.groups, c.b.weight, c.b.bias, mask=c.mask, out=x, **after)
    assert digest((x,)) == digest((got.y,))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("shape", [(1, 64), (2, 8, 4), (3, 6, 5, 8), (40, 8, 4), (1, 66, 2)])
def test_plain_calls_take_a_shorter_way_to_the_same_bits(shape: tuple[int, ...], dtype: np.dtype) -> None:
    for axis in (1, -1) if len(shape) > 2 else (1,):
        x, c = values("mean 1e3", shape, dtype), shape[axis]
        weight, bias = np.random.default_rng(0).normal(size=(2, c)).astype(dtype)
        calls = [partial(normcpu.group_norm, num_groups=g) for g in (1, 2, c)]
        calls += [normcpu.instance_norm] if len(shape) > 2 else []
        calls = [partial(call, weight=weight, bias=bias, channel_axis=axis) for call in calls]
        for call in calls:
            want, apart, within = call(x, return_stats=True).y, np.empty_like(x), x.copy()
            assert call(x, out=apart) is apart
            assert call(within, out=within) is within
            assert call(x).tobytes() == want.tobytes() == apart.tobytes() == within.tobytes()


# ---- Backward --------------------------------------------------------------------------------------------


def check_backward(c: Case, dy: Array, out: Any, passed: Any, what: str, **more: Any) -> Any:
    b, k = c.b, column(c.b.x.dtype)
    got = normcpu.group_norm_backward(
        dy, b.x, out.mean, out.var, c.groups, b.weight, b.eps, channel_axis=c.axis, statistics_mask=c.mask, **more
    )
    want = reference.group_norm_backward(
        dy, b.x, out.mean, out.var, c.groups, b.weight, b.eps, channel_axis=c.axis, mask=c.mask, passed=passed
    )
    assert got.dweight.dtype == got.dbias.dtype == (F64 if b.x.dtype == F64 else F32)
    for name in ("dx", "dweight", "dbias"):
        size, budget = getattr(want, f"{name}_size"), BUDGETS[f"backward {name}"][k]
        assert_close(getattr(got, name), getattr(want, name), size, budget, f"{what} {name}")
    return got, want


@settings(max_examples=100)
@given(cases(MODERATE), st.sampled_from([None, "y", "mask"]), st.data())
def test_backward(c: Case, source: str | None, data: st.DataObject) -> None:
    b = c.b
    dy = lay_out(values("random", b.x.shape, b.x.dtype, b.seed + 2), data.draw(layouts(b.x.ndim)))
    activation = "relu" if source else None
    after = {"activation": activation, "residual": b.residual, "channel_axis": c.axis, "mask": c.mask}
    out = normcpu.group_norm(
        b.x, c.groups, b.weight, b.bias, b.eps, return_stats=True, return_mask=source == "mask", **after
    )
    passed, undone = True, {}
    if source:
        undone = {"y": out.y} if source == "y" else {"mask": out.mask}
        passed = ~(np.asarray(out.y, float) <= 0)
        if source == "mask":  # as in test_backward.py
            want = reference.group_norm(b.x, c.groups, b.weight, b.bias, b.eps, **after)
            assume(np.array_equal(passed, want.before > 0))
    residual = b.residual is not None
    got, want = check_backward(c, dy, out, passed, "group backward", activation=activation, residual=residual, **undone)
    if residual:
        assert_close(got.dresidual, want.dresidual, 0.0, 0.0, "group backward dresidual")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["random", "mean 1e5", "mean 1e7"])
def test_backward_of_many_blocks(dtype: str, kind: str) -> None:
    for shape, axis, groups in SHAPES:
        c, real = shape[axis], F64 if dtype == "f64" else F32
        x, weight = values(kind, shape, DTYPES[dtype], 1), np.linspace(-2, 2, c, dtype=real)
        b = Batch(x, axis, None, None, weight, None, None, 1e-5, 0)
        case = Case(b, axis, groups, None)
        out = normcpu.group_norm(b.x, groups, b.weight, channel_axis=axis, return_stats=True)
        check_backward(case, values("random", shape, DTYPES[dtype], 2), out, True, f"group backward {kind}")


# ---- Instances -------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(cases(MODERATE), st.booleans(), st.sampled_from([0.1, 0.0, 1.0]))
def test_running_statistics_average_over_the_samples(c: Case, biased: bool, momentum: float) -> None:
    b = c.b
    counts = np.full(len(b.x), b.x[0].size // b.x.shape[c.axis])
    assume(counts[0] > 1)
    if c.mask is not None:
        counts = c.mask.reshape(len(b.x), -1).sum(1)
    assume(biased or counts.min() > 1)
    mean, var = b.mean.copy(), b.var.copy()
    channels = b.x.shape[c.axis]
    out = normcpu.instance_norm(
        b.x, mean, var, b.weight, b.bias, True, momentum, b.eps, channel_axis=c.axis, mask=c.mask, biased=biased,
        return_stats=True,
    )  # fmt: skip
    want = reference.group_norm(b.x, channels, b.weight, b.bias, b.eps, channel_axis=c.axis, mask=c.mask)
    check_forward(out.y, want, "train", None, "instance")
    correction = 1 if biased else (counts / np.longdouble(counts - (not biased)))[:, None]
    for got, old, batch, name in ((mean, b.mean, want.mean, "mean"), (var, b.var, want.var * correction, "var")):
        average, m = batch.mean(0), np.longdouble(momentum)
        new, size = (1 - m) * old + m * average, np.abs(old) + momentum * np.abs(batch).mean(0) * 2
        error = momentum * np.sqrt(want.var).mean(0) * 2.0 ** (-50 if b.x.dtype == F64 else -22) * (name == "mean")
        assert_close(got, new, size, BUDGETS[f"running_{name}"][column(b.x.dtype)], f"instance {name}", error=error)


def test_given_statistics_are_evaluation() -> None:
    x = values("random", (2, 3, 5), F32)
    mean, var = np.float32([1, 2, 3]), np.float32([1, 2, 3])
    y = normcpu.instance_norm(x, mean, var, use_input_stats=False, activation="relu")
    assert np.array_equal(y, normcpu.batch_norm(x, mean, var, activation="relu"))


def test_a_skipped_update_changes_nothing() -> None:
    x = np.full((2, 3, 5), np.inf, np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    out = normcpu.instance_norm(x, mean, var, nonfinite="skip", return_stats=True)
    assert out.skipped
    with pytest.raises(FloatingPointError, match="nonfinite='raise'"):
        normcpu.instance_norm(x, mean, var, nonfinite="raise")
    assert mean.tolist() == [0, 0, 0]
    assert var.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0), (3, 0, 5), (0, 4)])
def test_nothing_at_all(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    groups = 2 if shape[1] else 1
    out = normcpu.group_norm(x, groups, return_stats=True)
    assert out.y.shape == shape
    assert np.isnan(out.var).all()
    back = normcpu.group_norm_backward(x, x, out.mean, out.var, groups)
    assert back.dx.shape == shape
    assert not back.dweight.any()


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("positions", [10, 10000])
def test_a_sample_without_a_position_that_counts(axis: int, positions: int) -> None:
    """What the C library makes of it; group_norm refuses such a mask."""
    shape = (3, 4, positions) if axis == 1 else (3, positions, 4)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    valid = np.repeat(np.array([1, 0, 1], np.uint8), positions)
    mean, var, y = np.full(6, 7.0), np.full(6, 7.0), np.empty_like(x)
    _core.group_norm(x, axis, 2, mean, var, valid, False, None, None, 1e-5, 0, 0.0, None, None, y)
    assert (mean[2:4] == 0).all()
    assert np.isnan(var[2:4]).all()
    whole = normcpu.group_norm(x, 2, channel_axis=axis, mask=np.ones((3, positions), bool))
    assert np.array_equal(y[::2], whole[::2])


def test_a_mask_of_an_empty_batch() -> None:
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    y = normcpu.instance_norm(np.zeros((0, 3, 4), np.float32), mean, var, mask=np.zeros((0, 4), bool))
    assert y.shape == (0, 3, 4)
    assert (var == 1).all()
