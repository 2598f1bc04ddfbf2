# SPDX-License-Identifier: Apache-2.0
"""scale_shift: the affine step by itself."""

from __future__ import annotations

from .. import _core
from .._arrays import BYTES, FLOAT32, as_activation, as_array, as_image, as_like, as_parameter, output_for, real_of
from .._types import Activation, Array, Readable


def scale_shift(
    x: Readable,
    scale: Readable | None = None,
    shift: Readable | None = None,
    *,
    center: Readable | None = None,
    channel_axis: int = 1,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    residual: Readable | None = None,
    out: Array | None = None,
) -> Array:
    """y = act((x - center) * scale + shift + residual), for each channel: the step that every normalization ends in.

    x: at least 1 dimension; uint8 and int8 too, which give float32 (and take no residual).  scale, shift, center:
    (c), 1, 0 and 0 where None.  Without center and activation the error is at most 2^-23 (|x * scale| + |shift|).

    An image (h, w, 3) standardized in one pass:

    >>> image = np.full((2, 2, 3), 127, np.uint8)
    >>> y = scale_shift(image, [1 / 58.4, 1 / 57.1, 1 / 57.4], center=[123.7, 116.3, 103.5], channel_axis=-1)
    >>> y.dtype, y.shape
    (dtype('float32'), (2, 2, 3))
    """
    array = as_array("x", x, bytes_too=True)
    axis = as_image(array, channel_axis, 1)
    channels, real = array.shape[axis], real_of(array)
    is_bytes = array.dtype.num in BYTES
    if is_bytes and residual is not None:
        raise ValueError(f"residual must be None where x is {array.dtype}, got {type(residual).__name__}")
    added = as_like("residual", residual, array)
    minus = as_parameter("center", center, channels, real)
    times, plus = as_parameter("scale", scale, channels, real), as_parameter("shift", shift, channels, real)
    parameters = {"center": minus, "scale": times, "shift": plus}
    y = output_for(out, "x", array, FLOAT32 if is_bytes else array.dtype, {"residual": added}, parameters)
    code, slope = as_activation(activation, negative_slope, array)
    if array.size:
        _core.scale_shift(array, axis, minus, times, plus, code, slope, added, y)
    return y
