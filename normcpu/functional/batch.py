# SPDX-License-Identifier: Apache-2.0
"""batch_norm and its gradients."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from .. import _core
from .._arrays import (
    FLOAT64,
    NONFINITE,
    SINGLE_VALUE,
    as_activation,
    as_array,
    as_choice,
    as_image,
    as_like,
    as_number,
    as_parameter,
    as_running,
    check_apart,
    output_for,
    real_of,
)
from .._masks import as_mask, check_undone, mask_shape, new_mask
from .._types import (
    Activation,
    Array,
    BatchNormGradients,
    BatchNormResult,
    Bits,
    NonFinite,
    Readable,
    SingleValue,
)
from .parts import as_batch_size, back, cut, train


@overload
def batch_norm(
    x: Readable, running_mean: Readable | None, running_var: Readable | None, weight: Readable | None = ...,
    bias: Readable | None = ..., training: bool = ..., momentum: float = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., nonfinite: NonFinite = ...,
    single_value: SingleValue = ..., biased: bool = ..., mask: Array | None = ...,
    virtual_batch_size: int | None = ..., return_stats: Literal[False] = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def batch_norm(
    x: Readable, running_mean: Readable | None, running_var: Readable | None, weight: Readable | None = ...,
    bias: Readable | None = ..., training: bool = ..., momentum: float = ..., eps: float = ..., *,
    channel_axis: int = ..., activation: Activation | None = ..., negative_slope: float = ...,
    residual: Readable | None = ..., out: Array | None = ..., nonfinite: NonFinite = ...,
    single_value: SingleValue = ..., biased: bool = ..., mask: Array | None = ...,
    virtual_batch_size: int | None = ..., return_stats: Literal[True], return_mask: bool = ...,
) -> BatchNormResult: ...  # fmt: skip
def batch_norm(
    x: Readable,
    running_mean: Readable | None,
    running_var: Readable | None,
    weight: Readable | None = None,
    bias: Readable | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
    nonfinite: NonFinite = "propagate",
    single_value: SingleValue = "raise",
    biased: bool = False,
    mask: Array | None = None,
    virtual_batch_size: int | None = None,
    return_stats: bool = False,
    return_mask: bool = False,
) -> Array | BatchNormResult:
    """Batch normalization: y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), for each channel.

    In training, mean and (biased) variance are those of x over all axes but `channel_axis`, and the running
    statistics, if given, become (1 - momentum) * running + momentum * batch: in place, last of all, every channel or
    none.  What is tracked is the unbiased variance, with `biased` the biased one.  Otherwise mean and variance are the
    running ones.

    x: (n, c, ...), at least 2 dimensions.  running_mean, running_var: (c); those to be updated are contiguous
    writeable float32 ndarrays (float64 for float64 x).  weight, bias, activation, residual, out: see the module.
    nonfinite: what a running statistic does that would become NaN, infinite or too large: "propagate", "skip" (all
        of them stay as they were, and the result's `skipped` is True) or "raise" (FloatingPointError).
    single_value: training with one value per channel, which has no variance: "raise", "zero" (var = 0, no update) or
        "running" (mean and variance are the running ones, no update).  No value at all: y is empty, no update.
    mask: bool, the shape of x without its channel axis: which positions the batch's statistics are taken of.  y is
        computed everywhere.
    virtual_batch_size: ghost batch normalization: every so many samples, which must divide n, have statistics of their
        own in training, and the running ones follow the average of them.  https://arxiv.org/abs/1705.08741
    return_stats, return_mask: return (y, mean, var, mask, skipped), the mask only for return_mask and "relu"; with
        ghost batches mean and var have the shape (ghost batches, c).

    https://arxiv.org/abs/1502.03167, https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html

    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> batch_norm(x, None, None, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """
    if (
        not training and activation is None and residual is None and not return_stats and not return_mask
        and nonfinite == "propagate" and single_value == "raise" and mask is None and virtual_batch_size is None
    ):  # fmt: skip
        plain = _core.batch_norm_plain(x, running_mean, running_var, weight, bias, eps, channel_axis, out)
        if plain is not None:
            return plain
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    channels, real = array.shape[axis], real_of(array)
    eps, momentum = as_number("eps", eps, 0.0), as_number("momentum", momentum) if training else 0.0
    policy, _ = as_choice("nonfinite", nonfinite, NONFINITE), as_choice("single_value", single_value, SINGLE_VALUE)
    gamma, beta = as_parameter("weight", weight, channels, real), as_parameter("bias", bias, channels, real)
    added = as_like("residual", residual, array)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together, got one of them")
    given = as_batch_size(virtual_batch_size)
    ghosts = given if training else None  # which evaluation does not know of
    g = cut(array, axis, mask, ghosts) if mask is not None or ghosts is not None else None
    fewest = 2  # values of a channel
    if training and array.size:
        fewest = int(g.counts.min()) if g else array.size // channels
    if fewest < 2:
        which = f"input size {array.shape}" + (", of which mask or virtual_batch_size leaves 1" if g else "")
        training, running_mean, running_var = _without_variance(single_value, which, running_mean, running_var)
    if not training and running_mean is None:
        where = "unless in training" if fewest > 1 else "for single_value='running'"
        raise ValueError(f"running_mean and running_var must be arrays {where}, got None")
    if training and g:
        options = {
            "weight": gamma, "bias": beta, "eps": eps, "activation": activation, "negative_slope": negative_slope,
            "residual": added, "out": out,
        }  # fmt: skip
        running = {"running_mean": running_mean, "running_var": running_var}
        made = train(g, array, running, momentum, bool(biased), nonfinite, options, return_mask, ghosts is not None)
        return made if return_stats or return_mask else made.y
    as_statistics = as_running if training else as_parameter
    center = as_statistics("running_mean", running_mean, channels, real)
    spread = as_statistics("running_var", running_var, channels, real)
    parameters = {"weight": gamma, "bias": beta, "running_mean": center, "running_var": spread}
    y = output_for(out, "x", array, array.dtype, {"residual": added}, parameters)
    bits = new_mask(mask_shape(array, axis), activation) if return_mask else None
    epilogue = *as_activation(activation, negative_slope, array), added, bits

    if not training:
        if array.size:
            _core.batch_norm(array, axis, center, spread, gamma, beta, eps, *epilogue, y)
        if not (return_stats or return_mask):
            return y
        assert center is not None
        assert spread is not None
        return BatchNormResult(y, center.astype(FLOAT64), spread.astype(FLOAT64), bits, False)
    check_apart(("running_mean", "running_var"), {"x": array, "residual": added, **parameters})
    mean, var, skipped = np.empty(channels), np.empty(channels), False
    if not array.size:
        mean[:] = var[:] = math.nan
    else:
        skipped = _core.batch_norm_train(
            array, axis, gamma, beta, eps, *epilogue, y, mean, var, center, spread, momentum, bool(biased), policy
        )
    return BatchNormResult(y, mean, var, bits, skipped) if return_stats or return_mask else y


def _without_variance(policy: str, which: str, mean: Any, var: Any) -> tuple[bool, Any, Any]:
    """(training, running_mean, running_var) for one value per channel in training."""
    if policy == "raise":
        raise ValueError(f"Expected more than 1 value per channel when training, got {which}")
    return (True, None, None) if policy == "zero" else (False, mean, var)


def batch_norm_backward(
    dy: Readable,
    x: Readable,
    mean: Readable,
    var: Readable,
    weight: Readable | None = None,
    eps: float = 1e-5,
    training: bool = True,
    *,
    channel_axis: int = 1,
    activation: Activation | None = None,
    y: Readable | None = None,
    mask: Bits | None = None,
    statistics_mask: Array | None = None,
    virtual_batch_size: int | None = None,
    residual: bool = False,
    out: Array | None = None,
) -> BatchNormGradients:
    """The gradients of `batch_norm`, given that of its result, dy.

    With inv = 1 / sqrt(var + eps), and g = dy where the forward's relu passed, else 0:

        dbias = sum(g)      dweight = inv * sum(g * (x - mean))      dresidual = g
        dx = weight * inv * (g - dbias / count - (x - mean) * inv * dweight / count)            in training
        dx = weight * inv * g                                                                   otherwise

    dy: of the shape and dtype of x.  mean, var: (c), as return_stats gives them, computed with in float64.
    activation: None or "relu", which is undone from y, the forward's output, or from `mask` (return_mask): give one.
    statistics_mask, virtual_batch_size: the forward's `mask` and `virtual_batch_size`, in training.
    residual: whether to return dresidual.  out: for dx; it may be dy itself.

    Returns dx and dresidual (shape and dtype of x), dweight and dbias (c) in float32, for float64 x in float64.

    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> y, mean, var, *_ = batch_norm(x, None, None, training=True, return_stats=True)
    >>> batch_norm_backward(np.ones_like(x), x, mean, var).dbias
    array([2., 2.], dtype=float32)
    """
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    if training and (statistics_mask is not None or virtual_batch_size is not None):
        g = cut(array, axis, statistics_mask, as_batch_size(virtual_batch_size), "statistics_mask")
        return back(g, array, dy, mean, var, weight, eps, activation, y, mask, residual, out)
    channels, real = array.shape[axis], real_of(array)
    gradient, output = as_like("dy", dy, array, required=True), as_like("y", y, array)
    assert gradient is not None
    center = as_parameter("mean", mean, channels, FLOAT64, required=True)
    spread = as_parameter("var", var, channels, FLOAT64, required=True)
    gamma, eps = as_parameter("weight", weight, channels, real), as_number("eps", eps, 0.0)
    relu = as_choice("activation of the backward pass", activation, {None: 0, "relu": 1})
    check_undone(relu, output, mask)
    if mask is not None:
        mask = as_mask(mask, mask_shape(array, axis))
    inputs = {"x": array, "y": output, "mask": mask, "mean": center, "var": spread, "weight": gamma}
    dx = output_for(out, "dy", gradient, array.dtype, {}, inputs)
    dresidual = np.empty_like(gradient, subok=False) if residual else None
    dweight, dbias = np.zeros(channels, real), np.zeros(channels, real)
    if array.size:
        _core.batch_norm_backward(
            gradient, array, axis, gamma, center, spread, eps, bool(training), relu,
            output if relu else None, mask if relu else None, dx, dresidual, dweight, dbias,
        )  # fmt: skip
    return BatchNormGradients(dx, dweight, dbias, dresidual)
