# SPDX-License-Identifier: Apache-2.0
"""What folding does to the per-channel range of each weight: what 8-bit quantization will feel.

One scale per tensor gives a channel whose largest weight is 1 / 127 of the tensor's a single step.  A fold multiplies
each channel by its gamma / sqrt(variance), and so may spread channels that were alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from .constants import Evaluated, dequantize, integer, ints, is_float
from .net import Net, title

Reader: TypeAlias = Callable[[], Evaluated | None]

MOVES = ("Identity", "Cast", "Transpose")  # what exporters leave between a weight and its reader
DEEPEST = 8
WEIGHTED = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}  # {operation: its weights' inputs}


@dataclass
class WeightRange:
    """The largest magnitude of each output channel of one weight, before and after folding."""

    node: str
    op_type: str
    weight: str
    before: list[float]
    after: list[float]

    @property
    def spread_before(self) -> float:
        return spread(self.before)

    @property
    def spread_after(self) -> float:
        return spread(self.after)


def spread(magnitudes: list[float]) -> float:
    """The largest channel in median channels; channels of zeros do not count."""
    some = [m for m in magnitudes if m > 0]
    return max(some) / float(np.median(some)) if some else 1.0


class Watched:
    """The weights of a model before it is folded; `changed` reads them, and what they have become, one at a time."""

    def __init__(self, net: Net) -> None:
        self.held: list[tuple[ir.Node, int, ir.Value, Reader]] = []
        for node in net.nodes():
            for index in WEIGHTED.get(node.op_type, ()) if not node.domain else ():
                value = node.inputs[index] if index < len(node.inputs) else None
                reader = None if value is None else _reader(value)
                if value is not None and reader is not None:
                    self.held.append((node, index, value, reader))

    def changed(self) -> list[WeightRange]:
        made = []
        for node, index, value, reader in self.held:
            now = node.inputs[index] if node.graph is not None else None
            if now is None or now is value:
                continue
            before, after = _magnitudes(node, index, reader), _magnitudes(node, index, _reader(now))
            if before is not None and after is not None:
                made.append(WeightRange(title(node), node.op_type, value.name or "", before, after))
        return made


def _reader(value: ir.Value, depth: int = 0) -> Reader | None:
    """How to read a constant once the graph has another in its place; None where it is none."""
    if value.is_initializer():
        return None if value.const_value is None else value.const_value.numpy
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor().numpy
    if node.op_type == "DequantizeLinear":
        return _dequantized(node, depth)
    first = node.inputs[0] if node.op_type in MOVES and depth < DEEPEST else None
    before = None if first is None else _reader(first, depth + 1)
    if before is None or node.op_type != "Transpose":
        return before
    order, read = ints(node, "perm"), before

    def transposed() -> Evaluated | None:
        made = read()
        return None if made is None else np.transpose(made, order)

    return transposed


def _dequantized(node: ir.Node, depth: int) -> Reader | None:
    """The reals that integers and scales stand for, in float32."""
    parts = [None if value is None else _reader(value, depth + 1) for value in node.inputs]
    if any(part is None and value is not None for part, value in zip(parts, node.inputs, strict=True)):
        return None
    readers = [part for part in parts if part is not None]

    def dequantized() -> Evaluated | None:
        q, scale, zero = ([*(read() for read in readers), None])[:3]
        return None if q is None or scale is None else dequantize(node, q, scale, zero, np.float32)

    return dequantized


def _magnitudes(node: ir.Node, index: int, reader: Reader | None) -> list[float] | None:
    if reader is None:
        return None
    weight = reader()
    if weight is None or not is_float(weight.dtype) or weight.ndim < 2 or not weight.size:
        return None
    view, others = _all_but_output_channels(node, index, weight)
    largest = np.maximum(view.max(axis=others), -view.min(axis=others))  # np.abs would copy it
    return [float(f"{float(m):.6g}") for m in largest.ravel()]


def _all_but_output_channels(node: ir.Node, index: int, weight: Evaluated) -> tuple[Evaluated, tuple[int, ...]]:
    """The weight, and its axes that are not output channels."""
    if node.op_type == "ConvTranspose":  # (inputs, outputs of a group, kernel), the groups side by side in the inputs
        groups = integer(node, "group", 1)
        weight = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return weight, (1, 3)
    if node.op_type == "Conv":
        return weight, tuple(range(1, weight.ndim))
    transposed = node.op_type == "Gemm" and integer(node, "transB" if index else "transA")
    axis = weight.ndim - (2 if (index == 1) == bool(transposed) else 1)  # of (k, n) n, of (m, k) m
    return weight, tuple(k for k in range(weight.ndim) if k != axis)
