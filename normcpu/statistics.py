# SPDX-License-Identifier: Apache-2.0
"""Mean and variance: of an array, and as a value that grows with a stream of arrays and merges with others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from . import _core
from ._arrays import FLOAT64, as_array, as_axes, as_axis, as_image, as_int, as_number, as_output, check_apart
from ._types import Array, Float64s, MeanVar, Readable

STATE = ("mean", "mean_tail", "m2", "m2_tail")  # of ncpu_moments_state, in its order


def moments(
    x: Readable,
    axis: int | tuple[int, ...] | None = None,
    *,
    keepdims: bool = False,
    ddof: float = 0,
    channel_axis: int | None = None,
    out: tuple[Float64s, Float64s] | None = None,
) -> MeanVar:
    """Mean and variance in float64, in one pass over x: mean = sum(x) / n, var = sum((x - mean)^2) / (n - ddof).

    x: float32, float64, float16 or bfloat16, any strides.  axis: the axes to reduce, None for all of them; or
    `channel_axis`: the one axis to keep.  keepdims, ddof: as in numpy.var.  out: two float64 ndarrays for the results.

    Returns (mean, var), arrays of the shape of the axes that are left; nan where there are no more than ddof values.
    Errors: TypeError and ValueError, naming the argument.  Exact to 4 ulp of x's float where numpy.var(x) of float32
    loses all digits once the mean is large: T. Chan, G. Golub, R. LeVeque, Algorithms for computing the sample
    variance, The American Statistician 37 (1983).

    >>> moments(np.array([10000001, 10000003, 10000002], np.float64), ddof=1)
    MeanVar(mean=array(10000002.), var=array(1.))
    """
    array = as_array("x", x)
    reduce = _reduced(array, axis, channel_axis)
    kept = tuple(1 if r else n for n, r in zip(array.shape, reduce, strict=True))
    shape = kept if keepdims else tuple(n for n, r in zip(array.shape, reduce, strict=True) if not r)
    count = math.prod(n for n, r in zip(array.shape, reduce, strict=True) if r)
    state = _new_state(math.prod(shape))
    if out is not None:
        if not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(f"out must be a tuple of two arrays, for mean and var, got {type(out).__name__}")
        out = as_output("out[0]", out[0], shape, FLOAT64), as_output("out[1]", out[1], shape, FLOAT64)
        check_apart(("out[0]", "out[1]"), {"out[0]": out[0], "out[1]": out[1], "x": array})
    if array.size:
        _core.moments(array if array.ndim else array.reshape(1), bytes(reduce) or b"\1", state)
    mean, var = _mean_var(count, state, as_ddof(ddof))
    if out is None:
        return MeanVar(mean.reshape(shape), var.reshape(shape))
    out[0][...], out[1][...] = mean.reshape(shape), var.reshape(shape)
    return MeanVar(*out)


class Moments:
    """Count, mean and sum of squared differences per channel, of any number of arrays.

    However the data is cut and in whatever order its parts are merged, mean and variance are those of all of it, to
    the last few ulp of the data's float; the same sequence of updates and merges gives the same bits.  Holds
    4 float64 per channel, so batches may come from a stream larger than memory, or from other processes (pickle,
    state_dict).

    >>> seen = Moments()
    >>> for batch in np.arange(12, dtype=np.float32).reshape(3, 2, 2):
    ...     seen.update(batch)
    Moments(count=2, channels=2)
    Moments(count=4, channels=2)
    Moments(count=6, channels=2)
    >>> seen.mean, seen.var(ddof=1)
    (array([5., 6.]), array([14., 14.]))
    """

    __hash__ = None  # type: ignore[assignment]  # it changes
    __slots__ = ("_count", "_state", "channel_axis")

    def __init__(self, channel_axis: int = 1) -> None:
        self.channel_axis = as_int("channel_axis", channel_axis)
        self._count = 0
        self._state = _new_state(0)  # of STATE; has its channels from the first update on

    @classmethod
    def of(cls, x: Readable, channel_axis: int = 1) -> Self:
        """The statistics of one array: Moments(channel_axis).update(x)."""
        return cls(channel_axis).update(x)

    def update(self, x: Readable) -> Self:
        """Takes in x, whose `channel_axis` is kept; an exception leaves everything as it was."""
        array = as_array("x", x)
        axis = as_image(array, self.channel_axis, 1)
        channels = array.shape[axis]
        if self._count and channels != self.channels:
            raise ValueError(f"x must have {self.channels} channels on axis {axis}, got shape {array.shape}")
        part = _new_state(channels)
        if array.size:
            _core.moments(array, bytes(i != axis for i in range(array.ndim)), part)
            self._add(array.size // channels, part)
        return self

    def merge(self, other: Moments) -> Self:
        """Takes in what `other` has seen."""
        if not isinstance(other, Moments):
            raise TypeError(f"other must be a Moments, got {type(other).__name__}")
        if self._count and other._count and other.channels != self.channels:
            raise ValueError(f"other must have {self.channels} channels, got {other.channels}")
        if other._count:
            self._add(other._count, tuple(array.copy() for array in other._state))
        return self

    def _add(self, count: int, part: tuple[Float64s, ...]) -> None:
        """part becomes this object's or is left alone, so it must be no one else's."""
        if self._count:
            _core.moments_merge(len(part[0]), self._count, self._state, count, part)
        else:
            self._state = part
        self._count += count

    @property
    def count(self) -> int:
        """How many values each channel has seen."""
        return self._count

    @property
    def channels(self) -> int:
        """How many channels there are; 0 before the first value."""
        return len(self._state[0])

    @property
    def mean(self) -> Float64s:
        """(c)"""
        return _mean_var(self._count, self._state, 0)[0]

    def var(self, ddof: float = 0) -> Float64s:
        """(c) sum((x - mean)^2) / (count - ddof), nan where count is not above ddof."""
        return _mean_var(self._count, self._state, as_ddof(ddof))[1]

    def std(self, ddof: float = 0) -> Float64s:
        """(c) the square root of var(ddof)."""
        return np.sqrt(self.var(ddof))

    def copy(self) -> Self:
        return self.from_state(self.state_dict())

    def state_dict(self) -> dict[str, Array]:
        """Everything as NumPy arrays, for numpy.savez or a message; `from_state` turns it back, bit for bit.

        mean + mean_tail and m2 + m2_tail (c) are to be added in more than float64 to be worth it.
        """
        state = {name: array.copy() for name, array in zip(STATE, self._state, strict=True)}
        return {"count": np.array(self._count), "channel_axis": np.array(self.channel_axis), **state}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """state: count, mean and m2 (c), and where known channel_axis and the tails."""
        missing = [name for name in ("count", "mean", "m2") if name not in state]
        if missing:
            raise ValueError(f"state must have count, mean and m2, got none of: {', '.join(missing)}")
        result = cls(int(state.get("channel_axis", 1)))
        result._count = as_int("count", state["count"])
        mean = np.array(state["mean"], np.float64)
        result._state = tuple(np.array(state.get(name, np.zeros_like(mean)), np.float64) for name in STATE)
        if result._count < 0 or any(array.ndim != 1 or array.shape != mean.shape for array in result._state):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(STATE, result._state, strict=True))
            raise ValueError(f"state must have a count of at least 0 and arrays (c), got {result._count} and {shapes}")
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state_dict(),)

    def __eq__(self, other: object) -> bool:
        """The same count and the same bits (nan equals nan)."""
        if not isinstance(other, Moments):
            return NotImplemented
        same = (np.array_equal(a, b, equal_nan=True) for a, b in zip(self._state, other._state, strict=True))
        return self._count == other._count and all(same)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(count={self._count}, channels={self.channels})"


def as_ddof(value: Any) -> float:
    return as_number("ddof", value)


def _reduced(x: Array, axis: Any, channel_axis: Any) -> tuple[bool, ...]:
    """For each axis of x, whether it is summed over."""
    if channel_axis is not None:
        if axis is not None:
            raise ValueError(f"axis must be None where channel_axis is given, got {axis!r}")
        kept = as_axis("channel_axis", channel_axis, x)
        return tuple(i != kept for i in range(x.ndim))
    if axis is None:
        return (True,) * x.ndim
    axes = as_axes("axis", axis, x) if axis != () else ()
    return tuple(i in axes for i in range(x.ndim))


def _new_state(channels: int) -> tuple[Float64s, ...]:
    return tuple(np.zeros(channels) for _ in STATE)


def _mean_var(count: int, state: tuple[Float64s, ...], ddof: float) -> tuple[Float64s, Float64s]:
    mean, _, m2, m2_tail = state
    return (
        mean.copy() if count else np.full_like(mean, math.nan),
        (m2 + m2_tail) / (count - ddof) if count > ddof else np.full_like(mean, math.nan),
    )
