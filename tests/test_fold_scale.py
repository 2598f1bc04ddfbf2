# SPDX-License-Identifier: Apache-2.0
"""scale_axis: the product in double, rounded once, on any array, or a refusal that names the channel."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from budgets import BF16, DTYPES, F16, F32, F64, FORMATS
from cases import lay_out, layouts, shapes, values
from hypothesis import given
from hypothesis import strategies as st

from normcpu import _core
from normcpu.fold import FoldError, scale_axis

Array = np.ndarray


def along(factors: Array, axis: int, ndim: int) -> Array:
    return factors.reshape([-1 if k == axis % ndim else 1 for k in range(ndim)])


def signed_factors(count: int) -> Array:
    rng = np.random.default_rng(2)
    return rng.choice([-1, 1], count) * rng.uniform(0.5, 2, count)


def rounded(doubles: Array, dtype: np.dtype) -> Array:
    """Once, to nearest even: casts of double to 16 bits may go by way of float."""
    if dtype == F64:
        return doubles
    digits, least, _ = FORMATS[dtype]
    unit = np.ldexp(1.0, np.maximum(np.frexp(doubles)[1] - digits, least))
    return (np.rint(doubles / unit) * unit).astype(dtype)


@given(st.data())
def test_products_are_rounded_once(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind = data.draw(st.sampled_from(["random", "integers"]))
    array = lay_out(values(kind, shape, dtype, 1), data.draw(layouts(len(shape))))
    factors = signed_factors(shape[axis])
    want = rounded(np.asarray(array, F64) * along(factors, axis, len(shape)), dtype)
    before = array.copy()
    array.flags.writeable = False
    made = scale_axis(array, factors, axis)
    assert made.dtype == dtype
    assert np.array_equal(made, want)
    assert np.array_equal(array, before)
    out = lay_out(np.zeros_like(before), data.draw(layouts(len(shape))))
    assert scale_axis(array, factors, axis, out=out) is out
    assert np.array_equal(out, want)
    array.flags.writeable = True
    assert scale_axis(array, factors, axis, out=array) is array
    assert np.array_equal(array, want)


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (3, 5, 3, 3), (2, 70_000), (70_000, 2), (40, 5000), (5000, 40)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_views_boxes_and_threads(dtype: str, axis: int, shape: tuple[int, ...]) -> None:
    array = values("random", shape, DTYPES[dtype], 3)
    factors = signed_factors(shape[axis])
    want = rounded(np.asarray(array, F64) * along(factors, axis, len(shape)), DTYPES[dtype])
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        assert np.array_equal(scale_axis(array, factors, axis), want)
        peak = np.full(shape[axis], np.nan)
        _core.scale_axis(array, axis, factors, None, peak)
        others = tuple(k for k in range(len(shape)) if k != axis)
        assert np.array_equal(peak, np.abs(np.asarray(array, F64) * along(factors, axis, len(shape))).max(others))


LARGEST = {F32: np.finfo(np.float32).max, F64: np.finfo(np.float64).max, F16: 65504.0, BF16: 255 * 2.0**120}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (6, 4, 3, 3), (4, 6, 3, 3), (4, 70, 3)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_refusals_name_the_channel_and_change_nothing(dtype: np.dtype, shape: tuple[int, ...], in_place: bool) -> None:
    array = np.ones(shape, dtype)
    axis = shape.index(4)
    at = tuple(2 if k == axis else -1 for k in range(len(shape)))
    factors = np.array([1, 2, 3, 4.0])

    def refused(value: float, factor: float, message: str) -> None:
        array[:] = 1
        array[(slice(None),) * axis + (2,)] = 0
        array[at] = value
        factors[2] = factor
        before = array.copy()
        with pytest.raises(FoldError, match=re.escape(message)) as info:
            scale_axis(array, factors, axis, out=array if in_place else None)
        assert info.value.channel == 2
        assert array.tobytes() == before.tobytes()

    where = "channel 2"
    refused(LARGEST[dtype], -1.5, f"array times -1.5 must fit {dtype}, got")
    refused(LARGEST[dtype], 2.0**1000, f" in {where}")
    for value in (np.inf, -np.inf, np.nan):
        refused(value, 0.5, f"array times 0.5 must fit {dtype}, got infinity or NaN in {where}")
    smallest = 2.0 ** (FORMATS[dtype][1] + FORMATS[dtype][0] - 1)  # normal
    refused(smallest, 0.75, f"array times 0.75 must keep {dtype}'s digits, got at most {smallest * 0.75:.6g}")
    refused(smallest, 0.75, f" in {where}, below {smallest:.6g}")
    refused(smallest, 5e-324, f"array times 4.94066e-324 must keep {dtype}'s digits, got at most ")
    refused(1.0, math.nan, "factors must be finite, got nan in channel 2")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_largest_and_the_smallest_that_fit(dtype: np.dtype) -> None:
    largest, digits = LARGEST[dtype], FORMATS[dtype][0]
    assert scale_axis(np.full((1, 3), largest, dtype), [1.0], 0)[0, 0] == largest
    barely = 1 + 2.0 ** -(digits + 1) * (dtype != F64)  # less than half an ulp more
    assert scale_axis(np.full((1, 3), largest, dtype), [barely], 0)[0, 0] == largest
    if dtype != F64:
        with pytest.raises(FoldError):
            scale_axis(np.full((1, 3), largest, dtype), [1 + 2.0**-digits], 0)
    smallest = 2.0 ** (FORMATS[dtype][1] + digits - 1)
    among = np.array([[1, 2.0 ** FORMATS[dtype][1]]], dtype)
    assert np.array_equal(
        scale_axis(among, [smallest], 0), np.array([[smallest, 0]], dtype)
    )  # lost beside a larger one
    assert not scale_axis(np.zeros((1, 3), dtype), [smallest], 0).any()
    assert not scale_axis(among, [0.0], 0).any()


def test_arguments() -> None:
    x = np.ones((2, 3), np.float32)
    for error, message, *call in [
        (ValueError, "factors must have shape (3,), one value per channel, got (2,)", x, [1, 2], 1),
        (ValueError, "axis must be an axis of array, which has shape (2, 3), got 2", x, [1, 2], 2),
        (TypeError, "array must be float32, float64, float16 or bfloat16, got int64", x.astype(np.int64), [1, 2], 0),
        (ValueError, "out must have shape (2, 3), got (2, 2)", x, [1, 2], 0, x[:, :2]),
        (ValueError, "out partly overlaps array", x, [1, 2], 0, x[::-1]),
        (TypeError, "out must be float32, got float64", x, [1, 2], 0, x.astype(F64)),
    ]:
        array, factors, axis, *out = call
        with pytest.raises(error, match=re.escape(message)):
            scale_axis(array, factors, axis, out=out[0] if out else None)
