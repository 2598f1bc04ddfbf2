# SPDX-License-Identifier: Apache-2.0
"""The C library without Python: CMake's build, pkg-config's answers, the single file, and the bits of all."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import bits
import numpy as np
import pytest
from peers import tool

import normcpu
from normcpu import _core

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples/c"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
IGNORED = re.compile(r"-(O\w|g0|DNDEBUG|fPIC|[IW].*|DNCPU_EXPORTS|DNCPU_HAVE_OPENMP)$")  # change no number
LARGEST = {"scalar": 175_000, "neon": 160_000, "avx2": 150_000, "avx512": 140_000}  # bytes, compiled for size by gcc
pytestmark = [
    pytest.mark.slow,  # compilers
    pytest.mark.alone,  # on every core
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="there are no sources here"),
]


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def build() -> dict:
    """What setup.py defines."""
    with mock.patch("setuptools.setup"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return runpy.run_path("setup.py")


# ---- CMake ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["shared", "static, serial"])
def installed(request, tmp_path_factory) -> tuple[Path, Path, bool]:
    """A library that cmake built and installed: its prefix, its build folder, and whether it is shared."""
    cmake, shared = tool("cmake"), request.param == "shared"
    prefix, folder = tmp_path_factory.mktemp("prefix"), tmp_path_factory.mktemp("build")
    options = ["-DNORMCPU_OPENMP=ON"] if shared else ["-DNORMCPU_OPENMP=OFF", "-DNORMCPU_SHARED=OFF"]
    options += [f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_C_FLAGS_RELEASE=-O0", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    run(cmake, "-S", ROOT, "-B", folder, "-DCMAKE_INSTALL_LIBDIR=lib", "-DCMAKE_C_FLAGS=-Werror", *options)
    run(cmake, "--build", folder, "--parallel", str(os.cpu_count()))
    run(cmake, "--install", folder)
    return prefix, folder, shared


def test_cmake_compiles_what_setup_py_compiles_in_the_same_way(installed, build):
    made = {}
    for entry in json.loads((installed[1] / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])[1:]
        words = words[: words.index("-o")]
        made[Path(entry["file"]).relative_to(ROOT).as_posix()] = {word for word in words if not IGNORED.match(word)}
    wanted = {**build["core"]().c_files, **({"src/omp.c": build["OPENMP"]} if installed[2] else {})}
    have = {flag for flag in wanted["src/dispatch.c"] if flag.startswith("-D")}  # CMake tells it to all
    common = {*build["FLAGS"], *build["CONTRACT"]}
    assert made == {
        path: {flag for flag in common | have | {*own} if not IGNORED.match(flag)} for path, own in wanted.items()
    }


def test_what_is_installed_shows_the_header_and_says_the_version(installed):
    prefix, _, shared = installed
    declared = set(re.findall(r"\b(ncpu_\w+)\(", (ROOT / "include/normcpu.h").read_text()))
    if shared:
        library = (prefix / "lib/libnormcpu.so").resolve()
        assert library.name == f"libnormcpu.so.{_core.version}"
        shown = run(tool("nm"), "-D", "--defined-only", library)
        assert {line.split()[2] for line in shown.splitlines()} == declared
    else:
        assert not list(prefix.glob("lib/*.so*"))
    assert run(tool("pkg-config"), "--modversion", "normcpu", **where(prefix)) == f"{_core.version}\n"


def where(prefix: Path) -> dict[str, str]:
    return {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"), "LD_LIBRARY_PATH": str(prefix / "lib")}


def numbers(printed: str) -> list[np.ndarray]:
    """The lines of an example's output: floats with the nine digits that tell them apart."""
    return [np.array(line.split(), float) for line in printed.splitlines() if not line.startswith("#")]


def ramp(step: int, modulus: int, divisor: int, low: int, *shape: int) -> np.ndarray:
    """The examples' data."""
    values = np.arange(np.prod(shape)) * step % modulus
    return (values / divisor - low).astype(np.float32).reshape(shape)


def test_find_package(installed, tmp_path):
    cmake = tool("cmake")
    run(cmake, "-S", EXAMPLES / "cmake", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed[0]}")
    run(cmake, "--build", tmp_path)
    printed = run(tmp_path / "image")
    assert f"threads: {'openmp' if installed[2] else 'serial'}\n" in printed
    mean, sigma = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
    pixels = (np.arange(60) * 37 % 256).astype(np.uint8).reshape(4, 5, 3)
    expected = normcpu.scale_shift(pixels, 1 / sigma, -mean / sigma, channel_axis=-1)
    np.testing.assert_array_equal(np.float32(numbers(printed)), expected.reshape(20, 3))


def test_pkg_config(installed, tmp_path):
    prefix, _, shared = installed
    source, program = EXAMPLES / "pkg-config/residual.c", tmp_path / "residual"
    flags = run(tool("pkg-config"), "--cflags", "--libs", *([] if shared else ["--static"]), "normcpu", **where(prefix))
    run(tool("cc"), "-std=c11", *WARNINGS, source, "-o", program, *shlex.split(flags))
    made = np.float32(numbers(run(program, **where(prefix))))
    stream, branch = ramp(37, 101, 8, 6, 3, 10), ramp(53, 97, 16, 3, 3, 10)
    weight = 1 + np.arange(10, dtype=np.float32) / 8
    expected = normcpu.add_rms_norm(stream, branch, 10, weight, eps=1e-6)
    np.testing.assert_array_equal(made, np.hstack([expected.sum, expected.y]))


# ---- The single file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """The folder of normcpu.c and normcpu.h, and of no other file."""
    folder = tmp_path_factory.mktemp("dist")
    assert "tools/amalgamate.py dist" in run(tool("make"), "--dry-run", f"--directory={ROOT}", "amalgamation")
    run(sys.executable, ROOT / "tools/amalgamate.py", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["normcpu.c", "normcpu.h"]
    return folder


@pytest.fixture(scope="module")
def small(single, build, tmp_path_factory) -> Path:
    """It, compiled for size and for this machine's instruction set."""
    compiled = tmp_path_factory.mktemp("small") / "normcpu.o"
    [flags] = [isa.flags for isa in build["INSTRUCTION_SETS"] if isa.name == _core.isa()]
    run(tool("gcc"), "-std=c11", "-Os", "-fno-asynchronous-unwind-tables", *WARNINGS, *flags, "-fPIC",
        "-ftls-model=initial-exec", "-c", single / "normcpu.c", "-o", compiled)  # fmt: skip
    return compiled


def choices(build: dict) -> list[list[str]]:
    """The flags of every instruction set of this machine's."""
    machine = build["target_machine"]()
    return [[*isa.flags] for isa in build["INSTRUCTION_SETS"] if not isa.machines or machine in isa.machines]


@pytest.mark.parametrize("compiler", ["gcc", "clang-19"])
def test_compilers_have_nothing_to_say(single, build, compiler):
    for flags in [*choices(build), ["-fopenmp"], ["-std=gnu17"], ["-DNCPU_SMALL=1"], ["-DNORMCPU_SCALAR"]]:
        run(tool(compiler), "-std=c11", *WARNINGS, *flags, "-fsyntax-only", single / "normcpu.c")


@pytest.mark.parametrize("flags", [["-ffast-math"], ["-Ofast"]])
def test_arithmetic_that_is_not_ieee_is_refused(single, flags):
    done = subprocess.run([tool("cc"), *flags, "-fsyntax-only", single / "normcpu.c"], text=True, capture_output=True)
    assert done.returncode
    assert "-ffast-math" in done.stderr


def maps() -> np.ndarray:
    """What examples/c/single-file computes."""
    x, shortcut = ramp(37, 101, 8, 6, 4, 3, 3), ramp(53, 97, 16, 3, 4, 3, 3)
    parameters = ([0.5, -0.25, 1, 0], [4, 9, 2.25, 1], [1, 0.5, 2, 1.5], [0, 1, -1, 0.125])
    mean, var, weight, bias = (np.float32(values) for values in parameters)
    y = normcpu.batch_norm(x, mean, var, weight, bias, eps=1e-5, channel_axis=0, residual=shortcut, activation="relu")
    return np.column_stack([y.reshape(4, 9), normcpu.moments(y, axis=(1, 2)).mean])


@pytest.mark.parametrize("compiler", [["gcc"], ["gcc", "-fopenmp"], ["clang-19"]], ids=shlex.join)
def test_the_example_of_the_single_file(single, tmp_path, compiler):
    sources = (EXAMPLES / "single-file/block.c", single / "normcpu.c")
    run(tool(compiler[0]), *compiler[1:], "-O0", f"-I{single}", *sources, "-o", tmp_path / "block", "-lm")
    made, expected = np.array(numbers(run(tmp_path / "block"))), maps()
    np.testing.assert_array_equal(np.float32(made[:, :9]), np.float32(expected[:, :9]))
    np.testing.assert_array_equal(made[:, 9], expected[:, 9])


def test_the_header_is_cpp_and_the_object_links_into_cpp(single, small, tmp_path):
    for standard in ("-std=c++98", "-std=c++17"):
        run(tool("g++"), standard, *WARNINGS, "-x", "c++", "-fsyntax-only", single / "normcpu.h")
    source, program = EXAMPLES / "cpp/train.cpp", tmp_path / "train"
    run(tool("g++"), "-std=c++17", *WARNINGS, f"-I{single}", source, small, "-o", program, "-lm")
    y, dx, weight, bias = map(np.float32, numbers(run(program)))
    x, dy = ramp(37, 101, 8, 6, 4, 6), ramp(53, 97, 16, 3, 4, 6)
    norm = normcpu.LayerNorm(6)
    np.testing.assert_array_equal(y, norm(x).ravel())
    np.testing.assert_array_equal(dx, norm.backward(dy).ravel())
    normcpu.SGD({"weight": norm.weight, "bias": norm.bias}, lr=0.125).step(
        {"weight": norm.weight_grad, "bias": norm.bias_grad}
    )
    np.testing.assert_array_equal(weight, norm.weight)
    np.testing.assert_array_equal(bias, norm.bias)


def test_the_single_file_is_small(small):
    text, data, bss = map(int, run(tool("size"), small).splitlines()[1].split()[:3])
    assert text + data <= LARGEST[_core.isa()]
    assert bss <= 4096


def test_the_single_file_has_the_bits_of_the_library(small, tmp_path):
    """All of tests/bits.py, by a wire to the single file's object."""
    wires = sorted((ROOT / "build").glob("temp.*/**/_core.o"), key=lambda path: path.stat().st_mtime)
    if not wires:
        pytest.skip("no _core.o of a build in place")
    package = tmp_path / "normcpu"
    shutil.copytree(ROOT / "normcpu", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    run(tool("cc"), "-shared", wires[-1], small, "-o", package / Path(_core.__file__).name, "-lm")
    printed = run(sys.executable, ROOT / "tests/bits.py", PYTHONPATH=str(tmp_path))
    made = {name: digest for digest, name in (line.split() for line in printed.splitlines())}
    assert made == dict(bits.rows())
