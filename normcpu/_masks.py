# SPDX-License-Identifier: Apache-2.0
"""Masks: bits where relu passed its argument on, and bools of what has a say in the statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _core
from ._foreign import refuse_special
from ._types import Array, Bits

# ---- Bits ------------------------------------------------------------------------------------------------


def as_mask(value: Any, shape: tuple[int, ...]) -> Bits:
    """The bits of a forward pass, side by side as C reads them."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"mask must be a numpy.ndarray, got {type(value).__name__}")
    refuse_special("mask", value)
    if value.shape != shape:
        raise ValueError(f"mask must have shape {shape}, got {value.shape}")
    if value.dtype != np.uint8:
        raise TypeError(f"mask must be uint8, got {value.dtype}")
    return np.ascontiguousarray(value)


def mask_shape(x: Array, axis: int) -> tuple[int, ...]:
    """One bit per element, each row of the view padded to whole bytes: see ncpu_epilogue.mask."""
    n, c, s = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    return (n * s, -(-c // 8)) if _core.is_channels_last(x, axis) else (n, c, -(-s // 8))


def new_mask(shape: tuple[int, ...], activation: Any) -> Bits:
    if activation != "relu":
        raise ValueError(f"activation must be 'relu' for return_mask, got {activation!r}")
    return np.zeros(shape, np.uint8)


def check_undone(relu: int, y: Any, mask: Any) -> None:
    """A relu is undone from one of them."""
    if relu and (y is None) == (mask is None):
        raise ValueError(f"activation='relu' needs y or mask, got {'neither' if mask is None else 'both'}")


# ---- Bools -----------------------------------------------------------------------------------------------


def as_positions(mask: Any, x: Array, axis: int, parts: int, part: str = "sample", name: str = "mask") -> Bits | None:
    """`mask`, the argument `name`, as bytes (parts * positions); every part must have a position that counts."""
    if mask is None:
        return None
    bools = _as_bools(name, mask, "a position")
    shape = tuple(extent for i, extent in enumerate(x.shape) if i != axis)
    if bools.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, that of x without its channels, got {bools.shape}")
    if x.size:
        _refuse_empty(name, bools.reshape(parts, -1), part, "a position")
    return _bytes(bools)


def as_elements(mask: Any, x: Array, axes: tuple[int, ...], name: str = "mask") -> Bits | None:
    """`mask`, the argument `name`, as bytes (rows * width), rows being normalized over the axes: every row must have an
    element that counts."""
    if mask is None:
        return None
    bools = _as_bools(name, mask, "an element")
    if bools.ndim != x.ndim or any(m not in (1, n) for m, n in zip(bools.shape, x.shape, strict=True)):
        raise ValueError(f"{name} must have shape {x.shape}, that of x, or 1 along some axes, got {bools.shape}")
    order = [*(i for i in range(x.ndim) if i not in axes), *axes]
    rows = np.ascontiguousarray(np.broadcast_to(bools, x.shape).transpose(order))
    if x.size:
        _refuse_empty(name, rows.reshape(-1, math.prod(x.shape[i] for i in axes)), "row", "an element")
    return _bytes(rows)


def _as_bools(name: str, mask: Any, what: str) -> Array:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(mask).__name__}")
    refuse_special(name, mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be bool, True where {what} counts, got {mask.dtype}")
    return mask


def _refuse_empty(name: str, bools: Array, part: str, what: str) -> None:
    empty = np.flatnonzero(~bools.any(1))
    if empty.size:
        more = f" and {empty.size - 1} more" if empty.size > 1 else ""
        raise ValueError(f"{name} must leave each {part} {what} to measure, got none in {part} {empty[0]}{more}")


def _bytes(bools: Array) -> Bits:
    """0 and 1, whatever bytes NumPy takes for True: views of other dtypes have any."""
    flags = np.ascontiguousarray(bools).view(np.uint8).reshape(-1)
    return flags if flags.max(initial=0) < 2 else np.not_equal(flags, 0).view(np.uint8)
