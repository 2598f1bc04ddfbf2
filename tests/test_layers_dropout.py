# SPDX-License-Identifier: Apache-2.0
"""Dropout layers: modes, backward, seeds; and beside PyTorch's and ONNX's."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from dropout_reference import ALPHA
from peers import peer

import normcpu
from normcpu import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d

Array = np.ndarray
LAYERS = {Dropout: (6, 50), AlphaDropout: (6, 50), Dropout1d: (6, 50, 3), Dropout2d: (6, 50, 3, 2),
          Dropout3d: (6, 50, 3, 2, 2)}  # fmt: skip
ONNX_INFERENCE = ["test_dropout_default", "test_dropout_default_mask", "test_dropout_default_mask_ratio",
                  "test_dropout_default_old", "test_dropout_default_ratio", "test_dropout_random_old"]  # fmt: skip
ONNX_TRAINING = ["test_training_dropout", "test_training_dropout_default", "test_training_dropout_default_mask",
                 "test_training_dropout_mask", "test_training_dropout_zero_ratio",
                 "test_training_dropout_zero_ratio_mask"]  # fmt: skip


def x_of(layer: Any) -> Array:
    return np.random.default_rng(1).standard_normal(LAYERS[type(layer)]).astype(np.float32)


@pytest.mark.parametrize("kind", LAYERS)
def test_modes(kind: Any) -> None:
    layer = kind(0.4, rng=3)
    x = x_of(layer)
    y = layer(x)
    assert not np.array_equal(y, x)
    assert not np.array_equal(layer(x), y)  # a new mask each time
    state = layer.rng.bit_generator.state
    assert np.array_equal(layer.eval()(x), x)
    assert layer.rng.bit_generator.state == state
    with pytest.raises(RuntimeError, match=f"^{kind.__name__}.backward: call the layer in training mode first"):
        layer.backward(x)
    assert layer.state_dict() == {}
    assert layer.load_state_dict({}) == ([], [])
    assert np.array_equal(kind(0.4, rng=3)(x), y)
    assert np.array_equal(kind(0.4, rng=np.random.default_rng(3))(x), y)


@pytest.mark.parametrize("kind", LAYERS)
def test_backward(kind: Any) -> None:
    layer = kind(0.4, rng=3)
    x = x_of(layer).astype(np.float64)
    again = copy.deepcopy(layer)
    step = np.random.default_rng(5).standard_normal(x.shape)
    difference = again(x + step) - layer(x)  # linear, the same masks
    dx = layer.backward(step)
    np.testing.assert_allclose(dx, difference, rtol=0, atol=1e-14)
    with pytest.raises(RuntimeError):
        layer.backward(step)


def test_in_place() -> None:
    """backward wants the mask alone, so x may be overwritten."""
    layer, other = Dropout(0.5, rng=1), Dropout(0.5, rng=1)
    x, dy = x_of(layer), np.ones((6, 50), np.float32)
    y, kept = layer(x), x.copy()
    assert other(kept, out=kept) is kept
    assert np.array_equal(kept, y)
    gradient = dy.copy()
    assert other.backward(gradient, out=gradient) is gradient
    assert np.array_equal(gradient, layer.backward(dy))


def test_failed_call_forgets_the_former() -> None:
    layer = Dropout(0.5)
    layer(np.ones(3, np.float32))
    with pytest.raises(TypeError):
        layer("x")
    with pytest.raises(RuntimeError):
        layer.backward(np.ones(3, np.float32))


def test_pickle_continues_the_masks() -> None:
    layer = Dropout(0.3, rng=1)
    x = x_of(layer)
    layer(x)
    again = pickle.loads(pickle.dumps(layer))
    assert again._saved is None
    assert np.array_equal(again(x), layer(x))


def test_repr() -> None:
    assert repr(Dropout()) == "Dropout(p=0.5)"
    assert repr(AlphaDropout(0.1)) == "AlphaDropout(p=0.1)"
    assert repr(Dropout2d(0.2)) == "Dropout2d(p=0.2)"
    assert repr(Dropout2d(0.2, channel_axis=-1)) == "Dropout2d(p=0.2, channel_axis=-1)"


# ---- Peers -----------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_torch_makes_the_same_values(dtype: str) -> None:
    """Other masks, but kept and dropped elements become the same numbers, alone and in whole channels."""
    torch = peer("torch")
    x = torch.full((40, 8, 5), 1.375, dtype=getattr(torch, dtype))
    torch.manual_seed(0)
    for name in ("dropout", "alpha_dropout", "dropout1d"):
        ours, theirs = getattr(normcpu, name), getattr(torch.nn.functional, name)
        for p in (0.0, 0.1, 0.3, 0.5, 1.0):
            made, expected = np.unique(ours(x, p, rng=1).astype(float)), np.unique(theirs(x, p, True).double().numpy())
            assert made.shape == expected.shape, (name, p)
            np.testing.assert_allclose(made, expected, rtol=2e-2 if dtype == "bfloat16" else 3e-7, atol=1e-7)


@pytest.mark.peers
def test_torch_drops_the_same_kind_of_channel() -> None:
    """Of every number of axes that PyTorch takes without a warning, and of dropout2d's (n, c, l)."""
    functional = peer("torch").nn.functional
    for axes, shapes in {
        1: [(9, 4), (5, 9, 4)],
        2: [(5, 9, 4), (5, 9, 2, 2)],
        3: [(9, 2, 2, 2), (5, 9, 2, 2, 2)],
    }.items():
        for shape in shapes:
            x = np.ones(shape, np.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that dropout2d of three axes may change
                theirs = getattr(functional, f"dropout{axes}d")(peer("torch").from_numpy(x), 0.5).numpy()
            for y in (theirs, getattr(normcpu, f"dropout{axes}d")(x, 0.5, rng=1)):
                rows = y.reshape(9, -1) if shape[0] == 9 else y.reshape(45, -1)
                assert np.array_equal(rows, np.repeat(rows[:, :1], rows.shape[1], 1))
                assert 0 < np.count_nonzero(rows[:, 0]) < len(rows)


def test_alpha_is_selus_limit() -> None:
    assert pytest.approx(ALPHA, rel=1e-15) == -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


def node_cases() -> dict[str, Any]:
    peer("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests of other operators overflow while they are collected
        from onnx.backend.test.case.node import collect_testcases

        return {case.name: case for case in collect_testcases(None) if "dropout" in case.name}


@pytest.mark.peers
def test_onnx_nodes() -> None:
    """Inference and ratio 0 are exact.  Other masks are NumPy's there, so ours is told what they are."""
    cases = node_cases()
    assert {*ONNX_INFERENCE, *ONNX_TRAINING} == set(cases)
    for name in ONNX_INFERENCE + ONNX_TRAINING:
        training = name in ONNX_TRAINING
        for inputs, outputs in cases[name].data_sets:
            x, ratio = inputs[0], float(inputs[1]) if len(inputs) > 1 else 0.5
            y, mask = normcpu.dropout(x, ratio, training, rng=0, return_mask=True)
            if training and ratio:
                flags = outputs[1] if len(outputs) > 1 else outputs[0] != 0
                y = normcpu.dropout_backward(x, np.packbits(flags.reshape(-1), bitorder="little"), ratio)
                np.testing.assert_allclose(y, outputs[0], rtol=1e-7, err_msg=name)
                continue
            flags = np.unpackbits(mask, count=x.size, bitorder="little").reshape(x.shape).astype(bool)
            assert np.array_equal(y, outputs[0]), name
            assert len(outputs) == 1 or np.array_equal(flags, outputs[1]), name
