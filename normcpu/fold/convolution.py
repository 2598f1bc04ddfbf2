# SPDX-License-Identifier: Apache-2.0
"""An affine into the convolution before it or behind it: 1, 2 or 3 spatial axes, grouped, depthwise, transposed.

Names are read in the order of computation: `conv_then_affine` is affine(conv(x)).  Everywhere:

    weight      float32, float64, float16 or bfloat16, any strides; products in float64, rounded once to its dtype
    bias        (o) of any float dtype, which it keeps, or None
    affine      an Affine, or (scale, shift)
    out         None for new arrays, or a tuple (weight, bias) of ndarrays, which may be the arguments themselves: these
                change both, or where something is refused not at all
    FoldError   a result overflows, is not finite, or would lose digits as in `scale_axis`; names the channel

Stride, dilation, and unless a function speaks of them pads, play no part.  weight (o, i/g, *k), for transposed
convolutions (i, o/g, *k), g = groups, *k the kernel, as in PyTorch and ONNX.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._types import Array, Float64s, Readable
from ._scale import FoldError, Part, grouped, weighted_sums
from ._weights import Destination, Out, Weights, as_bias, as_groups, as_weight, doubles
from .affine import Affine, as_affine
from .linear import scaled_bias

CONV, TRANSPOSED = "(o, i/groups, *kernel)", "(i, o/groups, *kernel)"


def conv_then_affine(weight: Readable, bias: Readable | None, affine: Affine, *, out: Out | None = None) -> Weights:
    """s * (W * x + b) + t = (s W) * x + (s b + t), per output channel; any groups, pads, stride and dilation.

    https://arxiv.org/abs/1712.05877, 3.2; torch.nn.utils.fusion.fuse_conv_bn_weights.

    >>> w, b = conv_then_affine(np.ones((2, 1, 1, 1), np.float32), None, Affine.of([2, 3], [0, 1]))
    >>> w.ravel(), b
    (array([2., 3.], dtype=float32), array([0., 1.], dtype=float32))
    """
    w = as_weight(weight, 3, 5, CONV)
    b, (scale, shift) = as_bias(bias, len(w), w), as_affine("affine", affine, len(w))
    to = Destination(out, w, b, len(w))
    return to.write([Part(w, to.y, scale, 0)], scaled_bias(b, scale, shift))


def conv_transpose_then_affine(
    weight: Readable, bias: Readable | None, affine: Affine, *, groups: int = 1, out: Out | None = None
) -> Weights:
    """The same for a transposed convolution: W viewed as (g, i/g, o/g, *k), times s viewed as (g, 1, o/g).

    >>> w = np.ones((4, 1, 1), np.float32)  # 4 channels in 2 groups, to 2 channels
    >>> conv_transpose_then_affine(w, None, Affine.of([2, 3]), groups=2).weight.ravel()
    array([2., 2., 3., 3.], dtype=float32)
    """
    w = as_weight(weight, 3, 5, TRANSPOSED)
    groups = as_groups(groups, len(w), "input")
    channels = w.shape[1] * groups
    b, (scale, shift) = as_bias(bias, channels, w), as_affine("affine", affine, channels)
    to = Destination(out, w, b, channels)
    return to.write(grouped(w, to.y, scale, groups), scaled_bias(b, scale, shift))


def affine_then_conv(
    affine: Affine, weight: Readable, bias: Readable | None, *, groups: int = 1, out: Out | None = None
) -> Weights:
    """W * (s x + t) + b = (W s) * x + (b + sum over i, k of W t), for a convolution without pads.

    The affine has one channel per input channel.  With zero pads use `affine_then_padded_conv`; pads that copy values
    (reflect, edge, wrap) are fine here.

    >>> w, b = affine_then_conv(Affine.of([2, 3], [1, 1]), np.ones((1, 2, 1, 1), np.float32), None)
    >>> w.ravel(), b
    (array([2., 3.], dtype=float32), array([2.], dtype=float32))
    """
    w, b, scale, shift, groups = _forward(affine, weight, bias, groups)
    to = Destination(out, w, b, len(w))
    return to.write(grouped(w, to.y, scale, groups), _bias_behind(w, b, shift, groups))


class PaddedWeights(NamedTuple):
    """y = conv(x + shift), zero pads as before, weight and bias; or, the same numbers without an addition:
    y = conv(pad(x, -shift)), the pads filled with a value per channel beforehand, weight and pad_bias."""

    weight: Array
    bias: Array | None
    shift: Float64s  # (i), what must stay in front; all zero: nothing
    pad_bias: Array | None  # None: there is no such form


def affine_then_padded_conv(
    affine: Affine, weight: Readable, bias: Readable | None, *, groups: int = 1
) -> PaddedWeights:
    """W * pad0(s x + t) + b = (W s) * pad0(x + t/s) + b = (W s) * pad_{-t/s}(x) + (b + sum over i, k of W t).

    Zero pads let a scale pass but not a shift: 0 is not s 0 + t.  FoldError where s is 0 and t is not.

    >>> folded = affine_then_padded_conv(Affine.of([2], [1]), np.ones((1, 1, 3), np.float32), None)
    >>> folded.weight.ravel(), folded.bias, folded.shift, folded.pad_bias
    (array([2., 2., 2.], dtype=float32), None, array([0.5]), array([3.], dtype=float32))
    """
    w, b, scale, shift, groups = _forward(affine, weight, bias, groups)
    before = _shift_before(scale, shift)
    to = Destination(None, w, b, len(w))
    made = to.write(grouped(w, to.y, scale, groups), _bias_behind(w, b, shift, groups))
    return PaddedWeights(made.weight, None if b is None else b.copy(), before, made.bias)


def affine_then_conv_transpose(
    affine: Affine, weight: Readable, bias: Readable | None, *, groups: int = 1
) -> PaddedWeights:
    """The same for a transposed convolution: W(s x + t) + b = (W s)(x + t/s) + b, per input channel.

    How many inputs meet in an output differs at its edges and between its phases, so no bias holds what t adds:
    `shift` stays in front, and pad_bias is None.  FoldError where s is 0 and t is not.

    >>> affine_then_conv_transpose(Affine.of([2], [1]), np.ones((1, 1, 3), np.float32), None).shift
    array([0.5])
    """
    w = as_weight(weight, 3, 5, TRANSPOSED)
    b = as_bias(bias, w.shape[1] * as_groups(groups, len(w), "input"), w)
    scale, shift = as_affine("affine", affine, len(w))
    before = _shift_before(scale, shift)
    to = Destination(None, w, None, 0)
    made = to.write([Part(w, to.y, scale, 0)], None)
    return PaddedWeights(made.weight, None if b is None else b.copy(), before, None)


def _forward(
    affine: Affine, weight: Readable, bias: Readable | None, groups: int
) -> tuple[Array, Array | None, Float64s, Float64s, int]:
    w = as_weight(weight, 3, 5, CONV)
    groups = as_groups(groups, len(w), "output")
    scale, shift = as_affine("affine", affine, w.shape[1] * groups)
    return w, as_bias(bias, len(w), w), scale, shift, groups


def _bias_behind(weight: Array, bias: Array | None, shift: Float64s, groups: int) -> Float64s | None:
    """bias + sum over i, k of W t, (o)."""
    if bias is None and not shift.any():
        return None
    rows, own = len(weight) // groups, weight.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        if own == 1:
            return doubles(bias, len(weight)) + weighted_sums(weight, np.ones(1)) * np.repeat(shift, rows)
        sums = [weighted_sums(weight[g * rows : (g + 1) * rows], shift[g * own : (g + 1) * own]) for g in range(groups)]
        return doubles(bias, len(weight)) + np.concatenate(sums)


def _shift_before(scale: Float64s, shift: Float64s) -> Float64s:
    """t/s, 0 where t is 0."""
    with np.errstate(over="ignore", divide="ignore"):
        before = np.divide(shift, scale, out=np.zeros_like(shift), where=shift != 0)
    for c in np.flatnonzero(~np.isfinite(before)).tolist():
        raise FoldError(f"shift / scale must be finite, got {shift[c]:.6g} / {scale[c]:.6g} in channel {c}", c)
    return before
