# SPDX-License-Identifier: Apache-2.0
"""local_response_norm and its gradient: NumPy in blocks that stay in cache, in float64, rounded once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .._arrays import (
    as_activation,
    as_array,
    as_choice,
    as_image,
    as_int,
    as_like,
    as_number,
    output_for,
    real_of,
)
from .._types import Activation, Array, Float64s, Placing, Readable
from .affine import scale_shift

# The channels of a window before and after its own, of `size` in all: an even one has one more on either side.
PLACINGS = {"pytorch": (0, 1), "onnx": (1, 0)}  # (size - these) // 2
BLOCK = 16384  # elements: five arrays of float64 of so many stay in a cache of 1 MB


@np.errstate(all="ignore")  # 0/0 and what is too large are results
def local_response_norm(
    x: Readable,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    placing: Placing = "pytorch",
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
) -> Array:
    """Local response normalization: y = act(x / (k + alpha / size * sum(x^2))^beta + residual), sums over channels.

    The window of channel i has the channels from i - size // 2 to i + (size - 1) // 2 that there are, with
    placing="onnx" from i - (size - 1) // 2 to i + size // 2: another one where size is even.

    x: at least 2 dimensions.  size: at least 1.  activation, residual, out: see the module.  The same bits everywhere
    where beta is a multiple of 1/4 from 0 to 4; otherwise as NumPy's power has it.

    https://papers.nips.cc/paper/4824, section 3.3, https://onnx.ai/onnx/operators/onnx__LRN.html,
    https://docs.pytorch.org/docs/stable/generated/torch.nn.LocalResponseNorm.html

    >>> local_response_norm(np.array([[1, 2, 2]], np.float32), 1, alpha=1.0, beta=0.5, k=0.0)
    array([[1., 1., 1.]], dtype=float32)
    """
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    (before, after), alpha, beta, k = _arguments(size, alpha, beta, k, placing)
    as_activation(activation, negative_slope, array)
    added = as_like("residual", residual, array)
    y = output_for(out, "x", array, array.dtype, {"residual": added}, {})
    source, target = np.moveaxis(array, axis, 0), np.moveaxis(y, axis, 0)
    extra = None if added is None else np.moveaxis(added, axis, 0)
    share = alpha / (before + after + 1)
    for at, (values, d, power, work) in _blocks(source.shape, 4):
        np.copyto(values, source[at], "unsafe")
        _window_sums(np.multiply(values, values, power), before, after, d)
        np.add(k, np.multiply(share, d, d), d)
        made = np.divide(values, _power(d, beta, power, work), values)
        if activation is not None or extra is not None:
            made = scale_shift(
                made.astype(real_of(array)), channel_axis=0, activation=activation, negative_slope=negative_slope,
                residual=None if extra is None else extra[at].astype(real_of(array)),
            )  # fmt: skip
        np.copyto(target[at], made, "unsafe")
    return y


@np.errstate(all="ignore")
def local_response_norm_backward(
    dy: Readable,
    x: Readable,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    placing: Placing = "pytorch",
    out: Array | None = None,
) -> Array:
    """dx of `local_response_norm` without activation, given the gradient of its result, dy.

    With d = k + alpha / size * sum(x^2), and the sum over the channels whose windows have this one:

        dx = dy * d^-beta - 2 * alpha * beta / size * x * sum(dy * x * d^(-beta - 1))

    dy: of the shape and dtype of x.  out: for dx; it may be dy itself.

    >>> x = np.array([[1, 2]], np.float32)
    >>> local_response_norm_backward(np.ones_like(x), x, 1, alpha=0.0)
    array([[1., 1.]], dtype=float32)
    """
    array = as_array("x", x)
    axis = as_image(array, channel_axis, 2)
    (before, after), alpha, beta, k = _arguments(size, alpha, beta, k, placing)
    gradient = as_like("dy", dy, array, required=True)
    assert gradient is not None
    dx = output_for(out, "dy", gradient, array.dtype, {}, {"x": array})
    source, came, target = (np.moveaxis(a, axis, 0) for a in (array, gradient, dx))
    share = alpha / (before + after + 1)
    for at, (values, passed, d, power, work) in _blocks(source.shape, 5):
        np.copyto(values, source[at], "unsafe")
        np.copyto(passed, came[at], "unsafe")
        _window_sums(np.multiply(values, values, power), before, after, d)
        np.add(k, np.multiply(share, d, d), d)
        passed /= _power(d, beta, power, work)
        np.divide(np.multiply(passed, values, power), d, power)
        _window_sums(power, after, before, d)
        values *= 2 * share * beta
        values *= d
        np.copyto(target[at], np.subtract(passed, values, passed), "unsafe")
    return dx


def _arguments(
    size: int, alpha: float, beta: float, k: float, placing: str
) -> tuple[tuple[int, int], float, float, float]:
    less, more = as_choice("placing", placing, PLACINGS)
    if as_int("size", size) < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    return (
        ((size - less) // 2, (size - more) // 2),
        as_number("alpha", alpha),
        as_number("beta", beta),
        as_number("k", k),
    )


def _blocks(shape: tuple[int, ...], count: int) -> Iterator[tuple[tuple[slice, ...], Iterator[Float64s]]]:
    """Parts of an array of about BLOCK elements with all of its first axis, each with `count` arrays of its shape to
    work in: the same memory every time, for what is new comes page by page from the system."""
    most = max(1, BLOCK // max(1, shape[0]))
    steps = [max(1, min(n, most // max(1, math.prod(shape[i + 2 :])))) for i, n in enumerate(shape[1:])]
    work = np.empty((count, shape[0] * math.prod(steps)))
    for index in np.ndindex(*(-(-n // step) for n, step in zip(shape[1:], steps, strict=True))):
        part = [slice(i * step, min((i + 1) * step, n)) for i, step, n in zip(index, steps, shape[1:], strict=True)]
        extents = shape[0], *(at.stop - at.start for at in part)
        yield (slice(None), *part), (one[: math.prod(extents)].reshape(extents) for one in work)


def _window_sums(values: Float64s, before: int, after: int, total: Float64s) -> Float64s:
    """Over the first axis: sums of the entries from i - before to i + after, those nearest to the first one first."""
    np.copyto(total, values)
    for step in range(1, min(before, len(values) - 1) + 1):
        total[step:] += values[:-step]
    for step in range(1, min(after, len(values) - 1) + 1):
        total[:-step] += values[step:]
    return total


def _power(d: Float64s, beta: float, result: Float64s, root: Float64s) -> Float64s:
    """result = d^beta; multiples of 1/4 by square roots, which are the same on every machine.  root: to work in."""
    quarters = 4 * beta
    if not (quarters.is_integer() and 0 <= quarters <= 16):
        return np.power(d, beta, result)
    np.sqrt(d, root)
    if quarters % 2:
        np.sqrt(root, result)
    else:
        result.fill(1)
    if quarters % 4 >= 2:
        result *= root
    for _ in range(int(quarters // 4)):
        result *= d
    return result
