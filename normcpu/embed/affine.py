# SPDX-License-Identifier: Apache-2.0
"""Frozen BatchNorm: y = act(x * scale + shift + residual) for each channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._arrays import FLOAT32
from .._types import Array
from ..fold import Affine
from ..fold._scale import stored
from ..fold.affine import as_affine
from ..frozen import FrozenBatchNorm
from ..layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .activations import ROUNDING, Activation, activation_of
from .parts import Part, Shape, assign, check_layer, nest, part_of


class AffinePart(Part):
    """x seen as (outer, c, inner); scale and shift (c)."""

    in_place = True

    def __init__(
        self, kind: str, affine: Affine, shape: Shape, axis: int, residual: bool, activation: Activation
    ) -> None:
        self.kind, self.shape, self.out_shape = kind, shape, shape
        self.axis, self.view = axis, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        self.residual, self.activation, self.helpers = residual, activation, activation.helpers
        self.bound = "|error| <= 2^-23 (|x * scale| + |shift|)"
        self.bound += " + 2^-24 |the sum with residual|" if residual else ""
        self.bound += ", before the activation." if activation.statement else "."
        self.constants = {
            "scale": stored("scale", affine.scale, FLOAT32),
            "shift": stored("shift", affine.shift, FLOAT32),
        }

    def body(self, names: Mapping[str, str]) -> str:
        value = f"*x++ * {names['scale']}[c] + {names['shift']}[c]{' + *residual++' if self.residual else ''}"
        loops = zip(("n", "c", "i"), self.view, strict=True)
        return nest(list(loops), assign("*y++", value, self.activation))

    def reference(self, x: Array, residual: Array | None = None) -> Array:
        v = x * self._column("scale") + self._column("shift")
        return self.activation.reference(v if residual is None else v + residual)

    def error(self, x: Array, residual: Array | None = None, of_x: Array | float = 0.0) -> Array:
        x, scale, shift = (a.astype(np.float64) for a in (x, self._column("scale"), self._column("shift")))
        of_v = (np.abs(x * scale) + np.abs(shift)) * 2 * ROUNDING + np.abs(scale) * of_x
        if residual is not None:
            of_v += np.abs(x * scale + shift + residual) * ROUNDING
        return self.activation.error(self.reference(x.astype(np.float32), residual), of_v)

    def _column(self, role: str) -> Array:
        """Broadcasting against x."""
        return self.constants[role].reshape(-1, *(1,) * (len(self.shape) - 1 - self.axis))


@part_of.register
def _affine(layer: Affine, shape: Shape, residual: bool) -> Part:
    if len(shape) < 2:
        raise ValueError(f"shape must have channels on axis 1 for an Affine, got {shape}")
    return AffinePart("affine", as_affine("layer", layer, shape[1]), shape, 1, residual, activation_of(None))


@part_of.register(FrozenBatchNorm)
@part_of.register(BatchNorm1d)
@part_of.register(BatchNorm2d)
@part_of.register(BatchNorm3d)
def _batch_norm(layer: Any, shape: Shape, residual: bool) -> Part:
    return affine_part("batch_norm", layer, shape, residual)


def affine_part(kind: str, layer: Any, shape: Shape, residual: bool) -> Part:
    """A layer that has running statistics, in evaluation."""
    check_layer(layer, shape)
    if layer.running_mean is None:
        raise ValueError("layer must have running statistics, got track_running_stats=False")
    affine = Affine.of_batch_norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)
    axis = layer.channel_axis
    if axis > 0 and len(shape) < getattr(layer, "_ndim", 0):  # InstanceNorm of one sample, without an axis of them
        axis -= 1
    return AffinePart(
        kind, affine, shape, axis % len(shape), residual, activation_of(layer.activation, layer.negative_slope)
    )
