# SPDX-License-Identifier: Apache-2.0
"""instance_norm and its gradients."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from .. import _core
from .._arrays import NONFINITE, as_choice, as_number, as_running, check_apart, real_of
from .._grouped import Grouped, gradients, normalize, update_running
from .._masks import as_positions
from .._types import Activation, Array, BatchNormGradients, BatchNormResult, Bits, NonFinite, Readable
from .batch import batch_norm
from .groups import as_samples


@overload
def instance_norm(
    x: Readable, running_mean: Readable | None = ..., running_var: Readable | None = ..., weight: Readable | None = ...,
    bias: Readable | None = ..., use_input_stats: bool = ..., momentum: float = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., mask: Array | None = ..., nonfinite: NonFinite = ...,
    biased: bool = ..., return_stats: Literal[False] = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def instance_norm(
    x: Readable, running_mean: Readable | None = ..., running_var: Readable | None = ..., weight: Readable | None = ...,
    bias: Readable | None = ..., use_input_stats: bool = ..., momentum: float = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., mask: Array | None = ..., nonfinite: NonFinite = ...,
    biased: bool = ..., return_stats: Literal[True], return_mask: bool = ...,
) -> BatchNormResult: ...  # fmt: skip
def instance_norm(
    x: Readable,
    running_mean: Readable | None = None,
    running_var: Readable | None = None,
    weight: Readable | None = None,
    bias: Readable | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
    mask: Array | None = None,
    nonfinite: NonFinite = "propagate",
    biased: bool = False,
    return_stats: bool = False,
    return_mask: bool = False,
) -> Array | BatchNormResult:
    """Instance normalization: y = act((x - mean) / sqrt(var + eps) * weight + bias + residual).

    With use_input_stats, mean and (biased) variance are those of each sample's channel, and the running statistics,
    if given, become (1 - momentum) * running + momentum * average over the samples: in place, last of all, every
    channel or none.  The variance tracked is the unbiased one, with `biased` the biased one.  Otherwise mean and
    variance are the running ones, as in `batch_norm`.

    x: (n, c, ...), at least 2 dimensions, of which `channel_axis` is not the first.  mask: see `group_norm`.
    running_mean, running_var, weight, bias, nonfinite, return_stats, return_mask: as in `batch_norm`; with
    use_input_stats the result's mean and var have the shape (n, c).  One position alone has no variance: ValueError,
    and for one that `mask` leaves where running_var is to follow the unbiased variance.

    https://arxiv.org/abs/1607.08022, https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html

    >>> x = np.array([[[1, 3], [10, 30]]], np.float32)
    >>> instance_norm(x, eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    if (
        running_mean is None and running_var is None and use_input_stats and activation is None and residual is None
        and mask is None and not return_stats and not return_mask and momentum == 0.1 and nonfinite == "propagate"
    ):  # fmt: skip
        plain = _core.group_norm_plain(x, None, weight, bias, eps, channel_axis, out)
        if plain is not None:
            return plain
    array, axis = as_samples(x, channel_axis)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together, got one of them")
    if not use_input_stats:
        if mask is not None:
            raise ValueError("mask must be None where use_input_stats is False, got an array")
        if running_mean is None:
            raise ValueError("running_mean and running_var must be arrays unless use_input_stats, got None")
        asked: dict[str, Any] = {"return_stats": return_stats, "return_mask": return_mask}
        given: Array | BatchNormResult = batch_norm(
            array, running_mean, running_var, weight, bias, eps=eps, channel_axis=axis, activation=activation,
            negative_slope=negative_slope, residual=residual, out=out, **asked,
        )  # fmt: skip
        return given
    channels, real = array.shape[axis], real_of(array)
    if array.size and math.prod(array.shape) == array.shape[0] * channels:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {array.shape}")
    momentum = as_number("momentum", momentum)
    policy = as_choice("nonfinite", nonfinite, NONFINITE)
    running = {
        "running_mean": as_running("running_mean", running_mean, channels, real),
        "running_var": as_running("running_var", running_var, channels, real),
    }
    inputs = {"x": array, "weight": weight, "bias": bias, "residual": residual, "mask": mask, **running}
    if running_mean is not None:
        check_apart(tuple(running), {name: a for name, a in inputs.items() if isinstance(a, np.ndarray)})
    g = Grouped(array, axis, channels, as_positions(mask, array, axis, array.shape[0]))
    if running_mean is not None and not biased and mask is not None and array.size and (g.counts == 1).any():
        raise ValueError("mask must leave each sample 2 positions where running_var is unbiased, got 1 in a sample")
    made = normalize(g, array, weight, bias, eps, activation, negative_slope, residual, out, return_mask, running)
    skipped = update_running(g, made, running, momentum, biased, policy)
    return BatchNormResult(*made, skipped) if return_stats or return_mask else made.y


def instance_norm_backward(
    dy: Readable,
    x: Readable,
    mean: Readable,
    var: Readable,
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
    """The gradients of `instance_norm` with use_input_stats, given that of its result, dy.

    `group_norm_backward` with one channel in each group: mean, var (n, c).  Where the statistics were the running ones
    the gradients are those of `batch_norm_backward` with training=False.

    >>> x = np.array([[[1, 3], [10, 30]]], np.float32)
    >>> y, mean, var, *_ = instance_norm(x, return_stats=True)
    >>> instance_norm_backward(np.ones_like(x), x, mean, var).dbias
    array([2., 2.], dtype=float32)
    """
    array, axis = as_samples(x, channel_axis)
    g = Grouped(
        array,
        axis,
        array.shape[axis],
        as_positions(statistics_mask, array, axis, array.shape[0], name="statistics_mask"),
    )
    return gradients(g, array, dy, mean, var, weight, eps, activation, y, mask, residual, out)
