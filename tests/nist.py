# SPDX-License-Identifier: Apache-2.0
"""The univariate sets of NIST's Statistical Reference Datasets that can be computed, with exact statistics.

https://www.itl.nist.gov/div898/strd/univ/homepage.html.  The certified values are of the decimal numbers; ours
are of the doubles nearest to them, as rationals, so that no digit is lost before the first addition.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def pairs(whole: int) -> list[float]:
    """One whole.2, then 500 pairs of whole.1 and whole.3."""
    return [float(f"{whole}.2"), *[float(f"{whole}.1"), float(f"{whole}.3")] * 500]


def digits_of_pi(count: int) -> list[float]:
    """Gibbons (2006), https://doi.org/10.1080/00029890.2006.11920336."""
    q, r, t, k, n, l = 1, 0, 1, 1, 3, 3
    digits: list[float] = []
    while len(digits) < count:
        if 4 * q + r - t < n * t:
            digits.append(float(n))
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, l = q * k, (2 * q + r) * l, t * l, k + 1, (q * (7 * k + 2) + r * l) // (t * l), l + 2
    return digits


SETS = {
    "PiDigits": digits_of_pi(5000),
    "NumAcc1": [10000001.0, 10000003.0, 10000002.0],
    "NumAcc2": pairs(1),
    "NumAcc3": pairs(1_000_000),
    "NumAcc4": pairs(10_000_000),
}


def exact(values: np.ndarray) -> tuple[Fraction, Fraction]:
    """mean and sum((x - mean)^2)"""
    rationals = [Fraction(float(v)) for v in values]
    mean = sum(rationals) / len(rationals)
    return mean, sum((v - mean) ** 2 for v in rationals)


def root(value: Fraction) -> Fraction:
    with localcontext(prec=60):
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def correct_digits(got: float, want: Fraction) -> float:
    error = abs(Fraction(got) - want)
    return -math.log10(error / abs(want)) if error else math.inf
