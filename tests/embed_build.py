# SPDX-License-Identifier: Apache-2.0
"""Generated C, compiled: one call of the compiler for many functions."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from native import tool

from normcpu.embed import Generated

STRICT = "-std=c99 -pedantic -Wall -Wextra -Wconversion -Wshadow -Werror"
CC = os.environ.get("CC", "cc")
COMPILERS = [f"{CC} -O2", "clang-19 -O2"]
# What turns a * b + c into one rounding where the CPU has it.
CONTRACTED = [f"{CC} -O3 -march=native -ffp-contract=fast", "clang-19 -O3 -march=native -ffp-contract=fast"]
CORTEX_M4F = "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -Os -fno-math-errno"
CORTEX_M3 = "arm-none-eabi-gcc -mcpu=cortex-m3 -mthumb -Os -fno-math-errno"


def build(command: str, arguments: str, folder: Path) -> None:
    """command arguments, in folder; warnings are errors."""
    done = subprocess.run(
        [*tool(command), *STRICT.split(), *shlex.split(arguments)], cwd=folder, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


class Library:
    """All of these functions, in one translation unit."""

    def __init__(self, made: Iterable[Generated], folder: Path, command: str) -> None:
        names = []
        for generated in made:
            generated.write(folder)
            names.append(generated.name)
        folder.joinpath("all.c").write_text("".join(f'#include "{name}.c"\n' for name in names))
        # A library that is loaded stays: each has a name of its own.
        library = folder / f"all{len(list(folder.glob('all*.so')))}.so"
        build(command, f"-shared -fPIC all.c -o {library.name} -lm", folder)
        self.library = ctypes.CDLL(str(library))

    def __call__(
        self, name: str, x: np.ndarray, residual: np.ndarray | None, shape: Sequence[int], over: str | None = None
    ) -> np.ndarray:
        """y (shape), with memory around it that must not be written; over: "x" or "residual", which y is."""
        size, around = int(np.prod(shape)), np.float32(-123.5)
        memory = np.full(size + 32, around, np.float32)
        y = memory[16:-16]
        given = {"x": np.ascontiguousarray(x, np.float32)}
        if residual is not None:
            given["residual"] = np.ascontiguousarray(residual)
        if over is not None:
            y[...] = given[over].ravel()
            given[over] = y
        function = getattr(self.library, name)
        function.restype = None
        function(*(ctypes.c_void_p(array.ctypes.data) for array in (*given.values(), y)))
        assert (memory[:16] == around).all()
        assert (memory[-16:] == around).all()
        return y.reshape(shape)


def runner(names: Sequence[str], folder: Path) -> None:
    """run.c: all tests one after the other; the exit status is the number of the first that fails."""
    tests = "".join(
        f'#include "{name}.c"\n#define main {name}_main\n#include "{name}_test.c"\n#undef main\n' for name in names
    )
    calls = "".join(f"    if ({name}_main()) return {k};\n" for k, name in enumerate(names, 1))
    folder.joinpath("run.c").write_text(f"{tests}\nint main(void)\n{{\n{calls}    return 0;\n}}\n")


def run_sanitized(names: Sequence[str], folder: Path, command: str) -> None:
    """All tests, where whatever is undefined ends the program."""
    runner(names, folder)
    build(command, "-g -fsanitize=address,undefined -fno-sanitize-recover=all run.c -o run -lm", folder)
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run([folder / "run"], env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def symbols(file: Path, nm: str = "nm") -> dict[str, str]:
    """Its symbols and their kinds, one letter of nm's."""
    listed = subprocess.run([*tool(nm), str(file)], text=True, capture_output=True, check=True).stdout
    return {line.split()[-1]: line.split()[-2] for line in listed.splitlines() if line.strip()}


def sections(file: Path, size: str = "size") -> dict[str, int]:
    """The bytes of its sections."""
    listed = subprocess.run([*tool(size), "-A", str(file)], text=True, capture_output=True, check=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[1].isdigit()}
