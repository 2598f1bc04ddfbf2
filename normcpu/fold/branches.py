# SPDX-License-Identifier: Apache-2.0
"""Parallel branches, an identity with its BatchNorm among them, and convolutions in a row, as one convolution:
RepVGG (https://arxiv.org/abs/2101.03697), MobileOne (https://arxiv.org/abs/2206.04040), and
https://arxiv.org/abs/2103.13425.  weight, bias and refusals are those of `convolution`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._arrays import FLOAT64
from .._sums import tree_sums
from .._types import Array, Float64s, Readable
from ._scale import stored
from ._weights import Weights, as_bias, as_groups, as_weight, doubles
from .affine import Affine, as_affine

SHAPE = "(o, i/groups, *kernel)"


class Branch(NamedTuple):
    """affine(conv(x)), of an affine alone affine(x), of nothing x itself."""

    weight: Readable | None = None
    bias: Readable | None = None
    affine: Affine | None = None


def identity_conv(channels: int, groups: int = 1, spatial: int = 2, dtype: Any = np.float32) -> Array:
    """The weight (channels, channels/groups, 1, ...) of a convolution that changes nothing.

    >>> identity_conv(2, spatial=1).ravel()
    array([1., 0., 0., 1.], dtype=float32)
    """
    own = channels // as_groups(groups, channels, "input")
    weight = np.zeros((channels, own, *[1] * spatial), dtype)
    at = np.arange(channels)
    weight[at, at % own] = 1
    return weight


def average_pool_conv(channels: int, kernel: Sequence[int], groups: int = 1, dtype: Any = np.float32) -> Array:
    """The weight of a convolution that is an average pool with this kernel: 1 / prod(kernel) on the diagonal.  Without
    pads, or with zero pads that count.

    >>> average_pool_conv(1, (2, 2)).ravel()
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    taps = np.ones(tuple(kernel), np.float64) / np.prod(kernel)
    centre = identity_conv(channels, groups, len(kernel), FLOAT64)
    return stored("1 / prod(kernel)", centre * taps, np.dtype(dtype))


def parallel_convs(branches: Sequence[Branch], *, groups: int = 1) -> Weights:
    """sum_j (s_j (W_j * x + b_j) + t_j) = (sum_j s_j W_j) * x + sum_j (s_j b_j + t_j), smaller kernels padded to the
    largest with zeros; a branch without weight is W[c, c mod i/g, centre] = 1.  Summed in float64, rounded once.

    The convolutions must have the same stride, dilation d and groups, stride 1 where one has no weight; each kernel k
    must be centred like the largest, that is, its pads smaller by d (largest - k) / 2, a whole number.

    At least one branch has a weight; the result has the shape of the largest and the dtype of the first.

    >>> w, b = parallel_convs([Branch(np.ones((1, 1, 3), np.float32)), Branch(affine=Affine.of([2], [1]))])
    >>> w.ravel(), b
    (array([1., 3., 1.], dtype=float32), array([1.], dtype=float32))
    """
    convs = [as_weight(branch.weight, 3, 5, SHAPE) for branch in branches if branch.weight is not None]
    if not convs:
        raise ValueError(f"branches must hold at least one with a weight, got {len(branches)} without")
    first = convs[0]
    for w in convs:
        if w.ndim != first.ndim or w.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"branches must have weights of one shape but for the kernel, got {first.shape} and {w.shape}"
            )
    channels = len(first)
    groups = as_groups(groups, channels, "output")
    total = np.zeros((*first.shape[:2], *np.max([w.shape[2:] for w in convs], axis=0)))
    shift, biases = np.zeros(channels), [as_bias(branch.bias, channels, first) for branch in branches]
    for j, (branch, bias) in enumerate(zip(branches, biases, strict=True)):
        name = f"branches[{j}]"
        own = _identity(name, total, groups) if branch.weight is None else as_weight(branch.weight, 3, 5, SHAPE)
        affine = Affine.of(np.ones(channels)) if branch.affine is None else branch.affine
        scale, added = as_affine(f"{name}.affine", affine, channels)
        with np.errstate(over="ignore", invalid="ignore"):
            total[_centred(name, own, total)] += own.astype(FLOAT64) * scale.reshape(-1, *[1] * (own.ndim - 1))
            shift += doubles(bias, channels) * scale + added
    weight = stored("weight", total, first.dtype, digits=True)
    if all(bias is None for bias in biases) and not shift.any():
        return Weights(weight, None)
    return Weights(weight, stored("bias", shift, next((b.dtype for b in biases if b is not None), first.dtype)))


def _identity(name: str, total: Float64s, groups: int) -> Float64s:
    channels, inputs = len(total), total.shape[1] * groups
    if inputs != channels:
        raise ValueError(f"{name} must have a weight where {inputs} channels become {channels}, got None")
    return identity_conv(channels, groups, total.ndim - 2, FLOAT64)


def _centred(name: str, weight: Array, total: Float64s) -> tuple[slice, ...]:
    """Where weight's kernel lies in the largest."""
    place = [slice(None), slice(None)]
    for large, small in zip(total.shape[2:], weight.shape[2:], strict=True):
        if (large - small) % 2:
            expected = f"smaller by even numbers than {total.shape[2:]}"
            raise ValueError(f"{name}.weight must have a kernel {expected}, got {weight.shape[2:]}")
        place.append(slice((large - small) // 2, (large + small) // 2))
    return tuple(place)


def pointwise_then_conv(
    first: Readable, first_bias: Readable | None, weight: Readable, bias: Readable | None
) -> Weights:
    """W2 * (W1 x + b1) + b2 = (W2 W1) * x + (b2 + sum over m, k of W2 b1), W1 a 1x1 convolution, both of one group.

    first: (m, i, 1, ...).  weight: (o, m, *kernel), without pads unless first_bias is None.  The result is (o, i,
    *kernel): more multiplications than before where m is small.

    >>> first, second = np.full((1, 2, 1), 2.0), np.ones((1, 1, 3))
    >>> pointwise_then_conv(first, None, second, None).weight.ravel()
    array([2., 2., 2., 2., 2., 2.])
    """
    w2 = as_weight(weight, 3, 5, "(o, m, *kernel)")
    w1 = as_weight(first, w2.ndim, w2.ndim, f"(m, i{', 1' * (w2.ndim - 2)})")
    if w1.shape[0] != w2.shape[1] or w1.shape[2:] != (1,) * (w2.ndim - 2):
        expected = (w2.shape[1], w1.shape[1], *[1] * (w2.ndim - 2))
        raise ValueError(f"first must have shape {expected} for weight {w2.shape}, got {w1.shape}")
    b1, b2 = as_bias(first_bias, len(w1), w1), as_bias(bias, len(w2), w2)
    wide = w2.astype(FLOAT64)
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.tensordot(wide, w1.astype(FLOAT64).reshape(w1.shape[:2]), axes=(1, 0))  # (o, *kernel, i)
        made = stored("weight", np.moveaxis(product, -1, 1), w2.dtype, digits=True)
        if b1 is None:
            return Weights(made, None if b2 is None else b2.copy())
        added = tree_sums((wide * b1.astype(FLOAT64).reshape(-1, *[1] * (w2.ndim - 2))).reshape(len(w2), -1))
        return Weights(made, stored("bias", doubles(b2, len(w2)) + added, w2.dtype if b2 is None else b2.dtype))
