# SPDX-License-Identifier: Apache-2.0
"""The layers against torch.nn's of the same name: every option, both modes, forward and autograd."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from torch_cases import assert_same_state, close, draw, numpy, tensor, torch, twins

from normcpu.functional import batch_norm, batch_norm_backward

pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are small: a team would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KINDS = {
    "BatchNorm1d (n, c)": ("BatchNorm1d", (16, 5)),
    "BatchNorm1d (n, c, l)": ("BatchNorm1d", (4, 5, 7)),
    "BatchNorm2d": ("BatchNorm2d", (3, 5, 4, 6)),
    "BatchNorm3d": ("BatchNorm3d", (2, 5, 3, 2, 4)),
}
OPTIONS = [
    {"affine": affine, "bias": bias, "track_running_stats": track, "momentum": momentum, "eps": eps}
    for affine, bias, track in itertools.product([True, False], repeat=3)
    for momentum, eps in [(0.1, 1e-5), (0.6, 1e-3), (None, 1e-5)]
]
# NumPy's dtype of the data, and the tolerance for results of order one, a few units in the last place of
# that dtype; for float32 it is PyTorch's own error, which sums in float32.
DTYPES = {
    "float32": (np.float32, 3e-5),
    "float64": (np.float64, 1e-12),
    "float16": (np.float16, 4 * 2.0**-10),
    "bfloat16": (ml_dtypes.bfloat16, 4 * 2.0**-7),
}


def text(options):
    return ",".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=text)
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_in_both_modes_forward_and_backward(kind, options, dtype):
    (name, shape), (element, tolerance) = KINDS[kind], DTYPES[dtype]
    ours, theirs = twins(name, element, options)
    statistics = tolerance if dtype in ("float32", "float64") else 1e-5  # kept in float32, whatever x is
    for step in range(3):
        x, dy = draw(shape, element, step), draw(shape, element, step + 10)
        leaf = tensor(x).requires_grad_()
        expected = theirs(leaf)
        expected.backward(tensor(dy))
        y = ours(x)
        assert (y.dtype, y.shape) == (x.dtype, shape)
        close(y, expected, tolerance)
        dx = ours.backward(dy)
        assert dx.dtype == x.dtype
        close(dx, leaf.grad, tolerance)
        assert_same_state(ours, theirs, statistics)
    # Three steps of gradients are added up, as in .grad; each is a sum over the batch.
    count = x.size // 5
    for parameter, value in theirs.named_parameters():
        grad = getattr(ours, f"{parameter}_grad")
        assert grad.dtype == getattr(ours, parameter).dtype
        np.testing.assert_allclose(grad, numpy(value.grad), rtol=tolerance, atol=tolerance * count**0.5)
    x = draw(shape, element, 20)
    close(ours.eval()(x), theirs.eval()(tensor(x)), tolerance)
    assert_same_state(ours, theirs, statistics)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_evaluation(kind, track, dtype):
    """PyTorch differentiates evaluation too: here the functions do, and a frozen layer in training mode."""
    (name, shape), (element, tolerance) = KINDS[kind], DTYPES[dtype]
    ours, theirs = twins(name, element, {"track_running_stats": track})
    theirs(tensor(draw(shape, element, 0)))
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    x, dy = draw(shape, element, 1), draw(shape, element, 2)
    leaf = tensor(x).requires_grad_()
    theirs(leaf).backward(tensor(dy))
    parameters = (ours.running_mean, ours.running_var, ours.weight, ours.bias)
    result = batch_norm(x, *parameters, not track, return_stats=True)
    gradients = batch_norm_backward(dy, x, result.mean, result.var, ours.weight, training=not track)
    atol = tolerance * (x.size // 5) ** 0.5
    close(gradients.dx, leaf.grad, tolerance)
    np.testing.assert_allclose(gradients.dweight, numpy(theirs.weight.grad), rtol=tolerance, atol=atol)
    np.testing.assert_allclose(gradients.dbias, numpy(theirs.bias.grad), rtol=tolerance, atol=atol)
    if track:
        y = ours.freeze().train()(x)
        np.testing.assert_array_equal(y, result.y)
        np.testing.assert_array_equal(ours.backward(dy), gradients.dx)
        assert_same_state(ours, theirs, 1e-5)


ACTIVATIONS = {
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": torch.nn.functional.hardswish,
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_and_residual_as_separate_modules(activation, residual, mode):
    ours, theirs = twins("BatchNorm2d", np.float32, {})
    ours.activation = activation
    ours.train(mode), theirs.train(mode)
    x, other, dy = (draw((3, 5, 4, 6), np.float32, seed) for seed in range(3))
    leaf, leaf_other = tensor(x).requires_grad_(), tensor(other).requires_grad_()
    v = theirs(leaf) + (leaf_other if residual else 0)
    expected = ACTIVATIONS[activation](v)
    close(ours(x, other if residual else None), expected, 3e-5)
    if activation == "relu" and mode:
        expected.backward(tensor(dy))
        close(ours.backward(dy), leaf.grad, 3e-5)
        close(ours.weight_grad, theirs.weight.grad, 3e-4)
        close(ours.bias_grad, theirs.bias.grad, 3e-4)
        if residual:
            close(ours.residual_grad, leaf_other.grad, 3e-5)


@pytest.mark.parametrize("kind", ["BatchNorm2d", "BatchNorm3d"])
def test_channels_last_tensors_are_read_where_they_lie(kind):
    shape = (3, 5, 4, 6) if kind == "BatchNorm2d" else (2, 5, 3, 2, 4)
    layout = torch.channels_last if kind == "BatchNorm2d" else torch.channels_last_3d
    ours, theirs = twins(kind, np.float32, {})
    x = tensor(draw(shape, np.float32, 0)).to(memory_format=layout)
    close(ours(x), theirs(x), 3e-5)
    close(ours.backward(x), torch.autograd.grad(theirs(y := x.clone().requires_grad_()), y, x)[0], 3e-5)
