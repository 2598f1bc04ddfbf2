# SPDX-License-Identifier: Apache-2.0
"""A shift into a convolution that pads with zeros (F2): three ways, each of which adds something to the model.

The zeros stand where s x + t would be t, so the shift is missing at the border.  None of the three is used unless
asked for; without them the shift stays in front.  In ONNX Runtime (1.31, one thread, a BatchNorm in front of a 3x3
convolution of 64 to 256 channels) the map costs 2 to 5 %, the channel of ones 20 %, for its channels are no longer
blocks of 16; a Pad in place of (x - 0.5) / 0.5 in front of an image's first convolution saves 5 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused, one_value
from .constants import integer, ints, text
from .conv import input_axis, into_valid, only_data, pads, per_input, taps
from .exact import check_range, new_constant
from .matmul import add_behind, adder
from .net import Net, title
from .push import Elsewhere, Mover, Plan, forward
from .quantised import is_quantised
from .weights import Action, constant_input, scale_weight, set_constant, weight_shape


class Padded(NamedTuple):
    """A convolution of s x + t with zeros around it."""

    x: ir.Value
    shape: tuple[int, ...]  # of the weight: (o, i / groups, *k)
    s: Array  # (i,)
    t: Array
    begin: list[int]  # zeros in front, per spatial axis
    end: list[int]


def _padded(net: Net, node: ir.Node, index: int, affine: Affine) -> Padded:
    only_data(node, index)
    shape = weight_shape(net, node, 1)
    s, t = affine.vectors(1, shape[1] * integer(node, "group", 1))
    if not (t.any() and pads(node, shape[2:])):
        raise Elsewhere(f"Conv {title(node)} does not pad what the shift reaches")
    x = node.inputs[0]
    assert x is not None
    begin, end = zeros_around(net, node, x, shape[2:])
    return Padded(x, shape, s, t, begin, end)


def zeros_around(net: Net, node: ir.Node, x: ir.Value, kernel: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """How many, before and after each axis.  SAME: the output's size is the input's over the stride, rounded up."""
    axes = len(kernel)
    auto = text(node, "auto_pad", "NOTSET")
    if auto in ("", "NOTSET"):
        amounts = ints(node, "pads") or [0] * (2 * axes)
        return amounts[:axes], amounts[axes:]
    totals = []
    for size, k, stride, dilation in zip(net.shape(x)[2:], kernel, *steps(node, axes), strict=True):
        extent = dilation * (k - 1) + 1
        if stride > 1 and not isinstance(size, int):
            raise Refused(f"Conv {title(node)} pads by {auto} an input of unknown size")
        last = (-(-size // stride) - 1) * stride - size if isinstance(size, int) else -1
        totals.append(max(last + extent, 0))
    less, more = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def steps(node: ir.Node, axes: int) -> tuple[list[int], list[int]]:
    return ints(node, "strides") or [1] * axes, ints(node, "dilations") or [1] * axes


@forward("F2c", "Conv")
def conv_padded_by_value(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """conv(zeros around s x + t) = valid conv(s p(x) + t), p(x) with -t / s around x: a Pad, then F1.

    ONNX's Pad knows one value for all channels, so -t_i / s_i must be the same for all i; s x + t = (x - 0.5) / 0.25,
    as images are normalized, has one.
    """
    at = _padded(mover.net, node, index, affine)
    dead = at.s == 0
    if at.t[dead].any():
        channel = int(np.argmax(dead & (at.t != 0)))
        raise Refused(f"no value of channel {channel}, of scale 0, is what Conv {title(node)} pads with")
    values = -at.t[~dead] / at.s[~dead]
    value = one_value(values)
    if value is None:
        lowest, highest = values.min(), values.max()
        raise Refused(f"Conv {title(node)} would be padded with {lowest:g} in one channel and {highest:g} in another")
    plan = mover.step(node, operations=1)
    plan.actions += into_valid(mover.net, node, at.s, at.t)
    amounts = [0, 0, *at.begin, 0, 0, *at.end]
    plan.actions += [_pad_input(mover.net, node, amounts, value), lambda: _without_pads(node)]
    plan.sole.append(node)
    return plan


@forward("F2d", "Conv")
def conv_with_map_behind(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """conv(zeros around s x + t) = conv(zeros around s x) + m, m = conv(zeros around t), computed here: an Add behind.

    m_op = sum_k a_ok [p * stride - begin + k * dilation lies inside], a_ok = sum_i W_oik t_i.  It takes known sizes,
    and is not worth it where m (o, *p) has more elements than x has.
    """
    net = mover.net
    at = _padded(net, node, index, affine)
    sizes = net.shape(at.x)[2:]
    if not all(isinstance(n, int) for n in sizes):
        raise Refused(f"Conv {title(node)} pads with zeros an input of unknown size")
    added = taps(net, node, at.t)
    spatial = zip(sizes, at.shape[2:], *steps(node, len(sizes)), at.begin, at.end, strict=True)
    for size, k, stride, dilation, begin, end in spatial:
        count = (int(size) + begin + end - dilation * (k - 1) - 1) // stride + 1
        place = np.arange(count)[:, None] * stride - begin + np.arange(k) * dilation
        inside = ((place >= 0) & (place < int(size))).astype(np.float64)
        added = np.tensordot(added, inside, (1, 1))  # (o, *rest of k, *p so far)
    elements = at.s.size * int(np.prod([int(n) for n in sizes]))
    if added.size > elements:
        raise Refused(f"Conv {title(node)} would need a map of {added.size} elements, and its input has {elements}")
    behind = adder(net, node)
    known = None if behind is None else constant_input(net, *behind)
    plan = mover.step(
        node, operations=1 if known is None else 0, parameters=added.size - (0 if known is None else known.size)
    )
    plan.actions += scale_weight(
        net,
        node,
        1,
        per_input(at.s, at.shape, integer(node, "group", 1)),
        input_axis(at.shape, integer(node, "group", 1)),
    )
    plan.actions += add_behind(net, node, added)
    plan.sole.append(node)
    return plan


@forward("F2e", "Conv")
def conv_with_channel_of_ones(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """conv(zeros around s x + t) = conv(zeros around (s x, 1)), the last channel's weight a_ok = sum_i W_oik t_i: for
    any size.  A Pad makes the channel of ones.  With groups each would need its own, in between the others.
    """
    net = mover.net
    at = _padded(net, node, index, affine)
    if integer(node, "group", 1) != 1:
        raise Refused(f"Conv {title(node)} has groups, each of which would need a channel of ones")
    weight = node.inputs[1]
    if weight is None or is_quantised(weight):
        raise Refused(f"Conv {title(node)} has an int8 weight, which cannot take another channel")
    added = taps(net, node, at.t)[:, None]
    dtype = net.float_type(weight)
    check_range(added, np.ones(()), dtype, f"the added channel of Conv {title(node)}", 0)

    def widen() -> None:
        now = constant_input(net, node, 1)
        assert now is not None
        set_constant(net, node, 1, np.concatenate([now, added], 1), dtype, f"{weight.name}_and_shift")()

    amounts = [0] * (2 * len(at.shape))
    amounts[len(at.shape) + 1] = 1  # behind the last channel
    plan = mover.step(node, operations=1, parameters=added.size)
    plan.actions += scale_weight(net, node, 1, per_input(at.s, at.shape, 1), 1)
    plan.actions += [widen, _pad_input(net, node, amounts, 1.0)]
    plan.sole.append(node)
    return plan


def _pad_input(net: Net, node: ir.Node, amounts: list[int], value: float) -> Action:
    """A Pad in front of input 0; up to opset 10 its parameters are attributes."""
    x = node.inputs[0]
    dtype = net.float_type(x)
    check_range(np.array(value), np.ones(()), dtype, f"the padding of Conv {title(node)}", None)
    if net.opset < 11 and dtype == ir.DataType.DOUBLE:
        raise Refused(f"Conv {title(node)} is of float64, and opset {net.opset} pads with float32 values")

    def act() -> None:
        x = node.inputs[0]
        assert x is not None
        assert node.graph is not None
        name = net.fresh(f"{title(node)}_pad")
        if net.opset < 11:
            attributes = [ir.AttrInt64s("pads", amounts), ir.AttrFloat32("value", value)]
            made = ir.Node("", "Pad", [x], attributes, name=name)
        else:
            parameters = net.constant(ir.Tensor(np.array(amounts, np.int64)), f"{name}_amounts")
            fill = new_constant(net, np.array(value), dtype, f"{name}_value")
            made = ir.Node("", "Pad", [x, parameters, fill], name=name)
        padded = made.outputs[0]
        padded.name, padded.type = net.fresh(f"{name}_out"), ir.TensorType(dtype)
        half = len(amounts) // 2
        sizes = [
            n + amounts[k] + amounts[half + k] if isinstance(n, int) else f"{k}@{padded.name}"
            for k, n in enumerate(net.shape(x))
        ]
        net.types[padded], net.shapes[padded] = dtype, sizes
        node.graph.insert_before(node, made)
        net.set_input(node, 0, padded)

    return act


def _without_pads(node: ir.Node) -> None:
    for name in ("pads", "auto_pad"):
        node.attributes.pop(name, None)
