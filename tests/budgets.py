# SPDX-License-Identifier: Apache-2.0
"""How wrong a result may be: one table, and the ruler.

An ulp is one of the type computed in (float for data of f32, f16 and bf16, double for f64) at the size of the
terms, see reference.py.  f16 and bf16 add half an ulp of their own, the one rounding at the store.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from reference import WIDE, Array, quiet, wide

F32, F64, F16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"f32": F32, "f64": F64, "f16": F16, "bf16": BF16}

#              ulp when computed in   float  double
BUDGETS = {
    "scale_shift":                    (1.0, 1.0),
    "eval":                           (3.0, 4.0),
    "train":                          (3.0, 4.0),
    "running_mean":                   (1.0, 3.0),
    "running_var":                    (4.5, 4.5),
    "backward dx":                    (4.0, 6.0),
    "backward frozen dx":             (2.0, 4.0),
    "backward dweight":               (6.0, 6.0),
    "backward dbias":                 (3.0, 3.0),
    "variance":                       (4.0, 4.0),
    "layer_norm":                     (3.0, 4.0),
    "rms_norm":                       (3.0, 5.0),
    "rows dx":                        (4.0, 5.0),
    "rows dweight":                   (4.0, 4.0),
    "rows dbias":                     (3.0, 3.0),
}  # fmt: skip
#              and of the result itself, on top of the error in its argument
ACTIVATION_BUDGETS = {
    None: 0.0, "relu": 0.0, "relu6": 0.0, "leaky_relu": 1.0, "hardswish": 2.5, "silu": 4.0, "gelu": 4.0,
    "gelu_tanh": 4.0, "sigmoid": 4.0, "tanh": 4.0,
}  # fmt: skip
LIPSCHITZ = {"hardswish": 1.5, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1}  # others: 1
MEAN_BUDGETS = (2.0**-22, 2.0**-50)  # of sigma; and of |mean|, for both:
MEAN_ROUNDING = 2.0**-52

MEASURED: dict[tuple[str, str], float] = {}  # the largest errors seen, by (what, dtype): pytest --ulp prints them

#               bits of significand, exponent of the smallest and of 1 beyond the largest
FORMATS = {F32: (24, -149, 128), F64: (53, -1074, 1024), F16: (11, -24, 16), BF16: (8, -133, 128)}


def computed_in(dtype: np.dtype) -> np.dtype:
    return F64 if dtype == F64 else F32


@quiet
def ulp(size: Any, dtype: np.dtype, subnormals: bool = True) -> Array:
    digits, least, _ = FORMATS[dtype]
    _, exponent = np.frexp(wide(size))
    exponent = exponent - digits
    return np.ldexp(WIDE(1), np.maximum(exponent, least) if subnormals else exponent)


def column(dtype: np.dtype) -> int:
    return int(computed_in(dtype) == F64)


@quiet
def assert_close(
    got: Array, want: Array, size: Any, budget: float, what: str, *, activation: str | None = None, error: Any = 0.0
) -> None:
    """|got - want| <= budget ulp of size (and what the activation and the store add, and `error`)."""
    dtype, got_wide = got.dtype, wide(got)
    inner = computed_in(dtype)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    unlike = np.isnan(got_wide) != np.isnan(want)
    assert not unlike.any(), f"{what}: NaN where {first(unlike, got, want)}"
    beyond = np.ldexp(
        WIDE(1), FORMATS[dtype][2]
    )  # an overflow counts as an error from here: one ulp beyond the largest
    expected, result = np.clip(want, -beyond, beyond), np.clip(got_wide, -beyond, beyond)
    unit = ulp(np.broadcast_to(size, want.shape), inner) * LIPSCHITZ.get(activation, 1.0)
    allowed = np.broadcast_to(wide(error), want.shape) + ACTIVATION_BUDGETS[activation] * ulp(want, inner)
    if inner != dtype:
        allowed = allowed + ulp(expected, dtype) / 2 * (1 + 2.0**-8)  # the result may round into the next binade
    off = np.abs(result - expected) - allowed
    off = np.where(np.isnan(off), 0, off) / unit
    note(what, dtype, off)
    bad = off > budget
    assert not bad.any(), (
        f"{what}: {float(off.max()):.3g} ulp, at most {budget} expected, where {first(bad, got, want)}"
    )


def assert_moments(mean: Any, var: Any, want: tuple[Array, Array], dtype: np.dtype, what: str = "moments") -> None:
    """Mean within 2^-22 sigma + 2^-52 |mean|, variance within 4 ulp of float; 2^-50 and double for f64 data."""
    mean, var = np.asarray(mean), np.asarray(var)
    assert mean.dtype == var.dtype == F64
    assert mean.shape == want[0].shape == var.shape == want[1].shape
    k = column(dtype)
    sigma = np.sqrt(np.maximum(want[1], 0))
    off = np.abs(wide(mean) - want[0]) - MEAN_ROUNDING * np.abs(want[0])
    relative = np.divide(off, sigma, out=np.zeros_like(off), where=sigma > 0)
    note(f"{what} mean", dtype, relative / MEAN_BUDGETS[k])
    bad = ~(off <= MEAN_BUDGETS[k] * sigma)
    assert not bad.any(), f"{what}: mean where {first(bad, mean, want[0])}"
    # Exponents without a lower end: a variance of 1e-80 has as many digits as any other.
    errors = np.abs(wide(var) - want[1]) / np.where(
        want[1] > 0, ulp(want[1], computed_in(dtype), False), WIDE("1e-4900")
    )
    note(f"{what} var", dtype, errors)
    bad = ~(errors <= BUDGETS["variance"][k])
    assert not bad.any(), f"{what}: variance off by {float(errors.max()):.3g} ulp where {first(bad, var, want[1])}"


@quiet
def note_own_error(got: Array, want: Array, what: str) -> None:
    """In ulp of the result, stored: what a user sees."""
    note(what, got.dtype, np.abs(wide(got) - want) / ulp(want, got.dtype))


def note(what: str, dtype: np.dtype, errors: Array) -> None:
    key = (what, next(name for name, known in DTYPES.items() if known == dtype))
    MEASURED[key] = max(MEASURED.get(key, 0.0), float(errors.max(initial=0.0)))


def first(bad: Array, got: Array, want: Array) -> str:
    at = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    return f"[{at}] is {got[at]!r}, expected {want[at]!r} ({int(bad.sum())} of {bad.size})"
