# SPDX-License-Identifier: Apache-2.0
"""Reading and writing model files: whole or not at all, and never over the input unless that is asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from .valid import ModelError

PROTOBUF_LIMIT = (1 << 31) - (1 << 24)  # bytes; protobuf holds 2 GiB, of which 16 MiB are for the graph


def load(path: str | os.PathLike[str]) -> ir.Model:
    """The model in a file; its external data stays where it is until it is read.

    The path is made absolute first: relative to no folder, onnx_ir would let external data lie anywhere.
    """
    where = Path(path).absolute()
    if not where.is_file():
        raise ModelError(f"{path}: no such file" if not where.exists() else f"{path}: not a file")
    try:
        proto = onnx.load(where, load_external_data=False)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, where.parent)
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
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return
    try:
        tensor.numpy()  # external data is mapped here, not read; paths that lead out of the folder are refused
    except Exception as error:  # what it says of its size, and what it holds, are two things
        raise ModelError(f"{path}: initializer {value.name!r} cannot be read: {first_line(error)}") from error
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()


def external_files(model: ir.Model) -> set[Path]:
    tensors = (v.const_value for graph in (model.graph, *model.graph.subgraphs()) for v in graph.initializers.values())
    return {Path(t.path).resolve() for t in tensors if isinstance(t, ir.ExternalTensor)}


def size(model: ir.Model) -> int:
    """Bytes of all initializers."""
    graphs = (model.graph, *model.graph.subgraphs())
    return sum(v.const_value.nbytes for g in graphs for v in g.initializers.values() if v.const_value is not None)


def save(model: ir.Model, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
    """Writes beside the target and renames: a full disk or an interrupt leaves what was there before.

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
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            made = Path(folder, target.name)
            ir.save(model, made, external_data=external)
            if external and Path(folder, external).exists():
                os.replace(Path(folder, external), target.parent / external)
            os.replace(made, target)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """The input, byte for byte, where nothing was folded and it is one file."""
    target = Path(path).absolute()
    if _same(source, target):
        return
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            shutil.copyfile(source, Path(folder, target.name))
            os.replace(Path(folder, target.name), target)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    target = Path(path).absolute()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            Path(folder, target.name).write_text(text, encoding="utf-8")
            os.replace(Path(folder, target.name), target)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error


def _same(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    return os.path.exists(b) and os.path.samefile(a, b)


def first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
