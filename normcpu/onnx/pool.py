# SPDX-License-Identifier: Apache-2.0
"""Rules for operations that combine neighbours: pools, means, resizing (B11 to B13, F5), and recurrent layers (F8)."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .affine import Affine, Refused
from .constants import attribute_or_input, integer, ints, text
from .conv import pads
from .net import Net, numpy_type, title
from .push import Mover, Plan, backward, forward
from .weights import constant_input, scale_weight, set_constant, weight_shape

Check = Callable[[Net, ir.Node, Affine], None]


def _spatial(node: ir.Node, affine: Affine) -> None:
    if affine.axes - {0, 1}:
        raise Refused(f"{node.op_type} {title(node)} mixes the axes that the factors vary along")


def _maximum(net: Net, node: ir.Node, affine: Affine) -> None:
    """max(s x + t) = s max(x) + t for s >= 0; padding is -inf."""
    _spatial(node, affine)
    if (affine.scale < 0).any():
        raise Refused(f"{node.op_type} {title(node)} takes maxima, and some scales are negative")
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise Refused(f"the indices of {node.op_type} {title(node)} are read")


def _average(net: Net, node: ir.Node, affine: Affine) -> None:
    """mean(s x + t) = s mean(x) + t, where zeros of a padding do not count."""
    _spatial(node, affine)
    if affine.keeps_zero or node.op_type == "GlobalAveragePool":
        return
    kernel = tuple(ints(node, "kernel_shape") or ())
    if integer(node, "ceil_mode"):
        raise Refused(f"AveragePool {title(node)} has ceil_mode, whose last window may count zeros")
    if integer(node, "count_include_pad") and pads(node, kernel):
        raise Refused(f"AveragePool {title(node)} counts padding, which the shift must not reach")


def _interpolation(net: Net, node: ir.Node, affine: Affine) -> None:
    """Weights that sum to 1: not where values outside are replaced (tf_crop_and_resize) or left out."""
    _spatial(node, affine)
    if text(node, "coordinate_transformation_mode") == "tf_crop_and_resize" or integer(node, "exclude_outside"):
        raise Refused(f"Resize {title(node)} replaces or leaves out what lies outside")
    axes = ints(node, "axes")
    if axes is not None and any(a % affine.rank in affine.axes for a in axes):
        raise Refused(f"Resize {title(node)} resizes the axis that the factors vary along")
    if affine.axes:
        _keeps_channels(net, node, affine)


def _keeps_channels(net: Net, node: ir.Node, affine: Affine) -> None:
    value = node.inputs[0]
    assert value is not None
    here, there = net.shape(value), net.shape(node.outputs[0])
    for k in affine.axes:
        if isinstance(here[k], int) and here[k] == there[k]:
            continue
        scales = [net.constants.value(i) for i in node.inputs[1:3] if i is not None]
        one = any(s is not None and s.dtype.kind == "f" and s.size == len(here) and s[k] == 1 for s in scales)
        if not one:
            raise Refused(f"{node.op_type} {title(node)} may resize the axis that the factors vary along")


CHECKS: dict[str, tuple[str, Check]] = {
    "MaxPool": ("B11", _maximum),
    "GlobalMaxPool": ("B11", _maximum),
    "AveragePool": ("B12", _average),
    "GlobalAveragePool": ("B12", _average),
    "Resize": ("B13", _interpolation),
    "Upsample": ("B13", _interpolation),
}


def _enter(op_type: str, name: str, check: Check) -> None:
    @backward(name, op_type)
    def back(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
        check(mover.net, node, affine)
        return mover.step(node) + mover.pull(node, 0, affine)

    @forward("F5", op_type)
    def on(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
        if index != 0:
            raise Refused(f"{op_type} {title(node)} reads it as a parameter")
        check(mover.net, node, affine)
        return mover.step(node) + mover.push(node.outputs[0], affine)


for _op_type, (_name, _check) in CHECKS.items():
    _enter(_op_type, _name, _check)

REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


@backward("B12", *REDUCTIONS)
def reduce_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """mean(s x + t) = s mean(x) + t; sums take no shift, maxima and minima no negative scale."""
    value = node.inputs[0]
    assert value is not None
    rank = mover.net.rank(value)
    axes = _reduced(mover.net, node, rank)
    if _is_mean(mover.net, node, axes, affine):
        return mover.step(node) + Plan([], [lambda: _average_of_sum(mover.net, node, axes)], [node])
    _reduces(node, affine)
    inner = affine
    if not integer(node, "keepdims", 1):
        inner = affine.map(lambda a: np.expand_dims(a, tuple(sorted(axes))))
    elif affine.axes & axes:
        raise Refused(f"{node.op_type} {title(node)} reduces the axis that the factors vary along")
    return mover.step(node) + mover.pull(node, 0, inner)


@forward("F5", *REDUCTIONS)
def reduce_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as its axes")
    axes = _reduced(mover.net, node, affine.rank)
    _reduces(node, affine)
    if affine.axes & axes:
        raise Refused(f"{node.op_type} {title(node)} reduces the axis that the factors vary along")
    out = affine
    if not integer(node, "keepdims", 1):
        out = affine.map(lambda a: a.reshape([n for k, n in enumerate(a.shape) if k not in axes]))
    return mover.step(node) + mover.push(node.outputs[0], out)


def _is_mean(net: Net, node: ir.Node, axes: set[int], affine: Affine) -> bool:
    """sum(x) / n = mean(x), n as exactly as its type has it."""
    if node.op_type != "ReduceSum" or not axes or affine.axes or not affine.keeps_zero or net.opset < 11:
        return False
    sizes = [net.shape(node.inputs[0] or node.outputs[0])[k] for k in axes]
    count = int(np.prod([n for n in sizes if isinstance(n, int)]))
    resolution = float(ml_dtypes.finfo(numpy_type(net.float_type(node.outputs[0]))).eps)
    return all(isinstance(n, int) for n in sizes) and abs(affine.scale.item() * count - 1) <= resolution


def _average_of_sum(net: Net, node: ir.Node, axes: set[int]) -> None:
    """ReduceSum becomes ReduceMean, whose axes are an attribute up to opset 17."""
    made = sorted(axes)
    node.op_type = "ReduceMean"
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes.pop("axes", None)
    if net.opset < 18:
        node.resize_inputs(1)
        node.attributes["axes"] = ir.AttrInt64s("axes", made)
    else:
        net.set_input(node, 1, net.constant(ir.Tensor(np.array(made, np.int64)), f"{title(node)}_axes"))


def _reduced(net: Net, node: ir.Node, rank: int) -> set[int]:
    axes = attribute_or_input(net.constants, node, "axes", 1)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        raise Refused(f"{node.op_type} {title(node)} has axes that are not constant")
    if not axes:
        return set() if integer(node, "noop_with_empty_axes") else set(range(rank))
    return {a % rank for a in axes}


def _reduces(node: ir.Node, affine: Affine) -> None:
    if node.op_type == "ReduceSum" and not affine.keeps_zero:
        raise Refused(f"ReduceSum {title(node)} would add the shift many times")
    if node.op_type in ("ReduceMax", "ReduceMin") and (affine.scale < 0).any():
        raise Refused(f"{node.op_type} {title(node)} takes extremes, and some scales are negative")


@forward("F8", "LSTM", "GRU", "RNN")
def recurrent_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """W (s x + t) + b_w = (W diag(s)) x + (b_w + W t).  W (directions, gates * hidden, input), the last axis of x is
    the input's; the first half of the bias (directions, 2 * gates * hidden) is b_w.
    """
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as something else than its input")
    shape = weight_shape(mover.net, node, 1)
    s, t = affine.vectors(2, shape[2])
    plan = mover.step(node)
    if t.any():
        weight, known = constant_input(mover.net, node, 1), constant_input(mover.net, node, 3)
        assert weight is not None
        biases = np.zeros((shape[0], 2 * shape[1])) if known is None else known.copy()
        biases[:, : shape[1]] += weight @ t
        hint = f"{node.inputs[1].name if node.inputs[1] else title(node)}_bias"
        plan.actions.append(set_constant(mover.net, node, 3, biases, mover.net.float_type(node.inputs[1]), hint))
    plan.actions += scale_weight(mover.net, node, 1, s, 2)
    plan.sole.append(node)
    return plan
