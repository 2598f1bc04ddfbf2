# SPDX-License-Identifier: Apache-2.0
"""Norms that measure: LayerNorm, RMSNorm, GroupNorm, InstanceNorm.

float alone, since a small CPU has no double in hardware.  The mean is hi + lo, both from compensated sums (Kahan's,
which contraction does not spoil), and m2, count times the variance, is that of the squares of (x - hi) - lo:

    y = act(((x - hi) - lo) * sqrt(count / (m2 + count * eps)) * weight + bias + residual)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._arrays import as_axes
from .._types import Array
from ..layers import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, LayerNorm, RMSNorm
from .activations import ROUNDING, Activation, activation_of
from .affine import affine_part
from .literals import literal
from .parts import Part, Shape, as_constant, assign, check_layer, nest, part_of

F = np.float32
RMS_EPS = 2.0**-23  # PyTorch's for float, where eps is None


class Grid(NamedTuple):
    """x seen with these extents; the axes whose positions share statistics, and those that weight and bias have."""

    extents: Shape
    shared: tuple[int, ...]
    weighted: tuple[int, ...]

    @property
    def apart(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.extents)) if axis not in self.shared)


class MeasuredPart(Part):
    in_place = True
    stack = 104
    bound = (
        "|error| <= 3 * 2^-23 (|normalized * weight| + |weight| + |bias|), where the squares of deviations from the "
        "mean are normal floats, and not with -ffast-math."
    )

    def __init__(
        self, kind: str, shape: Shape, grid: Grid, eps: float, weight: Any, bias: Any, residual: bool,
        activation: Activation,
    ) -> None:  # fmt: skip
        self.kind, self.shape, self.out_shape, self.grid = kind, shape, shape, grid
        self.rms, self.residual, self.activation = kind == "rms_norm", residual, activation
        self.helpers = ("sqrtf", *activation.helpers)
        self.count = math.prod(grid.extents[axis] for axis in grid.shared)
        self.added = F(as_constant("eps * count", self.count * eps))
        given = {"weight": weight, "bias": bias}
        self.constants = {role: as_constant(role, array) for role, array in given.items() if array is not None}

    def body(self, names: Mapping[str, str]) -> str:
        groups = self._loops("g", self.grid.apart)
        terms, places = self._loops("i", self.grid.shared, weighted=False), self._loops("i", self.grid.shared)
        at, column = _index(groups + places), _index(groups + places, of_weight=True)
        value = "d * scale"
        value += f" * {names['weight']}[{column}]" if "weight" in names else ""
        value += f" + {names['bias']}[{column}]" if "bias" in names else ""
        value += f" + residual[{at}]" if self.residual else ""
        centred = f"x[{at}]" if self.rms else f"x[{at}] - hi - lo"
        apply = f"const float d = {centred};\n" + assign(f"y[{at}]", value, self.activation)
        measure = (_mean_square if self.rms else _moments)(f"x[{_index(groups + terms)}]", _heads(terms), self.count)
        scale = f"const float scale = NORMCPU_SQRTF({literal(self.count)} / (m2 + {literal(self.added)}));\n"
        return nest(_heads(groups), measure + scale + nest(_heads(places), apply))

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        flat, back = self._grouped(x)
        with np.errstate(all="ignore"):
            if self.rms:
                d, m2 = flat, _kahan(flat * flat)
            else:
                hi = _kahan(flat) / F(self.count)
                lo = _kahan(flat - hi) / F(self.count)
                d = flat - hi - lo
                m2 = _kahan(d * d)
            v = back(d * np.sqrt(F(self.count) / (m2 + self.added)))
            for role, operation in (("weight", np.multiply), ("bias", np.add)):
                v = operation(v, self._column(role)) if role in self.constants else v
            return self.activation.reference(v if residual is None else v + residual)

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        flat, back = self._grouped(x.astype(np.float64))
        off, _ = self._grouped(np.broadcast_to(of_x, x.shape))
        d = flat if self.rms else flat - flat.mean(0)
        scale = np.sqrt(self.count / ((d * d).sum(0) + float(self.added)))
        # dz = scale (dx - mean dx - z mean(z dx))
        moved = scale * (off + off.mean(0) + np.abs(d * scale) * (np.abs(d * scale) * off).mean(0))
        weight = np.abs(self._column("weight").astype(np.float64)) if "weight" in self.constants else 1.0
        bias = np.abs(self._column("bias").astype(np.float64)) if "bias" in self.constants else 0.0
        size = (np.abs(back(d * scale)) + 1) * weight + bias
        of_v = 6 * ROUNDING * (size if residual is None else size + np.abs(residual)) + back(moved) * weight
        return self.activation.error(self.reference(x, residual), of_v)

    def _loops(self, name: str, axes: Sequence[int], weighted: bool = True) -> list[_Loop]:
        """Over these axes, few: neighbours become one where memory has them so."""
        loops: list[_Loop] = []
        for axis in axes:
            extents = self.grid.extents
            behind = [a for a in self.grid.weighted if a > axis]
            weight = math.prod(extents[a] for a in behind) if axis in self.grid.weighted else 0
            loop = _Loop(name, extents[axis], math.prod(extents[axis + 1 :]), weight if weighted else 0)
            before = loops[-1] if loops else None
            if before and before.stride == loop.extent * loop.stride and before.weight == loop.extent * loop.weight:
                loops[-1] = loop._replace(extent=before.extent * loop.extent)
            elif loop.extent > 1:
                loops.append(loop)
        return [loop._replace(name=f"{name}{k or ''}") for k, loop in enumerate(loops)]

    def _grouped(self, x: Array) -> tuple[Array, Any]:
        """x as (terms, groups), the terms in C order, and the way back."""
        order = (*self.grid.shared, *self.grid.apart)
        moved = x.reshape(self.grid.extents).transpose(order)

        def back(flat: Array) -> Array:
            return flat.reshape(moved.shape).transpose(np.argsort(order)).reshape(self.shape)

        return moved.reshape(self.count, -1), back

    def _column(self, role: str) -> Array:
        """Broadcasting against x in the grid's extents, then in x's shape."""
        shape = [n if axis in self.grid.weighted else 1 for axis, n in enumerate(self.grid.extents)]
        return np.broadcast_to(self.constants[role].reshape(shape), self.grid.extents).reshape(self.shape)


class _Loop(NamedTuple):
    name: str
    extent: int
    stride: int  # of x
    weight: int  # the stride of weight and bias, 0 where they do not depend on it


def _heads(loops: Sequence[_Loop]) -> list[tuple[str, int]]:
    return [(loop.name, loop.extent) for loop in loops]


def _index(loops: Sequence[_Loop], of_weight: bool = False) -> str:
    strides = [(loop.name, loop.weight if of_weight else loop.stride) for loop in loops]
    return " + ".join(name if stride == 1 else f"{name} * {stride}" for name, stride in strides if stride) or "0"


# ---- Statistics of one group: x is an element, in loops over them -----------------------------------------


def _mean_square(x: str, loops: list[tuple[str, int]], count: int) -> str:
    add = f"const float term = {x} * {x} - lost, next = m2 + term;\nlost = next - m2 - term;\nm2 = next;\n"
    return f"float m2 = 0.0f, lost = 0.0f;\n{nest(loops, add)}"


def _moments(x: str, loops: list[tuple[str, int]], count: int) -> str:
    add = f"""\
const float d = {x} - hi - lo;
const float term = (pass < 2 ? d : d * d) - lost, next = sum + term;
lost = next - sum - term;
sum = next;
"""
    one = f"""\
float sum = 0.0f, lost = 0.0f;
{nest(loops, add)}\
if (pass == 0) hi = sum / {literal(count)};
else if (pass == 1) lo = sum / {literal(count)};
else m2 = sum;
"""
    return f"float hi = 0.0f, lo = 0.0f, m2 = 0.0f;\n{nest([('pass', 3)], one)}"


def _kahan(terms: Array) -> Array:
    """Sums of terms (n, groups), float32, as the C adds them."""
    total = lost = np.zeros(terms.shape[1], F)
    for term in terms:
        term = term - lost
        after = total + term
        lost = after - total - term
        total = after
    return total


# ---- Layers ----------------------------------------------------------------------------------------------


@part_of.register
def _layer_norm(layer: LayerNorm, shape: Shape, residual: bool) -> Part:
    return _rows("layer_norm", layer, shape, residual, layer.weight, layer.eps)


@part_of.register
def _rms_norm(layer: RMSNorm, shape: Shape, residual: bool) -> Part:
    weight = layer.weight
    if weight is not None and layer.plus_one:
        weight = np.asarray(weight, F) + F(1)
    return _rows("rms_norm", layer, shape, residual, weight, RMS_EPS if layer.eps is None else layer.eps)


def _rows(kind: str, layer: Any, shape: Shape, residual: bool, weight: Array | None, eps: float) -> Part:
    check_layer(layer, shape)
    axes = range(-len(layer.normalized_shape), 0) if layer.axis is None else layer.axis
    shared = as_axes("axis", tuple(axes), np.empty(shape, np.bool_))
    grid = Grid(shape, shared, shared)
    return MeasuredPart(kind, shape, grid, eps, weight, layer.bias, residual, activation_of(None))


@part_of.register
def _group_norm(layer: GroupNorm, shape: Shape, residual: bool) -> Part:
    return _groups("group_norm", layer, shape, residual, layer.num_groups)


@part_of.register(InstanceNorm1d)
@part_of.register(InstanceNorm2d)
@part_of.register(InstanceNorm3d)
def _instance_norm(layer: Any, shape: Shape, residual: bool) -> Part:
    if layer.running_mean is not None:
        return affine_part("instance_norm", layer, shape, residual)
    full = shape if len(shape) == layer._ndim else (1, *shape)
    part = _groups("instance_norm", layer, full, residual, layer.num_features)
    part.shape = part.out_shape = shape
    return part


def _groups(kind: str, layer: Any, shape: Shape, residual: bool, groups: int) -> Part:
    check_layer(layer, shape)
    axis = layer.channel_axis % len(shape)
    extents = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    shared = tuple(a for a in range(1, len(extents)) if a != axis)
    grid = Grid(extents, shared, (axis, axis + 1))
    activation = activation_of(layer.activation, layer.negative_slope)
    return MeasuredPart(kind, shape, grid, layer.eps, layer.weight, layer.bias, residual, activation)
