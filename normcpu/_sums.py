# SPDX-License-Identifier: Apache-2.0
"""Sums in float64 in an order of our own: NumPy's differs between its versions and machines."""

from __future__ import annotations

from ._types import Float64s


def tree_sums(terms: Float64s) -> Float64s:
    """The sums (r) of terms (r, n), which it overwrites, halves onto halves: the same bits everywhere, and wrong by at
    most log2(n) + 1 roundings of the sum of absolute terms."""
    while terms.shape[1] > 1:
        half = (terms.shape[1] + 1) // 2
        terms[:, : terms.shape[1] - half] += terms[:, half:]
        terms = terms[:, :half]
    sums: Float64s = terms.sum(axis=1)  # of one term, or none
    return sums
