# SPDX-License-Identifier: Apache-2.0
"""What compiled functions are made of: symbols, sections, stack, bytes; and what their tests find."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from embed_build import CC, COMPILERS, CORTEX_M3, CORTEX_M4F, Library, build, run_sanitized, runner, sections, symbols
from embed_layers import ACTIVATIONS
from native import tool

import normcpu
from normcpu import embed

RNG = np.random.default_rng(5)
# Besides these, what a compiler makes of a loop, and the arithmetic of CPUs that have none.
ALLOWED = re.compile(r"sqrtf|memcpy|memset|__aeabi_\w+")


def frozen(channels: int, activation: str | None = None) -> normcpu.FrozenBatchNorm:
    values = RNG.normal(size=(3, channels))
    return normcpu.FrozenBatchNorm(*values, RNG.uniform(0.1, 4, channels), activation=activation)


def one_of_each() -> list[embed.Generated]:
    made = [
        embed.function(frozen(16, name), (1, 16, 4, 4), name=f"bn_{name}", residual=name in (None, "relu"))
        for name in ACTIVATIONS
    ]
    layers = {
        "layer": (normcpu.LayerNorm(24), (3, 24)), "columns": (normcpu.LayerNorm((5, 2), axis=(1, 3)), (2, 5, 3, 2)),
        "rms": (normcpu.RMSNorm(24), (3, 24)), "group": (normcpu.GroupNorm(2, 8, activation="gelu"), (1, 8, 3, 3)),
        "last": (normcpu.GroupNorm(2, 8, channel_axis=-1), (2, 3, 3, 8)),
        "instance": (normcpu.InstanceNorm2d(6, affine=True), (6, 4, 4)),
    }  # fmt: skip
    sequence = [normcpu.LayerNorm(24).eval(), normcpu.RMSNorm(24).eval()]
    for layer in (*(layer for layer, _ in layers.values()), *sequence):
        layer.weight[...] = RNG.normal(size=layer.weight.shape)  # compilers keep one of equal arrays
    made += [embed.function(layer.eval(), shape, name=name) for name, (layer, shape) in layers.items()]
    made += [embed.function(network(stored), (1, 2, 9, 9), name=f"net_{stored}") for stored in ("float32", "int8")]
    return [*made, embed.function(sequence, (3, 24), name="two")]


def network(stored: str) -> list[object]:
    def bell(*shape: int) -> np.ndarray:
        return RNG.normal(size=shape).astype(np.float32)

    return [
        embed.Conv(bell(8, 2, 3, 3), bell(8), padding=1, activation="hardswish", stored=stored),
        embed.AveragePool(3, 2, 1, count_include_pad=False),
        embed.Conv(bell(8, 1, 3, 3), bell(8), stride=2, padding=1, groups=8, activation="silu", stored=stored),
        frozen(8, "relu"),
        embed.MaxPool(2),
        embed.Reshape(),
        embed.Linear(bell(7, 8), stored=stored),
        embed.Softmax(),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("each")
    for generated in one_of_each():
        generated.write(made)
    return made


MADE = one_of_each()
SOURCES = " ".join(f"{made.name}.c" for made in MADE)


@pytest.mark.parametrize("command", [*COMPILERS, CORTEX_M4F, CORTEX_M3])
def test_nothing_else_leaks_in(folder: Path, command: str) -> None:
    is_arm = command.startswith("arm")
    build(command, f"-c {SOURCES} {'-fstack-usage' if is_arm else ''}", folder)
    prefix = "arm-none-eabi-" if is_arm else ""
    for made in MADE:
        found = symbols(folder / f"{made.name}.o", f"{prefix}nm")
        missing = {name for name, kind in found.items() if kind == "U"}
        assert not {name for name in missing if not ALLOWED.fullmatch(name)}
        assert {name for name, kind in found.items() if kind.isupper() and kind != "U"} == {made.name}
        sizes = sections(folder / f"{made.name}.o", f"{prefix}size")
        assert sum(n for name, n in sizes.items() if name.startswith((".data", ".tdata"))) == 0
        assert sum(n for name, n in sizes.items() if name.startswith((".bss", ".tbss"))) == made.ram
        if is_arm:
            assert sum(n for name, n in sizes.items() if name.startswith(".rodata")) == made.flash
            assert deepest(folder / f"{made.name}.su") <= made.stack


def deepest(usage: Path) -> int:
    """The sum of all frames, at least as much as the deepest call takes, and 32 bytes for the CPU's float routines."""
    rows = [line.split("\t") for line in usage.read_text().splitlines()]
    assert {row[2] for row in rows} == {"static"}
    return sum(int(row[1]) for row in rows) + 32


def test_a_frozen_batch_norm_of_16_channels_takes_200_bytes_of_cortex_m4f(tmp_path: Path) -> None:
    embed.function(frozen(16), (1, 16, 8, 8), name="bn").write(tmp_path)
    build(CORTEX_M4F, "-c bn.c", tmp_path)
    sizes = sections(tmp_path / "bn.o", "arm-none-eabi-size")
    assert sum(n for name, n in sizes.items() if name.startswith((".text", ".rodata"))) <= 200


@pytest.mark.parametrize("stored", ["float32", "int8"])
@pytest.mark.parametrize("activation", ["relu", "hardswish"])
def test_a_folded_convolution_takes_600_bytes_of_cortex_m4f(tmp_path: Path, activation: str, stored: str) -> None:
    """Without its weights; with -O2 too where these are float32."""
    options = [
        {"padding": 1},
        {"padding": ((1, 0), (0, 1)), "groups": 2, "dilation": 2, "stride": 2},
        {"groups": 8, "padding": 1},
    ]
    for i, option in enumerate(options):
        weight = RNG.normal(size=(16, 8 // option.get("groups", 1), 3, 3)).astype(np.float32)
        layer = embed.Conv(weight, RNG.normal(size=16), activation=activation, stored=stored, **option)
        embed.function(layer, (1, 8, 16, 16), name=f"conv{i}").write(tmp_path)
    for flags in ("", "-O2")[: 2 if stored == "float32" else 1]:
        build(CORTEX_M4F, f"{flags} -c {' '.join(f'conv{i}.c' for i in range(len(options)))}", tmp_path)
        for i in range(len(options)):
            sizes = sections(tmp_path / f"conv{i}.o", "arm-none-eabi-size")
            assert sum(n for name, n in sizes.items() if name.startswith(".text")) <= 600


def test_macros_replace_what_functions_call(folder: Path) -> None:
    """No symbol is left of what the macro stands for."""
    macros = "'-DNORMCPU_SQRTF(x)=my_root(x)' '-DNORMCPU_EXPF(x)=my_power(x)' '-DNORMCPU_TANHF(x)=my_tanh(x)'"
    folder.joinpath("mine.h").write_text("float my_root(float);\nfloat my_power(float);\nfloat my_tanh(float);\n")
    build(f"{CC} -O2", f"-c -include mine.h {macros} layer.c bn_tanh.c bn_silu.c", folder)
    for name, called in {"layer": "my_root", "bn_tanh": "my_tanh", "bn_silu": "my_power"}.items():
        found = symbols(folder / f"{name}.o")
        assert {symbol for symbol, kind in found.items() if kind == "U"} - {"_GLOBAL_OFFSET_TABLE_"} == {called}


def test_cpp_takes_the_header_and_the_source(folder: Path) -> None:
    main = "int main() { float x[LAYER_INPUT] = {}, y[LAYER_OUTPUT]; layer(x, y); return !(y[0] == y[0]); }"
    folder.joinpath("main.cpp").write_text(f'#include "layer.h"\n{main}\n')
    strict = [*tool("g++"), "-std=c++17", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    build(f"{CC} -O1", "-c layer.c -o layer_c.o", folder)
    for source in (["layer_c.o"], ["-x", "c++", "layer.c"]):
        subprocess.run([*strict, "main.cpp", *source, "-o", "program", "-lm"], cwd=folder, check=True)
        subprocess.run([folder / "program"], check=True)
    rest = [name for name in SOURCES.split() if name != "layer.c"]
    subprocess.run([*strict, "-fsyntax-only", "-x", "c++", *rest], cwd=folder, check=True)


# ---- name_test.c -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMPILERS)
def test_golden_vectors_pass_under_sanitizers(folder: Path, command: str) -> None:
    run_sanitized([made.name for made in MADE], folder, command)


LIBM = "-include math.h '-DNORMCPU_EXPF(x)=expf(x)' '-DNORMCPU_TANHF(x)=tanhf(x)'"


@pytest.mark.parametrize("flags", ["-O3 -march=native -ffp-contract=fast", f"-O1 {LIBM}"], ids=["contracted", "libm"])
def test_golden_vectors_pass_with_other_roundings(folder: Path, flags: str) -> None:
    runner([made.name for made in MADE], folder)
    build(CC, f"{flags} run.c -o other -lm", folder)
    assert subprocess.run([folder / "other"]).returncode == 0


@pytest.mark.parametrize("at", [0, 100, 255, 511, 767])
def test_main_returns_the_index_of_the_first_wrong_element(tmp_path: Path, at: int) -> None:
    """An exit status of 8 bits must not hide it: a multiple of 256 is 1 less."""
    made = embed.function(frozen(4), (1, 4, 8, 8), name="bn", samples=3)
    test = made.files["bn_test.c"]
    begin = test.index("{", test.index("bn_expected"))
    values = test[begin + 1 : test.index("}", begin)].split(",")
    values[at] = f"({values[at].strip()} + 0.25f)"
    values[-1] = "7.0f"  # a later one does not matter
    made.files["bn_test.c"] = test[: begin + 1] + ",".join(values) + test[test.index("}", begin) :]  # type: ignore[index]
    made.write(tmp_path)
    build(f"{CC} -O1", "bn.c bn_test.c -o run", tmp_path)
    index = at + 1
    assert subprocess.run([tmp_path / "run"]).returncode == (index if index % 256 else index - 1) % 256


def test_main_sees_nan(tmp_path: Path) -> None:
    made = embed.function(frozen(2), (1, 2), name="bn")
    made.write(tmp_path)
    broken = "void bn(const float *x, float *y) { y[0] = y[1] = (x[0] - x[0]) / (x[0] - x[0]); }\n"
    tmp_path.joinpath("bn.c").write_text('#include "bn.h"\n' + broken)
    build(f"{CC} -O1", "bn.c bn_test.c -o run", tmp_path)
    assert subprocess.run([tmp_path / "run"]).returncode == 1


def test_inputs_of_the_user(tmp_path: Path) -> None:
    x = RNG.normal(size=(2, 1, 3, 4)).astype(np.float32)
    made = embed.function(frozen(3), (1, 3, 4), name="bn", inputs=x)
    library = Library([made], tmp_path, f"{CC} -O1")
    build(f"{CC} -O1", "bn.c bn_test.c -o run", tmp_path)
    assert subprocess.run([tmp_path / "run"]).returncode == 0
    words = re.findall(r"[-\w.+]+f\b", made.files["bn_test.c"].split("{")[1].split("}")[0])
    parsed = [float.fromhex(w[:-1]) if "x" in w else float(w[:-1]) for w in words]
    np.testing.assert_array_equal(np.array(parsed, np.float32).reshape(x.shape), x)
    assert library("bn", x[1], None, (1, 3, 4)).shape == (1, 3, 4)
