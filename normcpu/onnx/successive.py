# SPDX-License-Identifier: Apache-2.0
"""Two convolutions in a row, one of them 1x1, become one (R3)."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..fold import pointwise_then_conv
from .affine import Array, Refused
from .constants import integer, ints, text
from .conv import pads
from .exact import not_worth_a_copy
from .net import Net, title
from .push import Record, Step, followed
from .quantised import is_quantised
from .weights import constant_input, set_constant, weight_shape

NAMES = ("kernel_shape", "dilations", "pads", "auto_pad")  # of the one that is not 1x1


class Pair(NamedTuple):
    first: ir.Node
    second: ir.Node
    pointwise: bool  # whether it is the first that is 1x1
    strides: list[int]


def merge_successive(net: Net, frozen: Container[ir.Node], kept: dict[ir.Node, str], records: list[Record]) -> bool:
    """R3.  W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), W1 (m, i, 1), W2 (o, m, k), or the other one 1x1.

    Zero pads of the second are zeros of the first's output: they pass where b1 = 0.  Not where the one would take more
    multiplications: o i k instead of m i + o m k at each place, m i counted for each place that the second steps over.
    """
    done = False
    for node in list(net.nodes()):
        pair = _pair(net, node)
        if pair is None:
            continue
        try:
            for either in pair[:2]:
                if either in frozen:
                    raise Refused(f"{title(either)} stays as it is")
            with followed():
                parameters = _merge(net, pair)
        except Refused as refused:
            kept[node] = f"into the convolution before it: {refused}"
            continue
        step = Step("R3", title(node), node.op_type, -1, parameters)
        records.append(Record(title(pair.first), "Conv", "merged", [step]))
        done = True
    return done


def _pair(net: Net, second: ir.Node) -> Pair | None:
    """The node and the Conv in front of it, which it alone reads, where one of the two is 1x1 and has one group."""
    x = second.inputs[0] if second.inputs else None
    first = None if x is None else x.producer()
    if x is None or first is None or first.graph is not second.graph or len(x.uses()) != 1 or x.is_graph_output():
        return None
    if any(n.op_type != "Conv" or n.domain or integer(n, "group", 1) != 1 for n in (first, second)):
        return None
    try:
        kernels = [weight_shape(net, n, 1)[2:] for n in (first, second)]
    except Refused:
        return None
    strides = [ints(n, "strides") or [1] * len(kernels[0]) for n in (first, second)]
    small = [all(n == 1 for n in k) for k in kernels]
    if small[0] and not pads(first, kernels[0]) and all(n == 1 for n in strides[0]):
        return Pair(first, second, True, strides[1])
    if small[1] and not pads(second, kernels[1]) and len(strides[0]) == len(strides[1]):
        return Pair(first, second, False, [a * b for a, b in zip(*strides, strict=True)])
    return None


def _merge(net: Net, pair: Pair) -> int:
    """Puts both into the second, and returns how many parameters that adds."""
    for node in pair[:2]:
        weight = node.inputs[1]
        assert weight is not None
        not_worth_a_copy(weight)
        if is_quantised(weight):
            raise Refused(f"Conv {title(node)} has an int8 weight")
    first, second = pair.first, pair.second
    steps = ints(second, "strides") or [1]
    if (
        not pair.pointwise
        and any(n > 1 for n in steps)
        and text(first, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    ):
        raise Refused(f"Conv {title(first)} pads by its stride, which would be another")
    w1, b1, w2, b2 = (constant_input(net, n, k) for n in (first, second) for k in (1, 2))
    assert w1 is not None
    assert w2 is not None
    if pair.pointwise and b1 is not None and b1.any() and pads(second, w2.shape[2:]):
        raise Refused(f"Conv {title(second)} pads with zeros, which the bias of Conv {title(first)} must not reach")
    made, bias = pointwise_then_conv(w1, b1, w2, b2) if pair.pointwise else _conv_then_pointwise(w1, b1, w2, b2)
    times = [int(np.prod(steps)) * w1.size + w2.size, made.size]
    if times[1] > times[0]:
        raise Refused(f"one convolution would take {times[1]} multiplications at each place, both take {times[0]}")
    dtype = net.float_type(second.inputs[1])
    actions = [set_constant(net, second, 1, made, dtype, f"{title(second)}_merged")]
    if bias is not None:
        actions.append(set_constant(net, second, 2, bias, dtype, f"{title(second)}_merged_bias"))
    for act in actions:
        act()
    if not pair.pointwise:
        for name in NAMES:
            second.attributes.pop(name, None)
            if name in first.attributes:
                second.attributes[name] = first.attributes[name]
        second.attributes["strides"] = ir.AttrInt64s("strides", pair.strides)
    net.set_input(second, 0, first.inputs[0])
    assert first.graph is not None
    first.graph.remove(first, safe=True)
    return made.size + _size(bias) - sum(_size(a) for a in (w1, b1, w2, b2))


def _conv_then_pointwise(w1: Array, b1: Array | None, w2: Array, b2: Array | None) -> tuple[Array, Array | None]:
    rows = w2.reshape(w2.shape[:2])
    made = np.tensordot(rows, w1, (1, 0))
    if b1 is None:
        return made, b2
    return made, rows @ b1 + (0.0 if b2 is None else b2)


def _size(a: Array | None) -> int:
    return 0 if a is None else a.size
