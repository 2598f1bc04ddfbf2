# SPDX-License-Identifier: Apache-2.0
"""C helpers of the Python tests, compiled when they are wanted."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def tool(command: str) -> list[str]:
    """The words of `command`, or a skip that names its program; NORMCPU_REQUIRE_PEERS=1 makes that a failure."""
    words = shlex.split(command)
    if not shutil.which(words[0]):
        if os.environ.get("NORMCPU_REQUIRE_PEERS") == "1":
            pytest.fail(f"{words[0]} is not installed")
        pytest.skip(f"{words[0]} is not installed")
    return words


def compiled(name: str, folder: Path, *flags: str) -> Path:
    """The shared library of tests/c/<name>.c, made by CC; skips where there is no compiler that takes the flags."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not shutil.which(compiler[0]):
        pytest.skip(f"no C compiler {compiler[0]}")
    library = folder / f"{name}.so"
    source = str(HERE / "c" / f"{name}.c")
    done = subprocess.run(
        [*compiler, "-shared", "-fPIC", "-O1", *flags, source, "-o", str(library), "-ldl"],
        text=True,
        capture_output=True,
    )
    if done.returncode and flags:
        pytest.skip(f"{shlex.join(compiler)} does not take {shlex.join(flags)}")
    assert done.returncode == 0, done.stderr
    return library
