# SPDX-License-Identifier: Apache-2.0
"""Activations at the end of a part: statements on the float v, and the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import ACTIVATIONS as KNOWN
from .._arrays import as_choice, as_number
from .._types import Array
from .helpers import expf, geluf, tanhf
from .literals import literal

F = np.float32
ROUNDING = 2.0**-24  # of float, relative
LEAST = 2.0**-119  # where e^-x is beyond float, results are 0 from here down


class Activation(NamedTuple):
    """statement: C, on v; compute: NumPy's.  roundings: its own, of the result.  slope: the function's, at most."""

    statement: str
    compute: Callable[[Array], Array]
    roundings: float = 0.0
    slope: float = 1.0
    helpers: tuple[str, ...] = ()

    def reference(self, v: Array) -> Array:
        with np.errstate(all="ignore"):
            return self.compute(v)

    def error(self, y: Array, of_v: Array) -> Array:
        """How far y may be from the exact result, where v may be of_v off."""
        total: Array = np.abs(y.astype(np.float64)) * (self.roundings * ROUNDING) + self.slope * of_v + LEAST
        return total


def activation_of(name: Any, negative_slope: float = 0.01) -> Activation:
    """By its name in normcpu, or None for none."""
    as_choice("activation", name, KNOWN)
    if name is None:
        return Activation("", lambda v: v)
    if name == "leaky_relu":
        exact = as_number("negative_slope", negative_slope)
        if not abs(exact) < 2.0**127:
            raise ValueError(f"negative_slope must fit float32, got {exact}")
        slope = F(exact)
        return Activation(
            f"v = v < 0.0f ? v * {literal(slope)} : v;",
            lambda v: np.where(v < 0, v * slope, v), 2.0, max(1.0, abs(float(slope))),
        )  # fmt: skip
    return ACTIVATIONS[name]


def _hardswish(v: Array) -> Array:
    gate = np.minimum(np.maximum(v + F(3), F(0)), F(6))
    return v * (gate * F(1 / 6))


def _gelu_tanh(v: Array) -> Array:
    return v / (F(1) + expf(-v * (CUBIC * (v * v) + LINEAR)))


# x (1 + tanh u) / 2 = x / (1 + e^-2u), 2u = 2 sqrt(2 / pi) (x + 0.044715 x^3)
LINEAR = F(2 * (2 / np.pi) ** 0.5)
CUBIC = F(2 * (2 / np.pi) ** 0.5 * 0.044715)
EXPF = ("expf",)

# In the tails of gelu the rounding of an exponent of e counts as often as the exponent is large.
ACTIVATIONS = {
    "relu": Activation("v = v < 0.0f ? 0.0f : v;", lambda v: np.where(v < 0, F(0), v)),
    "relu6": Activation(
        "v = v < 0.0f ? 0.0f : v > 6.0f ? 6.0f : v;", lambda v: np.where(v < 0, F(0), np.where(v > 6, F(6), v))
    ),
    "hardswish": Activation(
        f"""\
float gate = v + 3.0f;
gate = gate < 0.0f ? 0.0f : gate > 6.0f ? 6.0f : gate;
v = v * (gate * {literal(1 / 6)});""",
        _hardswish, 6.0, 1.5,
    ),
    "sigmoid": Activation("v = 1.0f / (1.0f + NORMCPU_EXPF(-v));", lambda v: F(1) / (F(1) + expf(-v)), 8.0, 0.25, EXPF),
    "silu": Activation("v = v / (1.0f + NORMCPU_EXPF(-v));", lambda v: v / (F(1) + expf(-v)), 8.0, 1.1, EXPF),
    "gelu": Activation("v = NORMCPU_GELUF(v);", geluf, 128.0, 1.13, ("geluf",)),
    "gelu_tanh": Activation(
        f"v = v / (1.0f + NORMCPU_EXPF(-v * ({literal(CUBIC)} * (v * v) + {literal(LINEAR)})));",
        _gelu_tanh, 256.0, 1.13, EXPF,
    ),
    "tanh": Activation("v = NORMCPU_TANHF(v);", tanhf, 8.0, 1.0, ("tanhf",)),
}  # fmt: skip
