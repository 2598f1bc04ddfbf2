# SPDX-License-Identifier: Apache-2.0
"""Each framework's batch normalization, written in its own terms, against a layer made by its name."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from convention_cases import DOCUMENTED, STATES, arrays
from hypothesis import given
from hypothesis import strategies as st
from peers import peer

from normcpu.conventions import CONVENTIONS, get_convention
from normcpu.layers import BatchNorm1d, BatchNorm2d

TRAINABLE = [name for name in DOCUMENTED if name != "keras_std"]


def keras(running, batch, momentum):
    return running * momentum + batch * (1.0 - momentum)


def pytorch(running, batch, momentum):
    return (1.0 - momentum) * running + momentum * batch


# The update of a running statistic, and the ddof of the batch variance that enters it.
UPDATES = {
    "pytorch": (pytorch, 1),
    "keras": (keras, 0),
    "keras_fused": (keras, 1),
    "flax": (keras, 0),
    "flax_nnx": (keras, 0),
    "onnx": (keras, 0),
    "textbook": (keras, 0),
}


def test_every_convention_is_documented_here():
    assert list(CONVENTIONS) == list(DOCUMENTED)
    assert all(rule.source.startswith("https://") for rule in CONVENTIONS.values())
    assert {name: (r.momentum, r.eps, r.channel_axis) for name, r in CONVENTIONS.items()} == DOCUMENTED


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("momentum", [None, 0.75])
def test_a_layer_trains_as_its_framework_does(name, momentum):
    default, eps, axis = DOCUMENTED[name]
    update, ddof = UPDATES[name]
    layer = BatchNorm1d.from_convention(name, 3, momentum=momentum, dtype=np.float64)
    used = default if momentum is None else momentum
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=(5, 4, 3)) * 2 + 1
        x = np.moveaxis(values, -1, axis)
        expected = (values - values.mean((0, 1))) / np.sqrt(values.var((0, 1)) + eps)
        np.testing.assert_allclose(layer(x), np.moveaxis(expected, -1, axis), rtol=0, atol=1e-13)
        mean = update(mean, values.mean((0, 1)), used)
        var = update(var, values.var((0, 1), ddof=ddof), used)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-13)
    expected = (values - mean) / np.sqrt(var + eps)
    np.testing.assert_allclose(layer.eval()(x), np.moveaxis(expected, -1, axis), rtol=0, atol=1e-12)


def test_the_constructor_takes_options_and_they_win():
    layer = BatchNorm2d.from_convention("keras", 3, channel_axis=1, activation="relu", eps=0.5)
    assert (layer.channel_axis, layer.activation, layer.eps, layer.biased) == (1, "relu", 0.5, True)


@given(st.floats(0, 1))
def test_momentum_there_and_back(momentum):
    rule = get_convention("keras")
    there = rule.momentum_of_new(momentum)
    if momentum >= 0.5:
        assert Fraction(there) == 1 - Fraction(momentum)
        assert rule.momentum_from_new(there) == momentum
    assert get_convention("pytorch").momentum_of_new(momentum) == momentum


@pytest.mark.peers
def test_onnx_training_mode_is_the_onnx_convention():
    onnx = peer("onnx")
    reference = peer("onnx.reference")
    inputs = ["x", "scale", "B", "input_mean", "input_var"]
    outputs = ["y", "running_mean", "running_var"]
    node = onnx.helper.make_node("BatchNormalization", inputs, outputs, training_mode=1)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], "bn",
        [onnx.helper.make_tensor_value_info(name, kind, None) for name in inputs],
        [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    layer = BatchNorm2d.from_convention("onnx", 3)
    layer.load_state_dict(STATES["onnx"](*arrays()), convention="onnx")
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    fed = {"x": x, **STATES["onnx"](*arrays())}
    y, mean, var = reference.ReferenceEvaluator(model).run(None, fed)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)
