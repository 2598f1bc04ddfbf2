# SPDX-License-Identifier: Apache-2.0
"""Run with tests/c/failing_malloc.c preloaded: lets each allocation of each operation fail, one after the other, and
prints how many there were."""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import bits

import normcpu

Operation = Callable[[], Any]
Kept = Callable[[], tuple[Any, ...]]
SHAPES = (((2, 3, 7, 7), 1), ((2, 5, 40, 64), 1), ((4, 9, 9, 20), 3))


def operations(i: bits.Inputs) -> dict[str, tuple[Operation, Kept]]:
    """What to call, and what a failure must not change."""
    mean, var = i.mean.copy(), i.var.copy()
    seen, x = normcpu.Moments(i.axis).update(i.x), i.x.copy()
    layer = normcpu.BatchNorm2d(i.shape[i.axis], channel_axis=i.axis, dtype=mean.dtype)
    batch_mean, batch_var = normcpu.moments(x, channel_axis=i.axis)

    def of_layer() -> tuple[Any, ...]:
        return tuple(layer.state_dict().values())

    return {
        "evaluation": (lambda: normcpu.batch_norm(x, mean, var, channel_axis=i.axis), lambda: (x, mean, var)),
        "training": (
            lambda: normcpu.batch_norm(x, mean, var, training=True, channel_axis=i.axis, residual=i.residual),
            lambda: (x, mean, var),
        ),
        "backward": (
            lambda: tuple(normcpu.batch_norm_backward(i.dy, x, batch_mean, batch_var, channel_axis=i.axis)[:3]),
            lambda: (x, i.dy, batch_mean, batch_var),
        ),
        "scale_shift": (lambda: normcpu.scale_shift(x, mean, channel_axis=i.axis), lambda: (x, mean)),
        "moments": (lambda: tuple(normcpu.moments(x, channel_axis=i.axis)), lambda: (x,)),
        "Moments.update": (lambda: seen.update(x).mean, lambda: tuple(seen.state_dict().values())),
        "layer": (lambda: layer(x), of_layer),
    }


def fail_each(allocator: ctypes.CDLL, call: Operation, kept: Kept) -> int:
    """Calls until every allocation has failed once, and returns how many there are."""
    before, which = bits.digest(kept()), 0
    while True:
        message = ""
        allocator.malloc_arm(which)
        try:
            call()
        except MemoryError as error:
            message = str(error)
        allocations = allocator.malloc_disarm()
        assert allocator.malloc_held() == 0, f"leaks where allocation {which} fails"
        if not message:
            assert allocations == which, f"allocation {which} failed and nobody noticed"
            return which
        assert (message, allocations > which) == ("normcpu: no memory for scratch space", True)
        assert bits.digest(kept()) == before, f"changed where allocation {which} fails"
        which += 1


def main() -> None:
    allocator = ctypes.CDLL(None)
    allocator.malloc_disarm.restype = allocator.malloc_held.restype = ctypes.c_long
    allocator.malloc_arm.argtypes = [ctypes.c_long]
    normcpu.set_num_threads(1)
    failures: Counter[str] = Counter()
    for dtype, (shape, axis) in itertools.product(("f32", "f64", "f16"), SHAPES):
        for name, (call, kept) in operations(bits.Inputs(shape, bits.DTYPES[dtype], axis)).items():
            try:
                failures[name] += fail_each(allocator, call, kept)
            except AssertionError as error:
                raise AssertionError(f"{name}, {dtype}, {shape}: {error}") from None
    print(dict(failures))


if __name__ == "__main__":
    main()
