# SPDX-License-Identifier: Apache-2.0
"""state_dict and load_state_dict: names, prefixes, errors that load nothing."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from state_cases import NAMES, changed, state

from normcpu.layers import BatchNorm1d, BatchNorm2d


def assert_same(layer, expected):
    got = layer.state_dict()
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


def sources(tmp_path, arrays):
    """The same entries as each kind of source."""
    np.savez(tmp_path / "state.npz", **arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "state.safetensors")
    return {
        "mapping": arrays,
        "npz": tmp_path / "state.npz",
        "npz as str": str(tmp_path / "state.npz"),
        "safetensors": tmp_path / "state.safetensors",
    }


@pytest.mark.parametrize("kind", ["mapping", "npz", "npz as str", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "layer1.0.bn1."])
def test_what_one_layer_gives_another_takes(tmp_path, kind, prefix):
    expected = state()
    layer = BatchNorm2d(3)
    layer.load_state_dict(expected)
    given_state = sources(tmp_path, layer.state_dict(prefix))[kind]
    twin = BatchNorm2d(3)
    assert twin.load_state_dict(given_state, prefix=prefix) == ([], [])
    assert_same(twin, expected)


@pytest.mark.parametrize("kind", ["mapping", "npz", "safetensors"])
def test_a_prefix_takes_one_layer_out_of_a_model(tmp_path, kind):
    model = state(3, 1, "bn1.") | state(5, 2, "bn10.") | {"conv1.weight": np.zeros((3, 3, 1, 1), np.float32)}
    layer = BatchNorm2d(5)
    layer.load_state_dict(sources(tmp_path, model)[kind], prefix="bn10.")
    assert_same(layer, state(5, 2))


def test_arrays_are_copied_out_and_loaded_in_place():
    layer = BatchNorm1d(3)
    kept, taken = layer.weight, layer.state_dict()
    layer.load_state_dict(state())
    assert layer.weight is kept
    np.testing.assert_array_equal(taken["weight"], np.ones(3))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"affine": False}, NAMES[2:]),
        ({"bias": False}, ("weight", *NAMES[2:])),
        ({"track_running_stats": False}, NAMES[:2]),
        ({"affine": False, "track_running_stats": False}, ()),
    ],
)
def test_only_what_a_layer_has_is_expected(options, names):
    layer = BatchNorm1d(3, **options)
    assert tuple(layer.state_dict()) == names
    layer.load_state_dict({name: value for name, value in state().items() if name in names})
    unexpected = [repr(name) for name in NAMES if name not in names]
    with pytest.raises(ValueError, match="; ".join(f"unexpected {name}" for name in unexpected)):
        layer.load_state_dict(state())
    result = layer.load_state_dict(state(), strict=False)
    assert result.unexpected_keys == [name for name in NAMES if name not in names]


LOADS = {
    "missing": (changed(weight=None, running_var=None), "missing 'weight'; missing 'running_var'"),
    "unexpected": (changed(gamma=np.ones(3)), "unexpected 'gamma'"),
    "shape": (changed(bias=np.ones(4)), "bias must have shape (3,), got (4,)"),
    "axes": (changed(running_mean=np.ones((1, 3))), "running_mean must have shape (3,), got (1, 3)"),
    "count": (changed(num_batches_tracked=[1, 2]), "num_batches_tracked must have shape (), got (2,)"),
    "fraction": (changed(num_batches_tracked=1.5), "num_batches_tracked must be integers, got float64"),
    "range": (changed(running_var=[1, 1e39, 1]), "running_var must fit float32, got a larger value"),
    "all": (
        changed(weight=None, beta=np.ones(3), bias=np.ones(4)),
        "missing 'weight'; unexpected 'beta'; bias must have shape (3,), got (4,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOADS)
def test_a_state_that_does_not_fit_is_refused_whole(case):
    bad, message = LOADS[case]
    layer = BatchNorm1d(3)
    layer.load_state_dict(state(seed=5))
    with pytest.raises(ValueError, match="^" + re.escape(f"BatchNorm1d.load_state_dict: {message}") + "$"):
        layer.load_state_dict(bad)
    assert_same(layer, state(seed=5))


KINDS = {
    "objects": ({"weight": [1, None, 2]}, "weight must be an array of real numbers, got list (object)"),
    "complex": ({"bias": np.ones(3, complex)}, "bias must be an array of real numbers, got complex128"),
    "text": ({"bias": "weights"}, "bias must be an array of real numbers, got str (<U7)"),
    "name": ({5: np.ones(3)}, "state must have names of type str, got 5"),
    "source": (5, "state must be a mapping or a path, got int"),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_state_of_the_wrong_kind(case):
    source, message = KINDS[case]
    with pytest.raises(TypeError, match="^" + re.escape(message) + "$"):
        BatchNorm1d(3).load_state_dict(source)


def test_not_strict_returns_the_names_and_still_checks_shapes():
    layer, before = BatchNorm1d(3), state(seed=5)
    layer.load_state_dict(before)
    given_state = {"weight": np.full(3, 2.0), "gamma": np.ones(3)}
    result = layer.load_state_dict(given_state, strict=False)
    assert result.missing_keys == ["bias", "running_mean", "running_var"]
    assert result.unexpected_keys == ["gamma"]
    assert_same(layer, before | {"weight": np.full(3, 2.0)})
    with pytest.raises(ValueError, match="weight must have shape"):
        layer.load_state_dict({"weight": np.ones(4), "bias": np.ones(3)}, strict=False)
    assert_same(layer, before | {"weight": np.full(3, 2.0)})


class Versioned(dict):
    """A mapping with the metadata that PyTorch writes beside its entries."""

    def __init__(self, entries, version, place):
        super().__init__(entries)
        self._metadata = {place: {"version": version}}


def test_the_count_may_be_missing_from_states_older_than_version_2():
    without = changed(num_batches_tracked=None)
    layer = BatchNorm1d(3)
    layer.num_batches_tracked[...] = 4
    layer.load_state_dict(without)
    assert layer.num_batches_tracked == 4
    layer.load_state_dict(Versioned(without, 1, ""))
    with pytest.raises(ValueError, match="missing 'num_batches_tracked'"):
        layer.load_state_dict(Versioned(without, 2, ""))
    placed = {f"bn.{name}": value for name, value in without.items()}
    with pytest.raises(ValueError, match=re.escape("missing 'bn.num_batches_tracked'")):
        layer.load_state_dict(Versioned(placed, 2, "bn"), prefix="bn.")


def test_values_take_the_dtype_of_the_layer():
    layer = BatchNorm1d(3, dtype=np.float64)
    layer.load_state_dict(changed(weight=np.array([1, 2, 3]), num_batches_tracked=np.array([9], np.int32)))
    assert layer.weight.dtype == np.float64
    assert layer.num_batches_tracked.shape == ()
    assert layer.num_batches_tracked == 9
    half = changed(running_var=np.array([1, 0.5, np.inf], ml_dtypes.bfloat16))
    layer.load_state_dict(half)
    np.testing.assert_array_equal(layer.running_var, [1, 0.5, np.inf])
