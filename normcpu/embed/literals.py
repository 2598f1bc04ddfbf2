# SPDX-License-Identifier: Apache-2.0
"""Arrays as C initialisers, exact to the bit and the same for the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._types import Array

TYPES = {"float32": "float", "uint16": "uint16_t", "int8": "int8_t"}


def literal(value: Any) -> str:
    """A float32: in decimal where that is exact and as short, else in C99's hexadecimal.

    >>> literal(0.5), literal(np.float32(0.1)), literal(-3)
    ('0.5f', '0x1.99999ap-4f', '-3.0f')
    """
    exact = float(np.float32(value))
    if not math.isfinite(exact):
        raise ValueError(f"a number in C must be finite, got {value}")
    decimal = f"{exact:.7g}"
    if float(decimal) == exact and len(decimal) < 9:
        return f"{decimal}f" if set(decimal) & set(".e") else f"{decimal}.0f"
    digits, exponent = exact.hex().split("p")
    return f"{digits.rstrip('0').rstrip('.')}p{int(exponent):+d}f"


# How an element is written, and how many of them make a line.
WORDS: dict[str, tuple[Callable[[Any], str], int]] = {"float32": (literal, 7), "uint16": (hex, 14), "int8": (str, 20)}


def initialiser(array: Array) -> str:
    """The elements in C order, between braces, in lines."""
    flat = np.ascontiguousarray(array).reshape(-1)
    word, step = WORDS[array.dtype.name]
    words = [word(value) for value in flat.tolist()]
    lines = [", ".join(words[at : at + step]) for at in range(0, len(words), step)]
    return "{\n    " + ",\n    ".join(lines) + "\n}"


def definition(name: str, array: Array) -> str:
    """static const TYPE name[n] = {...};"""
    return f"static const {TYPES[array.dtype.name]} {name}[{array.size}] = {initialiser(array)};\n"
