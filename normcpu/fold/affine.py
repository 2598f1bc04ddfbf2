# SPDX-License-Identifier: Apache-2.0
"""The one value that folding is about: y = x * scale + shift, for each channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import FLOAT64, as_array, as_number, as_parameter
from .._types import Array, Float64s, Readable
from ._scale import FoldError, finite, stored


class BatchNormParameters(NamedTuple):
    running_mean: Array
    running_var: Array
    weight: Array
    bias: Array


class Affine(NamedTuple):
    """y = x * scale + shift, for each channel: what a BatchNorm in evaluation is, or the weight and bias of any other
    norm, a LayerScale, the /255 of an image.  scale, shift: (c), float64, finite.

    >>> Affine.of_batch_norm([1, 0], [4, 1], [6, 1], [5, 0], eps=0).then(Affine.of([1, -1]))
    Affine(scale=array([ 3., -1.]), shift=array([2., 0.]))
    """

    scale: Float64s
    shift: Float64s

    @classmethod
    def of(cls, scale: Readable | None = None, shift: Readable | None = None) -> Affine:
        """Ones or zeros where None is given.  The weight and bias of LayerNorm, RMSNorm and GroupNorm are one too:
        what stays in front of it is the norm with weight 1 and bias 0."""
        given = scale if scale is not None else shift
        if given is None:
            raise ValueError("scale or shift must be an array, got None for both")
        channels = _length("scale" if scale is not None else "shift", given)
        times = np.ones(channels) if scale is None else _doubles("scale", scale, channels)
        return cls(times, np.zeros(channels) if shift is None else _doubles("shift", shift, channels))

    @classmethod
    def of_batch_norm(
        cls,
        running_mean: Readable,
        running_var: Readable,
        weight: Readable | None = None,
        bias: Readable | None = None,
        eps: float = 1e-5,
    ) -> Affine:
        """scale = weight / sqrt(running_var + eps), shift = bias - running_mean * scale, in float64 throughout.

        https://arxiv.org/abs/1502.03167, algorithm 2.  FoldError where running_var + eps is not positive, or the
        result is not finite.
        """
        channels = _length("running_mean", running_mean)
        mean = _doubles("running_mean", running_mean, channels)
        var = _doubles("running_var", running_var, channels) + as_number("eps", eps, 0.0)
        for c in np.flatnonzero(~(var > 0)).tolist():
            raise FoldError(f"running_var + eps must be positive, got {var[c]:.6g} in channel {c}", c)
        gamma = 1.0 if weight is None else _doubles("weight", weight, channels)
        beta = 0.0 if bias is None else _doubles("bias", bias, channels)
        with np.errstate(over="ignore", invalid="ignore"):
            scale = gamma / np.sqrt(var)
            shift = beta - mean * scale
        return cls(finite("weight / sqrt(running_var + eps)", scale), finite("bias - running_mean * scale", shift))

    def then(self, after: Affine) -> Affine:
        """BatchNorm into BatchNorm: after(self(x)) = x (scale * after.scale) + (shift * after.scale + after.shift)."""
        after = as_affine("after", after, self.scale.size)
        with np.errstate(over="ignore", invalid="ignore"):
            scale, shift = self.scale * after.scale, self.shift * after.scale + after.shift
        return Affine(finite("the product of the scales", scale), finite("the shift of both", shift))

    def as_batch_norm(self, dtype: npt.DTypeLike = np.float32, eps: float = 1e-5) -> BatchNormParameters:
        """The BatchNorm that does the same: mean 0, variance 1, weight = scale * sqrt(1 + eps), bias = shift; rounded
        once to dtype, float32 or float64.  FoldError where that overflows, or a weight loses digits."""
        real = np.dtype(dtype)
        if real.name not in ("float32", "float64"):
            raise TypeError(f"dtype must be float32 or float64, got {real}")
        weight = stored("weight", self.scale * np.sqrt(1 + as_number("eps", eps, 0.0)), real, digits=True)
        zeros, ones = np.zeros(weight.size, real), np.ones(weight.size, real)
        return BatchNormParameters(zeros, ones, weight, stored("bias", self.shift, real))


def as_affine(name: str, value: Any, channels: int) -> Affine:
    """value: an Affine, or (scale, shift)."""
    if not (isinstance(value, tuple) and len(value) == 2):
        raise TypeError(f"{name} must be an Affine, got {type(value).__name__}")
    scale, shift = value
    return Affine(_doubles(f"{name}.scale", scale, channels), _doubles(f"{name}.shift", shift, channels))


def _length(name: str, value: Any) -> int:
    if isinstance(value, list | tuple):
        return len(value)
    array = as_array(name, value)
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, one value per channel, got shape {array.shape}")
    return int(array.size)


def _doubles(name: str, value: Any, channels: int) -> Float64s:
    return finite(name, as_parameter(name, value, channels, FLOAT64, required=True))
