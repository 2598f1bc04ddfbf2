# SPDX-License-Identifier: Apache-2.0
"""Rules that end in the constant operand of Einsum (B5, F3), or in a table that Gather looks up."""

from __future__ import annotations

from string import ascii_letters

import numpy as np
import onnx_ir as ir

from .affine import Affine, Array, Refused
from .constants import integer, text
from .matmul import add_behind, only_axis
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
        self.title = title(node)

    def of_weight(self, a: Array, labels: str, shape: tuple[int, ...]) -> Array:
        """`a`, over the axes `labels`, as factors of the weight; refused where that lacks an axis."""
        if any(n > 1 and k not in self.weight for n, k in zip(a.shape, labels, strict=True)):
            raise Refused(f"the weight of Einsum {self.title} does not have the axes that the factors vary along")
        kept = [k for k in labels if k in self.weight]
        a = a.reshape([n for n, k in zip(a.shape, labels, strict=True) if k in self.weight])
        sizes = dict(zip(kept, a.shape, strict=True))
        a = a.transpose([kept.index(k) for k in self.weight if k in kept])
        a = a.reshape([sizes.get(k, 1) for k in self.weight])
        if any(n not in (1, size) for n, size in zip(a.shape, shape, strict=True)):
            raise Refused(f"factors {a.shape} do not fit the weight {shape} of Einsum {self.title}")
        return a


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
    """The constant operand times s along the output's labels, if it has those labels; t in an Add behind."""
    equation = Equation(mover.net, node)
    shape = weight_shape(mover.net, node, equation.index)
    factors = equation.of_weight(affine.scale, equation.out, shape)
    plan = mover.step(node)
    plan.actions += scale_weight(mover.net, node, equation.index, factors, only_axis(factors))
    plan.actions += add_behind(mover.net, node, affine.shift)
    return plan


@forward("F3", "Einsum")
def einsum_forward(mover: Mover, node: ir.Node, index: int, affine: Affine) -> Plan:
    """Scale the constant operand along the labels of the data; a shift becomes the same Einsum of the shift."""
    equation = Equation(mover.net, node)
    if index == equation.index:
        raise Refused("it is the constant operand")
    shape = weight_shape(mover.net, node, equation.index)
    factors = equation.of_weight(affine.scale, equation.data, shape)
    plan = mover.step(node)
    if affine.shift.any():
        equation.of_weight(affine.shift, equation.data, shape)
        if any(k not in equation.weight and k not in equation.out for k in equation.data):
            raise Refused(f"Einsum {title(node)} sums over an axis that its weight does not have")
        weight = constant_input(mover.net, node, equation.index)
        assert weight is not None
        varying = "".join(k for n, k in zip(affine.shift.shape, equation.data, strict=True) if n > 1)
        kept = "".join(k for k in equation.out if k in equation.weight)
        gained = np.einsum(f"{varying},{equation.weight}->{kept}", affine.shift.squeeze(), weight)
        sizes = dict(zip(kept, gained.shape, strict=True))
        plan.actions += add_behind(mover.net, node, gained.reshape([sizes.get(k, 1) for k in equation.out]))
    plan.actions += scale_weight(mover.net, node, equation.index, factors, only_axis(factors))
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
