# SPDX-License-Identifier: Apache-2.0
"""Write the library as one C file and its header:  python tools/amalgamate.py dist

What a C preprocessor does with #include "...", and no more: headers once, kernels.inc and its parts as often as they
are included.  Functions that several files share become static, and names that several files use for something of their
own get the file's name behind them.  kernels.c comes for the one instruction set that the compiler's flags allow.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
KERNELS, DISPATCH, ONE, TEAM = "kernels.c", "dispatch.c", "one_isa.c", "omp.c"

INCLUDE = re.compile(r'^#include (?:"(.+)"|(NCPU_SIMD)).*\n', re.MULTILINE)
COMMENT = re.compile(r"[ \t]*/\*.*?\*/", re.DOTALL)
BLANK = re.compile(r"\n(\s*\n)+")
# At file scope, which is where a line starts with a letter: a function, and what else a .c file may keep to itself.
FUNCTION = re.compile(r"^(?!static|typedef|return)(?:extern )?(\w[\w \*]*?\b(ncpu_\w+)(?:\(|\[))", re.MULTILINE)
OWN = re.compile(r"^static [\w \*]*?\b(\w+)(?:\(|\[| =|;)|^\} (\w+);|^typedef [^;{]*\(\*(\w+)\)", re.MULTILINE)
ENUMERATOR = re.compile(r"^enum \{ (.*)\};", re.MULTILINE)
PARAMETERS = ("Y", "WITH_STEPS")  # of kernels.inc, where a copy without the other branch is much shorter
FEATURE = re.compile(r"^#define _\w+_SOURCE.*\n", re.MULTILINE)

TOP = """\
/* SPDX-License-Identifier: Apache-2.0
 *
 * normcpu {version} in one file, made by tools/amalgamate.py.  What it does is said in normcpu.h.
 *
 *     cc -std=c11 -O3 -mavx2 -mf16c -c normcpu.c          then link with -lm
 *
 * The instruction set is the best that the compiler's flags allow:
{choices}
 * and plain C otherwise, or with NORMCPU_SCALAR defined.  It must be one of the CPU's: nothing asks when it runs.
 * -fopenmp gives it threads (and may want -ldl).  -Os, or NCPU_SMALL=1, is small, slower, and the same bits. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* clock_gettime, sysconf's names of caches, dladdr */
#endif
#include "normcpu.h"
#include <float.h>

/* The same bits everywhere need IEEE arithmetic as it is written. */
#if defined __FAST_MATH__
#error "normcpu is not to be compiled with -ffast-math or -Ofast"
#elif defined FLT_EVAL_METHOD && FLT_EVAL_METHOD != 0
#error "normcpu needs floats computed as floats and doubles as doubles: -mfpmath=sse, on x86"
#endif
#if defined __clang__
#pragma STDC FP_CONTRACT OFF
#pragma clang diagnostic ignored "-Wunused-function" /* kernels do not need every word of the vocabulary */
#elif defined __GNUC__
#pragma GCC optimize("fp-contract=off")
#endif
#if !defined NCPU_SMALL && defined __OPTIMIZE_SIZE__
#define NCPU_SMALL 1
#endif
#if NCPU_SMALL
#define NCPU_COMPACT 1
#endif
#define NCPU_DEFINES_WIDE
#ifdef _OPENMP
#define NCPU_HAVE_OPENMP
#endif

"""


def setup() -> dict[str, object]:
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


def condition(isa: Any) -> str:
    """What a compiler defines where it may use the instruction set: __AVX2__ for -mavx2."""
    macros = [f"__{isa.machines[0]}__", *(f"__{flag.removeprefix('-m').upper()}__" for flag in isa.flags)]
    return " && ".join(f"defined {macro}" for macro in macros)


def chosen(sets: list[Any], lines: Callable[[str], str]) -> str:
    """lines(name) of the first set that may be used."""
    text = "#if defined NORMCPU_SCALAR\n" + lines("scalar")
    for isa in sets:
        text += f"#elif {condition(isa)}\n" + lines(isa.name)
    return text + "#else\n" + lines("scalar") + "#endif\n"


class Inliner:
    """Files of src/ with what they include in the place of the #include."""

    def __init__(self, simd: str) -> None:
        self.simd = simd  # what stands for #include NCPU_SIMD
        self.seen: Counter[Path] = Counter()

    def text(self, path: Path, edited: Callable[[str], str] = str) -> str:
        text = FEATURE.sub("", edited(path.read_text()))
        name = path.relative_to(ROOT / "src").as_posix()
        self.seen[path] += 1
        if self.seen[path] > 1:
            if path.suffix == ".h":
                return ""
            text = BLANK.sub("\n", COMMENT.sub("", text))  # read it where it stands first
        else:
            text = text.replace("/* SPDX-License-Identifier: Apache-2.0 */\n", "", 1)
            text = text.replace("/* SPDX-License-Identifier: Apache-2.0\n", f"/* {name}\n", 1)

        def included(match: re.Match[str]) -> str:
            if match[2]:
                return self.simd
            if match[1] == "normcpu.h":
                return ""
            found = path.parent / match[1]
            return self.text(found if found.exists() else ROOT / "src" / match[1])

        return INCLUDE.sub(included, text)


def settled(text: str) -> str:
    """Without the parts that the parameters of kernels.inc leave out: ten copies of it would be twice as long."""
    kept, defined, parts = [], set(), []  # parts: of each #if around a line, (is it one of ours, is it left out)
    for line in text.splitlines(keepends=True):
        words = line.split()
        word, name = [*words, "", ""][:2]
        ours = word in ("#ifdef", "#ifndef") and name in PARAMETERS
        if word.startswith("#if"):
            parts.append((ours, ours and (name in defined) != (word == "#ifdef")))
        elif word == "#else" and parts[-1][0]:
            parts[-1] = (True, not parts[-1][1])
            continue
        elif word == "#endif" and parts.pop()[0]:
            continue
        if ours or any(out for _, out in parts):
            continue
        if word == "#define":
            defined.add(name)
        elif word == "#undef":
            defined.discard(name)
        kept.append(line)
    return "".join(kept)


def own_names(text: str) -> set[str]:
    constants = [name for enum in ENUMERATOR.findall(text) for name in re.findall(r"(\w+) =", enum)]
    return {name for match in OWN.finditer(text) for name in match.groups() if name} | {*constants}


def kept_apart(path: Path, shared: set[str]) -> Callable[[str], str]:
    """The text of a .c file with its names for what other files have a different one for: task_in_apply."""

    def renamed(text: str) -> str:
        for name in sorted(own_names(text) & shared):
            text = re.sub(rf"(?<![\w.>]){name}\b(?!\.h)", f"{name}_in_{path.stem}", text)
        return text

    return renamed


def main(folder: str) -> None:
    build = setup()
    sets = sorted((isa for isa in build["INSTRUCTION_SETS"] if isa.machines), key=lambda isa: -len(isa.flags))
    header = (ROOT / "include/normcpu.h").read_text()
    src = ROOT / "src"

    texts = {path: path.read_text() for path in sorted(src.glob("*.c")) if path.name != DISPATCH}
    kernels = "".join(path.read_text() for path in [*src.glob("*.inc"), *src.glob("kernels/*.inc"), src / KERNELS])
    counts = Counter(name for path, text in texts.items() if path.name != KERNELS for name in own_names(text))
    shared = {name for name, count in counts.items() if count > 1} | own_names(kernels)

    simd = chosen(sets, lambda name: Inliner("").text(src / f"simd/{name}.h"))
    isa = chosen(sets, lambda name: f'#define NCPU_ISA {name}\n#define NCPU_ISA_NAME "{name}"\n')
    inliner = Inliner(simd)
    last = (KERNELS, ONE, TEAM)
    operations = [path for path in texts if path.name not in last]
    parts = [inliner.text(path, kept_apart(path, shared)) for path in operations]
    parts += [inliner.text(src / name) for name in last[:2]]
    parts += ["#ifdef _OPENMP\n", inliner.text(src / TEAM), "#endif\n"]
    body = "\n".join([isa, *parts])

    body = settled(body)
    public = set(re.findall(r"\bncpu_\w+(?=\()", header))
    body = re.sub(r"^const ncpu_kernels JOIN", "static \\g<0>", body, flags=re.MULTILINE)
    body = FUNCTION.sub(lambda m: m[0] if m[2] in public else f"static {m[1]}", body)
    choices = "\n".join(f" *     {isa.name:8} {condition(isa)}" for isa in sets)
    version = re.search(r'NCPU_VERSION "(.+)"', header)[1]
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "normcpu.h").write_text(header)
    Path(folder, "normcpu.c").write_text(BLANK.sub("\n\n", TOP.format(version=version, choices=choices) + body))


if __name__ == "__main__":
    main(*sys.argv[1:])
