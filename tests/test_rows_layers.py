# SPDX-License-Identifier: Apache-2.0
"""LayerNorm and RMSNorm as layers: constructors, states, gradients; and PyTorch's of the same names."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from peers import peer

import normcpu
from normcpu import LayerNorm, RMSNorm

X = (np.random.default_rng(0).normal(size=(3, 4, 6)) * 2 + 1).astype(np.float32)
DY = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)


def test_what_it_is() -> None:
    assert repr(LayerNorm((2, 3))) == "LayerNorm((2, 3), eps=1e-05, elementwise_affine=True, bias=True)"
    assert repr(LayerNorm(3, bias=False)) == "LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=False)"
    assert repr(RMSNorm(3, axis=1)) == "RMSNorm((3,), eps=None, elementwise_affine=True, axis=(1,))"
    assert repr(RMSNorm(3, 0.5, plus_one=True)) == "RMSNorm((3,), eps=0.5, elementwise_affine=True, plus_one=True)"
    assert list(LayerNorm(3).state_dict()) == ["weight", "bias"]
    assert list(RMSNorm(3).state_dict()) == ["weight"]
    assert list(LayerNorm(3, elementwise_affine=False).state_dict()) == []
    assert RMSNorm(3, plus_one=True).weight.tolist() == [0, 0, 0]
    layer = RMSNorm(3, plus_one=True)
    layer.weight[...] = 5
    layer.reset_parameters()
    assert layer.weight.tolist() == [0, 0, 0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_modes_are_one_function(kind: Any, training: bool) -> None:
    layer = kind(6).train(training)
    layer.weight[...] = np.arange(6)
    function = normcpu.layer_norm if kind is LayerNorm else normcpu.rms_norm
    want = function(X, 6, layer.weight)
    assert np.array_equal(layer(X), want)
    out = np.empty_like(X)
    assert layer(X, out=out) is out
    y, total = layer.add(X, X)
    assert np.array_equal(total, X + X)
    assert np.array_equal(y, function(X + X, 6, layer.weight))


def test_backward_adds_up_and_wants_a_forward() -> None:
    layer = LayerNorm(4, axis=1)
    layer(X)
    dx = layer.backward(DY)
    stats = normcpu.layer_norm(X, axis=1, return_stats=True)
    want = normcpu.layer_norm_backward(DY, X, stats.mean, stats.var, axis=1)
    assert np.array_equal(dx, want.dx)
    with pytest.raises(RuntimeError, match="LayerNorm.backward: call the layer in training mode first"):
        layer.backward(DY)
    y, total = layer.add(X, X, out_sum=np.empty_like(X))
    through = layer.backward(DY, dsum=DY)
    assert y.shape == total.shape == through.shape
    assert np.array_equal(layer.bias_grad, 2 * want.dbias)
    layer.zero_grad()
    assert layer.weight_grad is None
    x = X.copy()
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="may have overwritten x"):
        layer.backward(DY)
    layer.eval()(X)
    with pytest.raises(RuntimeError, match="training mode first"):
        layer.backward(DY)


def test_copies_and_states() -> None:
    layer = LayerNorm((4, 6))
    layer.weight[...] = X[0]
    layer(X)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(twin.weight, layer.weight)
        assert twin._saved is None
    other = LayerNorm((4, 6))
    other.load_state_dict(layer.state_dict("norm."), prefix="norm.")
    assert np.array_equal(other(X), layer(X))
    with pytest.raises(ValueError, match="unexpected 'bias'"):
        RMSNorm((4, 6)).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        ("LayerNorm", (6,), {}), ("LayerNorm", (4, 6), {"eps": 0.1}), ("LayerNorm", 6, {"bias": False}),
        ("LayerNorm", 6, {"elementwise_affine": False}), ("RMSNorm", (6,), {}), ("RMSNorm", (4, 6), {"eps": 0.1}),
        ("RMSNorm", 6, {"elementwise_affine": False}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.peers
def test_pytorch(kind: str, shape: Any, options: dict[str, Any], dtype: Any) -> None:
    torch = peer("torch")
    theirs = getattr(torch.nn, kind)(shape, dtype=getattr(torch, np.dtype(dtype).name), **options)
    ours = getattr(normcpu, kind)(shape, dtype=dtype, **options)
    assert repr(ours) == repr(theirs)
    rng = np.random.default_rng(2)
    state = {name: rng.normal(size=value.shape).astype(dtype) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    tolerance = {"rtol": 2e-6, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-13}
    x, dy = X.astype(dtype), DY.astype(dtype)
    theirs_x = torch.from_numpy(x.copy()).requires_grad_()
    for training in (True, False):
        y = theirs.train(training)(theirs_x)
        np.testing.assert_allclose(ours.train(training)(x), y.detach().numpy(), **tolerance)
    ours.train()(x)
    y.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(ours.backward(dy), theirs_x.grad.numpy(), **tolerance)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(getattr(ours, f"{name}_grad"), parameter.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.peers
def test_pytorch_in_16_bits(dtype: str) -> None:
    torch, ml_dtypes = peer("torch"), peer("ml_dtypes")
    x = torch.from_numpy(X).to(getattr(torch, dtype))
    ours = X.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    weight = np.linspace(0.5, 2, 6).astype(ours.dtype)
    theirs_weight = torch.from_numpy(weight.astype(np.float32)).to(x.dtype)
    step = float(torch.finfo(x.dtype).eps)
    for got, want in (
        (normcpu.layer_norm(ours, 6, weight), torch.nn.functional.layer_norm(x, (6,), theirs_weight)),
        (normcpu.rms_norm(ours, 6, weight), torch.nn.functional.rms_norm(x, (6,), theirs_weight)),
    ):
        np.testing.assert_allclose(got.astype(float), want.double().numpy(), rtol=2 * step, atol=step)
