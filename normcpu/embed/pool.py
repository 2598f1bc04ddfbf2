# SPDX-License-Identifier: Apache-2.0
"""The largest or the mean of windows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .._types import Array
from .activations import ROUNDING
from .literals import literal
from .parts import Part, Shape
from .windows import Axis, loop, plus, ranges, times, visits


class Pool(Part):
    """y = max, or sum / count, of what each window of x (planes, rows, columns) holds, rows first.

    whole: the count is that of the window, whatever of it is beside x.
    """

    bound = ""
    constants: Mapping[str, Array] = {}
    stack = 80

    def __init__(self, kind: str, plane: tuple[Axis, Axis], whole: bool, shape: Shape, out_shape: Shape) -> None:
        self.kind, self.shape, self.out_shape = kind, shape, out_shape
        self.rows, self.columns = plane
        self.largest, self.whole = kind == "max_pool", whole
        self.planes = math.prod(shape) // (self.rows.size * self.columns.size)
        if not self.largest:
            self.bound = f"|error| <= {self._taps + 1} 2^-24 of the mean of |x|."
        self.in_place = self._can_be_in_place()

    @property
    def _taps(self) -> int:
        return self.rows.kernel * self.columns.kernel

    def _can_be_in_place(self) -> bool:
        """Whether each y lies before all that is read for the ones behind it."""
        row, column = (np.maximum(0, np.arange(a.out) * a.stride - a.before) for a in (self.rows, self.columns))
        read = np.add.outer(row * self.columns.size, column).ravel()  # or earlier, with dilation never
        planes = np.arange(self.planes)[:, None]
        first = (planes * (self.rows.size * self.columns.size) + read).ravel()
        still = np.minimum.accumulate(first[::-1])[::-1]
        return bool((np.arange(first.size - 1) < still[1:]).all())

    def body(self, names: Mapping[str, str]) -> str:
        r, c = self.rows, self.columns
        row = plus("top", times("first_row", r.dilation)) if r.padded else r.begin("row")
        column = plus("left", times("first_column", c.dilation)) if c.padded else c.begin("column")
        rows, columns = ("rows" if r.padded else str(r.kernel)), ("columns" if c.padded else str(c.kernel))
        lines = [*ranges(c, "column", "left"), f"int at = {plus(times(row, c.size), column)};"]
        if self.largest:
            lines.append("float most = x[at];")
            tap = ["if (v > most || v != v) most = v;"]
        else:
            lines.append("float sum = 0.0f;")
            tap = ["sum += v;"]
        where = plus("at", "0" if columns == "1" else times("l", c.dilation))
        tap = loop("l", columns, [f"const float v = x[{where}];", *tap])
        lines += loop("k", rows, [*tap, f"at += {c.size * r.dilation};"])
        lines.append(f"*y++ = {'most' if self.largest else f'sum / {self._count(rows, columns)}'};")
        lines = loop("column", c.out, lines)
        lines = loop("row", r.out, [*ranges(r, "row", "top"), *lines])
        return "\n".join(loop("plane", self.planes, [*lines, f"x += {r.size * c.size};"])) + "\n"

    def _count(self, rows: str, columns: str) -> str:
        if self.whole or (rows.isdecimal() and columns.isdecimal()):
            return literal(self._taps)
        product = columns if rows == "1" else rows if columns == "1" else f"({rows} * {columns})"
        return f"(float){product}"

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        r, c = self.rows, self.columns
        x = x.reshape(self.planes, r.size, c.size)
        y = np.full((self.planes, r.out, c.out), -np.inf if self.largest else 0, x.dtype)
        for _, to, of in visits(r, c):
            if self.largest:
                y[to] = np.where((x[of] > y[to]) | np.isnan(x[of]), x[of], y[to])
            else:
                y[to] += x[of]
        if not self.largest:
            inside = np.outer(r.within().sum(1), c.within().sum(1))
            y /= np.asarray(self._taps if self.whole else inside).astype(x.dtype)
        return y.reshape(self.out_shape)

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        off = np.broadcast_to(np.asarray(of_x, np.float64), self.shape)
        if self.largest:
            return self.reference(off)
        return self.reference(off + np.abs(x) * ((self._taps + 1) * ROUNDING))
