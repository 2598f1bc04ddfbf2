# SPDX-License-Identifier: Apache-2.0
"""Dropout in NumPy, from its definition: Philox's paper, and numbers compared with p bit by bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray
ALPHA = -1.7580993408473766  # selu at minus infinity: -1.0507009873554805 * 1.6732632423543772


def philox4x32(counter: Array, key: tuple[int, int], rounds: int = 7) -> Array:
    """Section 3.3 of https://doi.org/10.1145/2063384.2063405: counters (n, 4) of 32 bits to random words (n, 4)."""
    x0, x1, x2, x3 = (np.asarray(counter, np.uint64)[:, i] for i in range(4))
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(rounds):
        k0, k1 = ((key[0] + i * 0x9E3779B9) % 2**32, (key[1] + i * 0xBB67AE85) % 2**32)
        p, q = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (q >> half) ^ x1 ^ np.uint64(k0), q & low, (p >> half) ^ x3 ^ np.uint64(k1), p & low
    return np.stack([x0, x1, x2, x3], 1).astype(np.uint32)


def kept(count: int, p: float, seed: int, first: int = 0) -> Array:
    """Which of the places first, ..., first + count - 1 are kept; first a multiple of 128."""
    if p == 1:
        return np.zeros(count, bool)
    counters = np.zeros((-(-count // 128), 4), np.uint64)
    number = np.arange(len(counters), dtype=np.uint64) + np.uint64(first // 128)
    counters[:, 0], counters[:, 1] = number & np.uint64(0xFFFFFFFF), number >> np.uint64(32)
    threshold, undecided, below = int(p * 2.0**64), np.ones(count, bool), np.zeros(count, bool)
    for level in range(64):
        counters[:, 2] = level
        words = philox4x32(counters, (seed % 2**32, seed >> 32))
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(bool)
        bit = bool(threshold >> (63 - level) & 1)
        below |= undecided & ~bits & bit
        undecided &= bits == bit
    return ~below


def pack(flags: Array) -> Array:
    return np.packbits(flags.reshape(-1), bitorder="little")


def unpack(mask: Array, shape: tuple[int, ...]) -> Array:
    return np.unpackbits(mask, count=math.prod(shape), bitorder="little").reshape(shape).astype(bool)


def affine(p: float, alpha: bool) -> tuple[float, float, float]:
    """(scale, shift) of what is kept, and what is put in place of the others."""
    if p in (0, 1):
        return 1.0, 0.0, 0.0
    if not alpha:
        return 1 / (1 - p), 0.0, 0.0
    a = 1 / math.sqrt((1 - p) * (1 + p * ALPHA**2))
    b = -a * p * ALPHA
    return a, b, a * ALPHA + b


def dropped(x: Array, flags: Array, p: float, alpha: bool = False) -> Array:
    """y in x's dtype: multiplied and added in float32 (float64 for float64), rounded once; flags broadcast."""
    real: Any = np.float64 if x.dtype == np.float64 else np.float32
    scale, shift, other = (real(value) for value in affine(p, alpha))
    wide = x.astype(real)
    value = wide * scale + shift if shift else wide * scale
    return np.where(flags, value, other).astype(x.dtype)
