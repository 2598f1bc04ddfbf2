# SPDX-License-Identifier: Apache-2.0
"""BatchNorm1d, 2d, 3d: the gradient, and what there is no gradient of."""

from __future__ import annotations

import numpy as np
import pytest
from layer_cases import LAYERS, draw, with_parameters

from normcpu.layers import BatchNorm1d


def gradient(layer, x, dy, name=None, step=1e-6):
    """Central differences of sum(layer(x) * dy) by x, or by one of its parameters."""
    array = x if name is None else getattr(layer, name)
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept, loss = array[index], []
        for delta in (step, -step):
            array[index] = kept + delta
            loss.append(np.sum(layer(x) * dy))
        array[index] = kept
        result[index] = (loss[0] - loss[1]) / (2 * step)
    return result


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_backward_is_the_gradient(kind, shape, activation, frozen):
    layer = with_parameters(kind(3, dtype=np.float64, activation=activation))
    layer(draw(shape, np.float64, seed=7))
    if frozen:
        layer.freeze()
    x, dy = draw(shape, np.float64), draw(shape, np.float64, seed=3)
    layer(x)
    dx = layer.backward(dy)
    np.testing.assert_allclose(dx, gradient(layer, x, dy), rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.weight_grad, gradient(layer, x, dy, "weight"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.bias_grad, gradient(layer, x, dy, "bias"), rtol=0, atol=1e-6)


def test_parameter_gradients_add_up_until_zero_grad():
    layer, x = BatchNorm1d(3, dtype=np.float64), draw((8, 3), np.float64)
    grads = []
    for _ in range(2):
        layer(x)
        layer.backward(x)
        grads.append((layer.weight_grad.copy(), layer.bias_grad.copy()))
    np.testing.assert_array_equal(grads[1], 2 * np.array(grads[0]))
    layer.zero_grad()
    assert layer.weight_grad is layer.bias_grad is layer.residual_grad is None


def test_the_residual_gets_the_gradient_behind_the_activation():
    layer, x, residual = BatchNorm1d(3, activation="relu"), draw((8, 3)), draw((8, 3), seed=1)
    y, dy = layer(x, residual), draw((8, 3), seed=2)
    layer.backward(dy)
    np.testing.assert_array_equal(layer.residual_grad, np.where(y > 0, dy, 0))
    layer(x)
    layer.backward(dy)
    assert layer.residual_grad is None


def test_backward_into_out():
    layer, x, dy = BatchNorm1d(3), draw((8, 3)), draw((8, 3), seed=1)
    layer(x)
    dx = layer.backward(dy)
    layer(x)
    assert layer.backward(dy, out=dy) is dy
    np.testing.assert_array_equal(dx, dy)


def test_backward_needs_a_training_forward():
    layer, x = BatchNorm1d(3), draw((8, 3))
    message = r"BatchNorm1d\.backward: call the layer in training mode first, once for each"
    with pytest.raises(RuntimeError, match=message):
        layer.backward(x)
    layer.eval()(x)
    with pytest.raises(RuntimeError, match=message):
        layer.backward(x)
    layer.train()(x)
    layer.backward(x)
    with pytest.raises(RuntimeError, match=message):
        layer.backward(x)
    layer(x)
    with pytest.raises(TypeError):
        layer(x.astype(np.int32))
    with pytest.raises(RuntimeError, match=message):
        layer.backward(x)


def test_backward_refuses_an_input_that_was_overwritten():
    layer, x = BatchNorm1d(3), draw((8, 3))
    layer(x, out=x)
    with pytest.raises(RuntimeError, match=r"may have overwritten x \(out=\)"):
        layer.backward(x)


def test_a_gradient_that_fails_changes_nothing_and_may_be_tried_again():
    layer, x = BatchNorm1d(3), draw((8, 3))
    layer(x)
    with pytest.raises(ValueError, match="dy"):
        layer.backward(x[:4])
    assert layer.weight_grad is None
    layer.backward(x)
    assert layer.weight_grad.shape == (3,)


def test_backward_of_other_activations_is_refused_by_name():
    layer, x = BatchNorm1d(3, activation="silu"), draw((8, 3))
    layer(x)
    with pytest.raises((ValueError, NotImplementedError), match=r"relu.*silu|silu.*relu"):
        layer.backward(x)
