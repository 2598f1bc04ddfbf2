# SPDX-License-Identifier: Apache-2.0
"""Argument -> array, number or code, and what to say where there is none: the argument, what was expected, what
came.  Nothing is computed here, and nothing is copied but parameters of another float dtype."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import numpy as np

from . import _core
from ._foreign import refuse_special, to_ndarray
from ._types import Array, Quantization

T = TypeVar("T")

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = {FLOAT32.num, FLOAT64.num, np.dtype(np.float16).num}
BYTES = {np.dtype(np.uint8).num, np.dtype(np.int8).num}

# The names and codes of ncpu_activation and ncpu_nonfinite.
ACTIVATIONS: dict[str | None, int] = {
    name: code
    for code, name in enumerate(
        (None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish")
    )
}
FLOAT64_ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "hardswish")
NONFINITE = {"propagate": 0, "skip": 1, "raise": 2}
SINGLE_VALUE = {"raise": 0, "zero": 1, "running": 2}


# ---- Arrays that are read --------------------------------------------------------------------------------


def as_array(name: str, value: Any, bytes_too: bool = False) -> Array:
    """`value` as an ndarray of its own memory: float32, float64, float16, bfloat16 (and uint8, int8)."""
    array: Array = value if type(value) is np.ndarray else to_ndarray(name, value)
    dtype = array.dtype
    if dtype.num not in FLOATS and not (bytes_too and dtype.num in BYTES) and dtype.name != "bfloat16":
        raise TypeError(_wrong_dtype(name, dtype, bytes_too))
    if not dtype.isnative:
        raise TypeError(
            f"{name} must be in native byte order, got {dtype.str}: convert it with {name}.astype('{dtype.name}')"
        )
    if array.ndim > _core.max_ndim:
        raise ValueError(f"{name} must have at most {_core.max_ndim} dimensions, got {array.ndim}")
    return array


def _wrong_dtype(name: str, dtype: np.dtype[Any], bytes_too: bool) -> str:
    wanted = "float16, bfloat16, uint8 or int8" if bytes_too else "float16 or bfloat16"
    message = f"{name} must be float32, float64, {wanted}, got {dtype}"
    if dtype.kind == "c":
        return f"{message}: pass {name}.real and {name}.imag one after the other"
    if dtype.kind == "f":
        return f"{message}: convert it with {name}.astype('float64')"
    if dtype.num in BYTES and name == "x":
        return f"{message}: scale_shift takes it as it is; or convert it with x.astype('float32')"
    if dtype.kind in "biuO":
        return f"{message}: convert it with {name}.astype('float32')"
    return message


def real_of(x: Array) -> np.dtype[Any]:
    """The dtype of the parameters and running statistics that belong to x."""
    return FLOAT64 if x.dtype.num == FLOAT64.num else FLOAT32


def as_image(x: Array, channel_axis: Any, least: int) -> int:
    """The channel axis of x, counted from the front."""
    if x.ndim < least:
        raise ValueError(f"x must have at least {least} dimension{'s' * (least > 1)}, got shape {x.shape}")
    return as_axis("channel_axis", channel_axis, x)


def as_axis(name: str, value: Any, x: Array, of: str = "x") -> int:
    axis = as_int(name, value)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name} must be an axis of {of}, which has shape {x.shape}, got {value}")
    return axis % x.ndim


def as_axes(name: str, value: Any, x: Array) -> tuple[int, ...]:
    """One axis or several, in ascending order."""
    axes = [as_axis(name, a, x) for a in (value if isinstance(value, tuple | list) else (value,))]
    if not axes:
        raise ValueError(f"{name} must name at least one axis, got {value}")
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name} must not name an axis twice, got {value}")
    return tuple(sorted(axes))


def as_axis_numbers(name: str, value: Any, count: int) -> tuple[int, ...]:
    """So many axes of an array that is not there yet."""
    axes = tuple(as_int(name, a) for a in (value if isinstance(value, tuple | list) else (value,)))
    if len(axes) != count:
        raise ValueError(f"{name} must name {count} ax{'is' if count == 1 else 'es'}, got {value}")
    return axes


def as_extents(value: Any, x: Array, expected: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """normalized_shape as the axes whose extents it must be: the last ones of x, or those that `expected` has."""
    wanted = tuple(value) if isinstance(value, tuple | list) else (value,)
    wanted = tuple(as_int("normalized_shape", n) for n in wanted)
    if not wanted:
        raise ValueError(f"normalized_shape must have at least one extent, got {value}")
    if wanted != (x.shape[-len(wanted) :] if expected is None else expected):
        where = "the last axes" if expected is None else "axis"
        raise ValueError(f"normalized_shape must be the extents of x, {x.shape}, along {where}, got {wanted}")
    return tuple(range(x.ndim - len(wanted), x.ndim))


def as_like(name: str, value: Any, x: Array, required: bool = False) -> Array | None:
    """A companion of x: the same shape and dtype."""
    if value is None and not required:
        return None
    array = as_array(name, value)
    if array.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {x.shape}, got {array.shape}")
    if array.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {array.dtype}")
    return array


def as_parameter(name: str, value: Any, channels: int, real: np.dtype[Any], required: bool = False) -> Array | None:
    """One value per channel, of any float dtype or a sequence of numbers, as contiguous `real`."""
    if (value is None and not required) or _core.is_parameter(value, real is FLOAT64, channels):
        return cast(Array | None, value)
    array = _numbers(name, value, "one value per channel")
    if array.shape != (channels,):
        raise ValueError(f"{name} must have shape ({channels},), one value per channel, got {array.shape}")
    return _contiguous(array, real)


def as_weight(name: str, value: Any, shape: tuple[int, ...], real: np.dtype[Any]) -> Array | None:
    """One value for each element of a row, of any float dtype or a sequence of numbers, as contiguous `real`, flat."""
    if value is None or (len(shape) == 1 and _core.is_parameter(value, real is FLOAT64, shape[0])):
        return cast(Array | None, value)
    array = _numbers(name, value, "one for each element of a row")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one value for each element of a row, got {array.shape}")
    return _contiguous(array, real).reshape(-1)


def _numbers(name: str, value: Any, which: str) -> Array:
    if not isinstance(value, list | tuple):
        return as_array(name, value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be numbers, {which}, got {value!r}") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got a {type(value).__name__} of {array.dtype}")
    return array


def _contiguous(array: Array, real: np.dtype[Any]) -> Array:
    array = np.ascontiguousarray(array, dtype=real)
    return array if array.flags.aligned else array.copy()


# ---- Arrays that are written -----------------------------------------------------------------------------


def as_running(name: str, value: Any, channels: int, real: np.dtype[Any]) -> Array | None:
    """Running statistics to be updated: nothing but the caller's own buffer will do."""
    if value is None or (_core.is_parameter(value, real is FLOAT64, channels) and value.flags.writeable):
        return cast(Array | None, value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is updated in place, so it must be a numpy.ndarray, got {type(value).__name__}")
    refuse_special(name, value)
    if value.dtype != real:
        raise TypeError(f"{name} is updated in place, so it must be {real} for this x, got {value.dtype}")
    if not value.flags.writeable:
        raise TypeError(f"{name} is updated in place, so it must be writeable, got a read-only array")
    if value.shape != (channels,):
        raise ValueError(f"{name} must have shape ({channels},), one value per channel, got {value.shape}")
    if not value.flags.aligned:
        raise ValueError(f"{name} is updated in place, so it must be aligned, got a misaligned array")
    if not value.flags.c_contiguous:
        raise ValueError(f"{name} is updated in place, so it must be contiguous, got strides {value.strides}")
    return value if type(value) is np.ndarray else value.view(np.ndarray)


def as_output(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(value).__name__}")
    refuse_special(name, value)
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {value.dtype}")
    if not value.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if _overlaps_itself(value):
        raise ValueError(f"{name} must have a place of its own for every element, got strides {value.strides}")
    return value if type(value) is np.ndarray else value.view(np.ndarray)


def output_for(
    out: Any, name: str, like: Array, dtype: Any, same: Mapping[str, Array | None],
    apart: Mapping[str, Array | None], of: str = "out",
) -> Array:  # fmt: skip
    """out, the argument `of`, checked, or a new array: it may be `like`, called `name`, or one of `same`, and not touch
    `apart`."""
    if out is None:
        return np.empty_like(like, dtype, subok=False)
    array = as_output(of, out, like.shape, dtype)
    check_in_place(of, array, {name: like, **same})
    check_apart((of,), {of: array, **apart})
    return array


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements may share a byte: sorted by stride, each axis must step over all the former ones reach."""
    if array.flags.c_contiguous or array.flags.f_contiguous or array.size == 0:
        return False
    reach = array.itemsize
    for stride, extent in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (extent - 1)
    return False


def check_apart(written: tuple[str, ...], arrays: Mapping[str, Array | None]) -> None:
    """Those that are written must not share memory with any other."""
    for name in written:
        for other in arrays:
            if other != name and share_memory(arrays[name], arrays[other]):
                raise ValueError(f"{name} must not share memory with {other}")


def check_in_place(name: str, out: Array, elementwise: Mapping[str, Array | None]) -> None:
    """out may be one of these itself, but not overlap it otherwise."""
    for other, array in elementwise.items():
        if share_memory(out, array) and not _core.same_view(out, cast(Array, array)):
            raise ValueError(f"{name} partly overlaps {other}: it must be {other} itself or share no memory with it")


def share_memory(a: Array | None, b: Array | None) -> bool:
    if not _core.bounds_meet(a, b):
        return False
    try:
        return np.shares_memory(cast(Array, a), cast(Array, b), max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # an equation with no end in sight: they may
        return True


# ---- Numbers and names -----------------------------------------------------------------------------------


def as_int(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an int, got {type(value).__name__}")


def as_number(name: str, value: Any, least: float = -math.inf) -> float:
    if type(value) is not float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name} must be finite{' and at least 0' if least == 0 else ''}, got {value}")
    return float(value)


def as_choice(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name} must be {_either(choices)}, got {value!r}") from None


def as_activation(value: Any, negative_slope: Any, x: Array) -> tuple[int, float]:
    """The code, and the slope of leaky_relu."""
    code = as_choice("activation", value, ACTIVATIONS)
    if x.dtype.num == FLOAT64.num and value not in FLOAT64_ACTIVATIONS:
        raise ValueError(f"activation must be {_either(FLOAT64_ACTIVATIONS)} where x is float64, got {value!r}")
    return code, as_number("negative_slope", negative_slope) if value == "leaky_relu" else 0.0


def as_quantization(value: Any, x: Array) -> tuple[float | None, int, np.dtype[Any]]:
    """(scale, None for dynamic; zero point; dtype of the result), x's dtype where value is None."""
    if value is None:
        return None, 0, x.dtype
    if not isinstance(value, Quantization):
        raise TypeError(f"quantize must be a Quantization, got {type(value).__name__}")
    dtype = np.dtype(value.dtype)
    if dtype.num not in BYTES:
        raise TypeError(f"quantize.dtype must be int8 or uint8, got {dtype}")
    if x.dtype.num == FLOAT64.num:
        raise TypeError("quantize must be None where x is float64: convert it with x.astype('float32')")
    low = int(np.iinfo(dtype).min)
    zero_point = as_int("quantize.zero_point", value.zero_point)
    if not low <= zero_point <= low + 255:
        raise ValueError(f"quantize.zero_point must be a value of {dtype}, got {zero_point}")
    if value.scale is None:
        if zero_point or dtype != np.int8:
            raise ValueError(f"quantize.scale must be given for {dtype} with zero point {zero_point}, got None")
        return None, 0, dtype
    scale = as_number("quantize.scale", value.scale)
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(scale))
    if not 0 < single < math.inf:
        raise ValueError(f"quantize.scale must be above 0 in float32 and finite, got {scale}")
    return single, zero_point, dtype


def _either(choices: Any) -> str:
    *most, last = [repr(choice) for choice in choices]
    return f"{', '.join(most)} or {last}"
