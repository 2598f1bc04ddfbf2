# SPDX-License-Identifier: Apache-2.0
"""Print the hot loop of a kernel as the compiler made it:  python tools/asm.py avx512 measure_runs_f32

The hot loop is taken to be the innermost one with most vector instructions.  Without a kernel: their names.
"""

import re
import subprocess
import sys
from pathlib import Path

INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")
JUMP = re.compile(r"^(j\w+|b(\.\w+)?|cbn?z|tbn?z)$")
VECTOR = re.compile(r"[xyz]mm|\b[vq]\d+\b")


def disassemble(isa: str, symbol: str | None) -> str:
    objects = list(Path("build").glob("temp.*/src/isa/*.o"))
    paths = [path for path in objects if path.stem == isa]
    if not paths:
        sys.exit("make asm KERNEL=... ISA=..., of the instruction sets " + ", ".join(sorted({p.stem for p in objects})))
    newest = max(paths, key=lambda path: path.stat().st_mtime)
    command = ["objdump", "--no-show-raw-insn", f"--disassemble={symbol}" if symbol else "--syms", str(newest)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def hot_loop(lines: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """The lines from a backward jump's target to the jump, for the loop that holds no other."""
    index = {address: i for i, (address, _, _) in enumerate(lines)}
    loops = []
    for end, (address, name, operands) in enumerate(lines):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if JUMP.match(name) and target and int(target[1], 16) <= address and int(target[1], 16) in index:
            loops.append((index[int(target[1], 16)], end))
    innermost = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    if not innermost:
        sys.exit("no loop in it: a kernel that calls another, or was merged with one")
    return max((lines[start : end + 1] for start, end in innermost), key=vectors)


def vectors(lines: list[tuple[int, str, str]]) -> int:
    return sum(bool(VECTOR.search(operands)) for _, _, operands in lines)


def main(isa: str = "", kernel: str = "") -> None:
    if not kernel:
        names = re.findall(r" F \S+\s+\S+ (\w+)$", disassemble(isa, None), re.MULTILINE)
        sys.exit("make asm KERNEL=... ISA=..., of the kernels\n" + "\n".join(sorted(names)))
    text = disassemble(isa, kernel)
    lines = [(int(m[1], 16), m[2], m[3]) for m in map(INSTRUCTION.match, text.splitlines()) if m]
    if not lines:
        sys.exit(f"no kernel {kernel!r} in {isa}.o; make asm alone lists them")
    loop = hot_loop(lines)
    for address, name, operands in loop:
        print(f"{address:8x}  {name:14}{operands}".rstrip())
    print(f"{kernel} on {isa}: {len(lines)} instructions; its hot loop {len(loop)}, on vectors {vectors(loop)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
