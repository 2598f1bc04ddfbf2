# SPDX-License-Identifier: Apache-2.0
"""Generate C for layers of every kind and a folded network, and run their golden vectors on devices:

    python tests/devices/run.py cortex-m3 cortex-m4f cortex-m7 wasm armv7

main of each name_test.c returns 0 or the index of the first wrong element, which is the emulator's exit status.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from layers import generated, parameters

ROOT = Path(__file__).parents[2]
HERE, BOARD = Path(__file__).parent, ROOT / "examples/cortex_m"
STRICT = ["-std=c99", "-Os", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fno-math-errno"]
SECONDS = 120  # of one program, where a second is usual
WRONG = 3  # the element that a planted error is in, from 1


class Device(NamedTuple):
    compile: tuple[str, ...]  # to a program, of the sources behind it
    run: tuple[str, ...]  # the program
    packages: str  # Debian's, of the tools
    link: tuple[str, ...] = ()  # behind the sources
    linker: str = ""  # of other packages than the compiler


class Program(NamedTuple):
    name: str
    sources: tuple[Path, ...]
    status: int = 0


def cortex(board: str, *flags: str) -> Device:
    compiler = ("arm-none-eabi-gcc", "-mthumb", *flags, "-ffreestanding", "-ffunction-sections", "-Wl,--gc-sections")
    emulator = ("qemu-system-arm", "-M", board, "-nographic", "-monitor", "none", "-serial", "none")
    return Device(
        (*compiler, "-nostartfiles", "-T", str(BOARD / "link.ld"), str(BOARD / "start.c")),
        (*emulator, "-semihosting-config", "enable=on,target=native", "-kernel"),
        "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
        ("-lm", "-lgcc"),  # sqrtf where the CPU has none
    )


def linux(triple: str, libc: str, *emulator: str) -> Device:
    packages = f"gcc-{triple.replace('_', '-')} {libc} qemu-user-static"
    return Device((f"{triple}-gcc", "-static"), emulator, packages, ("-lm",))


WASM = ("--target=wasm32", "-ffreestanding", "-nostdlib", "-mbulk-memory", "-Dmain=golden", "-Wno-main")
DEVICES = {
    "cortex-m3": cortex("mps2-an385", "-mcpu=cortex-m3", "-mfloat-abi=soft"),
    "cortex-m4f": cortex("mps2-an386", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": cortex("mps2-an500", "-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "wasm": Device(
        ("clang-19", *WASM, "-Wl,--no-entry", "-Wl,--export=golden"),
        ("node", str(HERE / "wasm.mjs")),
        "clang-19 lld-19 nodejs",
        linker="wasm-ld-19",
    ),
    "aarch64": linux("aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-aarch64-static", "-cpu", "cortex-a53"),
    "armv7": linux("arm-linux-gnueabihf", "libc6-dev-armhf-cross", "qemu-arm-static", "-cpu", "cortex-a15"),
    "riscv64": linux("riscv64-linux-gnu", "libc6-dev-riscv64-cross", "qemu-riscv64-static"),
    "x86-baseline": linux("x86_64-linux-gnu", "libc6-dev", "qemu-x86_64-static", "-cpu", "Nehalem"),
}


def main() -> int:
    names = sys.argv[1:]
    if not names or not set(names) <= set(DEVICES):
        print(f"name devices of {', '.join(DEVICES)}", file=sys.stderr)
        return 2
    return max([tried(name, DEVICES[name]) for name in names])


def tried(name: str, device: Device) -> int:
    for tool in filter(None, (device.compile[0], device.run[0], device.linker)):
        if not shutil.which(tool):
            print(f"{name}: no {tool} here.  On Debian: apt-get install {device.packages}", file=sys.stderr)
            return 2
    folder = ROOT / "build/devices" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    programs = [Program(each, (folder / f"{each}.c", folder / f"{each}_test.c")) for each in generated(folder)]
    parameters(folder)
    programs += [Program("params", (HERE / "params.c",)), planted(programs[0])]
    with ThreadPoolExecutor() as pool:
        outcomes = Counter(pool.map(partial(outcome, device, folder), programs))
    print(f"{name}: {outcomes[True]} of {len(programs)} programs as NumPy")
    return 1 if outcomes[False] else 0


def planted(program: Program) -> Program:
    """The test of a function, where one element is expected to be wrong: it must be found."""
    source, test = program.sources
    wrong = test.with_name(f"{program.name}_planted.c")
    text = test.read_text()
    changed = text.replace("expected[at];", f"expected[at] + (at == {WRONG - 1} ? 1.0f : 0.0f);")
    assert text != changed
    wrong.write_text(changed)
    return Program(wrong.stem, (source, wrong), WRONG)


def outcome(device: Device, folder: Path, program: Program) -> bool:
    made, sources = folder / program.name, map(str, program.sources)
    command = [*device.compile, *STRICT, f"-I{folder}", *sources, "-o", str(made), *device.link]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        print(f"{program.name}: {shlex.join(command)}\n{built.stderr}")
        return False
    try:
        ran = subprocess.run([*device.run, str(made)], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{program.name}: still running after {SECONDS} s")
        return False
    if ran.returncode != program.status:
        print(f"{program.name}: {ran.returncode}, not {program.status}\n{ran.stdout}{ran.stderr}")
    return ran.returncode == program.status


if __name__ == "__main__":
    sys.exit(main())
