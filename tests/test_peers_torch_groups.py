# SPDX-License-Identifier: Apache-2.0
"""GroupNorm and InstanceNorm against torch.nn's of the same name: every option, both modes, forward and autograd."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from torch_cases import assert_same_state, close, draw, numpy, tensor, torch

import normcpu

pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are small: a team would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


DTYPES = {
    "float32": (np.float32, 3e-5),
    "float64": (np.float64, 1e-12),
    "float16": (np.float16, 4 * 2.0**-10),
    "bfloat16": (ml_dtypes.bfloat16, 4 * 2.0**-7),
}


def twins(kind, sizes, dtype, options):
    real = np.float64 if dtype == np.float64 else np.float32
    ours = getattr(normcpu, kind)(*sizes, dtype=real, **options)
    theirs = getattr(torch.nn, kind)(*sizes, dtype=getattr(torch, np.dtype(real).name), **options)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            getattr(ours, name)[...] = rng.normal(size=parameter.shape)
            parameter.copy_(torch.from_numpy(getattr(ours, name)))
    return ours, theirs


def check_step(ours, theirs, x, dy, tolerance, single):
    """PyTorch computes in the data's dtype with parameters of it: float64 is the measure here."""
    leaf = tensor(x).to(torch.float64 if not single else torch.float32).requires_grad_()
    expected = theirs(leaf)
    close(ours(x), expected, tolerance)
    expected.backward(tensor(dy).to(leaf.dtype))
    close(ours.backward(dy), leaf.grad, tolerance * 4)
    for name, parameter in theirs.named_parameters():
        size = np.sqrt(x.size / parameter.numel())
        np.testing.assert_allclose(getattr(ours, f"{name}_grad"), numpy(parameter.grad), atol=tolerance * size * 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "shape"), [(3, (4, 6)), (1, (2, 6, 7)), (6, (2, 6, 4, 5)), (2, (3, 6, 2, 3, 4))])
def test_group_norm(groups, shape, affine, dtype):
    element, tolerance = DTYPES[dtype]
    ours, theirs = twins("GroupNorm", (groups, 6), element, {"affine": affine, "eps": 1e-3})
    x, dy = draw(shape, element, 0), draw(shape, element, 1)
    check_step(ours, theirs, x, dy, tolerance, element != np.float64)
    assert_same_state(ours, theirs, 0)
    close(
        ours.eval()(x), theirs.eval()(tensor(x).to(next(theirs.parameters(), tensor(x.astype(float))).dtype)), tolerance
    )


INSTANCES = {"InstanceNorm1d": (3, 5, 7), "InstanceNorm2d": (2, 5, 4, 6), "InstanceNorm3d": (2, 5, 3, 2, 4)}
OPTIONS = [
    {"affine": affine, "track_running_stats": track, "momentum": momentum}
    for affine, track, momentum in itertools.product([True, False], [True, False], [0.1, 0.6, None])
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
@pytest.mark.parametrize("kind", INSTANCES)
def test_instance_norm(kind, options, dtype):
    (element, tolerance), shape = DTYPES[dtype], INSTANCES[kind]
    ours, theirs = twins(kind, (5,), element, options)
    single = element != np.float64
    for step in range(2):
        ours.zero_grad(), theirs.zero_grad()
        check_step(ours, theirs, draw(shape, element, step), draw(shape, element, step + 10), tolerance, single)
        assert_same_state(ours, theirs, 1e-12 if not single else 1e-5)
    x = draw(shape, element, 20)
    real = tensor(x).to(torch.float32 if single else torch.float64)
    close(ours.eval()(x), theirs.eval()(real), tolerance)
    close(ours.eval()(x[0]), theirs.eval()(real[0]), tolerance)
    assert ours.eval()(x[0]).shape == shape[1:]


def test_frozen_instance_norm_uses_the_buffers():
    ours, theirs = twins("InstanceNorm2d", (5,), np.float32, {"affine": True, "track_running_stats": True})
    theirs(tensor(draw((2, 5, 4, 6), np.float32, 0)))
    ours.load_state_dict(theirs.state_dict())
    x, dy = draw((2, 5, 4, 6), np.float32, 1), draw((2, 5, 4, 6), np.float32, 2)
    leaf = tensor(x).requires_grad_()
    theirs.eval()(leaf).backward(tensor(dy))
    close(ours.freeze()(x), theirs(leaf), 3e-5)
    close(ours.backward(dy), leaf.grad, 3e-5)
    assert_same_state(ours, theirs, 0)


@pytest.mark.parametrize("kind", ["GroupNorm", "InstanceNorm2d"])
def test_channels_last_tensors_are_read_where_they_lie(kind):
    sizes = (2, 6) if kind == "GroupNorm" else (6,)
    ours, theirs = twins(kind, sizes, np.float32, {"affine": True})
    x = tensor(draw((3, 6, 4, 5), np.float32, 0)).to(memory_format=torch.channels_last)
    y = ours(x)
    assert y.strides == tuple(4 * s for s in x.stride())
    close(y, theirs(x), 3e-5)


def test_the_same_errors():
    for make in (normcpu, torch.nn):
        with pytest.raises(ValueError, match="num_groups|num_channels"):
            make.GroupNorm(4, 6)
        with pytest.raises(ValueError, match="expected 3D or 4D input"):
            make.InstanceNorm2d(5)(np.zeros((5, 4), "f4") if make is normcpu else torch.zeros(5, 4))
        with pytest.raises(ValueError, match="Expected more than 1 spatial element when training, got input size"):
            make.InstanceNorm1d(5)(np.zeros((2, 5, 1), "f4") if make is normcpu else torch.zeros(2, 5, 1))
