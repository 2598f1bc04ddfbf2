# SPDX-License-Identifier: Apache-2.0
"""What every fold of weights promises beside its algebra: one rounding, any array, all or nothing, clear refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from budgets import BF16, DTYPES, F16, F32, F64
from cases import Layout, lay_out, layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fold_scale import rounded

from normcpu import fold
from normcpu.fold import Affine, Branch, FoldError

Array = np.ndarray


class Fold(NamedTuple):
    """run(affine, weight, bias, **out); channels of the affine and of the bias for weight (4, 3, ...), 2 groups."""

    run: Callable[..., Any]
    shape: tuple[int, ...]
    channels: int
    outputs: int
    takes_out: bool = True


FOLDS = {
    "conv_then_affine": Fold(lambda a, w, b, **k: fold.conv_then_affine(w, b, a, **k), (4, 3, 3, 2), 4, 4),
    "conv_transpose_then_affine": Fold(
        lambda a, w, b, **k: fold.conv_transpose_then_affine(w, b, a, groups=2, **k), (4, 3, 3), 6, 6
    ),
    "depthwise conv_transpose_then_affine": Fold(
        lambda a, w, b, **k: fold.conv_transpose_then_affine(w, b, a, groups=2, **k), (4, 1, 3), 2, 2
    ),
    "affine_then_conv": Fold(lambda a, w, b, **k: fold.affine_then_conv(a, w, b, groups=2, **k), (4, 3, 3), 6, 4),
    "depthwise affine_then_conv": Fold(
        lambda a, w, b, **k: fold.affine_then_conv(a, w, b, groups=2, **k), (4, 1, 3, 3, 3), 2, 4
    ),
    "affine_then_padded_conv": Fold(
        lambda a, w, b: fold.affine_then_padded_conv(a, w, b, groups=2)[::3], (4, 3, 3), 6, 4, False
    ),
    "linear_then_affine": Fold(lambda a, w, b, **k: fold.linear_then_affine(w, b, a, **k), (4, 3), 4, 4),
    "transposed linear_then_affine": Fold(
        lambda a, w, b, **k: fold.linear_then_affine(w, b, a, transposed=True, **k), (4, 3), 3, 3
    ),
    "affine_then_linear": Fold(lambda a, w, b, **k: fold.affine_then_linear(a, w, b, **k), (4, 3), 3, 4),
    "transposed affine_then_linear": Fold(
        lambda a, w, b, **k: fold.affine_then_linear(a, w, b, transposed=True, **k), (4, 3), 4, 3
    ),
    "parallel_convs": Fold(lambda a, w, b: fold.parallel_convs([Branch(w, b, a)]), (4, 3, 3, 2), 4, 4, False),
}
IN_PLACE = [name for name, fold in FOLDS.items() if fold.takes_out]
each_fold = pytest.mark.parametrize("name", FOLDS)


def problem(name: str, dtype: np.dtype, seed: int = 0) -> tuple[Fold, Affine, Array, Array]:
    known, rng = FOLDS[name], np.random.default_rng(seed)
    weight = rng.normal(size=known.shape).astype(F32).astype(dtype)
    bias = rng.normal(size=known.outputs).astype(F32).astype(dtype)
    return known, Affine.of(rng.normal(0, 2, known.channels), rng.normal(size=known.channels)), weight, bias


@each_fold
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_results_are_those_in_double_rounded_once(name: str, dtype: np.dtype) -> None:
    for seed in range(20):
        known, affine, weight, bias = problem(name, dtype, seed)
        want = known.run(affine, weight.astype(F64), bias.astype(F64))
        made = known.run(affine, weight, bias)
        for got, doubles in zip(made, want, strict=True):
            assert got.dtype == dtype
            assert np.array_equal(got, rounded(doubles, dtype))
        kept = known.run(affine, weight, bias.astype(F32))
        assert kept[1].dtype == F32
        assert np.array_equal(kept[1], want[1].astype(F32))


@pytest.mark.parametrize("name", IN_PLACE)
@settings(max_examples=25)
@given(st.data())
def test_in_place_and_strided(name: str, data: st.DataObject) -> None:
    known, affine, weight, bias = problem(name, DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))])
    want = known.run(affine, weight, bias)
    w, b = lay_out(weight, data.draw(layouts(weight.ndim))), lay_out(bias, Layout((0,), (-2,), 6))
    for array in (w, b):
        array.flags.writeable = False
    made = known.run(affine, w, b)
    out = lay_out(np.zeros_like(weight), data.draw(layouts(weight.ndim))), lay_out(bias * 0, Layout((0,), (3,), 4))
    into = known.run(affine, w, b, out=out)
    assert into[0] is out[0]
    assert into[1] is out[1]
    assert np.array_equal(w, weight)
    assert np.array_equal(b, bias)
    w.flags.writeable = b.flags.writeable = True
    over = known.run(affine, w, b, out=(w, b))
    assert over[0] is w
    assert over[1] is b
    for result in (made, into, over):
        assert np.array_equal(result[0], want[0])
        assert np.array_equal(result[1], want[1])


@each_fold
def test_a_bias_where_one_is_needed(name: str) -> None:
    known, affine, weight, bias = problem(name, F32)
    zeros = known.run(affine, weight, np.zeros_like(bias))
    assert np.array_equal(known.run(affine, weight, None)[1], zeros[1])
    scale_only = affine._replace(shift=affine.shift * 0)
    assert known.run(scale_only, weight, None)[1] is None
    if known.takes_out:
        assert np.array_equal(known.run(affine, weight, None, out=(weight.copy(), bias))[1], zeros[1])
        assert not known.run(scale_only, weight, None, out=(weight.copy(), bias))[1].any()
        assert known.run(scale_only, weight.copy(), None, out=(weight.copy(), None))[1] is None
        before = weight.copy()
        with pytest.raises(ValueError, match=re.escape("out[1] must be an ndarray for the bias that this fold needs")):
            known.run(affine, weight, None, out=(weight, None))
        assert np.array_equal(weight, before)


@each_fold
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
def test_refusals_leave_weight_and_bias_as_they_were(name: str, dtype: np.dtype) -> None:
    known, affine, weight, bias = problem(name, dtype)
    last = known.channels - 1
    large, small = {F16: (3e5, 1e-8)}.get(dtype, (1e39, 1e-40))

    def refused(scale: float, shift: float, message: str, channel: int) -> None:
        affine.scale[last], affine.shift[last] = scale, shift
        out = {"out": (weight, bias)} if known.takes_out else {}
        kept = weight.tobytes(), bias.tobytes()
        with pytest.raises(FoldError, match=re.escape(message)) as info:
            known.run(affine, weight, bias, **out)
        assert info.value.channel == channel
        assert (weight.tobytes(), bias.tobytes()) == kept

    bias[...] = 0
    affine.shift[...] = 0
    refused(large, 0.0, f" must fit {dtype}, got ", last)
    refused(small, 0.0, f" must keep {dtype}'s digits, got at most ", last)
    refused(np.nan, 0.0, ".scale must be finite, got nan in channel ", last)
    refused(1.0, np.inf, ".shift must be finite, got inf in channel ", last)
    weight[...] = 1
    affine.shift[...] = 0
    backwards = known.channels == known.outputs
    refused(1.0, 1e39, f"bias must fit {dtype}, got ", last if backwards else first_reader(name))
    affine.shift[...] = affine.scale[...] = 1
    weight[...] = np.nan
    with pytest.raises(FoldError):
        known.run(affine, weight, bias)


def first_reader(name: str) -> int:
    """The first output that reads the last input: of the last group, or all do."""
    return 2 if "conv" in name else 0


def test_which_weight_is_refused() -> None:
    """The channel is the affine's, counted over all groups."""
    weight = np.ones((4, 3, 2), np.float16)
    weight[3, 1, 0] = 3e4
    message = "weight times 4 must fit float16, got 120000 in channel 4"
    with pytest.raises(FoldError, match=f"^{re.escape(message)}$") as info:
        fold.affine_then_conv(Affine.of(np.full(6, 4.0)), weight, None, groups=2)
    assert info.value.channel == 4
    weight[:, :] = 1e-4
    message = "weight times 0.5 must keep float16's digits, got at most 5.00083e-05 in channel 1, below 6.10352e-05"
    with pytest.raises(FoldError, match=f"^{re.escape(message)}"):
        fold.conv_then_affine(weight, None, Affine.of([1, 0.5, 1, 1]))


def test_denormal_variances_and_far_means() -> None:
    """eps is added in double before the root; what the unfolded layer would cancel is exact."""
    affine = Affine.of_batch_norm(np.float32([1e3]), np.float32([5.6e-45]), np.float32([2]), np.float32([0.5]), 1e-5)
    assert affine.scale[0] == 2 / np.sqrt(np.float64(np.float32(5.6e-45)) + 1e-5)
    assert affine.shift[0] == 0.5 - 1e3 * affine.scale[0]
    weight = np.ones((1, 1, 1), F32)
    made = fold.conv_then_affine(weight, np.float32([1e3]), affine)
    assert made.bias is not None
    assert made.bias[0] == np.float32(0.5)


@pytest.mark.parametrize(("dtype", "digits"), [(BF16, 8), (F16, 11)], ids=str)
def test_nothing_is_rounded_twice(dtype: np.dtype, digits: int) -> None:
    """Beside the middle of two neighbours by less than float32 can tell, which would make a tie of it."""
    ulp, little = 2.0 ** (1 - digits), 2.0**-40
    above, below = 1 + ulp / 2 + little, 1 + 1.5 * ulp - little
    weight = np.ones((2, 1, 1), dtype)
    made = fold.conv_then_affine(weight, None, Affine.of([above, below], [-above, -below]))
    assert made.weight.ravel().astype(F64).tolist() == [1 + ulp, 1 + ulp]
    assert made.bias is not None
    assert made.bias.astype(F64).tolist() == [-1 - ulp, -1 - ulp]
    summed = fold.parallel_convs([Branch(weight, None, Affine.of([above, below]))])
    assert summed.weight.ravel().astype(F64).tolist() == [1 + ulp, 1 + ulp]


def test_a_dead_channel_is_no_refusal() -> None:
    made = fold.conv_then_affine(np.ones((2, 1, 1), np.float16), None, Affine.of([0, 1], [3, 0]))
    assert made.weight.ravel().tolist() == [0, 1]
    assert made.bias is not None
    assert made.bias.tolist() == [3, 0]
