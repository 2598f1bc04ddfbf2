# SPDX-License-Identifier: Apache-2.0
"""Reading and writing model files: whole or not at all, and never over the input unless that is asked for."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from .external import OnDisk, external_files, open_external
from .valid import ModelError
from .write import whole, write_model

PROTOBUF_LIMIT = (1 << 31) - (1 << 24)  # bytes; protobuf holds 2 GiB, of which 16 MiB are for the graph


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's cyclic garbage collector, which would walk a large graph again and again as it grows."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def load(path: str | os.PathLike[str]) -> ir.Model:
    """The model in a file; its external data stays where it is until it is read."""
    where = Path(path).absolute()
    if not where.is_file():
        raise ModelError(f"{path}: no such file" if not where.exists() else f"{path}: not a file")
    try:
        proto = onnx.load(where, load_external_data=False)
        model = ir.from_proto(proto)
        open_external(model, where.parent)
    except Exception as error:  # protobuf's, onnx's and onnx_ir's own kinds: whatever it is, it is no model
        raise ModelError(f"{path}: not a readable ONNX model: {first_line(error)}") from error
    if any(graph.sparse_initializer for graph in _graphs(proto.graph)):
        raise ModelError(f"{path}: has sparse initializers, which cannot be read here")
    if not len(model.graph) and not model.graph.outputs:
        raise ModelError(f"{path}: not an ONNX model, or an empty one")
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            _check_tensor(path, value)
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _check_tensor(path: str | os.PathLike[str], value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or isinstance(tensor, OnDisk):
        return
    try:
        if min(tensor.shape.numpy(), default=0) < 0:
            raise ValueError(f"its shape is {tensor.shape}")
        tensor.numpy()
    except Exception as error:  # what it says of its size, and what it holds, are two things
        raise ModelError(f"{path}: initializer {value.name!r} cannot be read: {first_line(error)}") from error


def size(model: ir.Model) -> int:
    """Bytes of all initializers."""
    graphs = (model.graph, *model.graph.subgraphs())
    return sum(v.const_value.nbytes for g in graphs for v in g.initializers.values() if v.const_value is not None)


@uncollected()
def save(model: ir.Model, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
    """Writes the model: whole, or not at all.

    Weights go to <path>.data, in one pass, if external_data says so; where it is None, if the model is too large for
    one file or has weights that are external.
    """
    target = Path(path).absolute()
    read = external_files(model)
    apart = external_data or size(model) > PROTOBUF_LIMIT or (external_data is None and bool(read))
    external = f"{target.name}.data" if apart else None
    if external and (target.parent / external).resolve() in read:
        raise ModelError(f"{target.parent / external} holds data of the model that is being read: choose another name")
    try:
        with whole(path, *([external] if external else [])) as made:
            write_model(model, made, external)
    except ir.serde.SerdeError as error:  # what onnx_ir read without a word and cannot write
        raise ModelError(f"{path}: cannot be written: {first_line(error)}") from error


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """The input, byte for byte, where nothing was folded and it is one file."""
    if not _same(source, path):
        with whole(path) as made:
            shutil.copyfile(source, made)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    with whole(path) as made:
        made.write_text(text, encoding="utf-8")


def _same(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    return os.path.exists(b) and os.path.samefile(a, b)


def first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
