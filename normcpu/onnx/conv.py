# SPDX-License-Identifier: Apache-2.0
"""Rules that end in the weights of convolutions (B1, B2, F1, F2, F7)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer, ints, text
from .net import Net, title
from .push import Mover, Plan, backward, forward
from .weights import Action, constant_input, scale_weight, set_constant, weight_shape


@backward("B1", "Conv")
def conv_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s_o (sum_ik W_oik x_ik + b_o) + t_o: W'_o = s_o W_o, b'_o = s_o b_o + t_o.  W (o, i / groups, *k)."""
    shape = weight_shape(mover.net, node, 1)
    s, t = affine.vectors(1, shape[0])
    factors = s.reshape(-1, *[1] * (len(shape) - 1))
    plan = mover.step(node)
    plan.actions += scale_weight(mover.net, node, 1, factors, 0)
    plan.actions += bias(mover.net, node, s, t)
    return plan


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
    factors = _per_input(s, shape, groups)
    plan = mover.step(node)
    if t.any():
        weight = constant_input(mover.net, node, 1)
        assert weight is not None
        gained = (weight * _per_input(t, shape, groups)).reshape(shape[0], -1).sum(axis=1)
        plan.actions += bias(mover.net, node, np.ones(shape[0]), gained)
    plan.actions += scale_weight(mover.net, node, 1, factors, 1 if groups == 1 else None)
    return plan


def _per_input(s: Array, shape: tuple[int, ...], groups: int) -> Array:
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
