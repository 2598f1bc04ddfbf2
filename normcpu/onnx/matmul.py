# SPDX-License-Identifier: Apache-2.0
"""Rules that end in the weights of matrix products (B3, B4, F3), or cross products of two activations (B17)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer, real
from .conv import only_data
from .exact import check_range, new_constant
from .net import Net, title
from .push import Mover, Plan, backward, forward
from .spell import trimmed
from .weights import Action, constant_input, scale_weight, set_constant, weight_shape


@backward("B3", "Gemm")
def gemm_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s_n (alpha A'B' + beta C) + t_n: B'_n = s_n B_n, C' = s beta C + t, beta = 1.  C () or (n) or (m, n)."""
    axis = 0 if integer(node, "transB") else 1
    n = weight_shape(mover.net, node, 1)[axis]
    s, t = affine.vectors(1, n)
    factors = s if axis == 1 else s[:, None]
    plan = mover.step(node)
    plan.actions += scale_weight(mover.net, node, 1, factors, axis)
    plan.actions += _gemm_bias(mover.net, node, s, t)
    return plan


def _gemm_bias(net: Net, node: ir.Node, s: Array, t: Array) -> list[Action]:
    """C' = s beta C + t, and beta = 1."""
    if constant_input(net, node, 2) is None and not t.any():
        return []
    dtype = net.float_type(node.inputs[1])

    def made() -> Array:
        known = constant_input(net, node, 2)
        beta = real(node, "beta", 1.0)
        return np.asarray(t if known is None else s * beta * known + t)

    set_constant(net, node, 2, made(), dtype, "bias")

    def act() -> None:
        hint = f"{node.inputs[1].name if node.inputs[1] else title(node)}_bias"
        set_constant(net, node, 2, made(), dtype, hint)()
        if "beta" in node.attributes:
            node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)

    return [act]


@forward("F3", "Gemm")
def gemm_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """alpha (s x + t) B' + beta C: B'_k = s_k B_k, C' = beta C + alpha t B'.  The axis is the contracted one."""
    only_data(node, index)
    trans_b = integer(node, "transB")
    shape = weight_shape(mover.net, node, 1)
    contracted = 0 if integer(node, "transA") else 1
    s, t = affine.vectors(contracted, shape[1 if trans_b else 0])
    plan = mover.step(node)
    if t.any():
        weight = constant_input(mover.net, node, 1)
        assert weight is not None
        gained = real(node, "alpha", 1.0) * (t @ (weight.T if trans_b else weight))
        plan.actions += _gemm_bias(mover.net, node, np.ones(gained.size), gained)
    plan.actions += scale_weight(mover.net, node, 1, s if trans_b else s[:, None], 1 if trans_b else 0)
    return plan


@backward("B4", "MatMul")
def matmul_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """(x W)_n s_n + t_n = (x (W diag(s)))_n + t_n, and with the constant on the left the rows; t in an Add behind."""
    net, rank = mover.net, affine.rank
    left, right = (net.constants.is_constant(i) for i in node.inputs)
    if not left and not right:
        return _product_backward(mover, node, affine)
    index = 1 if right else 0
    shape = weight_shape(net, node, index)
    if len(shape) < 2:
        if affine.axes:
            raise Refused(f"MatMul {title(node)} has a vector for a weight, which sums the factors' axis up")
        plan = mover.step(node)
        plan.actions += scale_weight(net, node, index, affine.scale.reshape(1), 0)
        plan.actions += add_behind(net, node, affine.shift.reshape(()))
        return plan
    axis, along = (rank - 1, -1) if right else (rank - 2, -2)
    factors, t = (_of_weight(affine, a, axis, shape, along) for a in (affine.scale, affine.shift))
    plan = mover.step(node)
    plan.actions += scale_weight(net, node, index, factors, only_axis(factors))
    plan.actions += add_behind(net, node, trimmed(t))
    return plan


def _of_weight(affine: Affine, a: Array, axis: int, shape: tuple[int, ...], along: int) -> Array:
    """`a`, of an affine over matrices (..., m, n), as factors of a weight (..., k, l), whose axis `along` is `axis`.

    Where each head has a weight of its own it may have factors of its own.
    """
    wide = trimmed(np.atleast_2d(a).swapaxes(axis - a.ndim, -1), len(shape))
    heads = zip(wide.shape[-3::-1], shape[-3::-1], strict=False)
    if wide.ndim > len(shape) or wide.shape[-2] > 1 or any(n not in (1, m) for n, m in heads):
        raise Refused(f"the factors vary along axes {sorted(affine.axes)}, not only along axis {axis}")
    if wide.shape[-1] not in (1, shape[along]):
        raise Refused(f"{wide.shape[-1]} factors do not fit {shape[along]} channels")
    full = np.broadcast_to(wide, (*wide.shape[:-1], shape[along]))
    return full if along == -1 else full.swapaxes(-1, -2)


def only_axis(factors: Array) -> int | None:
    """The axis of the weight that the factors vary along, None where there are more."""
    varying = [k for k, n in enumerate(factors.shape) if n > 1]
    return None if len(varying) > 1 else varying[0] if varying else factors.ndim - 1


def _product_backward(mover: Mover, node: ir.Node, affine: Affine) -> Plan:
    """B17.  (L R)_mn s = (s L) R = L (s R) for a scalar, or one that varies along n (into R), along m (into L)."""
    if not affine.keeps_zero:
        raise Refused(f"MatMul {title(node)} of two activations does not take a shift")
    last = affine.rank - 1
    varies = affine.axes
    reasons = []
    for index, axis in ((1, last), (0, last - 1)):
        value = node.inputs[index]
        if varies - {axis} or value is None or mover.net.rank(value) < 2:
            continue
        rank = mover.net.rank(value)
        inner = Affine.along(rank, rank - 1 if index else rank - 2, affine.scale.ravel())
        try:
            return mover.step(node) + mover.pull(node, index, inner)
        except Refused as refused:
            reasons.append(str(refused))
    raise Refused("; ".join(reasons) or f"MatMul {title(node)} mixes the axes that the factors vary along")


@forward("F3", "MatMul")
def matmul_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """(s x + t) W = x (diag(s) W) + t W, and W (s x + t) = (W diag(s)) x + W t.

    A scale that does not vary along the contracted axis is a scale of the result.
    """
    net, rank = mover.net, affine.rank
    other = 1 - index
    contracted = rank - 1 if index == 0 else rank - 2
    constant = net.constants.is_constant(node.inputs[other])
    if rank < 2 and (index == 1 or not constant):
        raise Refused(f"MatMul {title(node)} has a vector for an operand")
    if not constant or (affine.axes - {contracted} and contracted not in affine.axes):
        return _product_forward(mover, node, index, affine, contracted)
    shape = weight_shape(net, node, other)
    plan = mover.step(node)
    if len(shape) < 2:
        factors, t = affine.vectors(contracted, shape[0])
    else:
        along = -2 if index == 0 else -1
        factors, t = (_of_weight(affine, a, contracted, shape, along) for a in (affine.scale, affine.shift))
    if t.any():
        weight = constant_input(net, node, other)
        assert weight is not None
        rows = t.swapaxes(-1, -2) if t.ndim > 1 else t
        plan.actions += add_behind(net, node, trimmed(np.asarray(rows @ weight if index == 0 else weight @ rows)))
    plan.actions += scale_weight(net, node, other, factors, only_axis(factors))
    return plan


def _product_forward(mover: Mover, node: ir.Node, index: int, affine: Affine, contracted: int) -> Plan:
    if not affine.keeps_zero or contracted in affine.axes:
        raise Refused(f"MatMul {title(node)} lets only a scale pass that is not along the contracted axis")
    rank = mover.net.rank(node.outputs[0])
    if affine.axes and affine.rank != rank:
        raise Refused(f"MatMul {title(node)} broadcasts the operand that the factors vary along")
    if affine.axes:
        here, there = mover.net.shape(node.inputs[index] or node.outputs[0]), mover.net.shape(node.outputs[0])
        if any(k < rank - 2 and here[k] != there[k] for k in affine.axes):
            raise Refused(f"MatMul {title(node)} broadcasts the axis that the factors vary along")
    scale = affine.scale if affine.axes else affine.scale.ravel()[0]
    return mover.step(node) + mover.push(node.outputs[0], Affine.of(rank, scale))


def add_behind(net: Net, node: ir.Node, t: Array) -> list[Action]:
    """The output of `node` plus t: into the constant of an Add that alone reads it, or into a new one."""
    if not t.any():
        return []
    dtype = net.float_type(node.outputs[0])
    check_range(t, np.ones(()), dtype, f"the bias behind {node.op_type} {title(node)}", None)
    behind = adder(net, node)
    known = None if behind is None else constant_input(net, *behind)
    if behind is not None and known is not None:  # raises where the model's own Add does not fit, or is not finite
        set_constant(net, *behind, known + t, dtype, "bias")

    def act() -> None:
        if behind is None:
            net.insert_after(node.outputs[0], "Add", new_constant(net, t, dtype, f"{node.outputs[0].name}_bias"))
        else:
            add, index = behind
            known = constant_input(net, add, index)
            assert known is not None
            set_constant(net, add, index, known + t, dtype, f"{node.outputs[0].name}_bias")()

    return [act]


def adder(net: Net, node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant that alone reads what `node` makes, and which of its inputs is the constant."""
    value = node.outputs[0]
    readers = net.readers(value)
    if value.is_graph_output() or len(readers) != 1 or readers[0].node.op_type != "Add" or readers[0].node.domain:
        return None
    add, index = readers[0].node, 1 - readers[0].at
    return (add, index) if net.constants.is_constant(add.inputs[index]) else None
