# SPDX-License-Identifier: Apache-2.0
"""dropout1d, dropout2d and dropout3d: whole channels."""

from __future__ import annotations

from typing import Literal, overload

from .._types import Array, DropoutResult, Readable
from .dropout import Kind, Rng, drop


@overload
def dropout1d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def dropout1d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[True],
) -> DropoutResult: ...  # fmt: skip
def dropout1d(
    x: Readable,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: Rng = None,
    channel_axis: int = 1,
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | DropoutResult:
    """`dropout` of whole channels of x (n, c, l) or (c, l): all of x[i, j] / (1 - p), or all 0.

    channel_axis: of x with its samples in front: 1, or -1 for (n, l, c); x of fewer axes is one sample.  The mask has a
    bit per sample and channel, (n, c) in row-major order.  Other arguments as for `dropout`.

    https://arxiv.org/abs/1411.4280, https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout1d.html

    >>> dropout1d(np.ones((1, 4, 2), np.float32), 0.5, rng=1)[0, :, 0]
    array([2., 2., 0., 2.], dtype=float32)
    """
    result = drop(x, p, training, Kind(axes=1, channel_axis=channel_axis), rng, out)
    return result if return_mask else result.y


@overload
def dropout2d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def dropout2d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[True],
) -> DropoutResult: ...  # fmt: skip
def dropout2d(
    x: Readable,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: Rng = None,
    channel_axis: int = 1,
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | DropoutResult:
    """`dropout1d` of x (n, c, h, w), and as in PyTorch of (n, c, l).

    https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout2d.html

    >>> dropout2d(np.ones((1, 2, 2, 4), np.float32), 0.5, rng=1, channel_axis=-1)[0, 0]
    array([[2., 2., 0., 2.],
           [2., 2., 0., 2.]], dtype=float32)
    """
    result = drop(x, p, training, Kind(axes=2, channel_axis=channel_axis), rng, out)
    return result if return_mask else result.y


@overload
def dropout3d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def dropout3d(
    x: Readable, p: float = ..., training: bool = ..., *, rng: Rng = ..., channel_axis: int = ...,
    out: Array | None = ..., return_mask: Literal[True],
) -> DropoutResult: ...  # fmt: skip
def dropout3d(
    x: Readable,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: Rng = None,
    channel_axis: int = 1,
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | DropoutResult:
    """`dropout1d` of x (n, c, d, h, w) or (c, d, h, w).

    https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout3d.html

    >>> dropout3d(np.ones((4, 1, 1, 1), np.float32), 0.5, rng=1).ravel()
    array([2., 2., 0., 2.], dtype=float32)
    """
    result = drop(x, p, training, Kind(axes=3, channel_axis=channel_axis), rng, out)
    return result if return_mask else result.y
