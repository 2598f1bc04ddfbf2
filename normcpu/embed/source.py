# SPDX-License-Identifier: Apache-2.0
"""Parts as a pair name.h and name.c: static shapes, C99, no heap, one scratch buffer, constants in flash."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .helpers import definitions, needed
from .literals import definition
from .memory import Place, free, places
from .parts import Part, Shape, size

# Bytes: a frame that only passes pointers on, one of helpers.HELPERS, and what float routines take without an FPU.
ENTRY_STACK, HELPER_STACK, FLOAT_STACK = 64, 40, 32


class Step(NamedTuple):
    """A part in its place: the C expressions of its pointers."""

    part: Part
    name: str
    x: str
    y: str
    work: str

    def signature(self) -> str:
        residual = ", const float *residual" if self.part.residual else ""
        work = ", float *work" if self.part.work else ""
        return f"void {self.name}(const float *x{residual}, float *y{work})"

    def call(self) -> str:
        residual = ", residual" if self.part.residual else ""
        work = f", {self.work}" if self.part.work else ""
        return f"{self.name}({self.x}{residual}, {self.y}{work});"


class Plan(NamedTuple):
    """Which function does what where.  scratch, constants, stack: bytes."""

    name: str
    steps: tuple[Step, ...]
    scratch: int
    constants: int
    stack: int
    aliases: bool  # y may be x

    @property
    def first(self) -> Part:
        return self.steps[0].part

    @property
    def last(self) -> Part:
        return self.steps[-1].part

    @property
    def nested(self) -> bool:
        """Static functions, and one that calls them."""
        return self.steps[0].name != self.name

    def signature(self) -> str:
        return f"void {self.name}(const float *x{', const float *residual' if self.first.residual else ''}, float *y)"


def plan(name: str, parts: Sequence[Part]) -> Plan:
    """Names and pointers for all parts."""
    _check(parts)
    where, total = places(parts)

    def at(offset: int) -> str:
        return f"{name}_scratch + {offset}" if offset else f"{name}_scratch"

    nested = len(parts) > 1 or parts[0].work > 0
    steps: list[Step] = []
    before: Place = None
    for i, (part, place) in enumerate(zip(parts, where, strict=True)):
        target = "y" if place is None else at(total - place.floats if place.high else 0)
        own = f"{name}_{i + 1}_{part.kind}" if nested else name
        steps.append(Step(part, own, steps[-1].y if steps else "x", target, at(free(before, place))))
        before = place
    constants = sum(array.nbytes for part in parts for array in part.constants.values())
    stack = max(part.stack + HELPER_STACK * len(needed(part.helpers)) for part in parts)
    stack += ENTRY_STACK * nested + FLOAT_STACK
    return Plan(name, tuple(steps), 4 * total, constants, stack, parts[0].in_place or where[0] is not None)


def header(plan: Plan, about: Sequence[str]) -> str:
    upper = plan.name.upper()
    return f"""\
{comment(about)}
#ifndef NORMCPU_EMBED_{upper}_H
#define NORMCPU_EMBED_{upper}_H

#define {upper}_INPUT {size(plan.first.shape)} /* floats of x */
#define {upper}_OUTPUT {size(plan.last.out_shape)} /* floats of y */
#define {upper}_SCRATCH {plan.scratch} /* bytes of RAM */

#ifdef __cplusplus
extern "C" {{
#endif

{plan.signature()};

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(plan: Plan, about: Sequence[str]) -> str:
    helpers = [name for step in plan.steps for name in step.part.helpers]
    blocks = [f'{comment(about)}\n#include "{plan.name}.h"\n\n#include <stdint.h>\n']
    blocks.append(definitions(helpers))
    if plan.scratch:
        blocks.append(f"static float {plan.name}_scratch[{plan.name.upper()}_SCRATCH / 4];\n")
    for step in plan.steps:
        names = {role: f"{step.name}_{role}" for role in step.part.constants}
        blocks += [definition(names[role], array) for role, array in step.part.constants.items()]
        what = f"{step.part.kind} {spell(step.part.shape)} -> {spell(step.part.out_shape)}"
        head = f"/* {what} */\n{'static ' if plan.nested else ''}{step.signature()}"
        blocks.append(f"{head}\n{{\n{_indented(step.part.body(names))}}}\n")
    if plan.nested:
        calls = "".join(f"{step.call()}\n" for step in plan.steps)
        blocks.append(f"{plan.signature()}\n{{\n{_indented(calls)}}}\n")
    return "\n".join(block for block in blocks if block)


def comment(sentences: Sequence[str]) -> str:
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, 114)]
    return "/* " + "\n * ".join(lines) + " */"


def spell(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def _indented(statements: str) -> str:
    return textwrap.indent(statements.rstrip("\n") + "\n", "    ")


def _check(parts: Sequence[Part]) -> None:
    for before, after in pairwise(parts):
        if after.residual:
            raise ValueError(f"residual must come to the first layer of a sequence, got one for {after.kind}")
        if size(before.out_shape) != size(after.shape):
            raise ValueError(f"{after.kind} takes {spell(after.shape)}, got {spell(before.out_shape)} before it")
    for part in parts:
        for role, array in part.constants.items():
            if array.dtype == np.float32 and not np.isfinite(array).all():
                raise ValueError(f"{role} of {part.kind} must be finite, got {array[~np.isfinite(array)][0]}")
