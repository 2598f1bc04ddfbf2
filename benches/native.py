# SPDX-License-Identifier: Apache-2.0
"""Builds bench.c with the library's own objects, those in the wheel, and runs it.

CC, CXX      the compilers
DNNL_ROOT    where oneDNN is (include/, lib/); without it, this Python's own prefix, as the packages
             onednn-cpu-gomp and onednn-devel-cpu-gomp install it; absent is fine
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.modified import newer_group

HERE = Path(__file__).parent
ROOT = HERE.parent
# The name that setuptools gives the folder.
OBJECTS = ROOT / "build" / f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
OUT = ROOT / "build" / "benches"
DNNL = Path(os.environ.get("DNNL_ROOT", sys.prefix))

# The memory limit is measured with the widest vectors there are: limit.c once per row.
LOOPS = {"bench_v2": "x86-64-v2", "bench_v3": "x86-64-v3", "bench_v4": "x86-64-v4"}
if platform.machine() != "x86_64":
    LOOPS = {"bench_base": ""}


def _compile(name, source, *flags):
    """The object file of one source, made where something it may include is newer."""
    target = OUT / f"{name}.o"
    if newer_group([source, HERE / "bench.h", ROOT / "include" / "normcpu.h", __file__], target):
        cpp = source.suffix == ".cpp"
        compiler = shlex.split(os.environ.get("CXX", "c++") if cpp else os.environ.get("CC", "cc"))
        standard = ["-std=c++14", f"-I{DNNL}/include"] if cpp else ["-std=c11"]
        options = ["-O3", "-Wall", "-Wextra", f"-I{ROOT}/include", *standard, *flags]
        subprocess.run([*compiler, *options, "-c", source, "-o", target], check=True)
    return target


def has_onednn():
    return (DNNL / "include" / "oneapi" / "dnnl" / "dnnl.hpp").exists() and any(DNNL.glob("lib/libdnnl.so*"))


def build():
    """The path of the program."""
    OUT.mkdir(parents=True, exist_ok=True)
    library = sorted((OBJECTS / "src").rglob("*.o"))
    if not library:
        build_ext = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(build_ext, cwd=ROOT, check=True)
        library = sorted((OBJECTS / "src").rglob("*.o"))
    macros, link = [], ["-lm"]
    if any(path.stem == "omp" for path in library):
        macros.append("-DBENCH_OPENMP")
        link.append("-fopenmp")
    if has_onednn():
        macros.append("-DBENCH_ONEDNN")
        link += [f"-L{DNNL}/lib", f"-Wl,-rpath,{DNNL}/lib", "-ldnnl"]
    variant = "-".join(["bench", *(macro[8:].lower() for macro in macros)])
    objects = [_compile(variant, HERE / "bench.c", *macros), _compile("contestants", HERE / "contestants.c")]
    for table, march in LOOPS.items():
        flags = [f"-DNAME={table}", *([f"-march={march}"] if march else [])]
        objects.append(_compile(table, HERE / "limit.c", *flags))
    if has_onednn():
        objects.append(_compile("onednn", HERE / "onednn.cpp"))
    program = OUT / variant
    if newer_group([*objects, *library, __file__], program):
        linker = shlex.split(os.environ.get("CXX", "c++") if has_onednn() else os.environ.get("CC", "cc"))
        subprocess.run([*linker, *objects, *library, *link, "-o", program], check=True)
    return program


def run(problems, threads, seconds, ops=()):
    """Yields the results for (shape, dtype) pairs as they come: dicts, with times in seconds."""
    lines = "".join(f"{dtype} {' '.join(map(str, shape.dims))}\n" for shape, dtype in problems)
    command = [build(), str(threads), str(seconds), *([",".join(ops)] if ops else [])]
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}  # oneDNN asks no one else
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environ, **pipes) as program:
        program.stdin.write(lines)
        program.stdin.close()
        for line in program.stdout:
            yield json.loads(line)
    if program.returncode:
        raise RuntimeError(f"{command[0]} ended with {program.returncode}")


def read_limits(path):
    """{(shape, dtype): {op: seconds}} of the fastest loop each; memcpy is not a loop."""
    limits = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["who"] == "limit" and row["layout"] != "memcpy":
            best = limits.setdefault((tuple(row["shape"]), row["dtype"]), {})
            best[row["op"]] = min(best.get(row["op"], row["min"]), row["min"])
    return limits
