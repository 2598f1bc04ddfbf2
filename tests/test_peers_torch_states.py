# SPDX-License-Identifier: Apache-2.0
"""Messages and states against PyTorch's: what one writes the other reads."""

from __future__ import annotations

import re

import numpy as np
import pytest
from peers import peer
from torch_cases import assert_same_state, close, draw, tensor, torch, twins

from normcpu.frozen import FrozenBatchNorm

safetensors_torch = peer("safetensors.torch")
pytestmark = pytest.mark.peers


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("BatchNorm1d", (5,)), ("BatchNorm1d", (2, 5, 2, 2)), ("BatchNorm2d", (2, 5)), ("BatchNorm3d", (2, 5))],
)
def test_messages_about_dimensions_are_the_same(kind, shape):
    ours, theirs = twins(kind, np.float32, {})
    with pytest.raises(ValueError, match="expected") as expected:
        theirs(torch.zeros(shape))
    with pytest.raises(ValueError, match="^" + re.escape(str(expected.value)) + "$"):
        ours(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("mode", "track"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("kind", "shape"), [("BatchNorm1d", (1, 5)), ("BatchNorm2d", (1, 5, 1, 1))])
def test_one_value_per_channel_is_refused_where_pytorch_refuses_it(kind, shape, mode, track):
    ours, theirs = twins(kind, np.float32, {"track_running_stats": track})
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as expected:
        theirs.train(mode)(torch.zeros(shape))
    message = str(expected.value).replace("torch.Size([", "(").replace("])", ")").replace("[", "(")
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        ours.train(mode)(np.zeros(shape, np.float32))


def test_one_value_per_channel_is_fine_in_evaluation():
    ours, theirs = twins("BatchNorm1d", np.float32, {})
    x = draw((1, 5), np.float32, 0)
    close(ours.eval()(x), theirs.eval()(tensor(x)), 1e-6)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_leaves_the_same_buffers(momentum):
    ours, theirs = twins("BatchNorm2d", np.float32, {"momentum": momentum})
    assert ours(np.zeros((0, 5, 2, 2), np.float32)).shape == tuple(theirs(torch.zeros(0, 5, 2, 2)).shape)
    np.testing.assert_array_equal(ours.running_mean, theirs.running_mean)
    np.testing.assert_array_equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("kind", ["state_dict", "parameters", "bfloat16 parameters", "file", "bfloat16 file"])
def test_states_of_pytorch_are_loaded(tmp_path, kind):
    ours, theirs = twins("BatchNorm2d", np.float32, {})
    theirs(tensor(draw((3, 5, 4, 6), np.float32, 0)))
    model = torch.nn.Sequential(torch.nn.Conv2d(5, 5, 1), theirs)
    if kind.startswith("bfloat16"):
        model.to(torch.bfloat16)
    state = model.state_dict()
    if kind.endswith("parameters"):
        state = dict(model.named_parameters()) | dict(model.named_buffers())
    elif kind.endswith("file"):
        state = tmp_path / "model.safetensors"
        safetensors_torch.save_file(model.state_dict(), state)
    assert ours.load_state_dict(state, prefix="1.") == ([], [])
    assert_same_state(ours, theirs.float(), 0)
    frozen = FrozenBatchNorm.from_state_dict(state, prefix="1.")
    x = draw((3, 5, 4, 6), np.float32, 1)
    close(frozen(x), theirs.eval()(tensor(x)), 3e-5)


def test_pytorch_loads_our_state():
    ours, theirs = twins("BatchNorm2d", np.float32, {})
    ours(draw((3, 5, 4, 6), np.float32, 0))
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    assert_same_state(ours, theirs, 0)


@pytest.mark.parametrize("absent", ["weight", "running_mean", "num_batches_tracked"])
@pytest.mark.parametrize("versioned", [True, False])
def test_the_same_names_may_be_missing(absent, versioned):
    ours, theirs = twins("BatchNorm2d", np.float32, {})
    state = theirs.state_dict()
    del state[absent]
    if not versioned:
        state = dict(state)
    try:
        theirs.load_state_dict(state)
    except RuntimeError:
        with pytest.raises(ValueError, match=f"missing '{absent}'"):
            ours.load_state_dict(state)
    else:
        assert ours.load_state_dict(state) == ([], [])
