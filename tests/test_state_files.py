# SPDX-License-Identifier: Apache-2.0
"""States in files: .npz and .safetensors, whole and damaged."""

from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from normcpu._state import read_state
from normcpu.layers import BatchNorm1d


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.tuples(
            st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=4,
    ).filter(lambda entries: "__metadata__" not in entries),
    st.integers(0, 2**32 - 1),
)
def test_safetensors_are_read_as_written(tmp_path_factory, entries, seed):
    rng = np.random.default_rng(seed)
    arrays = {
        name: np.asarray(rng.random(shape) * (1 if code == "?" else 100)).astype(code)
        for name, (code, shape) in entries.items()
    }
    path = tmp_path_factory.mktemp("files") / "state.safetensors"
    safetensors.numpy.save_file(arrays, path)
    got = read_state(path)
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(3,), offsets=(0, 12)):
    return {"weight": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_bfloat16_in_a_file_becomes_float32(tmp_path):
    values = np.array([1.5, -3.25, 1e30, np.inf], ml_dtypes.bfloat16)
    path = tmp_path / "state.safetensors"
    path.write_bytes(safetensors_bytes(entry("BF16", (4,), (0, 8)), values.tobytes()))
    got = read_state(path)["weight"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_other_layers_in_a_file_may_be_of_any_kind(tmp_path):
    values = np.arange(3, dtype=np.float32)
    header = {"conv.weight": entry("F8_E4M3", (4,), (12, 16))["weight"], "bn.weight": entry()["weight"]}
    path = tmp_path / "state.safetensors"
    path.write_bytes(safetensors_bytes(header, values.tobytes() + bytes(4)))
    layer = BatchNorm1d(3, bias=False, track_running_stats=False)
    layer.load_state_dict(path, prefix="bn.")
    np.testing.assert_array_equal(layer.weight, values)
    model = {"bn.weight": values, "conv.config": {"stride": "same"}}
    layer.load_state_dict(model, prefix="bn.")


DAMAGED = {
    "empty": (b"", "not safetensors: a header of 0 bytes in a file of 0"),
    "short": (b"\x05\0\0\0\0\0\0\0{}", "not safetensors: a header of 5 bytes in a file of 10"),
    "not JSON": (safetensors_bytes(b"{]"), "not safetensors: the header is not a JSON object"),
    "not UTF-8": (safetensors_bytes(b"\xff\xfe"), "not safetensors: the header is not a JSON object"),
    "a list": (safetensors_bytes([1]), "not safetensors: the header is not a JSON object"),
    "no dtype": (safetensors_bytes({"weight": {}}), "weight must have dtype, shape and data_offsets, got {}"),
    "offsets": (safetensors_bytes(entry(offsets=(0,))), "weight must have dtype, shape and data_offsets"),
    "negative": (safetensors_bytes(entry(shape=(-3,))), "weight must have dtype, shape and data_offsets"),
    "dtype": (safetensors_bytes(entry("F8_E4M3"), bytes(12)), "weight must have a dtype of F64, F32"),
    "truncated": (safetensors_bytes(entry(), bytes(11)), "weight: F32 (3,) does not fit bytes 0 to 12 of 11"),
    "size": (safetensors_bytes(entry(shape=(4,)), bytes(12)), "weight: F32 (4,) does not fit bytes 0 to 12"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, case):
    data, message = DAMAGED[case]
    path = tmp_path / "state.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        BatchNorm1d(3).load_state_dict(path)


@pytest.mark.parametrize(("suffix", "hint"), [(".pth", "; torch.load(path, weights_only=True)"), (".h5", "")])
def test_other_files_are_refused_by_name(tmp_path, suffix, hint):
    path = str(tmp_path / f"model{suffix}")
    expected = f"state must be a mapping or a path ending in .npz or .safetensors, got {path!r}{hint}"
    with pytest.raises(ValueError, match="^" + re.escape(expected)):
        BatchNorm1d(3).load_state_dict(path)
