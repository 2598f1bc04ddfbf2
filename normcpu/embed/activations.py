# SPDX-License-Identifier: Apache-2.0
"""Activations at the end of a part: statements on the float v, and the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import ACTIVATIONS as KNOWN
from .._arrays import as_number
from .._types import Array
from .helpers import expf
from .literals import literal

F = np.float32
ROUNDING = 2.0**-24  # of float, relative


class Activation(NamedTuple):
    """statement: C, on v.  roundings: its own, of the result.  slope: the function's, at most."""

    statement: str
    reference: Callable[[Array], Array]
    roundings: float = 0.0
    slope: float = 1.0
    helpers: tuple[str, ...] = ()

    def error(self, y: Array, of_v: Array) -> Array:
        """How far y may be from the exact result, where v may be of_v off."""
        total: Array = np.abs(y.astype(np.float64)) * (self.roundings * ROUNDING) + self.slope * of_v
        return total


def activation_of(name: Any, negative_slope: float = 0.01) -> Activation:
    """By its name in normcpu, or None for none."""
    if name not in KNOWN:
        raise ValueError(f"activation must be None or one of {', '.join(map(str, ACTIVATIONS))}, got {name!r}")
    if name is None:
        return Activation("", lambda v: v)
    if name == "leaky_relu":
        slope = F(as_number("negative_slope", negative_slope))
        return Activation(
            f"v = v < 0.0f ? v * {literal(slope)} : v;",
            lambda v: np.where(v < 0, v * slope, v), 2.0, max(1.0, abs(float(slope))),
        )  # fmt: skip
    return ACTIVATIONS[name]


def _hardswish(v: Array) -> Array:
    gate = np.minimum(np.maximum(v + F(3), F(0)), F(6))
    return v * gate * F(1 / 6)


def _sigmoid(v: Array) -> Array:
    return F(1) / (F(1) + expf(-v))


ACTIVATIONS = {
    "relu": Activation("v = v < 0.0f ? 0.0f : v;", lambda v: np.where(v < 0, F(0), v)),
    "relu6": Activation(
        "v = v < 0.0f ? 0.0f : v > 6.0f ? 6.0f : v;", lambda v: np.where(v < 0, F(0), np.where(v > 6, F(6), v))
    ),
    "hardswish": Activation(
        f"""\
float gate = v + 3.0f;
gate = gate < 0.0f ? 0.0f : gate > 6.0f ? 6.0f : gate;
v = v * gate * {literal(1 / 6)};""",
        _hardswish, 4.0, 1.5,
    ),
    "sigmoid": Activation("v = 1.0f / (1.0f + NORMCPU_EXPF(-v));", _sigmoid, 8.0, 1.0, ("expf",)),
}  # fmt: skip
