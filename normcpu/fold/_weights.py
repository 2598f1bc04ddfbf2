# SPDX-License-Identifier: Apache-2.0
"""The weights that folds take and give: one order of checks, computations and writes for all of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arrays import FLOAT64, as_array, as_output, check_apart, output_for
from .._types import Array, Float64s, Readable
from ._scale import Part, scale_parts, stored


class Weights(NamedTuple):
    weight: Array
    bias: Array | None  # None where there was none and none is needed


# Where results go: ndarrays for weight and bias, of any strides; they may be the arguments themselves.
Out = tuple[Array, Array | None]


def as_weight(value: Readable, least: int, most: int, shape: str) -> Array:
    weight = as_array("weight", value)
    if not least <= weight.ndim <= most:
        raise ValueError(f"weight must have shape {shape}, got {weight.shape}")
    return weight


def as_bias(value: Readable | None, channels: int, weight: Array) -> Array | None:
    """(channels), of any float dtype; its own is kept."""
    if value is None:
        return None
    bias = as_array("bias", value)
    if bias.shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},), one value per output channel, got {bias.shape}")
    return bias


def as_groups(value: Any, channels: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"groups must be an int, got {type(value).__name__}")
    if value < 1 or channels % value:
        raise ValueError(f"groups must divide the {channels} {what} channels of weight, got {value}")
    return int(value)


def doubles(bias: Array | None, channels: int) -> Float64s:
    return np.zeros(channels) if bias is None else bias.astype(FLOAT64)


class Destination:
    """Where weight and bias go, checked before anything is computed."""

    def __init__(self, out: Out | None, weight: Array, bias: Array | None, channels: int) -> None:
        self.weight, self.in_place = weight, out is not None
        self.bias_dtype = weight.dtype if bias is None else bias.dtype
        if out is not None and not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(f"out must be a tuple (weight, bias), got {type(out).__name__}")
        to_weight, to_bias = (None, None) if out is None else out
        self.y = output_for(to_weight, "weight", weight, weight.dtype, {}, {"bias": bias})
        self.to_bias = None if to_bias is None else as_output("out[1]", to_bias, (channels,), self.bias_dtype)
        if self.to_bias is not None:
            check_apart(("out[1]",), {"out[1]": self.to_bias, "out[0]": self.y, "weight": weight})

    def write(self, parts: list[Part], bias: Float64s | None) -> Weights:
        """weight = the scaled parts, bias = the doubles: both, or neither where one is refused."""
        if bias is None and self.to_bias is not None:
            bias = np.zeros(self.to_bias.size)
        made = None if bias is None else stored("bias", bias, self.bias_dtype)
        if made is not None and self.in_place and self.to_bias is None:
            raise ValueError("out[1] must be an ndarray for the bias that this fold needs, got None")
        scale_parts("weight", parts, self.in_place)
        if made is not None and self.to_bias is not None:
            self.to_bias[...] = made
            made = self.to_bias
        return Weights(self.y, made)
