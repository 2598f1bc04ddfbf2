# SPDX-License-Identifier: Apache-2.0
"""BatchNorm1d, 2d, 3d: training, evaluation, modes, arguments, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import LAYERS, TOLERANCE, buffers, draw, normalized, per_channel, with_parameters

from normcpu.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d

# Training and evaluation


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_training_normalizes_with_the_batch_and_tracks_it(kind, shape, biased, dtype):
    layer = with_parameters(kind(3, eps=1e-3, momentum=0.25, dtype=dtype, biased=biased))
    mean, var = np.zeros(3), np.ones(3)
    for step in range(3):
        x = draw(shape, dtype, seed=step)
        values = per_channel(x)
        y = layer(x)
        expected = normalized(x, values.mean(0), values.var(0), layer.weight, layer.bias, 1e-3)
        np.testing.assert_allclose(y, expected, rtol=0, atol=8 * TOLERANCE[dtype])
        mean = 0.75 * mean + 0.25 * values.mean(0)
        var = 0.75 * var + 0.25 * values.var(0, ddof=0 if biased else 1)
    assert (y.shape, y.dtype) == (shape, dtype)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(layer.running_var, var, rtol=TOLERANCE[dtype])
    assert layer.num_batches_tracked.shape == ()
    assert layer.num_batches_tracked.dtype == np.int64
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_evaluation_uses_the_buffers_and_leaves_them(kind, shape):
    layer = with_parameters(kind(3)).eval()
    layer.running_mean[...], layer.running_var[...] = [1, -2, 3], [4, 0.25, 9]
    before, x = buffers(layer), draw(shape)
    expected = normalized(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, 1e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-5)
    assert buffers(layer) == before


def test_momentum_none_is_the_average_of_all_batches():
    layer = BatchNorm1d(3, momentum=None, dtype=np.float64)
    batches = [draw((8, 3), np.float64, seed) for seed in range(5)]
    for x in batches:
        layer(x)
    np.testing.assert_allclose(layer.running_mean, np.mean([x.mean(0) for x in batches], 0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, np.mean([x.var(0, ddof=1) for x in batches], 0), rtol=1e-13)


@pytest.mark.parametrize("mode", [True, False])
def test_without_tracking_every_mode_uses_the_batch(mode):
    layer = BatchNorm2d(3, track_running_stats=False).train(mode)
    x = draw((2, 3, 4, 5))
    values = per_channel(x)
    expected = normalized(x, values.mean(0), values.var(0), 1, 0, 1e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-5)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_tracking_switched_off_later_keeps_the_buffers_for_evaluation():
    layer = BatchNorm1d(3)
    layer(draw((8, 3)))
    before = buffers(layer)
    layer.track_running_stats = False
    layer(draw((8, 3), seed=1))
    assert buffers(layer) == before
    x = draw((8, 3), seed=2)
    expected = normalized(x, layer.running_mean, layer.running_var, 1, 0, 1e-5)
    np.testing.assert_allclose(layer.eval()(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, True)])
def test_affine_and_bias_say_which_parameters_there_are(affine, bias):
    layer = BatchNorm1d(3, affine=affine, bias=bias)
    assert (layer.weight is not None, layer.bias is not None) == (affine, affine and bias)
    dx = layer.backward(layer(draw((8, 3))))
    assert dx.shape == (8, 3)
    assert (layer.weight_grad is not None, layer.bias_grad is not None) == (affine, affine and bias)


@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 5), st.integers(1, 9)),
    last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_channels_last_agrees_with_channels_first(shape, last, seed):
    x, c = draw(shape, np.float64, seed), shape[1]
    first, last_layer = BatchNorm1d(c, dtype=np.float64), BatchNorm1d(c, channel_axis=-1, dtype=np.float64)
    moved = np.moveaxis(x, 1, -1) if last else np.ascontiguousarray(np.moveaxis(x, 1, -1))
    np.testing.assert_allclose(np.moveaxis(last_layer(moved), -1, 1), first(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(last_layer.running_var, first.running_var, rtol=1e-12)


def test_activation_and_residual_follow_the_normalization():
    layer = with_parameters(BatchNorm2d(3, activation="leaky_relu", negative_slope=0.5)).eval()
    x, residual = draw((2, 3, 4, 5)), draw((2, 3, 4, 5), seed=5)
    v = normalized(x, 0, 1, layer.weight, layer.bias, 1e-5) + residual
    np.testing.assert_allclose(layer(x, residual), np.where(v > 0, v, v * 0.5), rtol=1e-5, atol=1e-5)


def test_out_receives_the_result_and_may_be_the_input():
    layer, x = BatchNorm2d(3).eval(), draw((2, 3, 4, 5))
    expected, out = layer(x), np.empty_like(x)
    assert layer(x, out=out) is out
    assert layer(x, out=x) is x
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, expected)


# Modes


def test_frozen_survives_train_and_ends_with_unfreeze():
    layer, x = BatchNorm1d(3), draw((8, 3))
    layer(x)
    expected, before = layer.eval()(x), buffers(layer)
    assert layer.freeze().train() is layer
    assert layer.training
    np.testing.assert_array_equal(layer(x), expected)
    assert buffers(layer) == before
    layer.unfreeze()(x)
    assert buffers(layer) != before


def test_freeze_needs_statistics():
    with pytest.raises(ValueError, match=r"BatchNorm1d\.freeze: no running statistics"):
        BatchNorm1d(3, track_running_stats=False).freeze()


def test_train_wants_a_boolean():
    with pytest.raises(ValueError, match="mode must be a bool, got 1"):
        BatchNorm1d(3).train(1)


def test_reset_restores_the_first_values_in_place():
    layer = with_parameters(BatchNorm1d(3))
    arrays = layer._entries()
    layer(draw((8, 3)))
    layer.reset_parameters()
    for name, array in BatchNorm1d(3).state_dict().items():
        assert arrays[name] is getattr(layer, name)
        np.testing.assert_array_equal(arrays[name], array)


# Arguments, copies, text

ARGUMENTS = [
    ({"num_features": 0}, ValueError, "num_features must be at least 1, got 0"),
    ({"num_features": 2.5}, TypeError, "num_features must be an int, got float"),
    ({"momentum": 1.5}, ValueError, "momentum must be None or a number from 0 to 1, got 1.5"),
    ({"dtype": np.float16}, TypeError, r"dtype must be float32 \(also for float16 data\) or float64"),
    ({"activation": "swish"}, ValueError, "activation.*swish"),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite.*ignore"),
    ({"single_value": "none"}, ValueError, "single_value.*none"),
    ({"channel_axis": 4}, (ValueError, IndexError), "channel_axis"),
    ({"eps": -1.0}, ValueError, "eps"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), ARGUMENTS)
def test_wrong_arguments_are_refused_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        BatchNorm2d(**{"num_features": 3, **options})


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (BatchNorm1d, (3,), "expected 2D or 3D input (got 1D input)"),
        (BatchNorm1d, (2, 3, 4, 5), "expected 2D or 3D input (got 4D input)"),
        (BatchNorm2d, (2, 3, 4), "expected 4D input (got 3D input)"),
        (BatchNorm3d, (2, 3, 4, 5), "expected 5D input (got 4D input)"),
        (BatchNorm2d, (2, 4, 3, 3), "x must have 3 channels on axis 1, got shape (2, 4, 3, 3)"),
    ],
)
def test_input_of_the_wrong_shape(kind, shape, message):
    with pytest.raises(ValueError) as info:  # noqa: PT011
        kind(3)(np.zeros(shape, np.float32))
    assert str(info.value) == message


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_the_state_but_not_the_input(duplicate):
    layer = BatchNorm1d(3).freeze()
    layer(draw((1000, 3)))
    twin = duplicate(layer)
    assert twin.frozen
    assert twin._saved is None
    assert len(pickle.dumps(layer)) < 2000
    twin.running_mean[...] = 5
    np.testing.assert_array_equal(layer.running_mean, np.zeros(3))
    assert layer._saved is not None


def test_text_shows_the_arguments():
    expected = "eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True"
    assert repr(BatchNorm2d(16)) == f"BatchNorm2d(16, {expected})"
    assert repr(BatchNorm2d(16, activation="relu")) == f"BatchNorm2d(16, {expected}, activation='relu')"
