# SPDX-License-Identifier: Apache-2.0
"""Reading parameters: from mappings of arrays or tensors, from .npz and from .safetensors files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._types import Array

StateSource: TypeAlias = Mapping[str, Any] | str | os.PathLike[str]

# https://huggingface.co/docs/safetensors/index, section "Format": little-endian, C order, no padding inside.
SAFETENSORS_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"
}  # fmt: skip
SAFETENSORS_HEADER_LIMIT = 100_000_000  # the limit of the reference reader


def read_state(source: StateSource, part: str = "") -> dict[str, Array]:
    """The arrays of `source` whose names contain `part`; nested mappings join their names with ".".

    source: a mapping (values: anything `as_entry` takes), or the path of a .npz or .safetensors file.
    Errors: TypeError and ValueError, naming the entry or the file.
    """
    if isinstance(source, Mapping):
        return {name: as_entry(name, value) for name, value in _flatten(source) if part in name}
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"state must be a mapping or a path, got {type(source).__name__}")
    path = os.fspath(source)
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            return {name: as_entry(name, file[name]) for name in file.files if part in name}
    if path.endswith(".safetensors"):
        return _read_safetensors(path, part)
    message = f"state must be a mapping or a path ending in .npz or .safetensors, got {path!r}"
    if path.endswith((".pt", ".pth", ".bin")):
        message += "; torch.load(path, weights_only=True) gives a mapping"
    raise ValueError(message)


def as_entry(name: str, value: Any) -> Array:
    """A NumPy array of an array, a torch tensor (bfloat16 and grad allowed), or what np.asarray takes.

    Raises TypeError where the elements are not real numbers.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16; every bfloat16 is a float32.
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be an array of real numbers, got {_describe(value, array)}")
    return array


def fit(name: str, value: Array, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A new array of `value` with this shape and dtype.

    Raises ValueError for another shape or for a finite number that dtype cannot hold, TypeError where a
    fraction would become an integer.  Shape (1,) is taken for (), as PyTorch does for its oldest files.
    """
    if value.shape != shape and not (shape == () and value.shape == (1,)):
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    dtype = np.dtype(dtype)
    if dtype.kind == "i" and value.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {value.dtype}")
    with np.errstate(over="ignore"):
        result = value.astype(dtype).reshape(shape)
    if dtype.kind == "f" and np.any(np.isinf(result) & np.isfinite(value.astype(np.float64)).reshape(shape)):
        raise ValueError(f"{name} must fit {dtype}, got a larger value")
    return result


def _flatten(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"state must have names of type str, got {name!r}")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _describe(value: Any, array: Array) -> str:
    return str(array.dtype) if isinstance(value, np.ndarray) else f"{type(value).__name__} ({array.dtype})"


def _read_safetensors(path: str, part: str) -> dict[str, Array]:
    """Only the tensors asked for are read: the file of a whole model costs one layer's bytes."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, SAFETENSORS_HEADER_LIMIT):
            raise ValueError(f"{path}: not safetensors: a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length))
            entries = {str(name): entry for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: not safetensors: the header is not a JSON object") from error
        result = {}
        for name, entry in entries.items():
            if part in name:
                dtype, shape, begin, end = _layout(path, name, entry, size - 8 - length)
                file.seek(8 + length + begin)
                array = np.frombuffer(file.read(end - begin), dtype).reshape(shape)
                if entry["dtype"] == "BF16":  # the high half of a float32
                    array = (array.astype(np.uint32) << 16).view(np.float32)
                result[name] = array
        return result


def _layout(path: str, name: str, entry: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one tensor in the `size` bytes after the header, checked."""
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: {name} must have dtype, shape and data_offsets, got {entry!r}")
    if code not in SAFETENSORS_DTYPES:
        raise ValueError(f"{path}: {name} must have a dtype of {', '.join(SAFETENSORS_DTYPES)}, got {code!r}")
    dtype = np.dtype(SAFETENSORS_DTYPES[code])
    if not begin <= end <= size or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: {name}: {code} {shape} does not fit bytes {begin} to {end} of {size}")
    return dtype, shape, begin, end
