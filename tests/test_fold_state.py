# SPDX-License-Identifier: Apache-2.0
"""fold_state_dict: which pairs it finds, which it doubts, and what comes out of dictionaries and files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from normcpu import fold
from normcpu.fold import Affine, FoldError, Pair, fold_state_dict

Array = np.ndarray
F32 = np.float32


def conv(name: str, *shape: int, bias: bool = False) -> dict[str, Array]:
    """A layer's entries; the numbers follow from the name."""
    rng = np.random.default_rng(list(name.encode()))
    entries = {f"{name}.weight": rng.normal(size=shape).astype(F32)}
    return entries | ({f"{name}.bias": rng.normal(size=shape[0]).astype(F32)} if bias else {})


def norm(name: str, channels: int, affine: bool = True) -> dict[str, Array]:
    rng = np.random.default_rng(list(name.encode()))
    leaves = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    entries = {f"{name}.{leaf}": rng.uniform(0.1, 2, channels).astype(F32) for leaf in leaves}
    return entries | {f"{name}.num_batches_tracked": np.array(3)}


def affine_of(state: dict[str, Array], name: str, eps: float = 1e-5) -> Affine:
    get = state.get
    return Affine.of_batch_norm(
        state[f"{name}.running_mean"], state[f"{name}.running_var"], get(f"{name}.weight"), get(f"{name}.bias"), eps
    )


def merged(parts: Iterable[dict[str, Array]]) -> dict[str, Array]:
    return {key: value for part in parts for key, value in part.items()}


FOUND = {
    "a ResNet's block": (
        [conv("conv1", 64, 3, 7, 7), norm("bn1", 64), conv("layer1.0.conv1", 64, 64, 3, 3), norm("layer1.0.bn1", 64),
         conv("layer1.0.downsample.0", 64, 24, 1, 1), norm("layer1.0.downsample.1", 64), conv("fc", 10, 64, bias=True)],
        ["conv1 bn1", "layer1.0.conv1 layer1.0.bn1", "layer1.0.downsample.0 layer1.0.downsample.1"],
    ),
    "a MobileNet's": (
        [conv("features.0.0", 32, 3, 3, 3), norm("features.0.1", 32), conv("features.1.conv.0.0", 32, 1, 3, 3),
         norm("features.1.conv.0.1", 32)],
        ["features.0.0 features.0.1", "features.1.conv.0.0 features.1.conv.0.1"],
    ),
    "ConvBn and Linear": (
        [conv("stem.conv", 8, 3, 3), norm("stem.bn", 8), conv("fc1", 6, 8, bias=True), norm("bn_fc1", 6, affine=False),
         conv("linear2", 6, 6), norm("norm2", 6)],
        ["stem.conv stem.bn", "fc1 bn_fc1", "linear2 norm2"],
    ),
    "transposed by its name and its channels": (
        [conv("deconv1", 6, 4, 2, 2), norm("bn1", 4)], ["deconv1 bn1"],
    ),
    "of shapes that say so, in order of names": ([norm("bn1", 64), conv("conv1", 64, 3, 7, 7)], ["conv1 bn1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_pairs_that_leave_no_doubt(name: str) -> None:
    parts, wanted = FOUND[name]
    state = merged(parts)
    made = fold_state_dict(state)
    assert [f"{pair.first} {pair.second}" for pair in made.folded] == wanted
    assert made.doubts == ()
    for layer, batch_norm, *_ in made.folded:
        affine, weight, bias = affine_of(state, batch_norm), state[f"{layer}.weight"], state.get(f"{layer}.bias")
        if "deconv" in layer:
            want = fold.conv_transpose_then_affine(weight, bias, affine)
        elif weight.ndim == 2:
            want = fold.linear_then_affine(weight, bias, affine)
        else:
            want = fold.conv_then_affine(weight, bias, affine)
        assert np.array_equal(made.state[f"{layer}.weight"], want.weight)
        assert np.array_equal(made.state[f"{layer}.bias"], want.bias)
        assert not any(key.startswith(f"{batch_norm}.") for key in made.state)
        assert list(made.state).index(f"{layer}.bias") == list(made.state).index(f"{layer}.weight") + 1
    untouched = state.keys() - {f"{n}.{leaf}" for pair in made.folded for n in pair[:2] for leaf in ("weight", "bias")}
    assert all(made.state[key] is state[key] for key in untouched & made.state.keys())


PRE_ACTIVATION = [norm("bn1", 8), conv("conv1", 8, 8, 3, 3)]
DOUBTED = {
    "it may come before its layer": PRE_ACTIVATION,
    "its layer may be a transposed convolution": [conv("net.0", 8, 8, 3, 3), norm("net.1", 8)],
    "no layer has its name": [conv("net.0", 8, 3, 3, 3), norm("net.2", 8)],
    "no layer of its name has its channels": [conv("conv", 8, 3, 3, 3), norm("bn", 7)],
    "several layers have its name": [conv("conv1", 8, 3, 3, 3), conv("fc1", 8, 3), norm("bn1", 8)],
    "its layer has another BatchNorm": [conv("conv1", 8, 3, 3, 3), norm("bn1", 8), norm("norm1", 8)],
}


@pytest.mark.parametrize("reason", DOUBTED)
def test_doubts_are_reported_and_nothing_is_changed(reason: str) -> None:
    state = merged(DOUBTED[reason])
    made = fold_state_dict(state)
    assert made.folded == ()
    assert {doubt.reason for doubt in made.doubts} == {reason}
    assert made.state.keys() == state.keys()
    assert all(made.state[key] is state[key] for key in state)


def test_doubts_are_settled() -> None:
    state = merged(PRE_ACTIVATION)
    assert fold_state_dict(state, norms_follow=True).folded == (Pair("conv1", "bn1"),)
    [doubt] = fold_state_dict(state).doubts
    assert doubt.norm == "bn1"
    after = fold_state_dict(state, doubt.candidates)
    assert after.folded == doubt.candidates == (Pair("conv1", "bn1"),)
    before = fold_state_dict(state, [("bn1", "conv1")])
    want = fold.affine_then_conv(affine_of(state, "bn1"), state["conv1.weight"], None)
    assert np.array_equal(before.state["conv1.weight"], want.weight)
    assert list(before.state) == ["conv1.weight", "conv1.bias"]

    state = merged(DOUBTED["its layer may be a transposed convolution"])
    plain, turned = Pair("net.0", "net.1"), Pair("net.0", "net.1", transposed=True)
    assert fold_state_dict(state).doubts[0].candidates == (plain, turned)
    assert fold_state_dict(state, transposed=()).folded == (plain,)
    assert fold_state_dict(state, transposed=["net.0"]).folded == (turned,)
    want = fold.conv_transpose_then_affine(state["net.0.weight"], None, affine_of(state, "net.1"))
    assert np.array_equal(fold_state_dict(state, [turned]).state["net.0.weight"], want.weight)


def test_grouped_transposed_and_several_pairs_of_one_layer() -> None:
    state = merged([norm("before", 4), conv("up", 4, 3, 2, 2), norm("after", 6)])
    made = fold_state_dict(state, [Pair("up", "after", transposed=True)], eps={"after": 1e-3})
    want = fold.conv_transpose_then_affine(state["up.weight"], None, affine_of(state, "after", 1e-3), groups=2)
    assert np.array_equal(made.state["up.weight"], want.weight)
    assert np.array_equal(made.state["up.bias"], want.bias)
    assert [doubt[::2] for doubt in made.doubts] == [("before", "it is in no pair")]

    state = merged([norm("before", 6), conv("grouped", 4, 3, 2), norm("after", 4)])
    made = fold_state_dict(state, [("grouped", "after"), Pair("before", "grouped", groups=2)], eps=1e-3)
    inner = fold.conv_then_affine(state["grouped.weight"], None, affine_of(state, "after", 1e-3))
    want = fold.affine_then_conv(affine_of(state, "before", 1e-3), *inner, groups=2)
    assert np.array_equal(made.state["grouped.weight"], want.weight)
    assert np.array_equal(made.state["grouped.bias"], want.bias)


def test_files(tmp_path: Path) -> None:
    state = merged([conv("stem.conv", 8, 3, 3), norm("stem.bn", 8)])
    want = fold_state_dict(state).state
    np.savez(tmp_path / "state.npz", **state)
    save_file({k: np.asarray(v) for k, v in state.items()}, tmp_path / "state.safetensors")
    for name in ("state.npz", "state.safetensors"):
        made = fold_state_dict(tmp_path / name)
        assert made.folded == (Pair("stem.conv", "stem.bn"),)
        assert all(np.array_equal(made.state[key], want[key]) for key in want)
        save_file(made.state, tmp_path / "folded.safetensors")
        assert fold_state_dict(tmp_path / "folded.safetensors").state.keys() == want.keys()


STATE = merged([conv("conv", 2, 3, 3), norm("bn", 2), norm("bn2", 2)])
BAD_CALLS: list[tuple[Any, type[Exception], str]] = [
    ([("conv", "fc")], ValueError,
     "pairs must hold one BatchNorm with running statistics each, got none in ('conv', 'fc')"),
    ([("bn", "bn2")], ValueError,
     "pairs must hold one BatchNorm with running statistics each, got two in ('bn', 'bn2')"),
    ([("fc", "bn")], ValueError,
     "pairs must hold a layer with a weight of 2 or more axes each, got 'fc' with no weight"),
    ([("bn", "conv")], ValueError,
     "bn and conv: affine.scale must have shape (3,), one value per channel, got (2,)"),
    ([Pair("bn", "conv", transposed=True)], ValueError,
     "bn and conv: in front of a transposed convolution a shift must stay: see affine_then_conv_transpose"),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "error", "message"), BAD_CALLS, ids=[message for _, _, message in BAD_CALLS])
def test_bad_pairs(pairs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        fold_state_dict(STATE, pairs)


def test_refusals_name_pair_and_channel() -> None:
    state = dict(STATE)
    state["bn.running_var"] = np.float32([1, -1])
    message = "conv and bn: running_var + eps must be positive, got -0.99999 in channel 1"
    with pytest.raises(FoldError, match=f"^{re.escape(message)}$") as info:
        fold_state_dict(state, [("conv", "bn")])
    assert info.value.channel == 1
    with pytest.raises(TypeError, match=r"^conv and bn: weight must be float32, .* got int8"):
        fold_state_dict(STATE | {"conv.weight": np.ones((2, 3, 3), np.int8)}, [("conv", "bn")])
