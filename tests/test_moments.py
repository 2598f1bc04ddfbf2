# SPDX-License-Identifier: Apache-2.0
"""moments and Moments: exact to a few ulp for any data, any axes and any split of it."""

from __future__ import annotations

import pickle
from fractions import Fraction
from typing import Any

import nist
import numpy as np
import pytest
import reference
from budgets import DTYPES, F64, MEAN_BUDGETS, assert_moments
from cases import VALUES, lay_out, layouts, shapes, values
from hypothesis import given
from hypothesis import strategies as st

import normcpu
from normcpu import Moments

Array = np.ndarray
F64_LOSES = ("subnormal", "extremes")  # the square of 1e-170 is no double


def kinds_for(dtype: str) -> list[str]:
    return sorted(kind for kind in VALUES if dtype != "f64" or kind not in F64_LOSES)


@st.composite
def data(draw: st.DrawFn, least: int = 1) -> Array:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(shapes(least))
    x = values(draw(st.sampled_from(kinds_for(dtype))), shape, DTYPES[dtype], draw(st.integers(0, 999)))
    return lay_out(x, draw(layouts(len(shape))))


# ---- moments ---------------------------------------------------------------------------------------------


@given(data(), st.data())
def test_any_axes(x: Array, draws: st.DataObject) -> None:
    axes = draws.draw(st.sets(st.integers(0, x.ndim - 1)).map(lambda s: tuple(sorted(s))))
    axis: Any = draws.draw(st.sampled_from([axes, tuple(a - x.ndim for a in axes), *axes[:1]])) if axes else ()
    keepdims = draws.draw(st.booleans())
    axis = None if len(axes) == x.ndim and draws.draw(st.booleans()) else axis
    got = normcpu.moments(x, axis, keepdims=keepdims)
    assert_moments(got.mean, got.var, reference.moments(x, axis, keepdims=keepdims), x.dtype)


@given(data(), st.data())
def test_channel_axis_and_ddof(x: Array, draws: st.DataObject) -> None:
    axis = draws.draw(st.integers(-x.ndim, x.ndim - 1))
    count = x.size // x.shape[axis]
    ddof = draws.draw(st.integers(0, min(2, count - 1)))
    got = normcpu.moments(x, channel_axis=axis, ddof=ddof)
    assert_moments(got.mean, got.var, reference.moments(x, reference.other_axes(x, axis), ddof), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_values_of_many_blocks(dtype: str) -> None:
    for kind in kinds_for(dtype):
        for shape, axis in [
            ((3, 2, 5003), 1),
            ((2, 70_001), 0),
            ((91, 3, 7, 7), 1),
            ((1, 3, 90, 101), 1),
            ((2100, 37), 1),
            ((300, 7, 3), 2),
            ((1031, 1), 1),
        ]:
            x = values(kind, shape, DTYPES[dtype], 1)
            got = normcpu.moments(x, channel_axis=axis)
            assert_moments(
                got.mean, got.var, reference.moments(x, reference.other_axes(x, axis)), x.dtype, f"moments {kind}"
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_outliers_anywhere(dtype: str) -> None:
    """A million sigma (what f16 can hold) in the first, last and middle place of a block, a row, a chunk."""
    x = values("random", (2, 20_000), DTYPES[dtype])
    for place in (0, 1, 15, 16, 63, 64, 255, 256, 4095, 4096, 10_000, 16_383, 19_999):
        y = x.copy()
        y[:, place] = 6e4 if dtype == "f16" else 1e6
        got = normcpu.moments(y, 1)
        assert_moments(got.mean, got.var, reference.moments(y, 1), y.dtype, "moments outlier")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("count", [5, 33, 100, 512])
def test_every_one_of_many_channels(dtype: str, count: int) -> None:
    """The worst of 6000: roundings that happen to add up, along rows and along columns."""
    x = values("random", (count, 6000), DTYPES[dtype], count)
    want = reference.moments(x, 0)
    for axis, view in ((0, x), (1, x.T.copy())):
        got = normcpu.moments(view, axis)
        assert_moments(got.mean, got.var, want, x.dtype, "moments of many channels")


def test_drifting_means() -> None:
    """No start value is near: every block lies elsewhere."""
    for dtype in (np.float32, np.float64):
        for steepness in (1e-3, 1.0, 1e3):
            x = (np.arange(100_000) * steepness + np.random.default_rng(0).standard_normal(100_000)).astype(dtype)
            for y in (
                x,
                x[::-1],
                np.stack([x, -x], 1),
                np.sort(np.random.default_rng(1).standard_cauchy(100_000)).astype(dtype),
            ):
                got = normcpu.moments(y, 0)
                assert_moments(got.mean, got.var, reference.moments(y, 0), y.dtype, "moments drift")


def test_out_and_few_values() -> None:
    x = values("random", (3, 4), F64)
    out = np.empty(3), np.empty(3)
    got = normcpu.moments(x, 1, out=out)
    assert got.mean is out[0]
    assert got.var is out[1]
    assert_moments(*out, reference.moments(x, 1), F64)
    assert np.isnan(normcpu.moments(x[:, :1], 1, ddof=1).var).all()
    empty = normcpu.moments(x[:, :0], 1)
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.var).all()
    assert normcpu.moments(np.array(3.5, np.float32)) == (3.5, 0.0)
    assert normcpu.moments(np.float32([3.5])) == (3.5, 0.0)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_values_stay_in_their_channel(dtype: str, poison: float) -> None:
    for shape, axis in [((5, 3000), 0), ((3000, 5), 1), ((2, 5, 9000), 1)]:
        x = values("random", shape, DTYPES[dtype])
        clean = normcpu.moments(x, channel_axis=axis)
        np.moveaxis(x, axis, 0)[3].flat[1234] = poison
        dirty = normcpu.moments(x, channel_axis=axis)
        for a, b in zip(clean, dirty, strict=True):
            assert np.array_equal(np.delete(a, 3), np.delete(b, 3))
            assert not np.isfinite(b[3])


# ---- Moments ---------------------------------------------------------------------------------------------


@given(data(), st.data())
def test_any_split(x: Array, draws: st.DataObject) -> None:
    """Cut along any axis but the channels', into updates of several accumulators, merged in any order."""
    channel_axis = draws.draw(st.integers(0, x.ndim - 1))
    along = draws.draw(st.sampled_from([a for a in range(x.ndim) if a != channel_axis]))
    cuts = sorted(draws.draw(st.lists(st.integers(0, x.shape[along]), max_size=6)))
    parts = np.split(x, cuts, along)
    owners = draws.draw(st.lists(st.integers(0, 2), min_size=len(parts), max_size=len(parts)))
    order = draws.draw(st.permutations(range(3)))

    def accumulate() -> Moments:
        stores = [Moments(channel_axis) for _ in range(3)]
        for part, owner in zip(parts, owners, strict=True):
            stores[owner].update(part)
        total = stores[order[0]]
        return total.merge(stores[order[1]]).merge(stores[order[2]])

    total = accumulate()
    assert total.count == x.size // x.shape[channel_axis]
    want = reference.moments(x, reference.other_axes(x, channel_axis))
    assert_moments(total.mean, total.var(), want, x.dtype, "Moments")
    again = pickle.loads(pickle.dumps(accumulate()))
    assert again == total
    assert again.mean.tobytes() == total.mean.tobytes()
    assert again.var(1).tobytes() == total.var(1).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_streams_of_small_batches(dtype: str, size: int) -> None:
    """Thousands of merges lose nothing: f64's budget is 4 ulp however many there are."""
    for kind in kinds_for(dtype):
        x = values(kind, (min(10_000, 6000 * size), 2), DTYPES[dtype], 2)
        seen = Moments()
        for start in range(0, len(x), size):
            seen.update(x[start : start + size])
        assert_moments(seen.mean, seen.var(), reference.moments(x, 0), x.dtype, f"Moments stream {kind}")


def test_state_goes_on_where_it_stopped() -> None:
    x = values("mean 1e5", (64, 3, 50), F64)
    whole, first = Moments(), Moments()
    for part in np.split(x, 8):
        whole.update(part)
    for part in np.split(x, 8)[:3]:
        first.update(part)
    first = Moments.from_state(first.state_dict())
    for part in np.split(x, 8)[3:]:
        first.update(part)
    assert first == whole


# ---- Large -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e7])
def test_a_hundred_million_elements(mean: float) -> None:
    """One channel of 1e8: sums of exact integers are the reference, and 400 MB the data."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-1000, 1000, 10**8, dtype=np.int16)
    unit = 2.0**-9 if mean < 1e6 else 1.0  # so that mean + step * unit is a float32 exactly
    x = (steps * np.float32(unit) + np.float32(mean)).reshape(1, 1, -1)
    first = int(steps.sum(dtype=np.int64))
    squares = sum(int((part.astype(np.int64) ** 2).sum()) for part in np.array_split(steps, 100))
    count = steps.size
    exact_mean = Fraction(mean) + Fraction(first, count) * Fraction(unit)
    exact_var = (Fraction(squares, count) - Fraction(first, count) ** 2) * Fraction(unit) ** 2
    want = tuple(np.array(np.longdouble(v.numerator) / np.longdouble(v.denominator)) for v in (exact_mean, exact_var))
    got = normcpu.moments(x)
    assert_moments(got.mean, got.var, want, x.dtype, "moments 1e8")
    out = normcpu.batch_norm(x, None, None, training=True, return_stats=True, out=x)
    assert_moments(out.mean[0], out.var[0], want, x.dtype, "moments 1e8")
    z = (steps[::100_003] * np.longdouble(unit) + mean - want[0]) / np.sqrt(want[1] + np.longdouble(1e-5))
    assert np.abs(x[0, 0, ::100_003] - z).max() < 2.0**-20


# ---- NIST ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nist.SETS)
def test_nist(name: str) -> None:
    """At least 15 digits of mean and standard deviation by every road: whole, split, merged, strided, as a layer."""
    x = np.array(nist.SETS[name])
    mean, m2 = nist.exact(x)
    n = len(x)

    def check(what: str, got_mean: Any, got_var: Any, ddof: int) -> None:
        assert nist.correct_digits(float(np.squeeze(got_mean)), mean) >= 15, what
        assert nist.correct_digits(float(np.squeeze(got_var)), m2 / (n - ddof)) >= 15, what
        assert nist.correct_digits(float(np.sqrt(np.squeeze(got_var))), nist.root(m2 / (n - ddof))) >= 15, what

    check("moments", *normcpu.moments(x, ddof=1), 1)
    check("rows", *(m[0] for m in normcpu.moments(np.stack([x, -x, x], 1), 0)), 0)
    check("reversed", *normcpu.moments(x[::-1]), 0)
    out = normcpu.batch_norm(x.reshape(1, 1, n), None, None, training=True, return_stats=True)
    check("batch_norm", out.mean, out.var, 0)
    for size in (1, 2, 7, 100):
        parts = [Moments(1).update(x[i : i + size].reshape(1, 1, -1)) for i in range(0, n, size)]
        total = Moments(1)
        for part in parts:
            total.merge(part)
        check(f"split by {size}", total.mean, total.var(1), 1)


def test_nist_in_float32() -> None:
    """Exact in float32 too, where the data is: digits, and 10000001, 10000003, 10000002."""
    for name in ("PiDigits", "NumAcc1"):
        x = np.array(nist.SETS[name], np.float32)
        mean, m2 = nist.exact(x)
        got = normcpu.moments(x, ddof=1)
        assert nist.correct_digits(float(got.mean), mean) >= 15
        assert nist.correct_digits(float(got.var), m2 / (len(x) - 1)) >= 6.5
        assert MEAN_BUDGETS[0] == 2.0**-22
