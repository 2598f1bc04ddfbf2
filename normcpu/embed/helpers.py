# SPDX-License-Identifier: Apache-2.0
"""What generated functions call: each a macro NORMCPU_NAME that the user may define to something of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._types import Array


class Helper(NamedTuple):
    """text defines NORMCPU_NAME where it is not defined yet; needs: the helpers it calls."""

    text: str
    needs: tuple[str, ...] = ()


HELPERS = {
    "sqrtf": Helper(
        """\
#ifndef NORMCPU_SQRTF /* correctly rounded: an instruction where there is one and -fno-math-errno */
#ifdef __GNUC__
#define NORMCPU_SQRTF(x) __builtin_sqrtf(x)
#else
#include <math.h>
#define NORMCPU_SQRTF(x) sqrtf(x)
#endif
#endif
"""
    ),
    "expf": Helper(
        """\
#ifndef NORMCPU_EXPF
/* e^x within 1.6 ulp: p s^2 with s = 2^n, x = n ln 4 + r, p = 1 + r + r^2 (degree 5).  Squaring s keeps it within
 * the exponents of float, and the result gradual near 0. */
static float normcpu_expf(float x)
{
    union { float value; uint32_t bits; } s;
    float n, r, rr, p;
    x = x < -120.0f ? -120.0f : x > 120.0f ? 120.0f : x;
    s.value = x * 0x1.715476p-1f + 0x1.8p+23f; /* the last bits are n, to the nearest */
    n = s.value - 0x1.8p+23f;
    r = x - n * 0x1.62e4p+0f - n * 0x1.7f7d1cp-19f;
    rr = r * r;
    p = 0x1.9baa6cp-13f * r + 0x1.71bf9p-10f;
    p = p * rr + (0x1.1126e4p-7f * r + 0x1.5549eep-5f);
    p = (p * r + 0x1.555514p-3f) * r + 0x1.00000cp-1f;
    p = p * rr + r + 1.0f;
    s.bits = (s.bits + 127u) << 23;
    return p * s.value * s.value;
}
#define NORMCPU_EXPF(x) normcpu_expf(x)
#endif
"""
    ),
}


def expf(x: Array) -> Array:
    """NORMCPU_EXPF's own definition, operation by operation; x: float32."""
    f = np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        x = np.minimum(np.maximum(x, f(-120)), f(120))
        s = x * f(float.fromhex("0x1.715476p-1")) + f(1.5 * 2**23)
        n = s - f(1.5 * 2**23)
        r = x - n * f(float.fromhex("0x1.62e4p+0")) - n * f(float.fromhex("0x1.7f7d1cp-19"))
        rr = r * r
        p = f(float.fromhex("0x1.9baa6cp-13")) * r + f(float.fromhex("0x1.71bf9p-10"))
        p = p * rr + (f(float.fromhex("0x1.1126e4p-7")) * r + f(float.fromhex("0x1.5549eep-5")))
        p = (p * r + f(float.fromhex("0x1.555514p-3"))) * r + f(float.fromhex("0x1.00000cp-1"))
        p = p * rr + r + f(1)
        two = np.ldexp(f(1), np.nan_to_num(n).astype(np.int32)).astype(f)
        y: Array = p * two * two
    return y


def definitions(names: Iterable[str]) -> str:
    """The C of these helpers and of all that they need, each once and in the order of use."""
    order: list[str] = []

    def add(name: str) -> None:
        for needed in HELPERS[name].needs:
            add(needed)
        if name not in order:
            order.append(name)

    for name in names:
        add(name)
    return "\n".join(HELPERS[name].text for name in order)
