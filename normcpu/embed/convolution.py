# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers, their BatchNorm folded away: weights of float32 or int8, and an activation."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from .._types import Array
from .activations import ROUNDING, Activation
from .parts import Part, Shape, assign
from .windows import Axis, Lines, loop, minus, plus, ranges, times, visits

BLOCKS = (4, 3, 2, 1)  # output channels in registers at once: each x is loaded once for all of them


class Convolution(Part):
    """y[o] = activation(bias[o] + sum of weight[o, i, k, l] * x[i, row + k, column + l]), `repeats` times in a row.

    The sum begins with the bias and takes i, k and l in order, the last fastest; taps beyond x are left out.  Where
    weights are int8 it begins with 0, and y[o] = activation(sum * scale[o] + bias[o]).

    weight (o, i / groups, kernel rows, kernel columns), float32 or int8; bias, scale (o) or None.
    """

    stack = 144

    def __init__(
        self,
        kind: str,
        weight: Array,
        bias: Array | None,
        scale: Array | None,
        plane: tuple[Axis, Axis],
        groups: int,
        activation: Activation,
        repeats: int,
        shape: Shape,
        out_shape: Shape,
    ) -> None:
        self.kind, self.shape, self.out_shape = kind, shape, out_shape
        self.weight, self.bias, self.scale = weight, bias, scale
        self.rows, self.columns = plane
        self.groups, self.activation, self.repeats = groups, activation, repeats
        order = "products over inputs" if kind == "linear" else "products over input channels, then rows and columns"
        self.bound = (
            f"{'the bias, then ' if scale is None else ''}{order}, in order{'' if scale is None else ', * scale + bias'}: "
            "|error| <= (k + 2) 2^-24 (sum |w x| + |b|) for k of them, and of the activation's argument."
        )
        self.helpers = activation.helpers
        # What is more than one comparison is in flash once, as a pass over y, and not for each register.
        self.passes = bool(activation.helpers) or "\n" in activation.statement or activation.statement.count("?") > 1
        per_group = len(weight) // groups
        self.block = block = next(b for b in BLOCKS if per_group % b == 0)
        as_read = np.ascontiguousarray(np.moveaxis(weight.reshape(-1, block, *weight.shape[1:]), 1, -1))
        given = {"weight": as_read, "scale": scale, "bias": bias}
        self.constants = {role: array for role, array in given.items() if array is not None}
        self.places, self.plane = self.rows.out * self.columns.out, self.rows.size * self.columns.size
        self.skips = self.rows.padded or self.columns.padded

    def body(self, names: Mapping[str, str]) -> str:
        outputs, inner, *kernel = self.weight.shape
        block, count = self.block, outputs // self.block
        per = {"weight": block * inner * int(np.prod(kernel)), "scale": block, "bias": block}
        kinds = {"weight": self._type, "scale": "float", "bias": "float"}
        pointers = [f"const {kinds[role]} *{role} = {names[role]};" for role in self.constants]
        after = [f"{role} += {per[role]};" for role in self.constants] if count > 1 else []
        if block > 1:
            after.append(f"y += {(block - 1) * self.places};")
        if self.groups > 1:
            last = count // self.groups
            after.append(f"{f'if (block % {last} == {last - 1}) ' if last > 1 else ''}x += {inner * self.plane};")
        lines = loop("column", self.columns.out, self._place())
        lines = loop("row", self.rows.out, [*ranges(self.rows, "row", "top"), *lines])
        lines = [*pointers, *loop("block", count, lines + after)]
        if self.repeats > 1:
            step = [] if self.groups > 1 else [f"x += {inner * self.plane};"]
            lines = loop("sample", self.repeats, lines + step)
        if self.passes:
            total = self.repeats * outputs * self.places
            lines += [
                f"y -= {total};",
                *loop("i", total, [*assign("*y", "*y", self.activation).splitlines(), "y++;"], False),
            ]
        return "\n".join(lines) + "\n"

    @property
    def _type(self) -> str:
        return "float" if self.scale is None else "int8_t"

    def _place(self) -> Lines:
        """The outputs of one block at one place."""
        r, c = self.rows, self.columns
        row = plus("top", times("first_row", r.dilation)) if r.padded else r.begin("row")
        column = plus("left", times("first_column", c.dilation)) if c.padded else c.begin("column")
        lines = [*ranges(c, "column", "left"), f"int at = {plus(times(row, c.size), column)};"]
        if self.skips:
            first = plus(times("first_row" if r.padded else "0", c.kernel), "first_column" if c.padded else "0")
            lines.append(f"int tap = {times(first, self.block)};")
        else:
            lines.append(f"const {self._type} *q = weight;")
        begin = "bias[{}]" if self.scale is None and self.bias is not None else "0.0f"
        lines.append(f"float {', '.join(f'sum{j} = {begin.format(j)}' for j in range(self.block))};")
        lines += self._sum()
        for j in range(self.block):
            if self.scale is not None:
                shift = f" + bias[{j}]" if self.bias is not None else ""
                lines.append(f"sum{j} = sum{j} * scale[{j}]{shift};")
            target = f"y[{j * self.places}]"
            lines += [f"{target} = sum{j};"] if self.passes else self._store(f"sum{j}", target)
        return [*lines, "y++;"]

    def _sum(self) -> Lines:
        """Pointers are made of `at` and `tap` where they are read: never one beyond x or the weights."""
        r, c, block = self.rows, self.columns, self.block
        inner = self.weight.shape[1]
        rows, columns = ("rows" if r.padded else str(r.kernel)), ("columns" if c.padded else str(c.kernel))
        cast = "" if self.scale is None else "(float)"
        lines = [
            f"const float input = x[{plus('at', times('0' if columns == '1' else 'l', c.dilation))}];",
            *(f"sum{j} += {cast}q[{j}] * input;" for j in range(block)),
            f"q += {block};",
        ]
        lines = loop("l", columns, lines)
        if self.skips:
            lines = [f"const {self._type} *q = weight + tap;", *lines]
        if rows != "1":
            next_row = [f"at += {c.size * r.dilation};", *([f"tap += {c.kernel * block};"] if self.skips else [])]
            lines = loop("k", rows, lines + next_row)
        if inner > 1:
            done = "0" if rows == "1" else rows
            lines.append(f"at += {times(minus(r.size, times(done, r.dilation)), c.size)};")
            if self.skips:
                lines.append(f"tap += {times(minus(r.kernel, done), c.kernel * block)};")
        return loop("i", inner, [line for line in lines if not line.endswith("+= 0;")])

    def _store(self, sum_: str, target: str) -> Lines:
        """target = activation(sum_), in the variable of the sum itself."""
        statement = self.activation.statement
        return [*([re.sub(r"\bv\b", sum_, statement)] if statement else []), f"{target} = {sum_};"]

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        if self.scale is None:
            v = self._sums(self.weight, x, self.bias)
        else:
            v = self._sums(self.weight.astype(np.float32), x, None) * self.scale[:, None]
            v = v if self.bias is None else v + self.bias[:, None]
        return self.activation.reference(v).reshape(self.out_shape)

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        weight = np.abs(self.weight.astype(np.float64))
        if self.scale is not None:
            weight *= self.scale.astype(np.float64)[:, None, None, None]
        terms = self._sums(weight, np.abs(x.astype(np.float64)), None if self.bias is None else np.abs(self.bias))
        off = (weight[0].size + 2) * (ROUNDING * terms + 2.0**-149)
        if np.any(of_x):
            off = off + self._sums(weight, np.broadcast_to(np.asarray(of_x, np.float64), self.shape), None)
        return self.activation.error(self.reference(x), off.reshape(self.out_shape))

    def _sums(self, weight: Array, x: Array, bias: Array | None) -> Array:
        """(repeats, o, places), each sum in its order."""
        r, c, g = self.rows, self.columns, self.groups
        outputs, inner, *kernel = weight.shape
        x = x.reshape(self.repeats, g, 1, inner, r.size, c.size)
        weight = weight.reshape(g, outputs // g, inner, *kernel, 1, 1)
        y = np.zeros((self.repeats, g, outputs // g, r.out, c.out), x.dtype)
        if bias is not None:
            y += bias.reshape(g, -1, 1, 1)
        for i in range(inner):
            for (k, l), to, of in visits(r, c):
                y[to] += weight[:, :, i, k, l] * x[:, :, :, i][of]
        sums: Array = y.reshape(self.repeats, outputs, -1)
        return sums
