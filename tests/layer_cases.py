# SPDX-License-Identifier: Apache-2.0
"""What the tests of layers share: kinds and shapes, random data, the formula."""

from __future__ import annotations

import numpy as np

from normcpu.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d

LAYERS = [
    (BatchNorm1d, (6, 3)),
    (BatchNorm1d, (4, 3, 5)),
    (BatchNorm2d, (2, 3, 4, 5)),
    (BatchNorm3d, (2, 3, 2, 3, 4)),
]
# Of results of order one, per dtype of the data: a few units in the last place.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}


def draw(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 3 + 1).astype(dtype)


def per_channel(x, axis=1):
    """x as (values, c) in float64."""
    return np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis])


def normalized(x, mean, var, weight, bias, eps, axis=1):
    """The formula, in float64."""
    columns = np.moveaxis(x.astype(np.float64), axis, -1)
    return np.moveaxis((columns - mean) / np.sqrt(var + eps) * weight + bias, -1, axis)


def with_parameters(layer, seed=1):
    rng = np.random.default_rng(seed)
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            getattr(layer, name)[...] = rng.normal(size=layer.num_features)
    return layer


def buffers(layer):
    """The bits of what a training step may change."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [getattr(layer, name).tobytes() for name in names if getattr(layer, name) is not None]
