# SPDX-License-Identifier: Apache-2.0
"""dropout of elements and of channels, alpha_dropout, and their gradient.

The mask follows from the seed, p and the place of an element in row-major order (of a channel in (n, c)): neither from
the layout, the threads nor the instruction set.  include/normcpu.h says which bits of Philox4x32-7 decide.
"""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np

from .. import _core
from .._arrays import as_array, as_axis, as_int, as_number, output_for
from .._masks import as_mask
from .._types import Array, Bits, DropoutResult, Readable

Rng: TypeAlias = np.random.Generator | int | None

# x may have this many axes, the batch's among them; PyTorch's dropout2d takes (n, c, l) too, but no (c, h, w).
NDIMS = {1: (2, 3), 2: (3, 4), 3: (4, 5)}


class Kind(NamedTuple):
    """What is dropped together: channels of x (n, c, ...) with `axes` axes behind, or for None each element."""

    alpha: bool = False
    axes: int | None = None
    channel_axis: int = 1


def as_probability(value: Any) -> float:
    p = as_number("p", value)
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, from 0 to 1, got {p}")
    return p


def seed_of(rng: Any) -> int:
    """64 bits: those of an int, the next of a generator, or the system's."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**64, dtype=np.uint64))
    if rng is None:
        return int.from_bytes(os.urandom(8), "little")
    try:
        seed = as_int("rng", rng)
    except TypeError:
        raise TypeError(f"rng must be a numpy.random.Generator, an int or None, got {type(rng).__name__}") from None
    if not 0 <= seed < 2**64:
        raise ValueError(f"rng must be a seed from 0 to 2**64 - 1, got {seed}")
    return seed


def place_of(x: Array, kind: Kind, name: str = "x") -> tuple[int, bool]:
    """The channel axis of x, -1 for none, and whether axis 0 counts samples."""
    if kind.axes is None:
        return -1, False
    few, many = NDIMS[kind.axes]
    if x.ndim not in (few, many):
        raise ValueError(f"{name} must have {few} or {many} dimensions, got shape {x.shape}")
    axis = as_int("channel_axis", kind.channel_axis)
    batched = x.ndim == many or kind.axes == 2
    if not batched and axis > 0:
        axis -= 1
    axis = as_axis("channel_axis", axis, x, name)
    if batched and axis == 0:
        raise ValueError(f"channel_axis must not be that of the samples, 0, of {name} with shape {x.shape}")
    return axis, batched


def mask_bytes(x: Array, axis: int, batched: bool) -> int:
    count = x.size if axis < 0 else x.shape[axis] * (x.shape[0] if batched else 1)
    return (count + 7) // 8


def drop(x: Any, p: Any, training: bool, kind: Kind, rng: Any, out: Any) -> DropoutResult:
    array, p = as_array("x", x), as_probability(p)
    axis, batched = place_of(array, kind)
    seed = seed_of(rng) if training else 0
    y = output_for(out, "x", array, array.dtype, {}, {})
    mask = np.empty(mask_bytes(array, axis, batched), np.uint8)
    _core.dropout(array, p if training else 0.0, kind.alpha, axis, batched, seed, y, mask)
    return DropoutResult(y, mask)


@overload
def dropout(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def dropout(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., out: Array | None = ...,
    return_mask: Literal[True],
) -> DropoutResult: ...  # fmt: skip
def dropout(
    x: Readable,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: Rng = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | DropoutResult:
    """y = x / (1 - p) where kept; with probability p an element is dropped and exactly 0, whatever x is there.

    x: any shape.  p: from 0 (y is x) to 1 (all 0), in between exact to 2^-64.  training: False gives x.
    rng: where the seed comes from: 64 bits of a generator, an int from 0 to 2**64 - 1 that is the seed itself (the same
        mask each time), or None, the system's.  out: see the module; it may be x itself.
    return_mask: return (y, mask), mask uint8 with a bit per element in row-major order, lowest first, 1 where kept:
        np.packbits(kept.reshape(-1), bitorder="little"), which `dropout_backward` takes.

    https://jmlr.org/papers/v15/srivastava14a.html, https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html

    >>> dropout(np.ones(8, np.float32), 0.5, rng=1)
    array([2., 2., 0., 2., 2., 2., 2., 0.], dtype=float32)
    """
    result = drop(x, p, training, Kind(), rng, out)
    return result if return_mask else result.y


@overload
def alpha_dropout(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def alpha_dropout(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., out: Array | None = ...,
    return_mask: Literal[True],
) -> DropoutResult: ...  # fmt: skip
def alpha_dropout(
    x: Readable,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: Rng = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | DropoutResult:
    """y = a x + b where kept, a t + b where dropped, which keeps mean 0 and variance 1: `dropout` behind selu.

        t = -1.7580993408473766, selu at minus infinity      a = 1 / sqrt((1 - p) (1 + p t^2))      b = -a p t

    Arguments as for `dropout`, training too (PyTorch's is False where it is left out); p = 1 gives all 0.

    https://arxiv.org/abs/1706.02515, https://docs.pytorch.org/docs/stable/generated/torch.nn.AlphaDropout.html

    >>> alpha_dropout(np.zeros(4), 0.5, rng=1)
    array([ 0.77919393,  0.77919393, -0.77919393,  0.77919393])
    """
    result = drop(x, p, training, Kind(alpha=True), rng, out)
    return result if return_mask else result.y


def dropout_backward(
    dy: Readable,
    mask: Bits,
    p: float = 0.5,
    *,
    alpha: bool = False,
    axes: int | None = None,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """dx = dy / (1 - p) where kept, else 0, given the mask and p of the forward call.

    alpha: that was `alpha_dropout`: dx = a dy where kept.  axes: 1, 2 or 3 where it was dropout1d, 2d or 3d, with its
    channel_axis.  out: for dx; it may be dy itself.

    >>> y, mask = dropout(np.ones(8, np.float32), 0.5, rng=1, return_mask=True)
    >>> np.array_equal(dropout_backward(np.ones(8, np.float32), mask, 0.5), y)
    True
    """
    gradient, p = as_array("dy", dy), as_probability(p)
    if axes not in (None, *NDIMS):
        raise ValueError(f"axes must be None, 1, 2 or 3, got {axes!r}")
    axis, batched = place_of(gradient, Kind(bool(alpha), axes, channel_axis), "dy")
    bits = as_mask(mask, (mask_bytes(gradient, axis, batched),))
    dx = output_for(out, "dy", gradient, gradient.dtype, {}, {"mask": bits})
    _core.dropout_backward(gradient, p, bool(alpha), axis, batched, bits, dx)
    return dx
