# SPDX-License-Identifier: Apache-2.0
"""The specification: what each function computes, written for reading and not for speed.

All arithmetic is np.longdouble, under Linux 64 bits of significand on x86 and 113 on 64-bit Arm, so that
float64 results are measured against something finer.  (Where longdouble is double, as on macOS, the float64
budgets mean nothing.)  Next to a value stands its size: the sum of the absolute values of the terms it was
added up from.  Errors are measured in ulp of the size: terms that cancel leave their rounding errors behind.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
WIDE = np.longdouble


def wide(a: Any) -> Array:
    a = np.asarray(a)
    return (a.astype(np.float32) if a.dtype.name == "bfloat16" else a).astype(WIDE)


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Overflow, 0/0 and inf - inf are results here, not warnings."""

    @functools.wraps(function)
    def silent(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silent


# ---- Statistics ------------------------------------------------------------------------------------------


def other_axes(x: Array, channel_axis: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(x.ndim) if axis != channel_axis % x.ndim)


@quiet
def deviations(x: Array, axis: Any = None, mask: Any = True) -> tuple[Array, Array]:
    """x - mean, and the mean, with the axes kept.  The mean itself has no more digits than WIDE, but differences
    from it do not suffer: what its rounding left in them is their own mean.  mask: which elements have a say."""
    x = wide(x)
    mean = x.mean(axis, keepdims=True, where=mask)
    rest = x - mean
    left = rest.mean(axis, keepdims=True, where=mask)
    return rest - left, mean + left


@quiet
def moments(x: Array, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> tuple[Array, Array]:
    """mean and sum((x - mean)^2) / (count - ddof) over the axes."""
    rest, mean = deviations(x, axis)
    count = x.size / mean.size
    var = (rest**2).sum(axis, keepdims=True) / (WIDE(count) - ddof)
    shape = mean.shape if keepdims else np.squeeze(mean, axis).shape
    return mean.reshape(shape), var.reshape(shape)


# ---- Activations -----------------------------------------------------------------------------------------


def normal_distribution(v: Array) -> Array:
    """Phi(v) by erfc, which keeps its digits where Phi is nearly 0; in double, since only float data needs it."""
    double = np.asarray(v, float)
    return np.array([math.erfc(-t / math.sqrt(2)) / 2 for t in double.ravel()], WIDE).reshape(double.shape)


def gelu_tanh_argument(v: Array) -> Array:
    return np.sqrt(2 / WIDE(np.pi)) * (v + WIDE("0.044715") * v**3)


ACTIVATIONS: dict[str | None, Callable[[Array, float], Array]] = {
    None: lambda v, _: v,
    "relu": lambda v, _: np.maximum(v, 0),
    "relu6": lambda v, _: np.minimum(np.maximum(v, 0), 6),
    "leaky_relu": lambda v, slope: np.where(v > 0, v, v * WIDE(slope)),
    "silu": lambda v, _: v / (1 + np.exp(-v)),
    "gelu": lambda v, _: v * normal_distribution(v),
    # (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation at u << 0
    "gelu_tanh": lambda v, _: v / (1 + np.exp(-2 * gelu_tanh_argument(v))),
    "sigmoid": lambda v, _: 1 / (1 + np.exp(-v)),
    "tanh": lambda v, _: np.tanh(v),
    "hardswish": lambda v, _: v * np.minimum(np.maximum(v + 3, 0), 6) / 6,
}


# ---- Forward ---------------------------------------------------------------------------------------------


class Forward(NamedTuple):
    y: Array
    before: Array  # the activation's argument
    size: Array
    mean: Array
    var: Array
    running_mean: Array | None = None
    running_var: Array | None = None


@quiet
def scale_shift(
    x: Array,
    scale: Any = None,
    shift: Any = None,
    *,
    center: Any = None,
    channel_axis: int = 1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Any = None,
) -> Forward:
    """y = activation((x - center) * scale + shift + residual)"""

    def along(value: Any, default: float) -> Array:
        shape = [1] * x.ndim
        shape[channel_axis] = x.shape[channel_axis]
        return np.full(shape, default, WIDE) if value is None else wide(value).reshape(shape)

    scaled = (wide(x) - along(center, 0)) * along(scale, 1)
    added = along(shift, 0)
    extra = WIDE(0) if residual is None else wide(residual)
    before = scaled + added + extra
    size = np.abs(scaled) + np.abs(added) + np.abs(extra)
    return Forward(ACTIVATIONS[activation](before, negative_slope), before, size, along(center, 0), along(scale, 1))


@quiet
def batch_norm(
    x: Array,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    biased: bool = False,
    **after: Any,
) -> Forward:
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), with the given statistics or, in
    training, those of x (variance biased); the running ones then follow (variance unbiased, unless biased)."""
    mean, var = (None if s is None else wide(s) for s in (running_mean, running_var))
    new = (mean, var)
    if training:
        axes = other_axes(x, channel_axis)
        count = x.size // max(1, x.shape[channel_axis])
        batch_mean, batch_var = moments(x, axes)
        if mean is not None:
            tracked = batch_var if biased else batch_var * count / WIDE(count - 1)
            m = WIDE(momentum)
            new = ((1 - m) * mean + m * batch_mean, (1 - m) * var + m * tracked)
        mean, var = batch_mean, batch_var
    scale = (1 if weight is None else wide(weight)) / np.sqrt(var + WIDE(eps))
    if training:
        out = scale_shift(deviations(x, axes)[0], scale, bias, channel_axis=channel_axis, **after)
    else:
        out = scale_shift(x, scale, bias, center=mean, channel_axis=channel_axis, **after)
    if training:  # an error of sigma * 2^-22 in the mean moves every y by weight * 2^-22
        shape = [1] * x.ndim
        shape[channel_axis] = -1
        gain = np.ones_like(mean) if weight is None else wide(weight)
        out = out._replace(size=out.size + np.abs(gain * np.sqrt(var / (var + WIDE(eps)))).reshape(shape))
    return out._replace(mean=mean, var=var, running_mean=new[0], running_var=new[1])


# ---- Backward --------------------------------------------------------------------------------------------


class Backward(NamedTuple):
    dx: Array
    dweight: Array
    dbias: Array
    dresidual: Array
    dx_size: Array
    dweight_size: Array
    dbias_size: Array


@quiet
def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Any = None,
    eps: float = 1e-5,
    training: bool = True,
    *,
    channel_axis: int = 1,
    passed: Any = True,
) -> Backward:
    """The gradients of batch_norm.  passed: where the activation (relu or none) handed its argument on."""
    axes = other_axes(x, channel_axis)
    shape = [1] * x.ndim
    shape[channel_axis] = x.shape[channel_axis]
    count = x.size // max(1, x.shape[channel_axis])
    inv = (1 / np.sqrt(wide(var) + WIDE(eps))).reshape(shape)
    gain = inv if weight is None else inv * wide(weight).reshape(shape)
    g = np.where(passed, wide(dy), 0)
    centred = wide(x) - wide(mean).reshape(shape)
    dbias, dweight = g.sum(axes, keepdims=True), (g * centred).sum(axes, keepdims=True) * inv
    dbias_size = np.abs(g).sum(axes, keepdims=True)
    # Differences are taken from the mean rounded to float (double) and put right by dbias afterwards.
    rounded = np.abs(wide(mean).reshape(shape)) * 2.0 ** (-53 if x.dtype == np.float64 else -24)
    dweight_size = (np.abs(g) * (np.abs(centred) + rounded)).sum(axes, keepdims=True) * inv
    dx, dx_size = g, np.abs(g)
    if training and count:
        dx = g - dbias / count - centred * inv * dweight / count
        dx_size = np.abs(g) + dbias_size / count + np.abs(centred) * inv * dweight_size / count
    return Backward(
        gain * dx, dweight.ravel(), dbias.ravel(), g, np.abs(gain) * dx_size, dweight_size.ravel(), dbias_size.ravel()
    )


# ---- Statistics of each sample ---------------------------------------------------------------------------


def by_group(x: Array, groups: int, channel_axis: int) -> Array:
    """x (n, groups, c / groups, positions), positions in row-major order."""
    last = np.moveaxis(x, channel_axis, 1)
    return last.reshape(x.shape[0], groups, x.shape[channel_axis] // groups, math.prod(last.shape[2:]))


def from_groups(values: Array, x: Array, channel_axis: int) -> Array:
    """by_group undone, of an array that broadcasts to its shape."""
    shape = list(np.moveaxis(x, channel_axis, 1).shape)
    whole = np.broadcast_to(values, by_group(x, values.shape[1], channel_axis).shape)
    return np.moveaxis(whole.reshape(shape), 1, channel_axis)


def having_say(x: Array, mask: Any) -> Array:
    """(n, 1, 1, positions): 1 where a position counts."""
    n = x.shape[0]
    return np.ones((n, 1, 1, 1), WIDE) if mask is None else wide(mask).reshape(n, 1, 1, -1)


@quiet
def group_deviations(x: Array, groups: int, channel_axis: int, mask: Any = None) -> tuple[Array, Array, Array]:
    """x - mean of the group, the mean and the variance, by_group; see deviations."""
    parts, counts = by_group(wide(x), groups, channel_axis), having_say(x, mask)
    count = np.broadcast_to(counts, parts.shape).sum((2, 3), keepdims=True)
    mean = (parts * counts).sum((2, 3), keepdims=True) / count
    rest = parts - mean
    left = (rest * counts).sum((2, 3), keepdims=True) / count
    return rest - left, mean + left, ((rest - left) ** 2 * counts).sum((2, 3), keepdims=True) / count


@quiet
def group_norm(
    x: Array,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    mask: Any = None,
    **after: Any,
) -> Forward:
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), mean and variance of the group."""
    rest, mean, var = group_deviations(x, groups, channel_axis, mask)
    inv = 1 / np.sqrt(var + WIDE(eps))
    out = scale_shift(from_groups(rest * inv, x, channel_axis), weight, bias, channel_axis=channel_axis, **after)
    # An error of sigma * 2^-22 in the mean moves every y by weight * 2^-22.
    moved = scale_shift(from_groups(np.sqrt(var) * inv, x, channel_axis), weight, channel_axis=channel_axis).size
    return out._replace(size=out.size + moved, mean=mean[:, :, 0, 0], var=var[:, :, 0, 0])


@quiet
def group_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    groups: int,
    weight: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    mask: Any = None,
    passed: Any = True,
) -> Backward:
    """The gradients of group_norm; mean, var (n, groups), as the forward used them."""
    c, counts = x.shape[channel_axis], having_say(x, mask)
    mean, var = (wide(m)[:, :, None, None] for m in (mean, var))
    rest = by_group(wide(x), groups, channel_axis) - mean
    inv = 1 / np.sqrt(var + WIDE(eps))
    gain = (np.ones(c, WIDE) if weight is None else wide(weight)).reshape(1, groups, c // groups, 1)
    g = by_group(np.where(passed, wide(dy), 0), groups, channel_axis)
    rounded = np.abs(mean) * 2.0 ** (-53 if x.dtype == np.float64 else -24)  # see batch_norm_backward
    away = np.abs(rest) + rounded
    count = np.broadcast_to(counts, g.shape).sum((2, 3), keepdims=True)

    def average(terms: Array) -> Array:
        return terms.sum((2, 3), keepdims=True) / count

    dx = gain * g - counts * (average(gain * g) + rest * inv**2 * average(gain * g * rest))
    size = np.abs(gain * g)
    dx_size = size + counts * (average(size) + away * inv**2 * average(size * away))
    over = {"axis": (0, 3)}
    return Backward(
        from_groups(inv * dx, x, channel_axis),
        (g * rest * inv).sum(**over).ravel(),
        g.sum(**over).ravel(),
        from_groups(g, x, channel_axis),
        from_groups(inv * dx_size, x, channel_axis),
        (np.abs(g) * away * inv).sum(**over).ravel(),
        np.abs(g).sum(**over).ravel(),
    )


# ---- Rows ------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    y: Array
    before: Array  # the activation's argument
    size: Array
    mean: Array
    var: Array


@quiet
def row_norm(
    s: Array,
    axes: tuple[int, ...],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    rms: bool = False,
    plus_one: bool = False,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Any = None,
    mask: Any = None,
) -> Rows:
    """layer_norm, and with rms rms_norm, over the axes; weight, bias and mask broadcast against s.  plus_one:
    1 + weight is rounded to the type computed in.  mask: which elements the statistics are taken of."""
    chosen = True if mask is None else mask
    rest, mean = (wide(s), np.zeros((), WIDE)) if rms else deviations(s, axes, chosen)
    var = (rest**2).mean(axes, keepdims=True, where=chosen)
    normal = rest / np.sqrt(var + WIDE(eps))
    gain = factor(s, weight, plus_one)
    added = WIDE(0) if bias is None else wide(bias)
    extra = WIDE(0) if residual is None else wide(residual)
    before = normal * gain + added + extra
    # A mean that is off by sigma * 2^-22 moves every y by weight * 2^-22.
    sigma = 0 if rms else np.sqrt(var / (var + WIDE(eps)))
    size = np.abs(normal * gain) + np.abs(added) + np.abs(extra) + np.abs(gain) * sigma
    size = size + np.abs(gain) * WIDE(2.0) ** (-1022 if s.dtype == np.float64 else -126)  # normal is rounded first
    mean = np.broadcast_to(mean, var.shape)
    return Rows(ACTIVATIONS[activation](before, negative_slope), before, size, mean, var)


def factor(s: Array, weight: Any, plus_one: bool) -> Array:
    if weight is None:
        return WIDE(1)
    real = np.float64 if s.dtype == np.float64 else np.float32
    return wide(np.asarray(weight, real) + real(1)) if plus_one else wide(weight)


class RowGradients(NamedTuple):
    dx: Array
    dweight: Array
    dbias: Array
    dx_size: Array
    dweight_size: Array
    dbias_size: Array


@quiet
def row_norm_backward(
    dy: Array,
    s: Array,
    axes: tuple[int, ...],
    mean: Array,
    var: Array,
    weight: Any = None,
    eps: float = 1e-5,
    *,
    rms: bool = False,
    plus_one: bool = False,
    dsum: Any = None,
    mask: Any = None,
    passed: Any = True,
) -> RowGradients:
    """The gradients of row_norm; mean, var and mask broadcast against s.  passed: where the activation (relu or none)
    handed its argument on."""
    dy, chosen = np.where(passed, wide(dy), 0), np.broadcast_to(True if mask is None else mask, s.shape)
    count = chosen.sum(axes, keepdims=True)
    outer = tuple(axis for axis in range(s.ndim) if axis not in axes)
    inv = 1 / np.sqrt(wide(var) + WIDE(eps))
    center = WIDE(0) if rms else wide(mean)
    normal = (wide(s) - center) * inv
    # The mean is rounded to float (double), and what that left is made up for.
    rounded = np.abs(center) * inv * WIDE(2.0) ** (-53 if s.dtype == np.float64 else -24)
    # What is left out of it there: below a quarter of an ulp of the row's root mean square; and subnormals' digits.
    shift = 0 if rms else 0.25 * np.sqrt(wide(var)) * inv + WIDE(2.0) ** -125
    g, size = wide(dy) * factor(s, weight, plus_one), np.abs(normal) + rounded + shift
    beside = WIDE(0) if dsum is None else wide(dsum)

    def average(terms: Array) -> Array:
        return terms.sum(axes, keepdims=True) / count

    first, first_size = (WIDE(0), WIDE(0)) if rms else (average(g), average(np.abs(g)))
    dx = inv * (g - chosen * (first + normal * average(g * normal))) + beside
    dx_size = inv * (np.abs(g) + chosen * (first_size + size * average(np.abs(g) * size))) + np.abs(beside)
    dweight, dbias = dy * normal, dy
    return RowGradients(
        dx,
        dweight.sum(outer),
        dbias.sum(outer),
        dx_size,
        (np.abs(dy) * size).sum(outer),
        np.abs(dbias).sum(outer),
    )


# ---- Without parameters ----------------------------------------------------------------------------------


@quiet
def mean_variance_normalization(x: Array, axes: tuple[int, ...], eps: float = 1e-9) -> tuple[Array, Array]:
    """(x - mean) / (sqrt(var) + eps), and its size."""
    rest, _ = deviations(x, axes)
    sigma = np.sqrt((rest**2).mean(axes, keepdims=True))
    y = rest / (sigma + WIDE(eps))
    return y, np.abs(y) + sigma / (sigma + WIDE(eps))


@quiet
def lp_normalize(x: Array, p: float, axes: tuple[int, ...], eps: float = 1e-12) -> Array:
    """x / max((sum |x|^p)^(1/p), eps)"""
    sizes = np.abs(wide(x))
    norm = sizes.max(axes, keepdims=True) if p == math.inf else (sizes**p).sum(axes, keepdims=True) ** (1 / WIDE(p))
    return wide(x) / np.maximum(norm, WIDE(eps))


def window_sums(values: Array, size: int, placing: str) -> Array:
    """Sums over a window of the first axis, entry by entry."""
    before = size // 2 if placing == "pytorch" else (size - 1) // 2
    return np.array([values[max(0, i - before) : i - before + size].sum(0) for i in range(len(values))], WIDE)


@quiet
def local_response_norm(
    x: Array, size: int, alpha: float, beta: float, k: float, channel_axis: int, placing: str
) -> Array:
    """x / (k + alpha / size * sum(x^2))^beta, sums over a window of channels."""
    first = np.moveaxis(wide(x), channel_axis, 0)
    d = WIDE(k) + WIDE(alpha) / size * window_sums(first**2, size, placing)
    return np.moveaxis(first / d ** WIDE(beta), 0, channel_axis)
