# SPDX-License-Identifier: Apache-2.0
"""Statistics of each sample: what the functions that have them share.

A batch is normalized sample by sample with groups of channels; ghost batches and whole batches are samples of an array
with one axis more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import (
    FLOAT64,
    as_activation,
    as_array,
    as_choice,
    as_like,
    as_number,
    as_parameter,
    output_for,
    real_of,
)
from ._masks import as_mask, check_undone, new_mask
from ._types import Array, BatchNormGradients, Bits, Float64s


class Grouped(NamedTuple):
    """x (samples, ...) with `groups` groups of the channels on `axis` of each."""

    x: Array
    axis: int
    groups: int
    valid: Bits | None = None  # (samples * positions): 1 where a position has a say in the statistics

    @property
    def shape(self) -> tuple[int, int]:
        """Of the statistics."""
        return self.x.shape[0], self.groups

    @property
    def counts(self) -> Float64s:
        """(samples, 1) the elements of a group."""
        together = self.x.shape[self.axis] // self.groups
        samples = self.x.shape[0]
        if self.valid is None:
            return np.full((samples, 1), self.x.size / max(1, samples * self.groups))
        chosen: Float64s = self.valid.reshape(samples, -1).sum(1, dtype=np.float64, keepdims=True) * together
        return chosen

    def like(self, companion: Array | None) -> Array | None:
        """An array of the batch's shape, cut as x is."""
        return None if companion is None else recut(companion, self.x.shape)


def recut(array: Array, shape: tuple[int, ...]) -> Array:
    """The first axis split in two, or one before it: NumPy makes a view of that, whatever the strides."""
    return array if array.shape == shape else array.reshape(shape)


class Normalized(NamedTuple):
    y: Array
    mean: Float64s  # g.shape
    var: Float64s
    bits: Bits | None


def normalize(
    g: Grouped,
    x: Array,
    weight: Any,
    bias: Any,
    eps: Any,
    activation: Any = None,
    negative_slope: Any = 0.0,
    residual: Any = None,
    out: Any = None,
    return_bits: bool = False,
    apart: Mapping[str, Array | None] | None = None,
    given: tuple[Float64s, Float64s] | None = None,
) -> Normalized:
    """y of the shape of x, which g.x is a view of, and the statistics; `given` ones stay as they are.

    apart: what else `out` must not touch.
    """
    channels, real = g.x.shape[g.axis], real_of(x)
    gamma, beta = as_parameter("weight", weight, channels, real), as_parameter("bias", bias, channels, real)
    added, eps = as_like("residual", residual, x), as_number("eps", eps, 0.0)
    code, slope = as_activation(activation, negative_slope, x)
    others = {"weight": gamma, "bias": beta, "mask": g.valid, **(apart or {})}
    y = output_for(out, "x", x, x.dtype, {"residual": added}, others)
    bits = new_mask(bits_shape(g), activation) if return_bits else None
    mean, var = given or (np.empty(g.shape), np.empty(g.shape))
    if x.size:
        _core.group_norm(
            g.x, g.axis, g.groups, mean.reshape(-1), var.reshape(-1), g.valid, given is not None, gamma, beta, eps,
            code, slope, g.like(added), bits, recut(y, g.x.shape),
        )  # fmt: skip
    elif given is None:
        mean[:] = var[:] = math.nan
    return Normalized(y, mean, var, bits)


def gradients(
    g: Grouped,
    x: Array,
    dy: Any,
    mean: Any,
    var: Any,
    weight: Any,
    eps: Any,
    activation: Any,
    y: Any,
    mask: Any,
    residual: bool,
    out: Any,
) -> BatchNormGradients:
    """What `normalize` did, back; mask: relu's bits."""
    channels, real = g.x.shape[g.axis], real_of(x)
    gradient, output = as_like("dy", dy, x, required=True), as_like("y", y, x)
    assert gradient is not None
    center, spread = as_statistics("mean", mean, g.shape), as_statistics("var", var, g.shape)
    gamma, eps = as_parameter("weight", weight, channels, real), as_number("eps", eps, 0.0)
    relu = as_choice("activation of the backward pass", activation, {None: 0, "relu": 1})
    check_undone(relu, output, mask)
    bits = None if mask is None else as_mask(mask, bits_shape(g))
    inputs = {"x": x, "y": output, "mask": bits, "mean": center, "var": spread, "weight": gamma}
    dx = output_for(out, "dy", gradient, x.dtype, {}, {**inputs, "statistics_mask": g.valid})
    dresidual = np.empty_like(gradient, subok=False) if residual else None
    dweight, dbias = np.zeros(channels, real), np.zeros(channels, real)
    if x.size:
        passed = g.like(output if relu else None)
        if relu and bits is not None and g.valid is not None:  # stretches of positions start at no byte
            passed, bits = unpacked(bits, g), None
        _core.group_norm_backward(
            recut(gradient, g.x.shape), g.x, g.axis, g.groups, center, spread, g.valid, False, gamma, eps, relu,
            passed, bits if relu else None, recut(dx, g.x.shape), g.like(dresidual), dweight, dbias,
        )  # fmt: skip
    return BatchNormGradients(dx, dweight, dbias, dresidual)


def as_statistics(name: str, value: Any, shape: tuple[int, ...]) -> Float64s:
    """Mean or variance of the groups, side by side."""
    array = as_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one value per sample and group, got {array.shape}")
    return np.ascontiguousarray(array, np.float64).reshape(-1)


def bits_layout(g: Grouped) -> tuple[bool, int, int, int]:
    """How relu's bits lie, which is the view of a sample: channels last or not, n, c and s."""
    sample, axis = g.x[0], g.axis - 1
    n, c, s = math.prod(sample.shape[:axis]), sample.shape[axis], math.prod(sample.shape[axis + 1 :])
    if _core.is_channels_last(sample, axis):
        return True, n * s, c, 1
    return False, *((1, c, n) if s == 1 else (n, c, s))


def bits_shape(g: Grouped) -> tuple[int, ...]:
    """Of relu's bits, each row of the view padded to whole bytes: see ncpu_group_norm."""
    if not g.x.size:
        return (0,)
    last, n, c, s = bits_layout(g)
    return (g.x.shape[0], n, -(-c // 8)) if last else (g.x.shape[0], n, c, -(-s // 8))


def unpacked(bits: Bits, g: Grouped) -> Array:
    """1 where a bit is set, else 0, as an array like g.x."""
    last, _, c, s = bits_layout(g)
    flat = np.unpackbits(bits, axis=-1, count=c if last else s, bitorder="little").astype(g.x.dtype)
    before, after = g.x.shape[: g.axis], g.x.shape[g.axis + 1 :]
    if last or math.prod(after) == 1:  # the channels behind all positions, or right behind the samples
        flat = flat if last else np.moveaxis(flat.reshape(before[0], c, s), 1, -1)
        return np.moveaxis(flat.reshape(*before, *after, c), -1, g.axis)
    return flat.reshape(g.x.shape)


def update_running(
    g: Grouped,
    made: Normalized,
    running: Mapping[str, Array | None],
    momentum: float,
    biased: bool,
    policy: int,
) -> bool:
    """running = (1 - momentum) * running + momentum * average over the samples; whether that was skipped."""
    if running["running_mean"] is None or not g.x.size:
        return False
    counts, samples = g.counts, g.x.shape[0]
    mean, var = (
        np.add.accumulate(values, axis=0)[-1] / samples  # one after the other, on every machine
        for values in (made.mean, made.var if biased else made.var * counts / (counts - 1))
    )
    double = real_of(g.x) is FLOAT64
    center, spread = running["running_mean"], running["running_var"]
    return _core.update_running(mean, var, 1.0, center, spread, double, momentum, True, policy)
