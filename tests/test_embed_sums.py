# SPDX-License-Identifier: Apache-2.0
"""Generated convolutions, linear layers and pools: the bits of the stated order, the bound, and no byte beside y."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_build import CC, COMPILERS, CONTRACTED, Library, run_sanitized
from embed_sums import Case, cases, pooled, sums
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from normcpu import embed
from normcpu.embed.activations import activation_of
from normcpu.embed.layers import Conv, Linear
from normcpu.embed.parts import part_of

GENERATE = [Phase.explicit, Phase.generate]  # to shrink is to compile for minutes; a failure names the one of the many
MANY = st.lists(cases(), min_size=24, max_size=24)


def definition(case: Case) -> Any:
    """y, in float32 and in the stated order."""
    if not isinstance(case.layer, Conv | Linear):
        return pooled(case.layer, case.x)
    weight, bias, scale = stored(case.layer, case.shape)
    v = sums(case.layer, case.x, weight.astype(np.float32), bias, scale)
    return activation_of(case.layer.activation).reference(v)


def stored(layer: Any, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Weight, bias and scale as they are in flash."""
    part = part_of(layer, shape, False)
    return part.weight.reshape(np.shape(layer.weight)), part.bias, part.scale


def generated(many: list[Case]) -> list[Any]:
    return [embed.function(c.layer, c.shape, name=f"f{i}", inputs=c.x[None]) for i, c in enumerate(many)]


@pytest.mark.parametrize("command", COMPILERS)
@settings(max_examples=3, phases=GENERATE)
@given(many=MANY)
def test_bits_of_the_stated_order(many: list[Case], command: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = generated(many)
        library = Library(made, Path(folder), command)
        for case, each in zip(many, made, strict=True):
            y = definition(case)
            got = library(each.name, case.x, None, y.shape)
            np.testing.assert_array_equal(got, y, str(case), strict=True)
            np.testing.assert_array_equal(embed.simulate(case.layer, case.x), y, str(case), strict=True)
        if command == COMPILERS[0]:
            run_sanitized([each.name for each in made], Path(folder), f"{CC} -O1")


@settings(max_examples=3, phases=GENERATE)
@given(many=MANY)
def test_bound_with_contraction_too(many: list[Case]) -> None:
    """|error| <= (k + 2) 2^-24 (sum |w x| + |b|), k products, before the activation."""
    many = [case for case in many if isinstance(case.layer, Conv | Linear)]
    bare = [Case(type(c.layer)(**{**vars(c.layer), "activation": None}), c.shape, c.x) for c in many]
    with tempfile.TemporaryDirectory() as folder:
        library = Library(generated(bare), Path(folder), CONTRACTED[0])
        for i, case in enumerate(bare):
            weight, bias, scale = stored(case.layer, case.shape)
            wide = weight.astype(np.float64)
            if scale is not None:
                wide *= scale.astype(np.float64).reshape(-1, *(1,) * (weight.ndim - 1))
            bias = None if bias is None else bias.astype(np.float64)
            exact = sums(case.layer, case.x.astype(np.float64), wide, bias, None)
            terms = sums(
                case.layer, abs(case.x.astype(np.float64)), abs(wide), None if bias is None else abs(bias), None
            )
            got = library(f"f{i}", case.x, None, exact.shape)
            assert (abs(got - exact) <= (weight[0].size + 2) * 2.0**-24 * terms).all()


@settings(max_examples=40)
@given(case=cases())
def test_pools_in_place_where_they_say_so(case: Case) -> None:
    """Each y is written after the last read of what was there."""
    part = part_of(case.layer, case.shape, False)
    if part.in_place:
        with tempfile.TemporaryDirectory() as folder:
            made = embed.function(case.layer, case.shape, name="f", inputs=case.x[None])
            library = Library([made], Path(folder), COMPILERS[0])
            memory = case.x.ravel().copy()
            pointer = ctypes.c_void_p(memory.ctypes.data)
            library.library.f(pointer, pointer)
            y = definition(case)
            np.testing.assert_array_equal(memory[: y.size].reshape(y.shape), y)


def test_int8_is_off_by_half_a_scale() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(7, 3, 2, 2)).astype(np.float32) * np.logspace(-3, 3, 7)[:, None, None, None]
    weight[3] = 0
    q, _, scale = stored(embed.Conv(weight, stored="int8"), (1, 3, 4, 4))
    assert q.dtype == np.int8
    assert abs(q).reshape(7, -1).max(1).tolist() == [127, 127, 127, 0, 127, 127, 127]
    off = abs(q * scale.astype(np.float64)[:, None, None, None] - weight.astype(np.float32)).reshape(7, -1).max(1)
    assert (off <= scale * 0.5001).all()


def test_nan_and_infinity_go_through() -> None:
    """A NaN of x reaches every window that holds it, through a ReLU and the maximum too."""
    x = np.zeros((1, 1, 5), np.float32)
    x[0, 0, 1], x[0, 0, 4] = np.nan, np.inf
    net = [embed.Conv(np.ones((1, 1, 2), np.float32), activation="relu"), embed.MaxPool(1)]
    made = [embed.function(net, (1, 1, 5), name="conv"), embed.function(embed.MaxPool(2, 1), (1, 1, 5), name="pool")]
    with tempfile.TemporaryDirectory() as folder:
        library = Library(made, Path(folder), COMPILERS[0])
        np.testing.assert_array_equal(library("conv", x, None, (4,)), [np.nan, np.nan, 0, np.inf])
        np.testing.assert_array_equal(library("pool", x, None, (4,)), [np.nan, np.nan, 0, np.inf])


W = np.ones((4, 2, 3, 3), np.float32)
X = (1, 2, 6, 6)
BAD = [
    (embed.Conv(W), (1, 3, 6, 6), ValueError, r"shape must be \(n, 2, h, w\), got \(1, 3, 6, 6\)"),
    (embed.Conv(W), (2, 6, 6), ValueError, r"shape must be \(n, 2, h, w\), got \(2, 6, 6\)"),
    (embed.Conv(W), (1, 2, 0, 6), ValueError, "shape must be static, .* of at least 1, got"),
    (embed.Conv(W), (1, 2, "h", 6), ValueError, "shape must be static, .* got"),
    (embed.Conv(W[0]), X, ValueError, "shape must be"),
    (embed.Conv(W[0, 0]), X, ValueError, "weight must have shape"),
    (embed.Conv(W[:0]), X, ValueError, "weight must have an element"),
    (embed.Conv(W * np.nan), X, ValueError, "weight must be finite, got nan"),
    (embed.Conv(W * np.nan, stored="int8"), X, ValueError, "weight must be finite, got nan"),
    (embed.Conv(W.astype(np.float64) * 1e300), X, ValueError, "weight must fit float32"),
    (embed.Conv(W, np.ones(3, np.float32)), X, ValueError, r"bias must have shape \(4,\)"),
    (embed.Conv(W, np.full(4, np.inf, np.float32)), X, ValueError, "bias must be finite, got inf"),
    (embed.Conv(W.astype(int)), X, TypeError, "weight must be"),
    (embed.Conv(W, groups=3), X, ValueError, "groups must divide the 4 output channels"),
    (embed.Conv(W, groups=0), X, ValueError, "groups must divide"),
    (embed.Conv(W, stride=0), X, ValueError, "stride must be at least 1, got 0"),
    (embed.Conv(W, stride=(1, 1, 1)), X, ValueError, r"stride must be a number or 2 of them, got \(1, 1, 1\)"),
    (embed.Conv(W, stride=1.5), X, ValueError, "stride must be a number or 2"),
    (embed.Conv(W, stride=True), X, TypeError, "stride must be an int, got bool"),
    (embed.Conv(W, dilation=3), X, ValueError, "kernel must fit into x: it spans 7 of spatial axis 0, which has 6"),
    (embed.Conv(W, padding=-1), X, ValueError, "padding must be at least 0, got -1"),
    (embed.Conv(W, padding=3), X, ValueError, "padding must leave some of x in each window, got 3 and 3 around 6"),
    (embed.Conv(W, padding=[(1, 1)]), X, ValueError, "padding must have a pair for each of 2 axes"),
    (embed.Conv(W, padding=[(1, 1), (1, 1, 1)]), X, ValueError, "padding must be a number or 2 of them"),
    (embed.Conv(W, activation="selu"), X, ValueError, "activation must be .* got 'selu'"),
    (embed.Conv(W, stored="int4"), X, ValueError, "stored must be 'float32' or 'int8', got 'int4'"),
    (embed.Linear(W), X, ValueError, r"weight must have shape \(o, i\)"),
    (embed.Linear(W[0, 0]), (1, 4), ValueError, r"shape must be \(..., 3\), got \(1, 4\)"),
    (embed.MaxPool(2), (4, 4), ValueError, r"shape must be \(n, c, h, w\) or \(n, c, l\), got \(4, 4\)"),
    (embed.MaxPool(7), X, ValueError, "kernel must fit into x"),
    (embed.MaxPool(0), X, ValueError, "kernel must be at least 1, got 0"),
    (embed.AveragePool(2, padding=2), X, ValueError, "padding must leave some of x in each window"),
    (embed.GlobalAveragePool(), (3, 3), ValueError, "shape must be"),
    (embed.Reshape((3, 3)), X, ValueError, r"shape must have 72 elements, got \(3, 3\)"),
    (embed.Clip(2, 1), X, ValueError, "low must be at most high, got 2 and 1"),
    (embed.Clip(float("nan")), X, ValueError, "low must be at most high"),
    (embed.ScaleShift(np.ones(2), np.ones(3)), X, ValueError, r"shift must have shape \(2,\), got \(3,\)"),
    (embed.ScaleShift(np.ones(2), np.full(2, np.nan)), X, ValueError, "shift must be finite"),
    (embed.ScaleShift(np.ones(2), np.ones(2), 4), X, ValueError, "axis must be"),
    (embed.Activate("elu"), X, ValueError, "activation must be"),
    ([], X, ValueError, "layer must be a layer or a list of layers, got an empty one"),
    ([embed.Conv(W), "relu"], X, TypeError, "layer must be one of .*Conv.*, got str"),
    ([embed.Conv(W), embed.Linear(W[0, 0])], X, ValueError, r"shape must be \(..., 3\), got \(1, 4, 4, 4\)"),
]


@pytest.mark.parametrize(("layer", "shape", "error", "message"), BAD)
def test_bad_calls(layer: Any, shape: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        embed.function(layer, shape)


def test_results_beyond_float32() -> None:
    with pytest.raises(ValueError, match="inputs must have results that are finite"):
        embed.function(embed.Conv(W * np.float32(3e38)), X)


def test_residual_is_for_norms() -> None:
    with pytest.raises(ValueError, match="residual must be False for Conv, got True"):
        embed.function(embed.Conv(W), X, residual=True)
