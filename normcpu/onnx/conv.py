# SPDX-License-Identifier: Apache-2.0
"""Rules that end in the weights of convolutions (B1, B2, F1, F7)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Overflows, Refused
from .constants import integer, ints, text
from .net import Net, title
from .push import Elsewhere, Mover, Plan, Step, backward, forward
from .quantised import is_quantised
from .weights import Action, constant_input, scale_weight, set_constant, weight_shape


@backward("B1", "Conv")
def conv_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s_o (sum_ik W_oik x_ik + b_o) + t_o: W'_o = s_o W_o, b'_o = s_o b_o + t_o.  W (o, i / groups, *k)."""
    shape = weight_shape(mover.net, node, 1)
    s, t = affine.vectors(1, shape[0])
    factors = s.reshape(-1, *[1] * (len(shape) - 1))
    plan = mover.step(node)
    try:
        plan.actions += scale_weight(mover.net, node, 1, factors, 0)
        plan.actions += bias(mover.net, node, s, t)
    except Overflows:
        if "P1" in mover.skip or mover.net.dtype(node.inputs[1]) != ir.DataType.FLOAT16:
            raise
        return _in_float32(mover, node, factors, s, t)
    return plan


def _in_float32(mover: Mover, node: ir.Node, factors: Array, s: Array, t: Array) -> Plan:
    """P1.  Where float16 cannot hold the folded weight: the convolution in float32, between two Casts.

    CPUs without float16 arithmetic compute it so anyhow, with Casts that the runtime puts in.
    """
    net, wide = mover.net, ir.DataType.FLOAT
    weight, known = constant_input(net, node, 1), constant_input(net, node, 2)
    assert weight is not None
    shift = t if known is None else s * known + t
    actions = [set_constant(net, node, 1, weight * factors, wide, f"{title(node)}_weight")]
    if known is not None or t.any():
        actions.append(set_constant(net, node, 2, shift, wide, f"{title(node)}_bias"))

    def cast() -> None:
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        assert node.graph is not None
        before = ir.Node("", "Cast", [x], [ir.AttrInt64("to", wide)], name=net.fresh(f"{title(node)}_cast"))
        before.outputs[0].name = net.fresh(f"{x.name}_float")
        before.outputs[0].shape, before.outputs[0].type = x.shape, ir.TensorType(wide)
        node.graph.insert_before(node, before)
        net.set_input(node, 0, before.outputs[0])
        net.insert_after(y, "Cast", to=ir.DataType.FLOAT16)
        y.type = ir.TensorType(wide)

    step = Step("P1", title(node), node.op_type)
    return Plan([step], [*actions, cast], [node])


@backward("B2", "ConvTranspose")
def conv_transpose_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """As B1, with W (i, o / groups, *k): output channel o of group g is row o of the columns of group g's inputs."""
    shape = weight_shape(mover.net, node, 1)
    groups = integer(node, "group", 1)
    s, t = affine.vectors(1, shape[1] * groups)
    rows = np.repeat(s.reshape(groups, shape[1]), shape[0] // groups, axis=0)
    plan = mover.step(node)
    factors = rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))
    axis = 1 if groups == 1 else 0 if shape[1] == 1 else None
    plan.actions += scale_weight(mover.net, node, 1, factors, axis)
    plan.actions += bias(mover.net, node, s, t)
    return plan


@forward("F1", "Conv")
def conv_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """sum_ik W_oik (s_i x_ik + t_i) + b_o: W'_oi = W_oi s_i, b'_o = b_o + sum_ik W_oik t_i.

    Padding puts zeros where s_i x + t_i would be t_i: a shift takes a convolution without padding.
    """
    only_data(node, index)
    shape = weight_shape(mover.net, node, 1)
    groups = integer(node, "group", 1)
    s, t = affine.vectors(1, shape[1] * groups)
    if t.any() and pads(node, shape[2:]):
        raise Refused(f"Conv {title(node)} pads with zeros, which the shift must not reach")
    plan = mover.step(node)
    plan.actions += into_valid(mover.net, node, s, t)
    return plan


def into_valid(net: Net, node: ir.Node, s: Array, t: Array) -> list[Action]:
    """Weight and bias of a convolution of s x + t that has no pads."""
    shape, groups = weight_shape(net, node, 1), integer(node, "group", 1)
    actions = []
    if t.any():
        actions += bias(net, node, np.ones(shape[0]), taps(net, node, t).reshape(shape[0], -1).sum(axis=1))
    return actions + scale_weight(net, node, 1, per_input(s, shape, groups), input_axis(shape, groups))


def input_axis(shape: tuple[int, ...], groups: int) -> int | None:
    """The axis of W (o, i / groups, *k) along which its inputs lie; None where that is no single one."""
    return 1 if groups == 1 else 0 if shape[1] == 1 else None


def taps(net: Net, node: ir.Node, t: Array) -> Array:
    """sum_i W_oik t_i, (o, *k): what a constant t (i,) becomes, tap by tap."""
    weight = constant_input(net, node, 1)
    assert weight is not None
    summed: Array = (weight * per_input(t, weight.shape, integer(node, "group", 1))).sum(axis=1)
    return summed


def per_input(s: Array, shape: tuple[int, ...], groups: int) -> Array:
    """s (i,) against W (o, i / groups, *k)."""
    rows = np.repeat(s.reshape(groups, shape[1]), shape[0] // groups, axis=0)
    return rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


@forward("F7", "ConvTranspose")
def conv_transpose_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """W'_i = s_i W_i.  A shift reaches every output once only if each has one tap, and the same: a 1x1 kernel."""
    only_data(node, index)
    shape = weight_shape(mover.net, node, 1)
    groups = integer(node, "group", 1)
    s, t = affine.vectors(1, shape[0])
    plan = mover.step(node)
    if t.any():
        strides = ints(node, "strides") or [1]
        if pads(node, shape[2:]) or any(n != 1 for n in [*shape[2:], *strides, *(ints(node, "output_padding") or [])]):
            raise Refused(f"ConvTranspose {title(node)} would see the shift unevenly")
        weight = constant_input(mover.net, node, 1)
        assert weight is not None
        per_group = (weight.reshape(shape[0], shape[1]) * t[:, None]).reshape(groups, -1, shape[1]).sum(axis=1)
        plan.actions += bias(mover.net, node, np.ones(shape[1] * groups), per_group.ravel())
    factors = s.reshape(-1, *[1] * (len(shape) - 1))
    plan.actions += scale_weight(mover.net, node, 1, factors, 0)
    return plan


@forward("F7b", "ConvTranspose")
def conv_transpose_by_phase(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """Where the kernel is the stride, (k, k), each output has one tap: sum_i W_ioab (s_i x_i + t_i) + b_o is a 1x1
    convolution with a bias for each phase (a, b), and DepthToSpace puts the phases side by side.
    """
    only_data(node, index)
    net, shape = mover.net, weight_shape(mover.net, node, 1)
    s, t = affine.vectors(1, shape[0])
    if not t.any():
        raise Elsewhere(f"ConvTranspose {title(node)} is reached by no shift")
    kernel = list(shape[2:])
    apart = kernel == ints(node, "strides") and len(kernel) == 2 and kernel[0] == kernel[1] > 1
    more = [*(ints(node, "output_padding") or []), *(n - 1 for n in ints(node, "dilations") or [])]
    plain = integer(node, "group", 1) == 1 and "output_shape" not in node.attributes and not any(more)
    if not apart or not plain or pads(node, shape[2:]):
        raise Refused(f"ConvTranspose {title(node)} would see the shift unevenly")
    value = node.inputs[1]
    weight, known = constant_input(net, node, 1), constant_input(net, node, 2)
    assert weight is not None
    assert value is not None
    if is_quantised(value):
        raise Refused(f"ConvTranspose {title(node)} has an int8 weight")
    dtype = net.float_type(value)
    taps_first = (weight * s.reshape(-1, 1, 1, 1)).transpose(2, 3, 1, 0)  # (a, b, o, i)
    phases = (weight * t.reshape(-1, 1, 1, 1)).sum(axis=0).transpose(1, 2, 0) + (0.0 if known is None else known)
    plan = mover.step(node, operations=1, parameters=phases.size - (0 if known is None else known.size))
    plan.actions += [
        set_constant(net, node, 1, taps_first.reshape(-1, shape[0], 1, 1), dtype, f"{value.name}_by_phase"),
        set_constant(net, node, 2, phases.ravel(), dtype, f"{value.name}_by_phase_bias"),
        lambda: _side_by_side(net, node, kernel[0]),
    ]
    plan.sole.append(node)
    return plan


def _side_by_side(net: Net, node: ir.Node, size: int) -> None:
    """The transposed convolution becomes a convolution, and a DepthToSpace behind it."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    spread = net.insert_after(y, "DepthToSpace")
    spread.attributes["blocksize"] = ir.AttrInt64("blocksize", size)
    node.op_type = "Conv"
    node.attributes.clear()
    batch, _, *places = (n if isinstance(n, int) else None for n in net.shape(x))
    y.shape, y.type = ir.Shape([batch, weight_shape(net, node, 1)[0], *places]), ir.TensorType(net.float_type(x))


def pads(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution or pool adds anything around its input."""
    auto = text(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        return False
    if auto in ("", "NOTSET"):
        return any(ints(node, "pads") or [])
    return any(k != 1 for k in kernel)  # SAME: a kernel of one element needs none, whatever the stride


def bias(net: Net, node: ir.Node, s: Array, t: Array) -> list[Action]:
    """b' = s b + t on input 2, (o,); made where there is none."""
    known = constant_input(net, node, 2)
    if known is None and not t.any():
        return []
    if known is not None and (s == 1).all() and not t.any():
        return []
    dtype = net.float_type(node.inputs[1])
    if known is not None and known.shape not in ((s.size,), (1,)):
        raise Refused(f"the bias of {node.op_type} {title(node)} has shape {known.shape} for {s.size} channels")
    set_constant(net, node, 2, t if known is None else s * known + t, dtype, "bias")  # refuses what overflows

    def act() -> None:
        now = constant_input(net, node, 2)
        hint = f"{node.inputs[1].name if node.inputs[1] else title(node)}_bias"
        set_constant(net, node, 2, t if now is None else s * now + t, dtype, hint)()

    return [act]


def only_data(node: ir.Node, index: int) -> None:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as its weight or bias")
