# SPDX-License-Identifier: Apache-2.0
"""group_norm and its gradients."""

from __future__ import annotations

from typing import Any, Literal, overload

from .. import _core
from .._arrays import as_array, as_image, as_int
from .._grouped import Grouped, gradients, normalize
from .._masks import as_positions
from .._types import Activation, Array, BatchNormGradients, Bits, GroupNormResult, Readable


@overload
def group_norm(
    x: Readable, num_groups: int, weight: Readable | None = ..., bias: Readable | None = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., mask: Array | None = ...,
    return_stats: Literal[False] = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def group_norm(
    x: Readable, num_groups: int, weight: Readable | None = ..., bias: Readable | None = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., mask: Array | None = ...,
    return_stats: Literal[True], return_mask: bool = ...,
) -> GroupNormResult: ...  # fmt: skip
def group_norm(
    x: Readable,
    num_groups: int,
    weight: Readable | None = None,
    bias: Readable | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
    mask: Array | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
) -> Array | GroupNormResult:
    """Group normalization: y = act((x - mean) / sqrt(var + eps) * weight + bias + residual).

    mean and (biased) variance are those of each sample's groups: the elements of c / num_groups neighbouring channels.
    A sample's result does not depend on the other samples, bit for bit; a group of one element gives exactly bias.

    x: (n, c, ...), at least 2 dimensions, of which `channel_axis` is not the first.  num_groups: divides c.
    weight, bias: (c).  activation, residual, out: see the module.
    mask: bool, the shape of x without its channel axis: which positions the statistics are taken of, at least one of
        each sample.  y is computed everywhere.
    return_stats, return_mask: return (y, mean, var, mask), the last for return_mask and "relu": where relu passed its
        argument on.  mean, var: float64 (n, num_groups), for `group_norm_backward`.

    https://arxiv.org/abs/1803.08494, https://docs.pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html

    >>> x = np.array([[1, 3, 10, 30]], np.float32)
    >>> group_norm(x, 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    if activation is None and residual is None and mask is None and not return_stats and not return_mask:
        plain = _core.group_norm_plain(x, num_groups, weight, bias, eps, channel_axis, out)
        if plain is not None:
            return plain
    array, axis = as_samples(x, channel_axis)
    groups = _as_groups(num_groups, array, axis)
    g = Grouped(array, axis, groups, as_positions(mask, array, axis, array.shape[0]))
    made = normalize(g, array, weight, bias, eps, activation, negative_slope, residual, out, return_mask)
    return GroupNormResult(*made) if return_stats or return_mask else made.y


def group_norm_backward(
    dy: Readable,
    x: Readable,
    mean: Readable,
    var: Readable,
    num_groups: int,
    weight: Readable | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: Activation | None = None,
    y: Readable | None = None,
    mask: Bits | None = None,
    statistics_mask: Array | None = None,
    residual: bool = False,
    out: Array | None = None,
) -> BatchNormGradients:
    """The gradients of `group_norm`, given that of its result, dy.

    With inv = 1 / sqrt(var + eps), g = dy where the forward's relu passed, else 0, and means over the sample's group:

        dbias = sum(g)      dweight = sum(g * (x - mean) * inv)      dresidual = g
        dx = inv * (g * weight - average(g * weight) - (x - mean) * inv^2 * average(g * weight * (x - mean)))

    dy: of the shape and dtype of x.  mean, var: (n, num_groups), as return_stats gives them.
    activation: None or "relu", which is undone from y, the forward's output, or from `mask` (return_mask): give one.
    statistics_mask: the forward's `mask`; sums are then divided by how many elements it chose, and the last two terms
        are for those alone.
    residual: whether to return dresidual.  out: for dx; it may be dy itself.

    Returns dx and dresidual (shape and dtype of x), dweight and dbias (c) in float32, for float64 x in float64.

    >>> x = np.array([[1, 3, 10, 30]], np.float32)
    >>> y, mean, var, _ = group_norm(x, 2, return_stats=True)
    >>> group_norm_backward(np.ones_like(x), x, mean, var, 2).dx
    array([[0., 0., 0., 0.]], dtype=float32)
    """
    array, axis = as_samples(x, channel_axis)
    groups = _as_groups(num_groups, array, axis)
    g = Grouped(array, axis, groups, as_positions(statistics_mask, array, axis, array.shape[0], name="statistics_mask"))
    return gradients(g, array, dy, mean, var, weight, eps, activation, y, mask, residual, out)


def as_samples(x: Any, channel_axis: Any) -> tuple[Array, int]:
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    if axis == 0:
        raise ValueError(f"channel_axis must not be the axis of samples, 0, got {channel_axis}")
    return array, axis


def _as_groups(num_groups: Any, x: Array, axis: int) -> int:
    groups = as_int("num_groups", num_groups)
    if groups < 1 or x.shape[axis] % groups:
        raise ValueError(f"num_groups must divide the {x.shape[axis]} channels of x, got {groups}")
    return groups
