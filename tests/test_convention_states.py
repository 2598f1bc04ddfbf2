# SPDX-License-Identifier: Apache-2.0
"""States from each convention to each: names, eps, biased and unbiased variances."""

from __future__ import annotations

import re

import numpy as np
import pytest
from convention_cases import DOCUMENTED, STATES, arrays, assert_equal

from normcpu.conventions import convert_state
from normcpu.frozen import FrozenBatchNorm
from normcpu.layers import BatchNorm1d


@pytest.mark.parametrize("source", STATES)
@pytest.mark.parametrize("target", STATES)
def test_names_and_values_from_each_to_each(source, target):
    values = arrays()
    state, eps = convert_state(STATES[source](*values), source, target)
    assert eps == DOCUMENTED[source][1]
    assert_equal(state, STATES[target](*values))


@pytest.mark.parametrize("name", STATES)
def test_layers_load_each_convention_by_name(name):
    values = arrays()
    layer = BatchNorm1d.from_convention(name, 3)
    layer.load_state_dict(STATES[name](*values), convention=name)
    frozen = FrozenBatchNorm.from_state_dict(STATES[name](*values), convention=name)
    assert (frozen.eps, frozen.channel_axis) == (layer.eps, layer.channel_axis) == DOCUMENTED[name][1:]
    for got in (layer, frozen):
        for key, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
            np.testing.assert_array_equal(getattr(got, key), value)


def test_a_prefix_stands_after_the_collection():
    inner = STATES["flax"](*arrays())
    dense = {"bias": np.ones(2)}
    model = {part: {"block": {"bn": entries}, "Dense_0": dense} for part, entries in inner.items()}
    state, _ = convert_state(model, "flax", "flax", prefix="block.bn.")
    assert_equal(state, inner)
    layer = BatchNorm1d(3)
    assert layer.load_state_dict(model, prefix="block.bn.", convention="flax") == ([], [])
    del model["batch_stats"]["block"]["bn"]["var"]
    with pytest.raises(ValueError, match=re.escape("missing 'batch_stats.block.bn.var'")):
        layer.load_state_dict(model, prefix="block.bn.", convention="flax")


def test_the_textbook_keeps_the_axes_of_a_broadcast():
    values = arrays()
    shaped = [value.reshape(1, 3, 1, 1) for value in values]
    state, _ = convert_state(STATES["textbook"](*shaped), "textbook")
    assert_equal(state, STATES["pytorch"](*values))
    with pytest.raises(ValueError, match=re.escape("gamma must have shape (c,), got (1, 3, 1, 1)")):
        convert_state(STATES["keras"](*shaped), "keras")


def test_the_count_of_batches_goes_where_it_has_a_name():
    state = STATES["pytorch"](*arrays()) | {"num_batches_tracked": np.array(4)}
    assert convert_state(state, "pytorch", "pytorch").state["num_batches_tracked"] == 4
    assert_equal(convert_state(state, "pytorch", "keras").state, STATES["keras"](*arrays()))


@pytest.mark.parametrize("present", [("gamma",), ("beta",), ()])
def test_a_keras_layer_without_scale_or_center(present):
    gamma, beta, mean, var = arrays()
    state = {"gamma": gamma, "beta": beta}
    state = {name: state[name] for name in present} | {"moving_mean": mean, "moving_variance": var}
    frozen = FrozenBatchNorm.from_state_dict(state, convention="keras")
    assert (frozen.weight is not None, frozen.bias is not None) == ("gamma" in present, "beta" in present)
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    expected = (x - mean.astype(float)) / np.sqrt(var.astype(float) + 1e-3)
    expected = expected * (gamma if "gamma" in present else 1) + (beta if "beta" in present else 0)
    np.testing.assert_allclose(frozen(x), expected, rtol=0, atol=1e-5)


# Biased and unbiased running variance


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("there", [True, False])
def test_given_the_count_the_variance_is_that_of_a_layer_of_the_other_kind(momentum, there):
    options = {"momentum": momentum, "dtype": np.float64}
    unbiased, biased = BatchNorm1d(3, **options), BatchNorm1d(3, biased=True, **options)
    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=(6, 3)) * 2
        unbiased(x), biased(x)
    share = 0.0 if momentum is None else (1 - momentum) ** 4
    if there:
        state, _ = convert_state(unbiased.state_dict(), "pytorch", "keras", count=6, initial_share=share)
        np.testing.assert_allclose(state["moving_variance"], biased.running_var, rtol=1e-13)
    else:
        names = ("weight", "bias", "running_mean", "running_var")
        given_state = STATES["keras"](*(getattr(biased, name) for name in names))
        state, _ = convert_state(given_state, "keras", count=6, initial_share=share)
        np.testing.assert_allclose(state["running_var"], unbiased.running_var, rtol=1e-13)


def test_conventions_of_one_kind_keep_the_variance_whatever_the_count():
    state, _ = convert_state(STATES["keras"](*arrays()), "keras", "onnx", count=2)
    assert_equal(state, STATES["onnx"](*arrays()))


# Keras before 1.0


def old_keras(values):
    gamma, beta, mean, std = values
    return {"gamma": gamma, "beta": beta, "running_mean": mean, "running_std": std}


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_a_running_standard_deviation_becomes_a_variance_with_eps_0(eps):
    gamma, beta, mean, std = values = arrays()
    std[0] = 0  # a channel that was constant: 1 / eps is its scale
    frozen = FrozenBatchNorm.from_state_dict(old_keras(values), eps, convention="keras_std")
    assert frozen.eps == 0
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    e = 1e-6 if eps is None else eps
    expected = (x - mean.astype(float)) / (std.astype(float) + e) * gamma + beta
    np.testing.assert_allclose(frozen(x), expected, rtol=1e-5, atol=1e-5)


def test_a_variance_becomes_a_standard_deviation_and_comes_back():
    values = arrays()
    state, eps = convert_state(STATES["keras"](*values), "keras", "keras_std", eps=0.01)
    assert eps == 1e-6
    expected = np.sqrt(values[3].astype(float) + 0.01) - 1e-6
    np.testing.assert_allclose(state["running_std"], expected, rtol=1e-6)
    back, eps = convert_state(state, "keras_std", "keras_std", eps=0.5)
    assert eps == 0.5
    assert_equal(back, state)


def test_standard_deviations_neither_train_nor_rescale_nor_load_unconverted():
    state = old_keras(arrays())
    with pytest.raises(ValueError, match="convention must average variances, got 'keras_std'"):
        BatchNorm1d.from_convention("keras_std", 3)
    with pytest.raises(ValueError, match="count must be left out"):
        convert_state(state, "keras_std", count=8)
    with pytest.raises(ValueError, match="convention must hold variances, got 'keras_std'"):
        BatchNorm1d(3).load_state_dict(state, convention="keras_std")


# Errors

WRONG = {
    "name": (({}, "caffe"), {}, "convention must be one of pytorch, keras, keras_fused"),
    "empty": (({}, "onnx"), {}, "state must have the names scale, B, input_mean, input_var of 'onnx'"),
    "names": ((STATES["onnx"](*arrays()), "keras"), {}, "state must have the names gamma"),
    "flat": ((STATES["flax_nnx"](*arrays()), "flax"), {}, "state must have the names params.scale"),
    "count": ((STATES["keras"](*arrays()), "keras"), {"count": 1}, "count must be at least 2 values"),
    "prefix": ((STATES["keras"](*arrays()), "keras"), {"prefix": "b."}, "state must have the names b.gamma"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_conversions_that_cannot_be(case):
    arguments, options, message = WRONG[case]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        convert_state(*arguments, **options)
