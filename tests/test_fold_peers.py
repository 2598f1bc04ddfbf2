# SPDX-License-Identifier: Apache-2.0
"""Folds against PyTorch: its own fusion, weight by weight, and its layers, output by output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from budgets import DTYPES, F32, F64
from peers import peer
from reference import wide
from torch_cases import tensor

from normcpu import fold
from normcpu.fold import Affine

torch = peer("torch")
pytestmark = pytest.mark.peers

Array = np.ndarray
EPS = 1e-5


class Norm:
    """A BatchNorm's arrays, as torch.nn.utils.fusion takes them."""

    def __init__(self, channels: int, seed: int, dtype: np.dtype = F32) -> None:
        rng = np.random.default_rng(seed)
        self.mean, self.weight, self.bias = (rng.normal(0, 2, channels).astype(F32).astype(dtype) for _ in range(3))
        self.var = rng.uniform(0.01, 4, channels).astype(F32).astype(dtype)
        self.affine = Affine.of_batch_norm(self.mean, self.var, self.weight, self.bias, EPS)

    def torch(self) -> tuple[Any, ...]:
        return tensor(self.mean), tensor(self.var), EPS, tensor(self.weight), tensor(self.bias)

    def exact(self) -> tuple[Array, Array, Array]:
        """Scale in long double, mean and bias."""
        return wide(self.weight) / np.sqrt(wide(self.var) + EPS), wide(self.mean), wide(self.bias)


def assert_closer(ours: Array, theirs: Any, exact: Array) -> None:
    """Each number is PyTorch's, or nearer to the exact one."""
    theirs = theirs.detach().double().numpy()
    off, theirs_off = np.abs(wide(ours) - exact), np.abs(wide(theirs) - exact)
    assert np.all((wide(ours) == theirs) | (off < theirs_off))


WEIGHTS = {
    "1d": (40, 20, 3), "2d": (32, 16, 3, 3), "3d": (8, 6, 3, 3, 3), "grouped": (32, 4, 3, 3), "depthwise": (64, 1, 5, 5)
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d != F64], ids=str)
def test_its_fusion_of_convolutions(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> None:
    rng, norm = np.random.default_rng(seed), Norm(shape[0], seed + 10)
    weight, bias = rng.normal(size=shape).astype(F32).astype(dtype), rng.normal(size=shape[0]).astype(F32).astype(dtype)
    scale, mean, beta = norm.exact()
    for b in (bias, None):
        theirs = torch.nn.utils.fusion.fuse_conv_bn_weights(
            tensor(weight), None if b is None else tensor(b), *norm.torch()
        )
        ours = fold.conv_then_affine(weight, b, norm.affine)
        assert_closer(ours.weight, theirs[0], wide(weight) * scale.reshape(-1, *[1] * (weight.ndim - 1)))
        assert_closer(ours.bias, theirs[1], ((0 if b is None else wide(b)) - mean) * scale + beta)


@pytest.mark.parametrize("seed", range(3))
def test_its_fusion_of_transposed_convolutions_and_linear_layers(seed: int) -> None:
    rng, norm = np.random.default_rng(seed), Norm(6, seed)
    scale, mean, beta = norm.exact()
    bias = rng.normal(size=6).astype(F32)
    weight = rng.normal(size=(5, 6, 3, 3)).astype(F32)
    theirs = torch.nn.utils.fusion.fuse_conv_bn_weights(tensor(weight), tensor(bias), *norm.torch(), transpose=True)
    ours = fold.conv_transpose_then_affine(weight, bias, norm.affine)
    assert_closer(ours.weight, theirs[0], wide(weight) * scale.reshape(1, -1, 1, 1))
    assert_closer(ours.bias, theirs[1], (bias - mean) * scale + beta)
    weight = rng.normal(size=(6, 50)).astype(F32)
    theirs = torch.nn.utils.fusion.fuse_linear_bn_weights(tensor(weight), tensor(bias), *norm.torch())
    ours = fold.linear_then_affine(weight, bias, norm.affine)
    assert_closer(ours.weight, theirs[0], wide(weight) * scale.reshape(-1, 1))
    assert_closer(ours.bias, theirs[1], (bias - mean) * scale + beta)


def test_grouped_transposed_convolutions_which_it_does_not_fuse() -> None:
    rng, norm = np.random.default_rng(0), Norm(9, 1, F64)
    layer = torch.nn.ConvTranspose2d(6, 9, 3, 2, groups=3, dtype=torch.float64).eval()
    batch_norm = torch.nn.BatchNorm2d(9, dtype=torch.float64).eval()
    with pytest.raises(RuntimeError):
        torch.nn.utils.fusion.fuse_conv_bn_weights(layer.weight, layer.bias, *norm.torch(), transpose=True)
    with torch.no_grad():
        batch_norm.running_mean[:], batch_norm.running_var[:], _, *parameters = norm.torch()
        batch_norm.weight[:], batch_norm.bias[:] = parameters
        x = tensor(rng.normal(size=(2, 6, 5, 5)))
        want = batch_norm(layer(x)).numpy()
        out = layer.weight.numpy(), layer.bias.numpy()
        fold.conv_transpose_then_affine(*out, norm.affine, groups=3, out=out)  # the layer's own memory
        np.testing.assert_allclose(layer(x).numpy(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_its_batch_norm_before_convolutions(groups: int) -> None:
    rng, norm = np.random.default_rng(groups), Norm(6, 4, F64)
    x, weight, bias = rng.normal(size=(2, 6, 8, 8)), rng.normal(size=(12, 6 // groups, 3, 3)), rng.normal(size=12)
    mean, var, eps, gamma, beta = norm.torch()
    normed = torch.nn.functional.batch_norm(tensor(x), mean, var, gamma, beta, eps=eps)

    def conv(x: Any, weight: Array, bias: Array, padding: int) -> Array:
        return torch.nn.functional.conv2d(x, tensor(weight), tensor(bias), padding=padding, groups=groups).numpy()

    valid = fold.affine_then_conv(norm.affine, weight, bias, groups=groups)
    np.testing.assert_allclose(conv(tensor(x), *valid, 0), conv(normed, weight, bias, 0), rtol=1e-11, atol=1e-11)
    same = fold.affine_then_padded_conv(norm.affine, weight, bias, groups=groups)
    shift = same.shift.reshape(-1, 1, 1)
    want = conv(normed, weight, bias, 1)
    np.testing.assert_allclose(conv(tensor(x + shift), same.weight, same.bias, 1), want, rtol=1e-11, atol=1e-11)
    padded = np.broadcast_to(-shift, (2, 6, 10, 10)).copy()
    padded[:, :, 1:-1, 1:-1] = x
    np.testing.assert_allclose(conv(tensor(padded), same.weight, same.pad_bias, 0), want, rtol=1e-11, atol=1e-11)


def test_weights_of_its_other_norms() -> None:
    """LayerNorm and RMSNorm into Linear, GroupNorm into a valid convolution; LayerNorm as RMSNorm."""
    rng, functional = np.random.default_rng(5), torch.nn.functional
    x, gamma, beta = rng.normal(size=(4, 12)), rng.normal(size=12), rng.normal(size=12)
    weight, bias = rng.normal(size=(7, 12)), rng.normal(size=7)
    folded = fold.affine_then_linear(Affine.of(gamma, beta), weight, bias)
    want = functional.linear(
        functional.layer_norm(tensor(x), (12,), tensor(gamma), tensor(beta)), tensor(weight), tensor(bias)
    )
    got = functional.linear(functional.layer_norm(tensor(x), (12,)), *map(tensor, folded))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-11, atol=1e-11)

    folded = fold.affine_then_linear(Affine.of(gamma), weight, None)
    assert folded.bias is None
    want = functional.linear(functional.rms_norm(tensor(x), (12,), tensor(gamma), 1e-6), tensor(weight))
    got = functional.linear(functional.rms_norm(tensor(x), (12,), None, 1e-6), tensor(folded.weight))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-11, atol=1e-11)

    image, kernel = rng.normal(size=(2, 12, 6, 6)), rng.normal(size=(5, 12, 3, 3))
    folded = fold.affine_then_conv(Affine.of(gamma, beta), kernel, None)
    want = functional.conv2d(functional.group_norm(tensor(image), 3, tensor(gamma), tensor(beta)), tensor(kernel))
    got = functional.conv2d(functional.group_norm(tensor(image), 3), *map(tensor, folded))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-11, atol=1e-11)

    centred = fold.centre_linear(weight, bias)
    want = functional.layer_norm(functional.linear(tensor(x), tensor(weight), tensor(bias)), (7,), eps=1e-5)
    got = functional.rms_norm(functional.linear(tensor(x), *map(tensor, centred)), (7,), eps=1e-5)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-11, atol=1e-11)


class Block(torch.nn.Module):
    def __init__(self, i: int, o: int, act: bool) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(i, o, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(o)
        self.conv2 = torch.nn.Conv2d(o, o, 3, 1, 1, groups=2, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(o)
        self.downsample = torch.nn.Sequential(torch.nn.Conv2d(i, o, 1), torch.nn.BatchNorm2d(o))
        self.act = torch.nn.ReLU() if act else torch.nn.SiLU()

    def forward(self, x: Any) -> Any:
        return self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))) + self.downsample(x))


def test_a_network_of_it_through_its_state_dict() -> None:
    """Loaded into the same network with biases and without BatchNorms, the folded state computes the same."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        Block(3, 8, True), Block(8, 12, False), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(12, 20), torch.nn.BatchNorm1d(20), torch.nn.ReLU(), torch.nn.Linear(20, 5),
    )  # fmt: skip
    for x in torch.randn(5, 8, 3, 10, 10):
        model(x)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.weight.normal_(), module.bias.normal_()
        model.eval()
        x = torch.randn(4, 3, 10, 10)
        want = model.double()(x.double())
        model.float()
        unfolded_error = (model(x) - want).abs().max()
        made = fold.fold_state_dict(model.state_dict(), transposed=())
        assert (len(made.folded), made.doubts) == (7, ())
        for _, name, *_ in made.folded:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, torch.nn.Identity())
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is None:
                module.bias = torch.nn.Parameter(torch.zeros(module.out_channels))
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in made.state.items()})
        assert (model(x) - want).abs().max() <= 8 * unfolded_error + 2e-6 * want.abs().max()
