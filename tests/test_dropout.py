# SPDX-License-Identifier: Apache-2.0
"""dropout against its definition, bit for bit: any layout, dtype, number of threads and instruction set."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import lay_out, layouts, shapes
from dropout_reference import affine, dropped, kept, pack, philox4x32, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

import normcpu
from normcpu import _core

Array = np.ndarray
DTYPES = [np.dtype(d) for d in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
ISAS = [name for name in _core.isas_built() if _core.isa_supported(name)]
PS = [0.0, 0.1, 0.25, 0.5, 0.3, 0.9, 1 - 2.0**-53, 1e-9, 1.0]
ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)

# Random123's kat_vectors, https://github.com/DEShawResearch/random123: rounds, counter, key, words.
KNOWN = [
    (7, (0,) * 4, (0,) * 2, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (ONES,) * 4, (ONES,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, PI, (0xA4093822, 0x299F31D0), (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    (10, (0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def values(shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def same(a: Array, b: Array) -> bool:
    """Equal as numbers, a NaN equal to any other; both zeros are 0."""
    return (
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a.astype(float), b.astype(float), equal_nan=True)
    )


# ---- The random numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "counter", "key", "words"), KNOWN)
def test_known_answers(rounds: int, counter: Any, key: Any, words: Any) -> None:
    assert tuple(philox4x32(np.array([counter]), key, rounds)[0]) == words


@pytest.mark.parametrize("isa", ISAS)
def test_known_answer_in_the_mask(isa: str) -> None:
    """At p = 1/2 the first bit decides, so the mask is what Philox gives."""
    _core.use_isa(isa)
    mask = normcpu.dropout(np.ones(128, np.float32), 0.5, rng=0, return_mask=True).mask
    assert tuple(mask.view("<u4")) == KNOWN[0][3]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("p", PS)
def test_mask_is_the_definition(p: float, isa: str) -> None:
    _core.use_isa(isa)
    for count, seed in [(1, 0), (127, 1), (1025, 2**32), (4096, 2**64 - 1), (9000, 0x0123456789ABCDEF)]:
        mask = normcpu.dropout(np.ones(count, np.float32), p, rng=seed, return_mask=True).mask
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, pack(kept(count, p, seed))), (count, seed)


def test_rare_thresholds() -> None:
    """Probabilities whose bits are decided late, and those of a few bits."""
    for p in (2.0**-64, 2.0**-20, 1 / 3, 1 - 2.0**-20, 0.75, 5e-324, math.nextafter(1, 0)):
        mask = normcpu.dropout(np.ones(3000, np.float32), p, rng=9, return_mask=True).mask
        assert np.array_equal(mask, pack(kept(3000, p, 9))), p


def test_statistics() -> None:
    """Of fixed seeds, so never by chance: counts, runs, and bits of neighbours, channels and seeds are independent."""
    n, far = 2_000_000, 5.0  # standard deviations
    x = np.ones(n, np.float32)
    for p in (0.1, 0.5, 0.37):
        first, second = (unpack(normcpu.dropout(x, p, rng=seed, return_mask=True).mask, (n,)) for seed in (3, 4))
        q, sigma = 1 - p, math.sqrt(p * (1 - p) / n)
        assert abs(first.mean() - q) < far * sigma
        both = math.sqrt(q**2 * (1 - q**2) / n)
        for lag in (1, 2, 16, 32, 64, 127, 128, 1024, 4096):
            assert abs((first[lag:] & first[:-lag]).mean() - q**2) < 2 * far * both, lag
        assert abs((first & second).mean() - q**2) < far * both
        counts = np.bincount(first[: n // 8 * 8].reshape(-1, 8).sum(1), minlength=9)
        expected = np.array([math.comb(8, k) * q**k * p ** (8 - k) for k in range(9)]) * (n // 8)
        assert ((counts - expected) ** 2 / expected).sum() < 40  # chi-squared with 8 degrees: 1 in 300,000


# ---- What becomes of x -----------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, float, int, Any]:
    shape, dtype, seed = draw(shapes()), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16))
    x = lay_out(values(shape, dtype, seed), draw(layouts(len(shape))))
    return x, draw(st.one_of(st.sampled_from(PS), st.floats(0, 1))), seed, draw(layouts(len(shape)))


@given(problems(), st.booleans())
@settings(max_examples=150)
def test_any_array(problem: Any, alpha: bool) -> None:
    x, p, seed, layout = problem
    function = normcpu.alpha_dropout if alpha else normcpu.dropout
    y, mask = function(x, p, rng=seed, return_mask=True)
    flags = kept(x.size, p, seed).reshape(x.shape)
    assert np.array_equal(mask, pack(flags))
    want = dropped(x, flags, p, alpha)
    assert same(y, want)
    out = lay_out(np.zeros_like(x), layout)
    assert function(x, p, rng=seed, out=out) is out
    assert same(out, want)
    moved = lay_out(x, layout)
    function(moved, p, rng=seed, out=moved)
    assert same(moved, want)
    dx = normcpu.dropout_backward(x, mask, p, alpha=alpha, out=out)
    assert same(dx, backward(x, flags, p, alpha))


def backward(dy: Array, flags: Array, p: float, alpha: bool) -> Array:
    real: Any = np.float64 if dy.dtype == np.float64 else np.float32
    return np.where(flags, dy.astype(real) * real(affine(p, alpha)[0]), real(0)).astype(dy.dtype)


@pytest.mark.parametrize("function", [normcpu.dropout, normcpu.alpha_dropout])
def test_backward_is_the_derivative(function: Any) -> None:
    """y is linear in x, so a difference of any size will do."""
    x, step = values((50, 40), DTYPES[1]), values((50, 40), DTYPES[1], seed=1)
    y, mask = function(x, 0.3, rng=4, return_mask=True)
    difference = function(x + step, 0.3, rng=4) - y
    dx = normcpu.dropout_backward(step, mask, 0.3, alpha=function is normcpu.alpha_dropout)
    np.testing.assert_allclose(dx, difference, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_and_one_are_exact(dtype: np.dtype) -> None:
    x = np.array([0.0, -0.0, 1.5, -3, np.inf, -np.inf, np.nan, 65504], np.float32).astype(dtype)
    for function in (normcpu.dropout, normcpu.alpha_dropout):
        y, mask = function(x, 0.0, return_mask=True)
        assert y[:-2].tobytes() == x[:-2].tobytes()
        assert same(y, x)
        assert mask.tolist() == [255]
        assert function(x, 0.7, training=False)[:-2].tobytes() == x[:-2].tobytes()
        y, mask = function(x, 1.0, return_mask=True)
        assert y.tobytes() == bytes(x.nbytes)  # +0, and of NaN too
        assert mask.tolist() == [0]
        assert normcpu.dropout_backward(x, mask, 1.0).tobytes() == bytes(x.nbytes)


def test_dropped_infinities_are_zero() -> None:
    x = np.full(1000, np.nan, np.float32)
    y, mask = normcpu.dropout(x, 0.5, rng=0, return_mask=True)
    assert np.array_equal(np.isnan(y), unpack(mask, (1000,)))
    assert np.all(y[~unpack(mask, (1000,))] == 0)


def test_mean_is_kept() -> None:
    x = np.full(400_000, 3.0, np.float32)
    for p in (0.1, 0.5, 0.8):
        assert abs(normcpu.dropout(x, p, rng=1).mean(dtype=float) - 3) < 5 * 3 * math.sqrt(p / (1 - p) / x.size)


def test_alpha_keeps_mean_and_variance() -> None:
    rng = np.random.default_rng(0)
    y = normcpu.alpha_dropout(rng.standard_normal(1_000_000), 0.3, rng=rng)
    assert abs(y.mean()) < 5e-3
    assert abs(y.var() - 1) < 1e-2


# ---- Channels --------------------------------------------------------------------------------------------

CHANNELS = [
    (normcpu.dropout1d, 1, (3, 5, 7), 1, True), (normcpu.dropout1d, 1, (5, 7), 1, False),
    (normcpu.dropout1d, 1, (3, 7, 5), -1, True), (normcpu.dropout1d, 1, (7, 5), -1, False),
    (normcpu.dropout2d, 2, (4, 70, 9, 11), 1, True), (normcpu.dropout2d, 2, (4, 9, 11, 70), -1, True),
    (normcpu.dropout2d, 2, (2, 3, 65, 64), 1, True), (normcpu.dropout2d, 2, (2, 65, 64, 3), 3, True),
    (normcpu.dropout2d, 2, (4, 1300, 2), 1, True), (normcpu.dropout2d, 2, (5, 6, 1, 1), 1, True),
    (normcpu.dropout2d, 2, (3, 8, 4, 6), 2, True), (normcpu.dropout3d, 3, (2, 12, 3, 4, 5), 1, True),
    (normcpu.dropout3d, 3, (12, 3, 4, 5), 1, False), (normcpu.dropout3d, 3, (2, 8, 8, 8, 24), -1, True),
    (normcpu.dropout2d, 2, (0, 3, 2, 2), 1, True), (normcpu.dropout2d, 2, (2, 3, 0, 2), 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("function", "axes", "shape", "axis", "batched"), CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whole_channels(function: Any, axes: int, shape: Any, axis: int, batched: bool, dtype: np.dtype) -> None:
    plain = values(shape, dtype)
    place = axis % len(shape) if batched or axis < 0 else axis - 1
    n, c = (shape[0] if batched else 1), shape[place]
    flags = kept(n * c, 0.4, 6).reshape(n, c)
    spread = [n if batched and k == 0 else c if k == place else 1 for k in range(len(shape))]
    want = dropped(plain, flags.reshape(spread), 0.4)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(plain, place, -1)), -1, place)
    first = np.moveaxis(np.ascontiguousarray(np.moveaxis(plain, -1, batched)), batched, -1)
    for x in (plain, last, first, plain[..., ::-1][..., ::-1], np.asfortranarray(plain)):
        y, mask = function(x, 0.4, rng=6, channel_axis=axis, return_mask=True)
        assert np.array_equal(mask, pack(flags))
        assert same(y, want)
        dx = normcpu.dropout_backward(x, mask, 0.4, axes=axes, channel_axis=axis)
        assert same(dx, want)
    assert same(function(plain, 1.0, channel_axis=axis), np.zeros_like(plain))
    assert same(function(plain, 0.4, False, channel_axis=axis), plain)


# ---- Same bits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3_000_001,), (37, 41, 1009), (64, 64, 28, 28)])
def test_threads(shape: tuple[int, ...]) -> None:
    x, made = values(shape, DTYPES[0]), set()
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        y, mask = normcpu.dropout(x, 0.3, rng=8, return_mask=True)
        dx = normcpu.dropout_backward(x, mask, 0.3)
        whole = normcpu.dropout2d(x, 0.3, rng=8) if x.ndim > 2 else x
        made.add((y.tobytes(), mask.tobytes(), dx.tobytes(), whole.tobytes()))
    assert len(made) == 1


def test_large_arrays_are_written_past_the_caches() -> None:
    """Beyond the last cache, at every offset of y from a line's start."""
    n = 24_000_003
    x = values((n,), DTYPES[0])
    flags = unpack(normcpu.dropout(x, 0.25, rng=2, return_mask=True).mask, (n,))
    for offset in (0, 4, 60):
        raw = np.zeros(n * 4 + 128, np.uint8)
        start = -raw.ctypes.data % 64 + offset
        out = raw[start : start + 4 * n].view(np.float32)
        normcpu.dropout(x, 0.25, rng=2, out=out)
        assert np.array_equal(out, np.where(flags, x * np.float32(1 / 0.75), 0))
        assert not raw[:start].any()
        assert not raw[start + 4 * n :].any()


# ---- Seeds -----------------------------------------------------------------------------------------------


def test_seeds() -> None:
    x = np.ones(200, np.float32)
    assert np.array_equal(normcpu.dropout(x, rng=5), normcpu.dropout(x, rng=5))
    assert not np.array_equal(normcpu.dropout(x), normcpu.dropout(x))
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    first = normcpu.dropout(x, rng=rng)
    assert np.array_equal(first, normcpu.dropout(x, rng=int(again.integers(2**64, dtype=np.uint64))))
    assert not np.array_equal(first, normcpu.dropout(x, rng=rng))
    state = rng.bit_generator.state
    normcpu.dropout(x, training=False, rng=rng)
    assert rng.bit_generator.state == state  # evaluation draws nothing
