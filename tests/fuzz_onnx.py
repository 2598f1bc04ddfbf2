# SPDX-License-Identifier: Apache-2.0
"""Damaged models through the command line: each is folded or refused with a sentence, soon; a refusal writes nothing.

python tests/fuzz_onnx.py 100000 [--first SEED]: that many, on every core.  The model of a seed is always the same.
A batch runs in a process of its own, so that a crash, a hang or a hunger for memory is a finding, not the end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from onnx_cases import AGGRESSIVE, AGGRESSIVE_KEPT, FOLDED, KEPT, build

from normcpu import cli

SECONDS = 10  # of the processor for one model of a few kilobytes; usual are 5 milliseconds
ASLEEP = 300  # seconds, of which a busy machine may take its share
MEMORY = 8 << 30  # bytes of address space, of which the libraries reserve most
LATE = {signal.SIGPROF: f": took more than {SECONDS} s", signal.SIGALRM: f": slept for {ASLEEP} s"}
BATCH = 250
CASES = FOLDED + KEPT + AGGRESSIVE + AGGRESSIVE_KEPT
INTEGERS = (0, 1, -1, 2, 3, 7, 64, 255, 1 << 20, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))


def damaged(seed: int) -> bytes:
    """Half of them have valid fields with senseless values, a quarter bytes that are no message, a quarter both."""
    rng = np.random.default_rng(seed)
    model = build(CASES[seed % len(CASES)])
    kind = int(rng.integers(4))
    if kind != 0:
        for _ in range(int(rng.integers(1, 4))):
            _damage_fields(model, rng)
    data = bytearray(model.SerializeToString())
    if kind <= 1:
        for _ in range(int(rng.integers(1, 6))):
            _damage_bytes(data, rng)
    return bytes(data)


def _damage_bytes(data: bytearray, rng: np.random.Generator) -> None:
    at, kind, some = int(rng.integers(len(data))), rng.integers(20), int(rng.integers(1, 9))
    if kind == 0:
        del data[max(1, at) :]
    elif kind < 8:
        data[at] = int(rng.integers(256))
    elif kind < 14 and len(data) > 8:
        del data[at : at + some]
    else:
        data[at:at] = rng.bytes(some)


def _damage_fields(model: Any, rng: np.random.Generator) -> None:
    """One thing in a node, a weight, an input or the versions becomes another."""
    graph, values = model.graph, _names(model.graph)
    what = rng.integers(8)
    if what < 4 and graph.node:
        _damage_node(graph.node[int(rng.integers(len(graph.node)))], values, rng)
    elif what < 6 and graph.initializer:
        _damage_tensor(graph.initializer[int(rng.integers(len(graph.initializer)))], rng)
    elif what == 6 and graph.input:
        dims = graph.input[int(rng.integers(len(graph.input)))].type.tensor_type.shape.dim
        if dims:
            dims[int(rng.integers(len(dims)))].dim_value = _pick(rng, INTEGERS)
        else:
            graph.input[0].type.tensor_type.elem_type = int(rng.integers(25))
    elif rng.integers(2):
        model.opset_import[0].version = int(rng.integers(-1, 40))
    else:
        model.ir_version = int(rng.integers(-1, 20))


def _damage_node(node: Any, values: list[str], rng: np.random.Generator) -> None:
    what = rng.integers(6)
    if what == 0 and node.input:
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, [*values, "", "nobody"])
    elif what == 1 and node.input:
        del node.input[int(rng.integers(len(node.input)))]
    elif what == 2:
        node.input.append(_pick(rng, values))
    elif what == 3:
        node.op_type = _pick(rng, OPERATIONS)
    elif what == 4 and node.output:
        node.output[0] = _pick(rng, [*values, ""])
    elif node.attribute:
        at = int(rng.integers(len(node.attribute)))
        if rng.integers(4) == 0:
            del node.attribute[at]
        else:
            _damage_attribute(node.attribute[at], rng)
    else:
        node.domain = "elsewhere"


def _damage_attribute(attribute: Any, rng: np.random.Generator) -> None:
    if attribute.ints:
        what = rng.integers(3)
        if what == 0:
            attribute.ints.append(_pick(rng, INTEGERS))
        elif what == 1:
            del attribute.ints[0]
        else:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = _pick(rng, INTEGERS)
    elif attribute.HasField("i"):
        attribute.i = _pick(rng, INTEGERS)
    elif attribute.HasField("f"):
        attribute.f = _pick(rng, FLOATS)
    elif attribute.HasField("t"):
        _damage_tensor(attribute.t, rng)
    else:
        attribute.type = int(rng.integers(15))


def _damage_tensor(tensor: Any, rng: np.random.Generator) -> None:
    what = rng.integers(5)
    if what == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, INTEGERS)
    elif what == 1:
        tensor.dims.append(_pick(rng, INTEGERS))
    elif what == 2:
        tensor.data_type = int(rng.integers(25))
    elif what == 3 and tensor.data_type == 1 and len(tensor.raw_data) >= 4:
        at = 4 * int(rng.integers(len(tensor.raw_data) // 4))
        value = struct.pack("<f", _pick(rng, FLOATS))
        tensor.raw_data = tensor.raw_data[:at] + value + tensor.raw_data[at + 4 :]
    elif what == 4:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _names(graph: Any) -> list[str]:
    return [v.name for v in (*graph.input, *graph.initializer)] + [o for n in graph.node for o in n.output]


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


OPERATIONS = sorted({n.op_type for case in CASES for n in build(case).graph.node})


def finding(data: bytes, folder: Path, options: list[str]) -> tuple[int, str]:
    """(the exit status, what is wrong or "")."""
    path, out = folder / "damaged.onnx", folder / "out.onnx"
    path.write_bytes(data)
    out.unlink(missing_ok=True)
    told = io.StringIO()
    arguments = ["fold", str(path), "-o", str(out), "-q", *options]
    with contextlib.redirect_stderr(told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = cli.main(arguments)
        except Exception as error:
            return -1, f"{type(error).__name__}: {error}"
    if status not in (cli.DONE, cli.FILE):
        return status, f"status {status}"
    if status == cli.FILE and not told.getvalue().startswith("normcpu: "):
        return status, "refused without a word"
    if out.exists() != (status == cli.DONE):
        return status, f"status {status}, but the output {'exists' if out.exists() else 'does not exist'}"
    if extra := {p.name for p in folder.iterdir()} - {path.name, out.name}:
        return status, f"left behind: {sorted(extra)}"
    return status, ""


def _batch(seeds: range, at: mmap, verify: bool, pipe: int) -> None:
    """In a child: findings as lines, and where it is in shared memory, for when it dies."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for which in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(which, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as name, os.fdopen(pipe, "w") as lines:
        for seed in seeds:
            at[:8] = seed.to_bytes(8, "little")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(ASLEEP)
            options = ["--aggressive"] * (seed % 3 == 0) + ["--no-verify"] * (not verify)
            status, wrong = finding(damaged(seed), Path(name), options)
            print(seed, status, wrong.replace("\n", " ")[:300], file=lines, flush=True)


def hammer(seeds: range, verify: bool = False, workers: int | None = None) -> Iterator[tuple[int, int, str]]:
    """(seed, exit status, what is wrong or "") of each; a process that died, or took too long, has status -1."""
    waiting = [seeds[k : k + BATCH] for k in range(0, len(seeds), BATCH)][::-1]
    running: dict[int, tuple[range, mmap, Any]] = {}
    while waiting or running:
        while waiting and len(running) < (workers or os.cpu_count() or 1):
            batch, at, (read, write) = waiting.pop(), mmap(-1, 8), os.pipe()
            at[:8] = batch[0].to_bytes(8, "little")
            child = os.fork()
            if child == 0:
                os.close(read)
                try:
                    _batch(batch, at, verify, write)
                finally:
                    os._exit(0)
            os.close(write)
            running[child] = batch, at, os.fdopen(read)
        child, ended = os.wait()
        batch, at, lines = running.pop(child)
        with lines:
            told = [line.rstrip("\n").split(" ", 2) for line in lines]  # a batch's lines fit a pipe's 64 KB
        yield from ((int(seed), int(status), wrong) for seed, status, wrong in told)
        if os.WIFSIGNALED(ended):
            seed = int.from_bytes(at[:8], "little")
            died = signal.Signals(os.WTERMSIG(ended))
            yield seed, -1, f"ended by {died.name}{LATE.get(died, '')}"
            waiting.append(range(seed + 1, batch[-1] + 1)) if seed < batch[-1] else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--verify", action="store_true", help="run what was folded, too")
    parser.add_argument("--workers", type=int)
    chosen = parser.parse_args()
    seen: Counter[int] = Counter()
    start, findings = time.monotonic(), 0
    for seed, status, wrong in hammer(range(chosen.first, chosen.first + chosen.count), chosen.verify, chosen.workers):
        seen[status] += 1
        if wrong:
            findings += 1
            print(f"seed {seed}: {wrong}", flush=True)
    took = time.monotonic() - start
    folded, refused = seen[cli.DONE], seen[cli.FILE]
    print(f"{sum(seen.values())} models in {took:.0f} s: {folded} read, {refused} refused, {findings} findings")
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
