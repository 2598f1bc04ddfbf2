# SPDX-License-Identifier: Apache-2.0
"""What generated code is made of: a part is one C function and what it computes, in the same order, in NumPy."""

from __future__ import annotations

import copy
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from .._state import as_entry, fit
from .._types import Array
from .activations import Activation
from .windows import loop

Shape = tuple[int, ...]


class Part(ABC):
    """One step from x to y, arrays of floats in C order.

    A part says what it needs, and `source` writes the function around it:

        static void NAME(const float *x, [const float *residual,] float *y[, float *work])
        {
            BODY
        }
    """

    kind: str  # of which layer: identifier and comment, so text of ours

    shape: Shape  # of x
    out_shape: Shape  # of y
    in_place: bool = False  # y may be x
    residual: bool = False  # there is a second input, of y's shape
    work: int = 0  # floats of scratch memory
    stack: int = 64  # bytes of the function's own frame on a 32-bit CPU, at most
    helpers: tuple[str, ...] = ()  # of helpers.HELPERS: the macros that the body calls
    bound: str  # what `error` says, for the header's comment
    constants: Mapping[str, Array]  # finite float32, or int8 or uint16: `static const` arrays of these names in C

    @abstractmethod
    def body(self, names: Mapping[str, str]) -> str:
        """The statements, from column 0; names: of each constant in C."""

    @abstractmethod
    def reference(self, x: Array, residual: Array | None = None) -> Array:
        """What the C computes where nothing contracts multiplications and additions, bit for bit: float32."""

    @abstractmethod
    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        """How far each y may be from the exact result, where x (and residual) may be `of_x` off: float64.

        It holds with multiplications and additions contracted too, and with other roundings of NORMCPU_EXPF.
        """


@singledispatch
def part_of(layer: Any, shape: Shape, residual: bool) -> Part:
    """The part that does what `layer` does, in evaluation, on x of this shape; each kind registers its own."""
    known = sorted(kind.__name__ for kind in part_of.registry if kind is not object)
    raise TypeError(f"layer must be one of {', '.join(known)}, got {type(layer).__name__}")


def check_layer(layer: Any, shape: Shape) -> None:
    """That it is in evaluation and takes x of this shape: its own errors say what it wants."""
    if layer.training and not getattr(layer, "frozen", False):
        raise ValueError("layer must be in evaluation, got one in training: call layer.eval()")
    copy.copy(layer).eval()(np.zeros(shape, np.float32))


def alone(layer: Any, residual: bool) -> None:
    """That nothing is added to its result."""
    if residual:
        raise ValueError(f"residual must be False for {type(layer).__name__}, got True")


def as_shape(name: str, value: Any) -> Shape:
    """A shape that is known, of at least one element."""
    extents = tuple(value) if isinstance(value, tuple | list) else None
    if not extents or not all(_is_int(n) and n > 0 for n in extents):
        raise ValueError(f"{name} must be static, a tuple of integers of at least 1, got {value!r}")
    return tuple(int(n) for n in extents)


def as_constant(name: str, value: Any) -> Array:
    """Finite float32, rounded once."""
    array = fit(name, as_entry(name, value), np.shape(value), np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def size(shape: Shape) -> int:
    return math.prod(shape)


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


# ---- C ---------------------------------------------------------------------------------------------------


def nest(loops: Sequence[tuple[str, int]], statements: str) -> str:
    """Loops of (variable, rounds) around the statements, outermost first; none for one round of a variable that the
    statements do not read."""
    lines = statements.splitlines()
    for variable, extent in reversed(loops):
        is_read = any(re.search(rf"\b{variable}\b", line) for line in lines)
        lines = loop(variable, extent, lines, once=not is_read)
    return "\n".join(lines) + "\n"


def assign(target: str, value: str, activation: Activation) -> str:
    """target = activation(value);"""
    if not activation.statement:
        return f"{target} = {value};\n"
    return f"float v = {value};\n{activation.statement}\n{target} = v;\n"
