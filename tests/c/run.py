# SPDX-License-Identifier: Apache-2.0
"""Build and run the C tests, with the compiler's warnings as errors.

    python tests/c/run.py --cc clang --flags "-fsanitize=address,undefined"
    python tests/c/run.py --cc aarch64-linux-gnu-gcc --flags=-static --arch aarch64 --run qemu-aarch64-static
    python tests/c/run.py --cc clang --flags=-fsanitize=thread --arch none --only test_team

A test of the vocabulary, which says NCPU_OPS, is built once per instruction set and linked with the scalar.h that
defines it; every other test is linked with the library.  Sources, instruction sets and flags are setup.py's, whose
NORMCPU_TARGET_ARCH --arch sets: of a machine that no set names, "none", the library has scalar.h alone.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
HERE = Path("tests/c")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def main() -> int:
    options = arguments()
    if options.arch:
        os.environ["NORMCPU_TARGET_ARCH"] = options.arch
    os.chdir(ROOT)
    with mock.patch("setuptools.setup"):
        build = runpy.run_path("setup.py")
    flags = [*build["FLAGS"], *WARNINGS, *shlex.split(options.flags), *build["CONTRACT"], "-Iinclude", "-Isrc"]
    library = build["core"]().c_files
    sets = {Path(path).stem: own for path, own in library.items() if path.startswith("src/isa/")}

    def compiled(source: str | Path, name: str, *own: str) -> str:
        path = f"{folder}/{name}.o"
        run([*shlex.split(options.cc), *flags, *own, "-c", str(source), "-o", path])
        return path

    def linked(name: str, *objects: str) -> Path:
        path = Path(folder, name)
        run([*shlex.split(options.cc), *flags, *objects, "-o", str(path), "-lm", "-lpthread"])
        return path

    def vocabulary(source: Path, definition: Future[str], isa: str) -> Path:
        name = f"{source.stem}-{isa}"
        return linked(name, compiled(source, name, f'-DNCPU_SIMD="{isa}.h"', *sets[isa]), definition.result())

    def operation(source: Path) -> Path:
        return linked(source.stem, compiled(source, source.stem), *(job.result() for job in objects))

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = [path for path in sorted(HERE.glob("test_*.c")) if not options.only or path.stem in options.only]
        per_set = [source for source in sources if "NCPU_OPS" in source.read_text()]
        others = [source for source in sources if source not in per_set]
        objects = [pool.submit(compiled, path, Path(path).stem, *own) for path, own in library.items()]
        scalar = ['-DNCPU_SIMD="scalar.h"', "-DNCPU_OPS=ncpu_scalar_ops"]
        definitions = [pool.submit(compiled, source, f"{source.stem}-definition", *scalar) for source in per_set]
        tests = [pool.submit(vocabulary, *test, isa) for test in zip(per_set, definitions, strict=True) for isa in sets]
        tests += [pool.submit(operation, source) for source in others]
        emulator, how_many = shlex.split(options.run), (options.stride, options.share)
        results = Counter(outcome(emulator, job.result(), *how_many) for job in tests)
    counts = ", ".join(f"{results[word]} {word}" for word in ("passed", "failed", "skipped"))
    print(f"C tests, {shlex.join([options.cc, options.flags])}: {counts}")
    return 1 if results["failed"] else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", default="cc")
    parser.add_argument("--flags", default="", help="more flags for the compiler")
    parser.add_argument("--arch", help="the machine to build for, where it is not this one")
    parser.add_argument("--run", default="", help="what runs the programs, where this machine does not")
    parser.add_argument("--only", nargs="+", metavar="TEST", help="test_team and the like; all, if not given")
    parser.add_argument("--stride", default="251", help="test_math tries one float of so many: more, where it is slow")
    parser.add_argument("--share", default="1", help="other tests try one call of so many: more, where it is very slow")
    return parser.parse_args()


def run(command: list[str]) -> None:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}")


def outcome(emulator: list[str], test: Path, *arguments: str) -> str:
    status = subprocess.run([*emulator, str(test), *arguments]).returncode
    if status == -signal.SIGILL:
        print(f"{test.name}: skipped, not an instruction set of this CPU")
        return "skipped"
    if status:
        print(f"{test.name}: failed, status {status}")
    return "failed" if status else "passed"


if __name__ == "__main__":
    sys.exit(main())
