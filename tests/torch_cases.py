# SPDX-License-Identifier: Apache-2.0
"""What the comparisons with PyTorch share: tensors of arrays, layers with the same parameters."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from peers import peer

import normcpu.layers

torch = peer("torch")


def tensor(array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(array.copy())


def numpy(value):
    """A tensor as float64."""
    return value.detach().double().numpy()


def close(got, expected, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), numpy(expected), rtol=tolerance, atol=tolerance)


def draw(shape, dtype, seed):
    return (np.random.default_rng(seed).normal(size=shape) * 2 + 1).astype(dtype)


def twins(kind, dtype, options, seed=0):
    """Our layer and PyTorch's, with the same random parameters."""
    real = np.float64 if dtype == np.float64 else np.float32
    ours = getattr(normcpu.layers, kind)(5, dtype=real, **options)
    theirs = getattr(torch.nn, kind)(5, dtype=getattr(torch, np.dtype(real).name), **options)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            getattr(ours, name)[...] = rng.normal(size=5)
            parameter.copy_(torch.from_numpy(getattr(ours, name)))
    return ours, theirs


def assert_same_state(ours, theirs, tolerance):
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, value in ours.state_dict().items():
        assert str(value.dtype) == str(state[name].dtype).removeprefix("torch.")
        assert value.shape == tuple(state[name].shape)
        close(value, state[name], tolerance)
