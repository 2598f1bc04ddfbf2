# SPDX-License-Identifier: Apache-2.0
"""Rules that end in weights: convolutions, matrix products, Einsum, embeddings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer, ints, real, text
from .net import Net, title
from .push import Mover, Plan, backward, forward
from .weights import Action, check_range, constant_input, new_constant, scale_weight, set_constant, weight_shape


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
    _is_data(node, index)
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
    _is_data(node, index)
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


@backward("B3", "Gemm")
def gemm_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """s_n (alpha A'B' + beta C) + t_n: B'_n = s_n B_n, C' = s beta C + t, beta = 1.  C scalar, (n), (1, n) or (m, n)."""
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
    _is_data(node, index)
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
        raise Refused(f"MatMul {title(node)} has a vector for a weight")
    axis, along = (rank - 1, len(shape) - 1) if right else (rank - 2, len(shape) - 2)
    s, t = affine.vectors(axis, shape[along])
    plan = mover.step(node)
    plan.actions += scale_weight(net, node, index, s if right else s[:, None], along)
    plan.actions += add_behind(net, node, t if right else t[:, None])
    return plan


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
    if rank < 2:
        raise Refused(f"MatMul {title(node)} has a vector for an operand")
    if not constant or (affine.axes - {contracted} and contracted not in affine.axes):
        return _product_forward(mover, node, affine, contracted)
    shape = weight_shape(net, node, other)
    if len(shape) < 2:
        raise Refused(f"MatMul {title(node)} has a vector for a weight")
    along = len(shape) - 2 if index == 0 else len(shape) - 1
    s, t = affine.vectors(contracted, shape[along])
    plan = mover.step(node)
    if t.any():
        weight = constant_input(net, node, other)
        assert weight is not None
        gained = t @ weight if index == 0 else (weight @ t)[..., None]
        if gained.ndim > 1 and index == 0:
            gained = gained[..., None, :]
        plan.actions += add_behind(net, node, gained)
    plan.actions += scale_weight(net, node, other, s[:, None] if index == 0 else s, along)
    return plan


def _product_forward(mover: Mover, node: ir.Node, affine: Affine, contracted: int) -> Plan:
    if not affine.keeps_zero or contracted in affine.axes:
        raise Refused(f"MatMul {title(node)} of two activations takes only a scale that is not along the contracted axis")
    rank = mover.net.rank(node.outputs[0])
    if affine.axes and affine.rank != rank:
        raise Refused(f"MatMul {title(node)} broadcasts the operand that the factors vary along")
    if affine.axes:
        here, there = mover.net.shape(node.inputs[0] or node.outputs[0]), mover.net.shape(node.outputs[0])
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
    adder = _adder(net, node)

    def act() -> None:
        if adder is None:
            net.insert_after(node.outputs[0], "Add", new_constant(net, t, dtype, f"{node.outputs[0].name}_bias"))
        else:
            add, index = adder
            known = constant_input(net, add, index)
            assert known is not None
            set_constant(net, add, index, known + t, dtype, f"{node.outputs[0].name}_bias")()

    return [act]


def _adder(net: Net, node: ir.Node) -> tuple[ir.Node, int] | None:
    value = node.outputs[0]
    readers = net.readers(value)
    if value.is_graph_output() or len(readers) != 1 or readers[0].node.op_type != "Add" or readers[0].node.domain:
        return None
    add, index = readers[0].node, 1 - readers[0].idx
    return (add, index) if net.constants.is_constant(add.inputs[index]) else None


class Equation:
    """An Einsum of two operands, one of them constant: 'nchw,cd->ndhw'."""

    def __init__(self, net: Net, node: ir.Node) -> None:
        equation = text(node, "equation").replace(" ", "")
        terms, arrow, self.out = equation.partition("->")
        self.terms = terms.split(",")
        if not arrow or len(self.terms) != 2 or "." in equation:
            raise Refused(f"Einsum {title(node)} is {equation!r}, not of two operands with named axes")
        if any(len(set(term)) != len(term) for term in [*self.terms, self.out]):
            raise Refused(f"Einsum {title(node)} takes a diagonal")
        constant = [net.constants.is_constant(i) for i in node.inputs]
        if constant[0] == constant[1]:
            raise Refused(f"Einsum {title(node)} has no constant operand")
        self.index = constant.index(True)
        self.weight = self.terms[self.index]
        self.data = self.terms[1 - self.index]

    def factors(self, s: Array, label: str) -> Array:
        return s.reshape([-1 if k == label else 1 for k in self.weight])


@backward("B5", "Einsum")
def einsum_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """The constant operand times s along the output's label, if it has that label; t in an Add behind."""
    equation = Equation(mover.net, node)
    shape = weight_shape(mover.net, node, equation.index)
    label = equation.out[min(affine.axes)] if affine.axes else equation.weight[0]
    if len(affine.axes) > 1 or label not in equation.weight:
        raise Refused(f"the weight of Einsum {title(node)} does not have the axes that the factors vary along")
    along = equation.weight.index(label)
    size = shape[along] if affine.axes else 1
    s, t = affine.vectors(equation.out.index(label) if affine.axes else 0, size)
    plan = mover.step(node)
    factors = equation.factors(s, label)
    plan.actions += scale_weight(mover.net, node, equation.index, factors, along)
    if affine.axes:
        t = t.reshape([-1 if k == label else 1 for k in equation.out])
    plan.actions += add_behind(mover.net, node, t)
    return plan


@forward("F3", "Einsum")
def einsum_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """Scale the constant operand along the label of the data; a shift becomes the same Einsum of the shift."""
    equation = Equation(mover.net, node)
    if index == equation.index:
        raise Refused("it is the constant operand")
    shape = weight_shape(mover.net, node, equation.index)
    shared = [k for k in equation.data if k in equation.weight]
    if len(affine.axes) > 1 or any(equation.data[k] not in shared for k in affine.axes):
        raise Refused(f"the weight of Einsum {title(node)} does not have the axes that the factors vary along")
    label = equation.data[min(affine.axes)] if affine.axes else equation.weight[0]
    along = equation.weight.index(label)
    s, t = affine.vectors(min(affine.axes, default=0), shape[along] if affine.axes else 1)
    plan = mover.step(node)
    if t.any():
        if any(k not in shared and k not in equation.out for k in equation.data):
            raise Refused(f"Einsum {title(node)} sums over an axis that its weight does not have")
        weight = constant_input(mover.net, node, equation.index)
        assert weight is not None
        summed = tuple(k for k, name in enumerate(equation.weight) if name in shared and name not in equation.out)
        gained = (weight * equation.factors(t, label)).sum(axis=summed)
        kept = [name for k, name in enumerate(equation.weight) if k not in summed]
        order = sorted(range(len(kept)), key=lambda k: equation.out.index(kept[k]) if kept[k] in equation.out else -1)
        if any(name not in equation.out for name in kept):
            raise Refused(f"Einsum {title(node)} sums over an axis of its weight alone")
        gained = gained.transpose(order).reshape([shape[equation.weight.index(k)] if k in kept else 1 for k in equation.out])
        plan.actions += add_behind(mover.net, node, gained)
    plan.actions += scale_weight(mover.net, node, equation.index, equation.factors(s, label), along)
    return plan


@backward("B1", "Gather")
def gather_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Rows of a constant table (an embedding): s row + t, for every row."""
    net = mover.net
    if not net.constants.is_constant(node.inputs[0]):
        from .move import data_movement_backward

        return data_movement_backward(mover, node, output, affine)
    shape = weight_shape(net, node, 0)
    indices = node.inputs[1]
    assert indices is not None
    axis, wide = integer(node, "axis") % len(shape), net.rank(indices)
    if affine.axes & set(range(axis, axis + wide)):
        raise Refused(f"the factors vary along the positions that Gather {title(node)} looks up")

    def inward(a: Array) -> Array:
        return a.reshape(*a.shape[:axis], 1, *a.shape[axis + wide :])

    inner = affine.map(inward)
    return mover.step(node) + mover.pull(node, 0, inner)


def _is_data(node: ir.Node, index: int) -> None:
    if index != 0:
        raise Refused(f"{node.op_type} {title(node)} reads it as its weight or bias")
