# SPDX-License-Identifier: Apache-2.0
"""A sequential model as C: what `normcpu embed` does."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .._arrays import as_choice
from ..embed.function import function, simulate
from ..embed.layers import STORED
from ..embed.writing import Generated
from .affine import Refused
from .fold import Source, invalid, reader, with_data
from .net import Net
from .prepare import inline_functions
from .run import CannotRun, run
from .sequence import Sequential
from .valid import ModelError, kind, put_in_order, title

WRONG = 1e-3  # of the largest |y|: roundings make a thousandth of that
LARGEST = 1 << 24  # elements of x: more than devices hold, and no burden here


class CannotEmbed(Exception):
    """What of a model cannot be made to C, its first operation that cannot, and why."""


def embed(
    model: Source,
    *,
    name: str | None = None,
    stored: str = "float32",
    inputs: Any = None,
    samples: int = 1,
    verify: bool = True,
) -> Generated:
    """C for a model whose operations follow one another: one function, as `normcpu.embed.function` makes it.

    Args:
        model: a path, an onnx.ModelProto or an onnx_ir.Model, with one input and one output of float32.  An unknown
            first axis counts as 1, the size of a batch; all others must be known.
        name: of the function and the files; else that of the file, or of the graph.
        stored: "float32" or "int8", of the weights of convolutions and linear layers.
        inputs: x to test with, (k, *shape); or `samples` random ones.
        verify: run the model too, in ONNX Runtime if it is installed; the last of the notes says how far y is from its.

    Convolutions (of 1 and 2 axes), Gemm, MatMul and Add, BatchNormalization, activations, pools, Softmax, and what
    changes shapes alone.  Dropout does nothing.  Fold first: BatchNorms that are left take a pass each.

    Raises:
        CannotEmbed: what is not one of these, by name; or y is not the model's.
        ModelError: the file is no model.
        ValueError: an argument.
    """
    found, shape = layers(model, stored)
    if name is None:
        name = Path(model).stem if isinstance(model, str | os.PathLike) else model.graph.name or "net"
    made = function(found, shape, name=name, inputs=inputs, samples=samples)
    return replace(made, notes=(*made.notes, _compared(model, found, shape, inputs, stored))) if verify else made


def layers(model: Source, stored: str = "float32") -> tuple[list[Any], tuple[int, ...]]:
    """What `embed` makes C of: layers of `normcpu.embed`, for `simulate` say, and the shape of x."""
    as_choice("stored", stored, STORED)
    again = reader(model)
    try:
        return _layers(again(), stored)
    except (CannotEmbed, ModelError):
        raise
    except Exception as error:  # what is wrong with the model, where it is no valid one
        raise invalid(again(), error) from error


def _layers(read: ir.Model, stored: str) -> tuple[list[Any], tuple[int, ...]]:
    put_in_order(read)
    if read.functions:
        inline_functions(read)
    x = _input(read)
    shape = _static(x)
    for node in read.graph.all_nodes():  # sizes are inferred anew: those that are declared may have symbols
        for value in node.outputs:
            value.shape = None
    x.shape = ir.Shape(shape)
    net = Net(read)
    sequence = Sequential(net, shape, stored)
    for node, value in _chain(net, x):
        try:
            sequence.add(node, value)
        except (Refused, TypeError, ValueError) as problem:
            raise CannotEmbed(f"{kind(node)} {title(node)!r}: {problem}") from problem
    if not sequence.layers:
        raise CannotEmbed("the model has no operation")
    return sequence.layers, shape


def _compared(model: Source, found: list[Any], shape: tuple[int, ...], inputs: Any, stored: str) -> str:
    """How far y is from what the model itself gives, in ONNX Runtime if that is installed."""
    read = reader(model)()
    put_in_order(read)
    message, name = with_data(read), _input(read).name or ""
    given = np.random.default_rng(0).normal(size=(4, *shape)) if inputs is None else np.asarray(inputs)
    try:
        own = [run(message, {name: x.astype(np.float32)}) for x in given]
    except CannotRun as problem:
        return f"not compared with the model: {problem}"
    off = most = 0.0
    for x, ((y, *_), _) in zip(given, own, strict=True):
        off = max(off, float(abs(simulate(found, x).reshape(y.shape) - y).max()))
        most = max(most, float(abs(y).max()))
    if stored == "float32" and not off <= WRONG * most:
        raise CannotEmbed(f"the result would differ from the model's own by {off:.2g}, where |y| is at most {most:.2g}")
    what = "the model" if stored == "float32" else "the model, with weights in int8,"
    return f"differs from {what} by at most {off:.2g} on {len(own)} inputs, where |y| is at most {most:.2g}"


def _input(model: ir.Model) -> ir.Value:
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    for what, values in (("input", inputs), ("output", graph.outputs)):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values) or "none"
            raise CannotEmbed(f"the model must have one {what}, got {names}")
        if values[0].dtype not in (ir.DataType.FLOAT, None):
            raise CannotEmbed(f"{what} {values[0].name!r} must be float32, got {values[0].dtype.name.lower()}")
    return inputs[0]


def _static(x: ir.Value) -> tuple[int, ...]:
    if x.shape is None or not len(x.shape):
        raise CannotEmbed(f"input {x.name!r} must have a known shape, got {x.shape}")
    sizes = list(x.shape)
    if not isinstance(sizes[0], int):
        sizes[0] = 1
    for axis, size in enumerate(sizes):
        if not isinstance(size, int):
            raise CannotEmbed(f"input {x.name!r} must have known sizes, got {str(size)!r} on axis {axis}")
        if size < 1:
            raise CannotEmbed(f"input {x.name!r} must have sizes of at least 1, got {size} on axis {axis}")
    if math.prod(sizes) > LARGEST:
        raise CannotEmbed(f"input {x.name!r} must have at most {LARGEST} elements, got {sizes}")
    return tuple(int(size) for size in sizes)


def _chain(net: Net, x: ir.Value) -> Iterator[tuple[ir.Node, ir.Value]]:
    """The nodes from x to the output, each with what it reads of the one before."""
    while not (x.is_graph_output() and not net.readers(x)):
        nodes = list(dict.fromkeys(use.node for use in net.readers(x)))
        if len(nodes) != 1 or x.is_graph_output():
            names = " and ".join(f"{kind(node)} {title(node)!r}" for node in nodes) or "nothing"
            also = ", and is the output" if x.is_graph_output() else ""
            raise CannotEmbed(f"a model must be one sequence: {x.name!r} is read by {names}{also}")
        yield nodes[0], x
        x = nodes[0].outputs[0]
