# SPDX-License-Identifier: Apache-2.0
"""An affine into the linear layer before it or behind it, and the mean that LayerNorm would subtract.

As in `convolution`, but weight has two axes in either order: (o, i), as PyTorch's Linear and Gemm with transB have it,
or with `transposed` (i, o), as MatMul and Gemm have it.  The affine belongs to the last axis of the activation: the
output's for `linear_then_affine`, the input's for `affine_then_linear`.
"""

from __future__ import annotations

import numpy as np

from .._arrays import FLOAT64
from .._sums import tree_sums
from .._types import Array, Float64s, Readable
from ._scale import Part, stored, weighted_sums
from ._weights import Destination, Out, Weights, as_bias, as_weight, doubles
from .affine import Affine, as_affine


def linear_then_affine(
    weight: Readable, bias: Readable | None, affine: Affine, *, transposed: bool = False, out: Out | None = None
) -> Weights:
    """s (W x + b) + t = (s W) x + (s b + t), per output.

    >>> w, b = linear_then_affine(np.eye(2, dtype=np.float32), None, Affine.of([2, 3], [0, 1]))
    >>> w.ravel(), b
    (array([2., 0., 0., 3.], dtype=float32), array([0., 1.], dtype=float32))
    """
    w, axis = _matrix(weight, transposed)
    channels = w.shape[axis]
    b, (scale, shift) = as_bias(bias, channels, w), as_affine("affine", affine, channels)
    to = Destination(out, w, b, channels)
    return to.write([Part(w, to.y, scale, axis)], scaled_bias(b, scale, shift))


def affine_then_linear(
    affine: Affine, weight: Readable, bias: Readable | None, *, transposed: bool = False, out: Out | None = None
) -> Weights:
    """W (s x + t) + b = (W s) x + (b + W t), per input.

    The affine may be the weight and bias of a LayerNorm, an RMSNorm or a GroupNorm in front: fold it into every reader
    (Q, K and V) and leave the norm weight 1 and bias 0.

    >>> w, b = affine_then_linear(Affine.of([2, 3], [1, 1]), np.ones((1, 2), np.float32), None)
    >>> w, b
    (array([[2., 3.]], dtype=float32), array([2.], dtype=float32))
    """
    w, axis = _matrix(weight, transposed)
    channels = w.shape[axis]
    b, (scale, shift) = as_bias(bias, channels, w), as_affine("affine", affine, w.shape[1 - axis])
    sums = None
    if b is not None or shift.any():
        with np.errstate(over="ignore", invalid="ignore"):
            sums = doubles(b, channels) + weighted_sums(w.T if transposed else w, shift)
    to = Destination(out, w, b, channels)
    return to.write([Part(w, to.y, scale, 1 - axis)], sums)


def centre_linear(weight: Readable, bias: Readable | None, *, transposed: bool = False) -> Weights:
    """W' = W - (mean of W over its outputs), b' = b - mean(b): y - mean(y) = W' x + b' for y = W x + b.

    A LayerNorm behind it is then an RMSNorm, LN(W x + b) = RMS(W' x + b'): https://arxiv.org/abs/2404.02447, and
    https://arxiv.org/abs/2401.15024 for whole residual streams, which need every writer centred.

    >>> centre_linear(np.array([[1.0], [3.0]]), None).weight
    array([[-1.],
           [ 1.]])
    """
    w, axis = _matrix(weight, transposed)
    b = as_bias(bias, w.shape[axis], w)
    rows = w if transposed else w.T  # (i, o)
    with np.errstate(over="ignore", invalid="ignore"):
        means = weighted_sums(rows, np.ones(rows.shape[1])) / max(1, rows.shape[1])
        centred = w.astype(FLOAT64) - (means[:, None] if transposed else means)
        made = stored("weight minus its mean", centred, w.dtype)
        if b is None:
            return Weights(made, None)
        mean = tree_sums(b.astype(FLOAT64)[None])[0] / max(1, b.size)
        return Weights(made, stored("bias minus its mean", b.astype(FLOAT64) - mean, b.dtype))


def scaled_bias(bias: Array | None, scale: Float64s, shift: Float64s) -> Float64s | None:
    """s b + t."""
    if bias is None and not shift.any():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return doubles(bias, scale.size) * scale + shift


def _matrix(weight: Readable, transposed: bool) -> tuple[Array, int]:
    """weight, and its axis of outputs."""
    return as_weight(weight, 2, 2, "(i, o)" if transposed else "(o, i)"), int(bool(transposed))
