# SPDX-License-Identifier: Apache-2.0
"""Builds the two extensions: _core (the kernels once per instruction set, and the rest of src/) and _omp.

Environment:
    NORMCPU_OPENMP=auto|on|off   auto builds _omp where the compiler has OpenMP; NORMCPU_NO_OPENMP=1 means off
    NORMCPU_TARGET_ARCH=aarch64  the machine to build for, where it is not this one
    NORMCPU_ABI3=0               for this Python alone, not for CPython 3.11 and every later one
    CC, CFLAGS, LDFLAGS          as everywhere; after changing them, build_ext --force
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import sysconfig
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError
from setuptools.modified import newer_group


class InstructionSet(NamedTuple):
    name: str  # its kernels are src/isa/<name>.c; dispatch.c hears of it as NCPU_HAVE_<NAME>
    machines: tuple[str, ...]  # () is every machine
    flags: tuple[str, ...]


INSTRUCTION_SETS = (
    InstructionSet("scalar", (), ()),
    InstructionSet("avx2", ("x86_64", "amd64"), ("-mavx2", "-mf16c")),
    InstructionSet("avx512", ("x86_64", "amd64"), ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")),
    InstructionSet("neon", ("aarch64", "arm64"), ()),
)

# The order on the command line is FLAGS, the user's CFLAGS, a file's own flags, CONTRACT: a sanitizer's -O1 -g
# wins over -O2 -g0 (CPython's own flags have -g), but nothing undoes the numbers' contract.
FLAGS = ["-std=c11", "-O2", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
CONTRACT = ["-ffp-contract=off", "-fno-fast-math"]
# Of the kernels: gcc's copies of loops and functions for each value of a flag are an eighth of the size, no faster.
# Nothing unwinds through them.
COMPACT = ["-fno-unswitch-loops", "-fno-ipa-cp", "-fno-asynchronous-unwind-tables"]
COMPACT += ["-Wno-ignored-optimization-argument"]
# Of plain C beside a better set, which is for old CPUs: with -O2, half of its size.
PLAIN = ["-fno-inline-functions", "-finline-limit=20"]
WARNINGS = ["-Wall", "-Wextra"]
OPENMP = ["-fopenmp"]
OPENMP_PROBE = "#include <omp.h>\nint probe(void); int probe(void) { return omp_get_max_threads(); }\n"

# Every object, and by Extension.depends every .so, is made again when one of these changes.
INCLUDED = ["src/kernels.c", *(str(p) for room in ("include", "src") for p in sorted(Path(room).rglob("*.[hi]*")))]
CYTHON = [str(p) for p in sorted(Path("normcpu").glob("*.p[yx][xdi]")) if p.suffix != ".pyi"]
COMPILED = [str(p) for p in sorted(Path("src").glob("*.c")) if p.name not in ("kernels.c", "omp.c", "one_isa.c")]

USE_ABI3 = os.environ.get("NORMCPU_ABI3") != "0" and not sysconfig.get_config_var("Py_GIL_DISABLED")
PYTHON_MACROS = [
    ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    *([("Py_LIMITED_API", "0x030B0000")] if USE_ABI3 else []),
]


def target_machine() -> str:
    """What the extensions will run on; platform.machine() only knows the machine that builds."""
    host = os.environ.get("_PYTHON_HOST_PLATFORM", "").rpartition("-")[2]  # of "linux-aarch64"
    return (os.environ.get("NORMCPU_TARGET_ARCH") or host or platform.machine()).lower()


def openmp_wanted() -> str:
    if os.environ.get("NORMCPU_NO_OPENMP", "0") not in ("", "0"):
        return "off"
    wanted = os.environ.get("NORMCPU_OPENMP", "auto")
    if wanted not in ("auto", "on", "off"):
        raise SystemExit(f"NORMCPU_OPENMP must be auto, on or off, got {wanted!r}")
    return wanted


def stripped() -> list[str]:
    """Without the names of static functions, which only debuggers and sanitizers read."""
    return [] if os.environ.get("CFLAGS") or not sys.platform.startswith("linux") else ["-Wl,-s"]


class Native(Extension):
    """An extension of one .pyx and of C files with flags of their own: {path: flags}."""

    def __init__(self, name: str, c_files: dict[str, list[str]], flags: list[str]) -> None:
        self.pyx = name.replace(".", "/") + ".pyx"
        self.c_files = c_files
        self.flags = flags
        super().__init__(
            name,
            [self.pyx],
            language="c",
            libraries=["m"],
            extra_link_args=[*flags, *stripped()],
            depends=[*CYTHON, *c_files, *INCLUDED, "setup.py"],
            py_limited_api=USE_ABI3,
        )


def core() -> Native:
    machine = target_machine()
    sets = [isa for isa in INSTRUCTION_SETS if not isa.machines or machine in isa.machines]
    kernels = {f"src/isa/{isa.name}.c": [*WARNINGS, *COMPACT, *isa.flags] for isa in sets}
    plain, *better = kernels
    kernels[plain] += PLAIN if better else []
    for path in (better or kernels) if not os.environ.get("CFLAGS") else ():
        kernels[path].append("-O3")
    have = [f"-DNCPU_HAVE_{isa.name.upper()}" for isa in sets]
    return Native("normcpu._core", kernels | {path: [*WARNINGS, *have] for path in COMPILED}, [])


def omp() -> Native:
    return Native("normcpu._omp", {"src/omp.c": [*WARNINGS, *OPENMP]}, OPENMP)


class BuildExt(build_ext):
    """Compiles the C files of all extensions, and what Cython makes of each .pyx, in one pool of threads."""

    extensions: list[Native]

    def build_extensions(self) -> None:
        if not self.openmp_usable():
            self.extensions = [ext for ext in self.extensions if ext.name != "normcpu._omp"]
            Path(self.get_ext_fullpath("normcpu._omp")).unlink(missing_ok=True)
        objects: list[list[Future[str]]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for ext in self.extensions:
                objects.append([self.start(pool, path, flags) for path, flags in ext.c_files.items()])
            for ext, of_ext in zip(self.extensions, objects, strict=True):
                of_ext.append(self.start(pool, self.cythonize(ext), [], PYTHON_MACROS))
        for ext, of_ext in zip(self.extensions, objects, strict=True):
            ext.extra_objects = [job.result() for job in of_ext]
            ext.sources = []
        super().build_extensions()

    def start(
        self, pool: ThreadPoolExecutor, source: str, flags: list[str], macros: list[tuple[str, str]] | None = None
    ) -> Future[str]:
        """The object file of one C file, made where something that the file may include is newer."""
        [path] = self.compiler.object_filenames([source], output_dir=self.build_temp)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        include = ["include"]
        if macros:
            import numpy

            include.append(numpy.get_include())

        def compile() -> str:
            if self.force or newer_group([source, *INCLUDED, "setup.py"], path):
                user = shlex.split(os.environ.get("CFLAGS", ""))
                self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    macros=macros,
                    include_dirs=include,
                    extra_postargs=[*FLAGS, *user, *flags, *CONTRACT],
                )
            return path

        return pool.submit(compile)

    def cythonize(self, ext: Native) -> str:
        from Cython.Build import cythonize

        [made] = cythonize([Extension(ext.name, [ext.pyx])], build_dir=self.build_temp, force=self.force, quiet=True)
        return str(made.sources[0])

    def openmp_usable(self) -> bool:
        wanted = openmp_wanted()
        if wanted == "off":
            return False
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(OPENMP_PROBE)
            try:
                objects = self.compiler.compile([str(probe)], output_dir=folder, extra_postargs=OPENMP)
                self.compiler.link_shared_object(objects, str(Path(folder, "probe.so")), extra_postargs=OPENMP)
            except (CompileError, LinkError) as error:
                if wanted == "on":
                    raise LinkError(f"NORMCPU_OPENMP=on, but {shlex.join(OPENMP)} does not work: {error}") from None
                print("normcpu: no OpenMP, so everything will run on the calling thread")
                return False
        return True

    def copy_extensions_to_source(self) -> None:
        """An older build's _omp would be found in the tree, and OpenMP with it."""
        if all(ext.name != "normcpu._omp" for ext in self.extensions):
            Path(self.get_ext_filename("normcpu._omp")).unlink(missing_ok=True)
        super().copy_extensions_to_source()


setup(
    ext_modules=[core(), omp()],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if USE_ABI3 else {},
)
