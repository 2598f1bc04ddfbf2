# SPDX-License-Identifier: Apache-2.0
"""What generated functions call: each a macro NORMCPU_NAME that the user may define to something of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._types import Array

F = np.float32


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
    "tanhf": Helper(
        """\
#ifndef NORMCPU_TANHF
/* x + x^3 (degree 4 in x^2), fitted on |x| <= 0.625 to 2^-27.7, and 1 - 2 / (e^2|x| + 1) beyond. */
static float normcpu_tanhf(float x)
{
    const float a = x < 0.0f ? -x : x, z = x * x;
    if (a > 0.625f) {
        const float y = 1.0f - 2.0f / (NORMCPU_EXPF(2.0f * a) + 1.0f);
        return x < 0.0f ? -y : y;
    }
    float p = -0x1.750ce4p-8f * z + 0x1.51f8cep-6f;
    p = (p * z - 0x1.b835a4p-5f) * z + 0x1.1106f6p-3f;
    return (p * z - 0x1.555532p-2f) * z * x + x;
}
#define NORMCPU_TANHF(x) normcpu_tanhf(x)
#endif
""",
        ("expf",),
    ),
    "geluf": Helper(
        """\
#ifndef NORMCPU_GELUF
/* max(x, 0) - a Phi(-a), a = |x|: Phi(-a) = e^(-a^2 / 2) D / (C a D + N), C = sqrt(2 pi), fitted on [0, 13.3] to
 * 2^-25.9. */
static float normcpu_geluf(float x)
{
    const float size = x < 0.0f ? -x : x, a = size > 14.6f ? 14.6f : size;
    const float d = (a + 0x1.2ee8d2p+3f) * a + 0x1.4ad2c2p+5f;
    const float ad = ((d * a + 0x1.8104e8p+6f) * a + 0x1.a7af24p+6f) * a;
    const float n = (0x1.39b286p-12f * a + 0x1.3f2d3p+1f) * a + 0x1.7f8b28p+4f;
    const float t = (n * a + 0x1.801f4cp+6f) * a + 0x1.a7af24p+7f;
    return (x < 0.0f ? 0.0f : x) - ad * NORMCPU_EXPF(-0.5f * a * a) / (ad * 0x1.40d932p+1f + t);
}
#define NORMCPU_GELUF(x) normcpu_geluf(x)
#endif
""",
        ("expf",),
    ),
}


# ---- The definitions above in NumPy, operation by operation, for float32 ------------------------------------


def expf(x: Array) -> Array:
    x = np.minimum(np.maximum(x, F(-120)), F(120))
    s = x * _hex("0x1.715476p-1") + F(1.5 * 2**23)
    n = s - F(1.5 * 2**23)
    r = x - n * _hex("0x1.62e4p+0") - n * _hex("0x1.7f7d1cp-19")
    rr = r * r
    p = _hex("0x1.9baa6cp-13") * r + _hex("0x1.71bf9p-10")
    p = p * rr + (_hex("0x1.1126e4p-7") * r + _hex("0x1.5549eep-5"))
    p = (p * r + _hex("0x1.555514p-3")) * r + _hex("0x1.00000cp-1")
    p = p * rr + r + F(1)
    with np.errstate(all="ignore"):
        two = np.ldexp(F(1), np.nan_to_num(n).astype(np.int32)).astype(F)
        y: Array = p * two * two
    return y


def tanhf(x: Array) -> Array:
    a, z = np.abs(x), x * x
    far = F(1) - F(2) / (expf(F(2) * a) + F(1))
    p = _hex("-0x1.750ce4p-8") * z + _hex("0x1.51f8cep-6")
    p = (p * z - _hex("0x1.b835a4p-5")) * z + _hex("0x1.1106f6p-3")
    y: Array = np.where(a > F(0.625), np.copysign(far, x), (p * z - _hex("0x1.555532p-2")) * z * x + x)
    return y


def geluf(x: Array) -> Array:
    a = np.minimum(np.abs(x), F(14.6))
    d = (a + _hex("0x1.2ee8d2p+3")) * a + _hex("0x1.4ad2c2p+5")
    ad = ((d * a + _hex("0x1.8104e8p+6")) * a + _hex("0x1.a7af24p+6")) * a
    n = (_hex("0x1.39b286p-12") * a + _hex("0x1.3f2d3p+1")) * a + _hex("0x1.7f8b28p+4")
    t = (n * a + _hex("0x1.801f4cp+6")) * a + _hex("0x1.a7af24p+7")
    y: Array = np.maximum(x, F(0)) - ad * expf(F(-0.5) * a * a) / (ad * _hex("0x1.40d932p+1") + t)
    return y


def _hex(text: str) -> np.float32:
    return F(float.fromhex(text))


def needed(names: Iterable[str]) -> list[str]:
    """These helpers and all that they need, each once and before its use."""
    order: list[str] = []
    for name in names:
        order += [each for each in (*needed(HELPERS[name].needs), name) if each not in order]
    return order


def definitions(names: Iterable[str]) -> str:
    """The C of these helpers and of all that they need."""
    return "\n".join(HELPERS[name].text for name in needed(names))
