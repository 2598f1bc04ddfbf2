# SPDX-License-Identifier: Apache-2.0
"""Where the values between parts are: at the two ends of one buffer, with what a part works in between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .parts import Part, size


class Buffer(NamedTuple):
    """A value in the scratch buffer: `floats` from its beginning, or as many before its end."""

    high: bool
    floats: int


Place = Buffer | None  # None: memory of the caller


def places(parts: Sequence[Part]) -> tuple[tuple[Place, ...], int]:
    """Where each part's y goes, and the fewest floats that all of it takes.

    y goes to the end that x is not at, or in place where the part can; from the part on whose successors can and find
    room in it, to the caller's y.  All ways are followed, those that end at the same place together.
    """
    room = size(parts[-1].out_shape)
    final = max((i for i, part in enumerate(parts) if not part.in_place or size(part.shape) > room), default=0)
    ways: dict[Place, tuple[int, tuple[Place, ...]]] = {None: (0, ())}  # where x is: how, and how much that took
    for i, part in enumerate(parts):
        reached: dict[Place, tuple[int, tuple[Place, ...]]] = {}
        for x, (taken, way) in ways.items():
            for y in [None] if i >= final else _choices(part, x):
                most = max(taken, sum(_occupied(x, y)) + part.work)
                if y not in reached or most < reached[y][0]:
                    reached[y] = most, (*way, y)
        ways = reached
    total, way = ways[None]
    return way, total


def free(x: Place, y: Place) -> int:
    """Where the memory to work in begins: behind what is at the low end."""
    return _occupied(x, y)[0]


def _occupied(x: Place, y: Place) -> list[int]:
    """Floats at the low end and at the high one."""
    return [max((b.floats for b in (x, y) if b and b.high == high), default=0) for high in (False, True)]


def _choices(part: Part, x: Place) -> list[Place]:
    floats = size(part.out_shape)
    if x is None:
        return [Buffer(False, floats), Buffer(True, floats)]
    # In place, y begins where x does: at the high end it leaves a gap behind it.
    here: list[Place] = [Buffer(x.high, max(floats, x.floats) if x.high else floats)] if part.in_place else []
    return [*here, Buffer(not x.high, floats)]
