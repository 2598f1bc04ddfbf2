# SPDX-License-Identifier: Apache-2.0
"""Weights in files beside the model: one in memory at a time, and from nowhere but the model's own folder.

onnx_ir maps such files, and what was read once stays in memory with the map; here it is read again when it is wanted
again, which is twice: for its largest magnitude, and when its product is written.
"""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

SMALL = 1 << 14  # bytes: the parameters of a norm, read many times, are kept


class DataFile:
    """An open file that cannot be exchanged for another behind our back.

    What a model calls its data must be a plain file in the folder of the model or below, under that name only: not a
    link, by which a downloaded model would get at other files (CVE-2024-27318, CVE-2026-34446, CVE-2026-34447), and
    not a pipe, which would wait for ever.
    """

    def __init__(self, folder: Path, location: str) -> None:
        path = Path(location)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"external data {location!r} leads out of the model's folder")
        inside = os.path.realpath(folder)
        if os.path.commonpath([inside, os.path.realpath(folder / path.parent)]) != inside:
            raise ValueError(f"external data {location!r} leads out of the model's folder by a link")
        try:
            self.descriptor = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            why = "is a link" if (folder / path).is_symlink() else f"cannot be opened: {error.strerror}"
            raise ValueError(f"external data {location!r} {why}") from None
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"external data {location!r} is not a plain file")
        if status.st_nlink > 1:
            raise ValueError(f"external data {location!r} is a hard link: the file has other names, too")
        self.size = status.st_size

    def read(self, offset: int, count: int) -> np.ndarray[Any, Any]:
        data = np.empty(count, np.uint8)
        done = 0
        while done < count:
            got = os.preadv(self.descriptor, [data[done:].data], offset + done)  # 2 GB at most, says Linux
            if not got:
                raise ValueError("external data became shorter while it was read")
            done += got
        return data


class OnDisk(ir.ExternalTensor):  # type: ignore[misc]
    """A tensor in a DataFile.  An array that it returns is the caller's own, unless it is SMALL and not writeable."""

    def __init__(self, known: ir.ExternalTensor, folder: Path, file: DataFile) -> None:
        super().__init__(
            known.location, known.offset, known.length, known.dtype, shape=known.shape, name=known.name or "",
            doc_string=known.doc_string, metadata_props=dict(known.metadata_props), base_dir=folder,
        )  # fmt: skip
        self.file = file
        self.kept: np.ndarray[Any, Any] | None = None
        at, declared = self.offset or 0, self.length
        if not self.shape.is_static() or min(self.shape.numpy(), default=0) < 0 or at < 0:
            raise ValueError(f"external data of shape {self.shape} at {at}")
        if declared is not None and declared != self.nbytes:
            raise ValueError(f"its shape {self.shape} is {self.nbytes} bytes, its external data {declared}")
        if at + self.nbytes > file.size:
            raise ValueError(f"external data {self.location!r} ends at {file.size}, before {at + self.nbytes}")

    def numpy(self) -> np.ndarray[Any, Any]:
        if self.dtype.bitwidth < 8 or not self.size:  # packed: mapped and unpacked
            return super().numpy()
        if self.kept is not None:
            return self.kept
        flat = self.file.read(self.offset or 0, self.nbytes).view(np.dtype(self.dtype.numpy()).newbyteorder("<"))
        array: np.ndarray[Any, Any] = flat.reshape(self.shape.numpy())
        if self.nbytes <= SMALL:
            array.flags.writeable = False
            self.kept = array
        return array

    def __array__(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        return self.file.read(self.offset or 0, self.nbytes).tobytes()


def open_external(model: ir.Model, folder: Path) -> None:
    """Every external initializer becomes one that is read from its file when it is asked for."""
    for part in (model.graph, *(f.graph for f in model.functions.values())):
        ir.external_data.set_base_dir(part, folder)  # those in attributes, which onnx_ir maps, after the same checks
    files: dict[str, DataFile] = {}
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                location = os.fspath(tensor.location)
                if location not in files:
                    files[location] = DataFile(folder, location)
                value.const_value = OnDisk(tensor, folder, files[location])


def external_files(model: ir.Model) -> set[Path]:
    """The files that hold initializers."""
    tensors = (v.const_value for graph in (model.graph, *model.graph.subgraphs()) for v in graph.initializers.values())
    return {Path(t.path).resolve() for t in tensors if isinstance(t, ir.ExternalTensor)}
