# SPDX-License-Identifier: Apache-2.0
"""Rules for sums, products and activations, and for affines that meet affines."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Refused
from .net import Net, title
from .push import Mover, Plan, backward, forward
from .read import ARITHMETIC, Reading, is_bias, read
from .spell import respell, spelled
from .weights import set_constant


@backward("B15", "Relu", "LeakyRelu", "PRelu", "Abs")
def rectifier_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s f(x) = f(s x) for s >= 0 where f only bends at 0."""
    _rectifies(node, affine)
    return mover.step(node) + mover.pull(node, 0, affine)


@forward("F9", "Relu", "LeakyRelu", "PRelu")
def rectifier_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """f(s x) = s f(x) for s >= 0."""
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as its slope")
    _rectifies(node, affine)
    return mover.step(node) + mover.push(node.outputs[0], affine)


@forward("F9", "Abs")
def absolute_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """|s x| = |s| |x| for every s."""
    if not affine.keeps_zero:
        raise Refused(f"Abs {title(node)} bends at 0, which a shift would move")
    return mover.step(node) + mover.push(node.outputs[0], Affine.of(affine.rank, np.abs(affine.scale)))


def _rectifies(node: ir.Node, affine: Affine) -> None:
    if not affine.keeps_zero:
        raise Refused(f"{node.op_type} {title(node)} bends at 0, which a shift would move")
    if (affine.scale < 0).any():
        raise Refused(f"{node.op_type} {title(node)} is not odd, and some scales are negative")


@backward("B9", *sorted(ARITHMETIC), "BatchNormalization", "Sum")
def arithmetic_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """An affine in front of the affine is composed with it (B6, X1); sums and products of activations follow."""
    reading = read(mover.net, node)
    if reading is not None:
        return _meet_backward(mover, node, reading, affine)
    if node.op_type == "Mul":
        return _product_backward(mover, node, affine)
    if node.op_type == "Div":
        return _quotient_backward(mover, node, affine)
    if node.op_type in ("Add", "Sub", "Sum"):
        return _sum_backward(mover, node, affine)
    raise Refused(f"{node.op_type} {title(node)} is not affine")


def _meet_backward(mover: Mover, node: ir.Node, reading: Reading, affine: Affine) -> Plan:
    """A(s1 x + t1) = s s1 x + (s t1 + t).  An Add keeps its shift and passes the scale on where that goes anywhere."""
    both = affine.after(reading.affine)
    if reading.affine.keeps_scale and node.op_type in ("Add", "Sub") and not affine.keeps_scale:
        try:
            onward = mover.pull(node, reading.at, affine.only_scale())
            return mover.step(node) + onward + _new_shift(mover.net, node, reading, both.only_shift())
        except Refused:
            if is_bias(mover.net, node):
                raise
    if is_bias(mover.net, node) and affine.keeps_scale:
        return mover.step(node) + _new_shift(mover.net, node, reading, both.only_shift())
    return mover.step(node) + _compose(mover.net, node, reading, both)


def _new_shift(net: Net, node: ir.Node, reading: Reading, shift: Affine) -> Plan:
    """x + c becomes x + t, x - c becomes x - (-t): the constant operand is replaced."""
    index = 1 - reading.at
    value = node.inputs[index]
    dtype = net.float_type(value)
    exact = -shift.shift if node.op_type == "Sub" else shift.shift
    return Plan(
        [], [set_constant(net, node, index, exact, dtype, f"{value.name if value else node.name}_folded")], [node]
    )


def _compose(net: Net, node: ir.Node, reading: Reading, both: Affine) -> Plan:
    if spelled(net, node.outputs[0], both) > 1:
        raise Refused(f"{node.op_type} {title(node)} and this one together are still two operations")
    return Plan([], [respell(net, [node], reading.at, both)], [node])


def _product_backward(mover: Mover, node: ir.Node, affine: Affine) -> Plan:
    """B10.  s (u g) = (s u) g: into either factor that is not broadcast along the axes of s."""
    if not affine.keeps_zero:
        raise Refused(f"Mul {title(node)} of two activations does not take a shift")
    reasons = []
    for index in (0, 1):
        try:
            return mover.step(node) + mover.pull(node, index, _of_operand(mover.net, node, index, affine))
        except Refused as refused:
            reasons.append(str(refused))
    raise Refused("; ".join(dict.fromkeys(reasons)))


def _quotient_backward(mover: Mover, node: ir.Node, affine: Affine) -> Plan:
    """s (u / v) = (s u) / v."""
    if not affine.keeps_zero:
        raise Refused(f"Div {title(node)} of two activations does not take a shift")
    return mover.step(node) + mover.pull(node, 0, _of_operand(mover.net, node, 0, affine))


def _sum_backward(mover: Mover, node: ir.Node, affine: Affine) -> Plan:
    """B9.  s (u + v) + t = (s u + t) + s v: the scale into every operand, the shift into one; u - v has -t in v."""
    reasons = []
    for chosen in range(len(node.inputs)):
        try:
            plan = mover.step(node)
            for index in range(len(node.inputs)):
                part = affine if index == chosen else affine.only_scale()
                if index == chosen == 1 and node.op_type == "Sub":
                    part = Affine.of(affine.rank, affine.scale, -affine.shift)
                plan += mover.pull(node, index, _of_operand(mover.net, node, index, part))
            return plan
        except Refused as refused:
            reasons.append(str(refused))
            if affine.keeps_zero:
                break
    raise Refused("; ".join(dict.fromkeys(reasons)))


def _of_operand(net: Net, node: ir.Node, index: int, affine: Affine) -> Affine:
    """The affine of the result as one of an operand, refused if the operand is broadcast along its axes."""
    value = node.inputs[index]
    if value is None:
        raise Refused(f"{node.op_type} {title(node)} lacks an operand")
    if affine.is_identity:
        return affine
    here, there = net.shape(value), net.shape(node.outputs[0])
    lead = len(there) - len(here)
    if any(k < lead or here[k - lead] != there[k] for k in affine.axes):
        raise Refused(f"{node.op_type} {title(node)} broadcasts {value.name!r} along the factors' axis")
    if not affine.keeps_zero and len(node.inputs) > 1 and node.op_type in ("Mul", "Div"):
        raise Refused(f"{node.op_type} {title(node)} of two activations does not take a shift")
    return affine.map(lambda a: a.reshape(a.shape[lead:]))


@forward("F6", *sorted(ARITHMETIC), "BatchNormalization", "Sum")
def arithmetic_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """An affine behind the affine is composed with it (X1).  (s u) g = s (u g);  (u + t) + v = (u + v) + t."""
    net = mover.net
    reading = read(net, node)
    if reading is not None:
        if index != reading.at:
            raise Refused(f"{node.op_type} {title(node)} reads it as a parameter")
        return _meet_forward(mover, node, reading, affine)
    if node.op_type in ("BatchNormalization", "Neg"):
        raise Refused(f"{node.op_type} {title(node)} is not affine")
    if node.op_type in ("Mul", "Div"):
        if not affine.keeps_zero:
            raise Refused(f"{node.op_type} {title(node)} of two activations does not take a shift")
        if node.op_type == "Div" and index == 1:
            if not affine.scale.all():
                raise Refused(f"Div {title(node)} would divide by a scale of 0")
            affine = Affine.of(affine.rank, 1 / affine.scale)
    else:
        if not affine.keeps_scale:
            raise Refused(f"{node.op_type} {title(node)} adds something that is not scaled")
        if node.op_type == "Sub" and index == 1:
            affine = Affine.of(affine.rank, 1.0, -affine.shift)
    value = node.inputs[index]
    assert value is not None
    here, there = net.shape(value), net.shape(node.outputs[0])
    lead = len(there) - len(here)
    if any(here[k] != there[k + lead] for k in affine.axes):
        raise Refused(f"{node.op_type} {title(node)} broadcasts {value.name!r} along the factors' axis")
    out = Affine.of(len(there), affine.scale, affine.shift)
    return mover.step(node) + mover.push(node.outputs[0], out)


def _meet_forward(mover: Mover, node: ir.Node, reading: Reading, affine: Affine) -> Plan:
    """s1 (s x + t) + t1.  Where that is no single operation, s x + c = s (x + c / s) passes the scale on."""
    both = reading.affine.after(affine)
    if spelled(mover.net, node.outputs[0], both) <= 1 and not is_bias(mover.net, node):
        return mover.step(node) + _compose(mover.net, node, reading, both)
    if not reading.affine.keeps_scale or not both.scale.all() or node.op_type not in ("Add", "Sub"):
        raise Refused(f"{node.op_type} {title(node)} and this one together are still two operations")
    onward = mover.push(node.outputs[0], both.only_scale())
    shift = Affine.of(both.rank, 1.0, both.shift / both.scale).check_finite()
    return mover.step(node) + onward + _new_shift(mover.net, node, reading, shift)
