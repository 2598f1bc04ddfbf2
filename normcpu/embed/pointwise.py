# SPDX-License-Identifier: Apache-2.0
"""Activations on their own, softmax, and reshaping, which is nothing to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .._arrays import as_int
from .._types import Array, Readable
from ..fold import Affine
from .activations import ROUNDING, Activation, F, activation_of
from .affine import AffinePart
from .helpers import expf
from .literals import literal
from .parts import Part, Shape, alone, as_constant, as_shape, assign, part_of
from .windows import loop


@dataclass(frozen=True)
class Activate:
    """An activation of this library by its name, on its own.  Behind a layer that has one it costs a pass more."""

    activation: str
    negative_slope: float = 0.01


@dataclass(frozen=True)
class Clip:
    """x, at least low and at most high."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, eq=False)
class ScaleShift:
    """x * scale + shift, vectors along one axis of x."""

    scale: Readable
    shift: Readable
    axis: int = 1


@dataclass(frozen=True)
class Softmax:
    """exp(x - max) / sum of these, along the last axis."""


@dataclass(frozen=True)
class Reshape:
    """The same elements in C order with another shape, or (n, all the rest) for None."""

    shape: tuple[int, ...] | None = None


class PointwisePart(Part):
    in_place = True
    bound = "a few roundings of y."
    constants: Mapping[str, Array] = {}

    def __init__(self, kind: str, shape: Shape, out_shape: Shape, activation: Activation) -> None:
        self.kind, self.shape, self.out_shape = kind, shape, out_shape
        self.activation, self.helpers = activation, activation.helpers

    def body(self, names: Mapping[str, str]) -> str:
        lines = assign("y[i]", "x[i]", self.activation).splitlines()
        return "\n".join(loop("i", math.prod(self.shape), lines, once=False)) + "\n"

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        return self.activation.reference(x).reshape(self.out_shape)

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        off = np.broadcast_to(np.asarray(of_x, np.float64), self.shape)
        return self.activation.error(self.reference(x), off.reshape(self.out_shape))


class ReshapePart(PointwisePart):
    """A copy, which is left out between others."""

    bound = ""


class SoftmaxPart(Part):
    kind = "softmax"
    in_place = True
    helpers = ("expf",)
    bound = "|error| <= y (2 (max - min) + n + 12) 2^-24 for rows of n."
    constants: Mapping[str, Array] = {}
    stack = 80

    def __init__(self, shape: Shape) -> None:
        self.shape = self.out_shape = shape

    def body(self, names: Mapping[str, str]) -> str:
        n = self.shape[-1]
        lines = [
            "float most = x[0], sum = 0.0f;",
            f"for (int i = 1; i < {n}; i++) if (x[i] > most) most = x[i];",
            *loop("i", n, ["y[i] = NORMCPU_EXPF(x[i] - most);", "sum += y[i];"], once=False),
            f"for (int i = 0; i < {n}; i++) y[i] /= sum;",
            f"x += {n};",
            f"y += {n};",
        ]
        return "\n".join(loop("row", math.prod(self.shape[:-1]), lines)) + "\n"

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        powers = expf(x - x.max(-1, keepdims=True))
        y: Array = powers / np.add.accumulate(powers, -1)[..., -1:]
        return y

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        """Changes of x by d change y by a factor of e^(2 d) at most."""
        wide = x.astype(np.float64)
        span = wide.max(-1, keepdims=True) - wide.min(-1, keepdims=True)
        off = np.max(np.broadcast_to(of_x, self.shape), -1, keepdims=True)
        total: Array = self.reference(x) * np.expm1((2 * span + self.shape[-1] + 12) * ROUNDING + 2 * off) + 2.0**-149
        return total


@part_of.register
def _activate(layer: Activate, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    return PointwisePart(layer.activation, shape, shape, activation_of(layer.activation, layer.negative_slope))


@part_of.register
def _clip(layer: Clip, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    low, high = float(np.float32(layer.low)), float(np.float32(layer.high))
    if not low <= high:
        raise ValueError(f"low must be at most high, got {layer.low} and {layer.high}")
    terms = [f"v < {literal(low)} ? {literal(low)} : "] if low > -math.inf else []
    terms += [f"v > {literal(high)} ? {literal(high)} : "] if high < math.inf else []
    clip = Activation(f"v = {''.join(terms)}v;", lambda v: np.minimum(np.maximum(v, F(low)), F(high)))
    return PointwisePart("clip", shape, shape, clip)


@part_of.register
def _scale_shift(layer: ScaleShift, shape: Shape, residual: bool) -> Part:
    axis = as_int("axis", layer.axis)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be one of {len(shape)}, got {axis}")
    vectors = [np.asarray(as_constant(name, getattr(layer, name)), np.float64) for name in ("scale", "shift")]
    for name, vector in zip(("scale", "shift"), vectors, strict=True):
        if vector.shape != (shape[axis],):
            raise ValueError(f"{name} must have shape ({shape[axis]},), got {vector.shape}")
    return AffinePart("scale_shift", Affine(*vectors), shape, axis % len(shape), residual, activation_of(None))


@part_of.register
def _softmax(layer: Softmax, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    return SoftmaxPart(shape)


@part_of.register
def _reshape(layer: Reshape, shape: Shape, residual: bool) -> Part:
    alone(layer, residual)
    target = (shape[0], math.prod(shape[1:])) if layer.shape is None else as_shape("shape", layer.shape)
    if math.prod(target) != math.prod(shape):
        raise ValueError(f"shape must have {math.prod(shape)} elements, got {target}")
    return ReshapePart("reshape", shape, target, activation_of(None))
