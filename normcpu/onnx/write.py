# SPDX-License-Identifier: Apache-2.0
"""Writing: a file appears whole or not at all, and no more than one large tensor is in memory for it.

A model is a protobuf message, a row of (key, length, bytes) whose order is free.  So large weights can come last, each
computed when its turn has come, behind a graph of known length: no message of the whole model is ever made.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from .valid import ModelError

LARGE = 1024  # bytes; a smaller tensor stays in the message
ALIGNED = 4096  # bytes: where external data begins, so that it can be mapped
INLINE = "<here>"  # the location of a weight that goes into the model's own file

# The keys, field number * 8 + 2 for bytes: https://protobuf.dev/programming-guides/encoding
IN_MODEL, IN_GRAPH, IN_TENSOR = (
    bytes([8 * message.DESCRIPTOR.fields_by_name[name].number + 2])
    for message, name in ((onnx.ModelProto, "graph"), (onnx.GraphProto, "initializer"), (onnx.TensorProto, "raw_data"))
)


@contextmanager
def whole(path: str | os.PathLike[str], *beside: str) -> Iterator[Path]:
    """A path to write to: what is there in the end becomes `path`, and files of the names `beside` come with it.

    Where that fails, or is interrupted, what was there before is as it was.  Permissions stay those of the file that is
    replaced; a link is followed.
    """
    target = Path(os.path.realpath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            yield Path(folder, target.name)
            for name in (*beside, target.name):  # the model last: it names the others
                made, final = Path(folder, name), target.parent / name
                if not made.exists():
                    continue
                if final.exists():
                    shutil.copymode(final, made)
                _sync(made)
                os.replace(made, final)
            _sync(target.parent)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    """To the disk, before a name points to it: or a power failure may leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_model(model: ir.Model, path: Path, external: str | None) -> None:
    """Into one file, or with large weights in one named `external` beside it."""
    graphs = (model.graph, *(model.graph.subgraphs() if external else ()))
    values = [v for graph in graphs for v in graph.initializers.values() if _is_large(v.const_value)]
    tensors = [_tensor(v) for v in values]
    try:
        for value, place in zip(values, _places(tensors, external or INLINE), strict=True):
            value.const_value = place
        message = ir.to_proto(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    with path.open("wb") as file:
        if external is None:
            _write_message(message, tensors, file)
        else:
            file.write(message.SerializeToString())
    if external is not None and tensors:
        with path.with_name(external).open("wb") as file:
            for tensor in tensors:
                file.write(bytes(-file.tell() % ALIGNED))
                file.write(_data(tensor))


def _places(tensors: Sequence[ir.TensorProtocol], location: str) -> Iterator[ir.ExternalTensor]:
    at = 0
    for tensor in tensors:
        yield ir.ExternalTensor(
            location, at, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape), name=tensor.name or "",
            doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip
        at += -(-tensor.nbytes // ALIGNED) * ALIGNED


def _write_message(message: onnx.ModelProto, tensors: Sequence[ir.TensorProtocol], file: BinaryIO) -> None:
    """The message with `tensors` in the places that were made for them."""
    large: list[onnx.TensorProto] = []
    small: list[onnx.TensorProto] = []
    for proto in message.graph.initializer:
        (large if proto.external_data and proto.external_data[0].value == INLINE else small).append(proto)
    heads, sizes = [], []
    for proto, tensor in zip(large, tensors, strict=True):
        proto.ClearField("external_data")
        proto.ClearField("data_location")
        heads.append(proto.SerializeToString() + IN_TENSOR + _varint(tensor.nbytes))
        sizes.append(len(heads[-1]) + tensor.nbytes)
    rest = onnx.GraphProto()
    rest.initializer.extend(small)
    message.graph.ClearField("initializer")
    graph = message.graph.SerializeToString() + rest.SerializeToString()
    message.ClearField("graph")
    behind = sum(len(IN_GRAPH) + len(_varint(size)) + size for size in sizes)
    file.write(message.SerializeToString() + IN_MODEL + _varint(len(graph) + behind) + graph)
    for head, size, tensor in zip(heads, sizes, tensors, strict=True):
        file.write(IN_GRAPH + _varint(size) + head)
        file.write(_data(tensor))


def _varint(n: int) -> bytes:
    """Seven bits a byte, the lowest first, and a bit that says whether more follow."""
    made = bytearray()
    while n > 127:
        made.append(n & 127 | 128)
        n >>= 7
    return bytes([*made, n])


def _data(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """Little-endian, without a copy where memory holds it so."""
    if sys.byteorder == "big" or tensor.dtype.bitwidth < 8:
        return bytes(tensor.tobytes())
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


def _is_large(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > LARGE


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
