# SPDX-License-Identifier: Apache-2.0
"""FrozenBatchNorm: the formula, its own arrays, what it refuses."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
from state_cases import NAMES, changed, state

from normcpu.frozen import FrozenBatchNorm
from normcpu.layers import BatchNorm1d, BatchNorm2d


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
def test_frozen_applies_the_formula(ndim, dtype, axis):
    shape = [2, 4, 5, 6, 7][:ndim]
    shape[axis] = 3
    values = state()
    layer = FrozenBatchNorm(*(values[name] for name in NAMES[:4]), 0.01, dtype=dtype, channel_axis=axis)
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    columns = np.moveaxis(x, axis, -1).astype(np.float64) - layer.running_mean
    columns /= np.sqrt(layer.running_var + 0.01)
    expected = np.moveaxis(columns * layer.weight + layer.bias, -1, axis)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert layer(x).dtype == dtype


def test_frozen_stays_in_evaluation_and_keeps_its_own_arrays():
    values = state()
    layer = FrozenBatchNorm.from_state_dict(values)
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    expected = layer(x)
    for array in values.values():
        array[...] = 0
    assert layer.train() is layer
    assert layer.train(True).eval().training is False
    np.testing.assert_array_equal(layer(x), expected)
    with pytest.raises(ValueError, match="read-only"):
        layer.running_mean[...] = 0


def test_frozen_is_a_trained_layer_in_evaluation():
    options = {"activation": "leaky_relu", "negative_slope": 0.5}
    layer = BatchNorm2d(3, **options)
    layer.load_state_dict(state())
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer(x)
    frozen = FrozenBatchNorm.from_state_dict(layer.state_dict("bn."), prefix="bn.", **options)
    np.testing.assert_array_equal(frozen(x), layer.eval()(x))
    np.testing.assert_array_equal(frozen(x, x), layer.eval()(x, x))
    assert list(frozen.state_dict("p.")) == [f"p.{name}" for name in NAMES[:4]]


def test_frozen_without_parameters():
    values = state()
    frozen = FrozenBatchNorm(None, None, values["running_mean"], values["running_var"])
    assert list(frozen.state_dict()) == ["running_mean", "running_var"]
    layer = BatchNorm1d(3, affine=False).eval()
    layer.load_state_dict(frozen.state_dict())
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(frozen(x), layer(x))


FROZEN = {
    "missing": (changed(running_var=None), "FrozenBatchNorm.from_state_dict: missing 'running_var'"),
    "unexpected": (changed(gamma=np.ones(3)), "state must have the names weight, bias"),
    "shape": (changed(weight=np.ones(4)), "weight must have shape (3,), got (4,)"),
    "axes": (changed(running_mean=np.ones((1, 3))), "running_mean must have shape (c,), got (1, 3)"),
}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_refuses_a_state_that_does_not_fit(case):
    bad, message = FROZEN[case]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        FrozenBatchNorm.from_state_dict(bad)


def test_frozen_refuses_other_dtypes():
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got float16"):
        FrozenBatchNorm(None, None, np.zeros(3), np.ones(3), dtype=np.float16)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_frozen_stays_read_only(copied):
    frozen = copied(FrozenBatchNorm(None, np.ones(3), np.zeros(3), np.ones(3)))
    for array in (frozen.bias, frozen.running_mean, frozen.running_var):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 2
