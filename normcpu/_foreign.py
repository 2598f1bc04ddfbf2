# SPDX-License-Identifier: Apache-2.0
"""What is not exactly numpy.ndarray -> an ndarray of the same memory: subclasses, the buffer protocol, __array__,
DLPack.  Nothing is copied unless the object's own __array__ does so."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np

from . import _core
from ._types import Array

# kDLCPU, kDLCUDAHost and kDLROCMHost of https://dmlc.github.io/dlpack/latest/c_api.html
READABLE_DEVICES = (1, 3, 11)


def refuse_special(name: str, value: Array) -> None:
    """The subclasses whose meaning would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, whose mask would be ignored: fill it with {name}.filled()")
    if isinstance(value, np.matrix):
        raise TypeError(f"{name} must not be a numpy.matrix: pass numpy.asarray({name})")


def to_ndarray(name: str, value: Any) -> Array:
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        refuse_special(name, value)
        return value.view(np.ndarray)
    if value is None or isinstance(value, Number | str | bytes):
        raise TypeError(f"{name} must be an array, got {kind}")
    if isinstance(value, list | tuple):
        raise TypeError(f"{name} must be an array, got {kind}: convert with numpy.asarray({name}, dtype='float32')")
    if getattr(value, "requires_grad", False) is True:
        raise TypeError(f"{name} requires grad, and normcpu records no gradients: pass {name}.detach()")
    device = _dlpack_device(value)
    if device is not None and device[0] not in READABLE_DEVICES:
        raise TypeError(f"{name} must be in the CPU's memory, got {kind} on device {device}: copy it there first")
    reason: Exception | None = None
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__") or _has_buffer(value):
        try:
            return np.asarray(value)
        except Exception as error:  # of any kind, since it comes from the object; torch's bfloat16: TypeError
            reason = error
    if hasattr(value, "__dlpack__"):
        try:
            return _from_dlpack(name, value)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            reason = error
    because = f", which says: {reason}" if reason else ""
    raise TypeError(f"{name} must be an array, got {kind}{because}") from reason


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _dlpack_device(value: Any) -> tuple[int, int] | None:
    try:
        kind, index = value.__dlpack_device__()
        return int(kind), int(index)
    except Exception:  # no DLPack, or a tensor without memory: what is tried next says it better
        return None


def _from_dlpack(name: str, value: Any) -> Array:
    try:
        capsule = value.__dlpack__(max_version=(1, 1))
    except TypeError:  # a producer from before DLPack 1.0
        capsule = value.__dlpack__()
    dtype = _core.dlpack_dtype(capsule)
    if dtype == "bfloat16":  # no kind of NumPy's own, so numpy.from_dlpack refuses it
        return _core.from_dlpack(capsule).view(_bfloat16(name))
    if dtype in ("float32", "float64", "float16", "uint8", "int8"):
        return _core.from_dlpack(capsule)
    del capsule
    array: Array = np.from_dlpack(value)
    return array


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            f"{name} is bfloat16, which NumPy knows only with the package ml_dtypes: install it, or pass {name}.float()"
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
