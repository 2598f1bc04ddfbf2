# SPDX-License-Identifier: Apache-2.0
"""embed.params: what a compiler reads is what was given, or as far off as is said."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from embed_build import CC, build
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from normcpu import embed

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}


def read_back(made: embed.Generated, folder: Path, elements: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays as the compiled header has them: name -> dtype and number of elements."""
    made.write(folder)
    copies = "".join(f"const void *get_{name}(void) {{ return {name}; }}\n" for name in elements)
    crc = f"uint32_t crc(void) {{ return {made.name.upper()}_CRC32; }}\n"
    folder.joinpath("read.c").write_text(f'#include "{made.name}.h"\n{crc}{copies}')
    prototypes = "#include <stdint.h>\nuint32_t crc(void);\n" + "".join(
        f"const void *get_{name}(void);\n" for name in elements
    )
    folder.joinpath("prototypes.h").write_text(prototypes)
    library = folder / f"read{len(list(folder.glob('*.so')))}.so"
    build(f"{CC} -O0", f"-shared -fPIC -include prototypes.h read.c -o {library.name}", folder)
    loaded = ctypes.CDLL(str(library))
    found = {}
    for name, (dtype, count) in elements.items():
        get = getattr(loaded, f"get_{name}")
        get.restype = ctypes.c_void_p
        found[name] = np.frombuffer(ctypes.string_at(get(), count * np.dtype(dtype).itemsize), dtype)
    loaded.crc.restype = ctypes.c_uint32
    assert loaded.crc() == zlib.crc32(b"".join(array.tobytes() for array in found.values()))
    return found


def said(made: embed.Generated, name: str) -> float:
    """The error in the note of an array."""
    note = next(note for note in made.notes if note.startswith(f"{name}:"))
    stated = re.search(r"off by at most (.+?)(\.$|,)", note)
    return float(stated[1]) if stated else 0.0


VALUES = st.one_of(
    st.floats(-6e4, 6e4, width=32), st.floats(-1, 1), st.sampled_from([0.0, -0.0, 1e-8, 2.0**-24, 6.1e-5, 65504.0])
)
ARRAYS = arrays_of.arrays(np.float64, arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=VALUES)


@settings(max_examples=5, phases=[Phase.generate])
@given(st.lists(ARRAYS, min_size=4, max_size=8))
@pytest.mark.parametrize("dtype", STORED)
def test_a_compiler_reads_what_was_given(dtype: str, tmp_path_factory: Any, arrays: list[np.ndarray]) -> None:
    made = embed.params({f"a.{k}": array for k, array in enumerate(arrays)}, dtype, name="p")
    elements: dict[str, Any] = {}
    for k, array in enumerate(arrays):
        elements[f"p_a_{k}"] = (STORED[dtype] if array.ndim > 1 or dtype != "int8" else np.float32, array.size)
        if dtype == "int8" and array.ndim > 1:
            elements[f"p_a_{k}_scale"] = (np.float32, len(array))
    found = read_back(made, tmp_path_factory.mktemp("p"), elements)
    assert made.flash == sum(array.nbytes for array in found.values())
    for k, array in enumerate(arrays):
        got = found[f"p_a_{k}"].astype(np.float64).reshape(array.shape)
        if f"p_a_{k}_scale" in found:
            scale = found[f"p_a_{k}_scale"].reshape(-1, *[1] * (array.ndim - 1)).astype(np.float64)
            assert (np.abs(found[f"p_a_{k}"].astype(int)) <= 127).all()
            assert (np.abs(got * scale - array) <= scale * 0.5000001).all()
            got = got * scale
        elif dtype != "int8":
            once = (
                array.astype(np.float32).astype(STORED[dtype]) if dtype == "bfloat16" else array.astype(STORED[dtype])
            )
            agree = np.asarray(got == once.astype(np.float64))
            twice = np.abs(got - array) <= np.abs(once.astype(np.float64) - array)  # bfloat16 is rounded once here
            assert (agree | twice).all()
            np.testing.assert_array_equal(np.signbit(got), np.signbit(array))
        assert np.abs(got - array).max() <= said(made, f"p_a_{k}")
        assert f"#define P_A_{k}_SHAPE {{{', '.join(map(str, array.shape))}}}" in made.files["p.h"]


def test_float32_is_exact_to_the_bit(tmp_path: Path) -> None:
    """Every exponent, subnormals, the largest, both zeros."""
    bits = np.concatenate([np.arange(0, 2**31 - 2**23, 12345677), np.arange(4), [2**31 - 2**23 - 1, 0x3DCCCCCD]])
    values = np.concatenate([bits, bits + 2**31]).astype(np.uint32).view(np.float32)
    made = embed.params({"all": values}, name="p")
    found = read_back(made, tmp_path, {"p_all": (np.uint32, values.size)})
    np.testing.assert_array_equal(found["p_all"], values.view(np.uint32))
    assert made.notes == (f"p_all: float32 ({values.size}), exact.",)


def test_bfloat16_rounds_once() -> None:
    """1 + 2^-8 + 2^-40 is above a tie, which float32 does not see."""
    made = embed.params({"a": [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.0]}, "bfloat16")
    assert "{\n    0x3f81, 0x3f80, 0x3f82, 0x4040\n}" in made.files["params.h"]


def test_int8_has_a_scale_for_each_channel() -> None:
    made = embed.params({"w": [[1.27, -0.64], [0.0, 0.0], [1e-45, 0.0]], "b": [0.1, 0.2, 0.3]}, "int8", name="p")
    text = made.files["p.h"]
    assert "p_w[6] = {\n    127, -64, 0, 0, 1, 0\n}" in text
    assert "p_w_scale[3] = {\n    0x1.47ae14p-7f, 1.0f, 0x1p-149f\n}" in text
    assert "static const float p_b[3]" in text
    assert made.flash == 6 + 12 + 12


def test_the_same_bytes_in_every_process() -> None:
    code = (
        "import numpy as np; from normcpu import FrozenBatchNorm, LayerNorm, embed\n"
        "w = np.random.default_rng(0).normal(size=(3, 4))\n"
        "one = embed.params({'a': w, 'b': w[0], 'x y': w}, 'int8')\n"
        "two = embed.function(FrozenBatchNorm(*w[:, :3], [1, 2, 3], activation='gelu'), (2, 3, 4), residual=True)\n"
        "three = embed.function([LayerNorm(4).eval(), LayerNorm(4).eval()], (3, 4), samples=2)\n"
        "import hashlib; texts = [t for g in (one, two, three) for f in g.files.items() for t in f]\n"
        "print(hashlib.sha256('\\0'.join(texts).encode()).hexdigest())\n"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            text=True, capture_output=True, check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }  # fmt: skip
    assert len(made) == 1
