# SPDX-License-Identifier: Apache-2.0
"""A trained LeNet on a Cortex-M4F: folded, made to C, compiled, and run in QEMU on digits that it has not seen.

    python examples/embed_lenet/run.py

Wants pip install "normcpu[onnx]" scikit-learn, and on Debian
apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm.  Everything goes to build/embed_lenet.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

import normcpu.onnx
from normcpu import embed

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
BOARD, MADE = ROOT / "examples/cortex_m", ROOT / "build/embed_lenet"
SEEN = 1400  # images that it was trained on
CPU = [
    "-mcpu=cortex-m4",
    "-mthumb",
    "-mfloat-abi=hard",
    "-mfpu=fpv4-sp-d16",
    "-std=c99",
    "-fno-math-errno",
    "-ffreestanding",
]
QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
SEMIHOSTING = ["-semihosting-config", "enable=on,target=native", "-kernel"]


class Layer(NamedTuple):
    """A convolution with its ReLU, on x (1, inputs, size, size)."""

    what: str
    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


LAYERS = [
    Layer("LeNet's first", 1, 6, 8, 5, 1, 2),
    Layer("LeNet's second", 6, 16, 4, 5, 1, 2),
    Layer("3 x 3, 8 to 16 channels of 16 x 16", 8, 16, 16, 3, 1, 1),
    Layer("the same with stride 2", 8, 16, 16, 3, 2, 1),
    Layer("3 x 3, depthwise, 16 channels of 8 x 8", 16, 16, 8, 3, 1, 1, 16),
    Layer("1 x 1, 16 to 32 channels of 8 x 8", 16, 32, 8, 1),
    Layer("LeNet's linear of 120 to 84", 120, 84, 1, 1),
]


def compiled(name: str, folder: Path, optimize: str, sources: list[Path], *flags: str) -> Path:
    program, board = folder / name, ["-nostartfiles", "-T", BOARD / "link.ld", BOARD / "start.c"]
    command = ["arm-none-eabi-gcc", *CPU, optimize, "-ffreestanding", *flags, f"-I{folder}", *board, *sources]
    subprocess.run([*map(str, command), "-o", str(program), "-lm", "-lgcc"], check=True)
    return program


def run(program: Path, *options: str) -> str:
    """What it says, which QEMU writes to its standard error; its exit status must be 0."""
    command = [*QEMU, *options, *SEMIHOSTING, str(program)]
    return subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, timeout=300).stderr


def sections(source: Path, optimize: str) -> dict[str, int]:
    """Bytes of code, constants and RAM of one compiled file."""
    target = source.with_suffix(".o")
    subprocess.run(["arm-none-eabi-gcc", *CPU, optimize, "-c", str(source), "-o", str(target)], check=True)
    listed = subprocess.run(["arm-none-eabi-size", "-A", str(target)], check=True, capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines() if line.startswith(".")]
    return {kind: sum(int(row[1]) for row in rows if row[0].startswith(kind)) for kind in (".text", ".rodata", ".bss")}


def read_digits(stored: str, images: np.ndarray[Any, Any], shown: np.ndarray[Any, Any]) -> Iterator[str]:
    """The row of a table: bytes, and how many digits the device and NumPy read right."""
    folder = MADE / stored
    folder.mkdir(parents=True, exist_ok=True)
    folded, _ = normcpu.onnx.fold(HERE / "lenet.onnx")
    made = normcpu.onnx.embed(folded, name="lenet", stored=stored)
    made.write(folder)
    layers, _ = normcpu.onnx.layers(folded, stored)
    embed.params({"images": images}, name="digits").write(folder)
    sizes = sections(folder / "lenet.c", "-Os")
    golden = compiled("golden", folder, "-Os", [folder / "lenet.c", folder / "lenet_test.c"])
    run(golden)  # fails with the index of the first wrong element
    printed = run(compiled("lenet", folder, "-Os", [HERE / "main.c", folder / "lenet.c"]))
    on_device = np.array([int(digit) for digit in printed.strip()])
    in_numpy = embed.simulate(layers, images).argmax(1)
    yield from (stored, f"{sizes['.rodata']:,}", f"{sizes['.text']:,}", f"{sizes['.bss']:,}", str(made.stack))
    yield from (f"{np.mean(guesses == shown):.1%}" for guesses in (on_device, in_numpy))
    yield str(np.count_nonzero(on_device != in_numpy))


def count(layer: Layer) -> Iterator[str]:
    """The row of a table: bytes of the generated code, and instructions for each element of y, next to the loops."""
    folder = MADE / "count"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    _, inputs, outputs, size, kernel, stride, padding, groups = layer
    weight = rng.normal(size=(outputs, inputs // groups, kernel, kernel)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    x = rng.normal(size=(1, inputs, size, size)).astype(np.float32)
    conv = embed.Conv(weight, bias, stride, padding, groups=groups, activation="relu")
    embed.function(conv, x.shape, name="layer").write(folder)
    embed.params({"x": x, "weight": weight, "bias": bias}, name="plain").write(folder)
    macros = [f"-D{name.upper()}={value}" for name, value in layer._asdict().items() if name != "what"]
    elements = embed.simulate(conv, x).size
    yield layer.what
    for optimize in ("-O2", "-Os"):
        yield str(sections(folder / "layer.c", optimize)[".text"])
        program = compiled("count", folder, optimize, [HERE / "count.c", folder / "layer.c"], *macros)
        unit, loops, generated = (int(line) for line in run(program, "-icount", "shift=5").split())
        each = [ticks * 200_000 / unit / elements for ticks in (loops, generated)]
        yield from (f"{each[0]:.0f}", f"{each[1]:.0f}", f"{each[0] / each[1]:.1f}")


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def main() -> int:
    missing = [tool for tool in ("arm-none-eabi-gcc", "qemu-system-arm") if not which(tool)]
    if missing:
        print(f"{' and '.join(missing)} is missing.  {__doc__}", file=sys.stderr)
        return 2
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))[SEEN:]  # as train.py has it
    images, shown = (data.images[order, None] / 16).astype(np.float32), data.target[order]
    print(f"LeNet on {len(images)} digits that it has not seen.  Bytes, and what is read right:\n")
    head = ["weights", "constants", "code", "RAM", "stack, at most", "Cortex-M4F", "NumPy", "read differently"]
    table(head, [list(read_digits(stored, images, shown)) for stored in ("float32", "int8")])
    print("Instructions for each element of y: loops by hand, generated, and the ratio\n")
    head = ["layer", *(f"{what} {o}" for o in ("-O2", "-Os") for what in ("bytes", "by hand", "generated", "ratio"))]
    table(head, [list(count(layer)) for layer in LAYERS])
    return 0


if __name__ == "__main__":
    sys.exit(main())
