# SPDX-License-Identifier: Apache-2.0
"""The other norms: their weights go into what follows (N1 to N3), take what follows, and swallow what precedes (D1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer
from .net import Net, title
from .push import Elsewhere, Mover, Plan, backward, forward
from .weights import Action, constant_input, set_constant

NORMS = (
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
)
ROWS = NORMS[:3]  # of the last axes, with weights along those
WITHOUT_MEAN = NORMS[1:3]
RULE = {"LayerNormalization": "N1", "RMSNormalization": "N2", "SimplifiedLayerNormalization": "N2",
        "InstanceNormalization": "N3", "GroupNormalization": "N3"}  # fmt: skip
Change = Callable[[Array], Array]


def read_norm(net: Net, node: ir.Node) -> Affine | None:
    """What a norm does after normalizing: y = weight * x + bias.  None where that is nothing."""
    if node.domain or node.op_type not in NORMS:
        return None
    x = node.inputs[0]
    if x is None:
        return None
    rank = net.rank(x)
    weight, bias = (constant_input(net, node, k) for k in (1, 2))
    weight = np.ones(()) if weight is None else weight
    bias = np.zeros(()) if bias is None or node.op_type in WITHOUT_MEAN else bias
    if node.op_type in ROWS:
        affine = Affine.of(rank, weight, bias)
    else:
        per = _per_channel(net, node)
        affine = Affine.along(rank, 1, np.repeat(weight, per), np.repeat(bias, per))
    return None if affine.is_identity else affine.check_finite()


def _per_channel(net: Net, node: ir.Node) -> int:
    """How many channels share a weight: a group's, in GroupNormalization of opset 18 to 20."""
    if node.op_type != "GroupNormalization" or net.opset >= 21:
        return 1
    x = node.inputs[0]
    channels = net.shape(x)[1] if x is not None else 0
    if not isinstance(channels, int):
        raise Refused(f"{title(node)} has an unknown number of channels")
    return channels // integer(node, "num_groups", 1)


def reset_norm(net: Net, node: ir.Node) -> list[Action]:
    """weight = 1, bias = 0."""
    return _set(net, node, lambda a: np.ones_like(a), lambda a: np.zeros_like(a), force_bias=False)


def _set(net: Net, node: ir.Node, weight: Change, bias: Change, force_bias: bool) -> list[Action]:
    old_weight, old_bias = constant_input(net, node, 1), constant_input(net, node, 2)
    value = node.inputs[1]
    assert old_weight is not None
    assert value is not None
    dtype = net.float_type(value)
    actions = [set_constant(net, node, 1, weight(old_weight), dtype, f"{value.name}_folded")]
    if node.op_type not in WITHOUT_MEAN and (old_bias is not None or force_bias):
        zero = np.zeros_like(old_weight) if old_bias is None else old_bias
        actions.append(set_constant(net, node, 2, bias(zero), dtype, f"{value.name}_bias_folded"))
    return actions


@backward("N1", *NORMS)
def norm_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s (w x + b) + t = (s w) x + (s b + t), where s and t vary along the weights' axes alone."""
    net = mover.net
    weight = constant_input(net, node, 1)
    if weight is None or output != 0:
        raise Refused(f"{node.op_type} {title(node)} has no weight")
    if node.op_type in ROWS:
        axis = integer(node, "axis", -1) % affine.rank
        if affine.axes - set(range(axis, affine.rank)) or weight.ndim != affine.rank - axis:
            raise Refused(f"{node.op_type} {title(node)} has no weights along the factors' axis")
        s, t = (np.broadcast_to(a.reshape(a.shape[axis:]), weight.shape) for a in (affine.scale, affine.shift))
    else:
        per = _per_channel(net, node)
        s, t = affine.vectors(1, weight.size * per)
        s, t = _once(s, per, node), _once(t, per, node)
    if node.op_type in WITHOUT_MEAN and t.any():
        raise Refused(f"{node.op_type} {title(node)} has no bias")
    plan = mover.step(node)
    plan.actions += _set(net, node, lambda w: s * w, lambda b: s * b + t, force_bias=bool(t.any()))
    plan.sole.append(node)
    return plan


def _once(a: Array, per: int, node: ir.Node) -> Array:
    table = a.reshape(-1, per)
    if not (table == table[:, :1]).all():
        raise Refused(f"{node.op_type} {title(node)} has one weight per group, and the factors differ within one")
    return table[:, 0]


@forward("D1", *NORMS)
def norm_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """The mean takes a shift away that is the same for all elements of a group.  (A scale changes epsilon's part.)"""
    if index != 0 or not affine.keeps_scale or node.op_type in WITHOUT_MEAN:
        raise Refused(f"{node.op_type} {title(node)} does not take a scale up: its epsilon would weigh differently")
    varies = affine.axes
    axis = integer(node, "axis", -1) % affine.rank
    if node.op_type == "LayerNormalization":
        fits = not varies & set(range(axis, affine.rank))
    elif node.op_type == "InstanceNormalization":
        fits = varies <= {0, 1}
    else:
        channels = mover.net.shape(node.outputs[0])[1]
        groups = integer(node, "num_groups", 1)
        fits = varies <= {0}
        if varies == {1} and isinstance(channels, int):
            _once(affine.shift.ravel(), channels // groups, node)
            fits = True
    if not fits:
        raise Refused(f"{node.op_type} {title(node)} takes its mean across the axis that the shift varies along")
    return mover.step(node)


@forward("D1", "BatchNormalization")
def batch_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """In training mode the mean of the batch takes a shift of each channel away; nobody may read the running one."""
    if index != 0 or not integer(node, "training_mode") or not affine.keeps_scale:
        raise Elsewhere(f"BatchNormalization {title(node)} does not take the shift away")
    if affine.axes - {1}:
        raise Refused(f"BatchNormalization {title(node)} takes its mean across the axis that the shift varies along")
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise Refused(f"the mean of BatchNormalization {title(node)} is read")
    return mover.step(node)
