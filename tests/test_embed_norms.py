# SPDX-License-Identifier: Apache-2.0
"""Generated C against NumPy, the library and the specification: the bits of the stated order, and the bounds."""

from __future__ import annotations

import itertools
from typing import Any

import budgets
import numpy as np
import pytest
import reference
from embed_build import COMPILERS, CONTRACTED, Library
from embed_layers import Case, cases
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import normcpu
from normcpu import embed
from normcpu.embed.norms import MeasuredPart
from normcpu.embed.parts import Part, part_of
from normcpu.fold import Affine

ULP = 2.0**-23
#            the function's slope and its own error in half ulp of the result, at most
ACTIVATIONS = {
    None: (1.0, 0), "relu": (1.0, 0), "relu6": (1.0, 0), "leaky_relu": (1.5, 2), "hardswish": (1.5, 6),
    "sigmoid": (0.25, 8), "silu": (1.1, 8), "gelu": (1.13, 128), "gelu_tanh": (1.13, 256), "tanh": (1.0, 8),
}  # fmt: skip
numbers = itertools.count()


def specified(case: Case) -> tuple[Any, Any]:
    """y, and how far the activation's argument may be from the truth, without fused operations or with them."""
    layer, shape, x, residual = case
    name = getattr(layer, "activation", None)
    after = {"activation": name, "residual": residual, "negative_slope": getattr(layer, "negative_slope", 0.01)}
    if isinstance(layer, normcpu.LayerNorm | normcpu.RMSNorm):
        axes = range(-len(layer.normalized_shape), 0) if layer.axis is None else layer.axis
        axes = tuple(sorted(axis % x.ndim for axis in axes))
        along = [n if axis in axes else 1 for axis, n in enumerate(shape)]
        weight, bias = (None if a is None else a.reshape(along) for a in (layer.weight, layer.bias))
        rms = isinstance(layer, normcpu.RMSNorm)
        eps = 2.0**-23 if layer.eps is None else layer.eps
        made = reference.row_norm(x, axes, weight, bias, eps, rms=rms, plus_one=rms and layer.plus_one, **after)
        return made.y, 2 * ULP * made.size
    sampled = isinstance(layer, normcpu.InstanceNorm1d | normcpu.InstanceNorm2d | normcpu.InstanceNorm3d)
    if sampled and len(shape) < layer._ndim:
        lifted = Case(layer, (1, *shape), x[None], None if residual is None else residual[None])
        return tuple(part[0] for part in specified(lifted))  # type: ignore[return-value]
    axis = layer.channel_axis % x.ndim
    if getattr(layer, "running_mean", None) is None:
        groups = layer.num_features if sampled else layer.num_groups
        made = reference.group_norm(x, groups, layer.weight, layer.bias, layer.eps, channel_axis=axis, **after)
        return made.y, 2 * ULP * made.size
    affine = Affine.of_batch_norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)
    made = reference.scale_shift(x, *affine, channel_axis=axis, **after)
    plain = reference.scale_shift(x, *affine, channel_axis=axis)
    return made.y, ULP * plain.size + (0 if residual is None else ULP / 2 * np.abs(made.before))


def allowed(case: Case, y: Any, of_argument: Any) -> Any:
    slope, own = ACTIVATIONS[getattr(case.layer, "activation", None)]
    return slope * of_argument + own * ULP / 2 * np.abs(y) + 2.0**-119


def generated(many: list[Case]) -> tuple[list[embed.Generated], list[Part]]:
    made = [
        embed.function(case.layer, case.shape, name=f"f{next(numbers)}", residual=case.residual is not None)
        for case in many
    ]
    return made, [part_of(case.layer, case.shape, case.residual is not None) for case in many]


@settings(max_examples=8, phases=[Phase.generate])
@given(st.lists(cases(), min_size=12, max_size=12))
@pytest.mark.parametrize("command", COMPILERS)
def test_the_bits_of_numpy_within_the_bounds(command: str, tmp_path_factory: Any, many: list[Case]) -> None:
    made, parts = generated(many)
    library = Library(made, tmp_path_factory.mktemp("c"), command)
    for case, files, part in zip(many, made, parts, strict=True):
        y = library(files.name, case.x, case.residual, case.shape)
        np.testing.assert_array_equal(y, part.reference(case.x, case.residual))
        np.testing.assert_array_equal(library(files.name, case.x, case.residual, case.shape, over="x"), y)
        if case.residual is not None:
            np.testing.assert_array_equal(library(files.name, case.x, case.residual, case.shape, over="residual"), y)
        truth, off = specified(case)
        assert (np.abs(y - truth) <= allowed(case, truth, off)).all()
        assert (np.abs(y - truth) <= part.error(case.x, case.residual)).all()


def test_an_affine_is_a_layer(tmp_path: Any) -> None:
    """What folding has left over."""
    affine = Affine.of([0.5, -2, 3], [1, 0, -0.25])
    made = embed.function(affine, (2, 3, 4), name="left")
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    got = Library([made], tmp_path, COMPILERS[0])("left", x, None, x.shape)
    np.testing.assert_array_equal(got, normcpu.scale_shift(x, *affine))


@settings(max_examples=4, phases=[Phase.generate])
@given(st.lists(cases(), min_size=12, max_size=12))
@pytest.mark.parametrize("command", CONTRACTED)
def test_contracted_operations_are_within_the_same_bounds(
    command: str, tmp_path_factory: Any, many: list[Case]
) -> None:
    made, _ = generated(many)
    library = Library(made, tmp_path_factory.mktemp("c"), command)
    for case, files in zip(many, made, strict=True):
        truth, off = specified(case)
        y = library(files.name, case.x, case.residual, case.shape)
        assert (np.abs(y - truth) <= allowed(case, truth, off)).all()


@settings(max_examples=150, phases=[Phase.generate])
@given(cases(("layer_norm", "rms_norm", "group_norm", "instance_norm")))
def test_within_two_ulp_of_the_library(case: Case) -> None:
    """In ulp of the size of the terms, as the bound of a frozen BatchNorm is; activations have errors of their own."""
    part = part_of(case.layer, case.shape, case.residual is not None)
    assume(isinstance(part, MeasuredPart))
    own, (truth, off) = library_result(case), specified(case)
    activated = budgets.ACTIVATION_BUDGETS[getattr(case.layer, "activation", None)] * ULP * np.abs(own)
    difference = np.abs(part.reference(case.x, case.residual).astype(np.float64) - own)
    assert (difference <= allowed(case, truth, off) + activated).all()


@pytest.mark.parametrize("values", ["mean 1e5", "outlier first", "sorted", "constant", "small"])
@pytest.mark.parametrize("layer", [normcpu.LayerNorm(5000), normcpu.RMSNorm(5000)])
def test_long_rows_are_added_up_without_loss(layer: Any, values: str) -> None:
    x = np.random.default_rng(3).normal(size=(3, 5000))
    if values == "mean 1e5":
        x += 1e5
    elif values == "outlier first":
        x[:, 0] = 1e5
    elif values == "sorted":
        x = np.sort(x + 3)
    elif values == "constant":
        x[...] = 1 / 3
    else:
        x *= 1e-4
    case = Case(layer.eval(), x.shape, x.astype(np.float32), None)
    layer.weight[...] = np.random.default_rng(4).normal(size=5000)
    y, (truth, off) = part_of(layer, x.shape, False).reference(case.x), specified(case)
    assert (np.abs(y - truth) <= allowed(case, truth, off)).all()


def library_result(case: Case) -> np.ndarray:
    layer, _, x, residual = case
    if residual is None:
        return layer(x)
    if isinstance(layer, normcpu.LayerNorm | normcpu.RMSNorm):
        return layer(x, residual=residual)
    return layer(x, residual)
