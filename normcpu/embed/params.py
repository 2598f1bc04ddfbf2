# SPDX-License-Identifier: Apache-2.0
"""embed.params: arrays as a C header."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from .._state import as_entry
from .._types import Array
from ..fold._scale import RANGES, to_odd
from .literals import definition
from .names import Names, identifier
from .source import comment, spell
from .writing import Generated

Dtype = Literal["float32", "float16", "bfloat16", "int8"]
DTYPES = ("float32", "float16", "bfloat16", "int8")
BEHIND = ("_scale", "_shape")  # what follows an array's name in other names


class Stored(NamedTuple):
    """values: float32, int8, or the bits of 16-bit floats as uint16; error: the largest made; scales (c): of int8, and
    relative, the largest error next to the largest value of its channel."""

    values: Array
    error: float
    scales: Array | None = None
    relative: float = 0.0


def params(arrays: Mapping[str, Any], dtype: Dtype = "float32", *, name: str = "params") -> Generated:
    """name.h: each array a `static const` one, its shape, and a checksum of all; the same bytes for the same arrays.

    arrays: of real numbers, by name; tensors too.  name, and the arrays' names: what of them can be C (`identifier`).

        static const float NAME_ARRAY[12] = {...};
        #define NAME_ARRAY_SHAPE {4, 3}
        #define NAME_CRC32 0x1c291ca3u

    dtype: "float32"; "float16" and "bfloat16" as their bits in uint16_t, rounded once; "int8" for arrays of two axes or
    more: value = q * NAME_ARRAY_scale[channel], |q| <= 127, with a scale for each index of the first axis (the output
    channels of a convolution or linear layer).  Arrays of one axis stay float32 there.  The error that the dtype costs
    is in the comments and in the result's notes.
    NAME_CRC32: zlib's, over the elements of all arrays (and scales behind their array), little-endian, in order.

    Errors: TypeError and ValueError, naming the array: NaN, infinity, no elements, numbers beyond the dtype.

    >>> made = params({"fc.weight": np.array([[0.5, -1.0]])}, "int8", name="net")
    >>> made.flash, made.notes[0]
    (6, 'net_fc_weight: int8 (1, 2), off by at most 0.00394, 0.394 % of the largest of its channel.')
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays must be a mapping of names to arrays, got {type(arrays).__name__}")
    if not arrays:
        raise ValueError("arrays must have at least one array, got none")
    prefix, names = identifier(name, "params"), Names(BEHIND, ("crc32",))
    blocks, notes, crc, flash = [], [], 0, 0
    for key, value in arrays.items():
        own = f"{prefix}_{names(key, 'array')}"
        array = _checked(own, value)
        kept = dtype if dtype != "int8" or array.ndim > 1 else "float32"
        stored = STORE[kept](own, array)
        cost = f"off by at most {_upward(stored.error)}" if stored.error else "exact"
        if stored.scales is not None:
            cost += f", {_upward(100 * stored.relative)} % of the largest of its channel"
        notes.append(f"{own}: {kept} {spell(array.shape)}, {cost}.")
        parts = {own: stored.values} | ({} if stored.scales is None else {f"{own}_scale": stored.scales})
        for each in parts.values():
            crc = zlib.crc32(each.astype(each.dtype.newbyteorder("<")).tobytes(), crc)
            flash += each.nbytes
        shape = f"#define {own.upper()}_SHAPE {{{', '.join(map(str, array.shape))}}}\n"
        blocks.append(comment(notes[-1:]) + "\n" + "".join(definition(*part) for part in parts.items()) + shape)
    upper = prefix.upper()
    about = [
        f"{prefix}: arrays written by normcpu, {flash} bytes.",
        "CRC32: zlib's, of all elements in order, little-endian.",
    ]
    text = f"""\
{comment(about)}
#ifndef NORMCPU_EMBED_{upper}_H
#define NORMCPU_EMBED_{upper}_H

#include <stdint.h>

#define {upper}_CRC32 0x{crc:08x}u

{chr(10).join(blocks)}
#endif
"""
    return Generated(prefix, {f"{prefix}.h": text}, flash, 0, 0, tuple(notes))


def _checked(name: str, value: Any) -> Array:
    """In float64, finite."""
    array = as_entry(name, value)
    doubles = array.astype(np.float64).reshape(array.shape or (1,))
    if not doubles.size:
        raise ValueError(f"{name} must have elements, got shape {array.shape}")
    if not np.isfinite(doubles).all():
        raise ValueError(f"{name} must be finite, got {doubles[~np.isfinite(doubles)][0]}")
    return doubles


def _within(name: str, doubles: Array, dtype: str) -> None:
    most = np.abs(doubles).max()
    if not most < RANGES[dtype][1]:
        raise ValueError(f"{name} must fit {dtype}, got {most:.6g}")


def _float32(name: str, doubles: Array) -> Stored:
    _within(name, doubles, "float32")
    values = doubles.astype(np.float32)
    return Stored(values, _largest(values - doubles))


def _float16(name: str, doubles: Array) -> Stored:
    _within(name, doubles, "float16")
    values = doubles.astype(np.float16)
    return Stored(values.view(np.uint16), _largest(values - doubles))


def _bfloat16(name: str, doubles: Array) -> Stored:
    _within(name, doubles, "bfloat16")
    bits: Array = to_odd(doubles).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # the upper half, to nearest, ties to even
    values = (bits << 16).view(np.float32)
    return Stored(bits.astype(np.uint16), _largest(values - doubles))


def _int8(name: str, doubles: Array) -> Stored:
    """A scale for each index of the first axis: its largest, rounded, is 127 of them."""
    _within(name, doubles, "float32")
    rows = doubles.reshape(len(doubles), -1)
    peak = np.abs(rows).max(1)
    scales = np.where(peak > 0, np.maximum((peak / 127).astype(np.float32), np.float32(2.0**-149)), np.float32(1))
    q = np.clip(np.rint(rows / scales[:, None].astype(np.float64)), -127, 127)
    off = np.abs(q * scales[:, None] - rows).max(1)
    relative = _largest(off / np.where(peak > 0, peak, 1))
    return Stored(q.astype(np.int8).reshape(doubles.shape), _largest(off), scales, relative)


def _upward(error: float) -> str:
    """In three digits, no less than it is."""
    text = f"{error:.3g}"
    return text if float(text) >= error else f"{error * 1.005:.3g}"


def _largest(errors: Array) -> float:
    return float(np.abs(errors).max())


STORE = {"float32": _float32, "float16": _float16, "bfloat16": _bfloat16, "int8": _int8}
