# SPDX-License-Identifier: Apache-2.0
"""Windows that slide over an axis: how many there are, and C that visits what they hold of x and nothing beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._arrays import as_int
from .._types import Array

Lines = list[str]
MOST = 1 << 24  # windows of one axis times their taps
Places = tuple[Any, slice, slice]


class Axis(NamedTuple):
    """Window i holds x[i * stride - before + k * dilation] for k < kernel, as far as these are within x."""

    size: int
    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        return (self.size + self.before + self.after - self.extent) // self.stride + 1

    @property
    def padded(self) -> bool:
        """Whether a window reaches beyond x."""
        return self.before > 0 or (self.out - 1) * self.stride + self.extent > self.size

    def within(self) -> Array:
        """(out, kernel): which taps are in x."""
        at = np.arange(self.out)[:, None] * self.stride - self.before + np.arange(self.kernel) * self.dilation
        inside: Array = (at >= 0) & (at < self.size)
        return inside

    def outputs(self, k: int) -> tuple[slice, slice]:
        """The windows whose tap k is in x, and where."""
        (windows,) = np.nonzero(self.within()[:, k])
        if not windows.size:
            return slice(0, 0), slice(0, 0)
        first, last = int(windows[0]), int(windows[-1])
        start = first * self.stride - self.before + k * self.dilation
        return slice(first, last + 1), slice(start, start + (last - first) * self.stride + 1, self.stride)

    def begin(self, index: str) -> str:
        """C: where the window begins, possibly before x."""
        scaled = "0" if self.out == 1 else times(index, self.stride)
        return minus(scaled, self.before)


def visits(rows: Axis, columns: Axis) -> Iterator[tuple[tuple[int, int], Places, Places]]:
    """The taps of a window in order: each with the outputs that it belongs to, and where these find it in x."""
    for k in range(rows.kernel):
        for l in range(columns.kernel):
            (to_row, of_row), (to_column, of_column) = rows.outputs(k), columns.outputs(l)
            yield (k, l), (..., to_row, to_column), (..., of_row, of_column)


def axes(sizes: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Axis, Axis]:
    """Rows and columns, a sequence as one row.  padding: a number, one for each axis, or (before, after) for each."""
    n = len(sizes)
    kernels, strides = each("kernel", kernel, n, 1), each("stride", stride, n, 1)
    dilations = each("dilation", dilation, n, 1)
    if isinstance(padding, list | tuple) and any(isinstance(p, list | tuple) for p in padding):
        if len(padding) != n:
            raise ValueError(f"padding must have a pair for each of {n} axes, got {padding!r}")
        before, after = zip(*(each("padding", p, 2, 0) for p in padding), strict=True)
    else:
        before = after = tuple(each("padding", padding, n, 0))
    made = [Axis(*values) for values in zip(sizes, kernels, strides, before, after, dilations, strict=True)]
    for i, axis in enumerate(made):
        if axis.extent > axis.size + axis.before + axis.after:
            raise ValueError(
                f"kernel must fit into x: it spans {axis.extent} of spatial axis {i}, "
                f"which has {axis.size} and a padding of {axis.before} + {axis.after}"
            )
        if axis.out * axis.kernel > MOST:
            raise ValueError(
                f"kernel must have fewer taps, got {axis.kernel} for {axis.out} outputs on spatial axis {i}"
            )
        if not axis.within().any(1).all():
            raise ValueError(
                f"padding must leave some of x in each window, got {axis.before} and {axis.after} "
                f"around {axis.size} on spatial axis {i}"
            )
    return (made[0], made[1]) if n == 2 else (Axis(1), made[0])


def each(name: str, value: Any, n: int, least: int) -> list[int]:
    values = [value] * n if isinstance(value, int | np.integer) else value
    if not isinstance(values, list | tuple) or len(values) != n:
        raise ValueError(f"{name} must be a number or {n} of them, got {value!r}")
    numbers = [as_int(name, v) for v in values]
    if min(numbers) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return numbers


# ---- C ---------------------------------------------------------------------------------------------------


def ranges(axis: Axis, index: str, at: str) -> Lines:
    """at: where window `index` begins; first_INDEX and INDEXs: its first tap within x and how many are."""
    if not axis.padded:
        return []

    def up(text: str) -> str:
        return text if axis.dilation == 1 else f"({plus(text, axis.dilation - 1)}) / {axis.dilation}"

    last = f"({at} > {axis.size - axis.extent} ? {up(f'{axis.size} - {at}')} : {axis.kernel})"
    return [
        f"const int {at} = {axis.begin(index)};",
        f"const int first_{index} = {at} < 0 ? {up(f'-{at}')} : 0;",
        f"const int {index}s = {last} - first_{index};",
    ]


def loop(index: str, count: int | str, lines: Lines, once: bool = True) -> Lines:
    """`lines` for index < count; as they are where that is once."""
    if once and str(count) == "1":
        return lines
    return braced(f"for (int {index} = 0; {index} < {count}; {index}++) ", lines)


def braced(head: str, lines: Lines) -> Lines:
    return [f"{head}{{", *(textwrap.indent(line, "    ") for line in lines), "}"]


def times(text: str, n: int) -> str:
    if text.lstrip("-").isdecimal():
        return str(int(text) * n)
    if match := re.fullmatch(r"(\w+) \* (\d+)", text):
        return f"{match[1]} * {int(match[2]) * n}"
    return text if n == 1 else f"({text}) * {n}" if " " in text else f"{text} * {n}"


def plus(a: str, b: str | int) -> str:
    return a if str(b) == "0" else str(b) if a == "0" else f"{a} + {b}"


def minus(a: str | int, b: str | int) -> str:
    if str(a).isdecimal() and str(b).isdecimal():
        return str(int(a) - int(b))
    return str(a) if str(b) == "0" else f"{a} - {b}"
