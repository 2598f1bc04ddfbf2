# SPDX-License-Identifier: Apache-2.0
"""Rules that end in the constant operand of Einsum (B5, F3), or in a table that Gather looks up."""

from __future__ import annotations

from string import ascii_letters

import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer, text
from .matmul import add_behind
from .net import Net, title
from .parts import parts_backward
from .push import Mover, Plan, backward, forward
from .weights import constant_input, scale_weight, weight_shape


class Equation:
    """An Einsum of two operands, one of them constant: 'nchw,cd->ndhw'."""

    def __init__(self, net: Net, node: ir.Node) -> None:
        equation = _without_dots(net, node, text(node, "equation").replace(" ", ""))
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


def _without_dots(net: Net, node: ir.Node, equation: str) -> str:
    """'...i,io->...o' as 'abi,io->abo', where one operand alone has the dots: two might broadcast."""
    terms, _, out = equation.partition("->")
    having = [k for k, term in enumerate(terms.split(",")) if "..." in term]
    value = node.inputs[having[0]] if len(having) == 1 and "..." in out else None
    if value is None:
        return equation
    count = net.rank(value) - len(terms.split(",")[having[0]]) + len("...")
    return equation.replace("...", "".join([k for k in ascii_letters if k not in equation][: max(count, 0)]))


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
        gained = gained.transpose(order).reshape(
            [shape[equation.weight.index(k)] if k in kept else 1 for k in equation.out]
        )
        plan.actions += add_behind(mover.net, node, gained)
    plan.actions += scale_weight(mover.net, node, equation.index, equation.factors(s, label), along)
    return plan


@backward("B1", "Gather")
def gather_backward(mover: Mover, node: ir.Node, output: int, affine: Affine) -> Plan:
    """Rows of a constant table (an embedding): s row + t, for every row."""
    net = mover.net
    if not net.constants.is_constant(node.inputs[0]):
        return parts_backward(mover, node, output, affine)
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
