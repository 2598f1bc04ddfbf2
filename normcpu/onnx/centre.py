# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of what has mean 0 is RMSNorm: the mean is taken out of the weights that write it (N4, N5).

The mean over an axis is linear, so x - mean(x) of a sum, of a product with a matrix, or of moved elements is the same
of the parts, down to weights: W' = (I - 11^T / C) W, b' = b - mean(b).  `Stream` collects all values that lose their
mean with the one a norm reads: every writer must be linear with constant weights, every reader a norm over that axis,
or something that passes on to one.  In ONNX Runtime that saves 8 % of a small vision transformer.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .axes import inputs_of
from .compose import Spelled, spelled_norms
from .exact import check_range, lazy_constant, not_worth_a_copy
from .net import Net, Use, title
from .norms import read_norm
from .push import Record, Step, followed
from .quantised import is_quantised
from .weights import Action

SINCE = 23  # the opset that has RMSNormalization


class Stream:
    """What loses its mean over one axis with `start`, an input of a norm, and what is to be done for it."""

    def __init__(self, net: Net, spelled: dict[ir.Node, Spelled], frozen: Container[ir.Node]) -> None:
        self.net, self.spelled, self.frozen = net, spelled, frozen
        self.axes: dict[ir.Value, int] = {}
        self.norms: dict[ir.Node, Spelled | None] = {}
        self.weights: list[Use] = []
        self.actions: list[Action] = []
        self.joins = 0

    def follow(self, start: ir.Value) -> None:
        """All that has to lose its mean with `start`; refused where something cannot."""
        waiting = [(start, self.net.rank(start) - 1)]
        while waiting:
            value, axis = waiting.pop()
            if self.axes.setdefault(value, axis) != axis:
                raise Refused(f"{value.name!r} would lose its mean over two axes")
            reached = dict.fromkeys(self._behind(value, axis) + self._before(value, axis))
            waiting += [found for found in reached if self.axes.get(found[0]) != found[1] and found not in waiting]

    @property
    def rule(self) -> str:
        """N4: one writer in front of one norm.  N5: a stream that several write or read."""
        norms = {id(found or node) for node, found in self.norms.items()}
        return "N5" if self.joins or len(norms) > 1 else "N4"

    def steps(self) -> list[Step]:
        """What loses its mean, and what that takes out of the model."""
        spent = {id(norm): len(norm.differences) for norm in self.norms.values() if norm is not None}
        biases = [node.inputs[2] for node, norm in self.norms.items() if norm is None and len(node.inputs) > 2]
        parameters = sum(v.const_value.size for v in biases if v is not None and v.const_value is not None)
        steps = [Step(self.rule, title(use.node), use.node.op_type) for use in self.weights]
        return [Step(*step[:3], -sum(spent.values()), -parameters) if step is steps[-1] else step for step in steps]

    def _before(self, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]]:
        """The operands of what makes the value, weights among them done."""
        node = value.producer()
        if value.is_graph_output():
            raise Refused(f"{value.name!r} is an output of the graph")
        if node is None:
            raise Refused(f"it reaches {value.name!r}, an input of the graph")
        if node in self.frozen:
            raise Refused(f"{node.op_type} {title(node)} stays as it is")
        onward = []
        for index, at in inputs_of(self.net, node, value.index() or 0, axis):
            operand = node.inputs[index]
            if operand is None:
                continue
            if self.net.constants.is_constant(operand):
                self.actions.append(self._centre(node, index, operand, at))
                self.weights.append(Use(node, index))
            else:
                onward.append((operand, at))
        self.joins += len(onward) > 1
        return onward

    def _behind(self, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]]:
        """The results of what reads the value, but for norms, to which the mean is nothing."""
        found = []
        for use in self.net.readers(value):
            node = use.node
            if node in self.spelled:
                if node in self.frozen:
                    raise Refused(f"{node.op_type} {title(node)} stays as it is")
                self.norms[node] = self.spelled[node]
            elif node.op_type == "LayerNormalization" and not node.domain and use.at == 0:
                self._check(node, axis)
                self.norms[node] = None
            else:
                found += self._passed_on(use, axis)
        return found

    def _passed_on(self, use: Use, axis: int) -> list[tuple[ir.Value, int]]:
        passed = []
        for output in use.node.outputs:
            for k in range(self.net.rank(output)):
                try:
                    if (use.at, axis) in inputs_of(self.net, use.node, output.index() or 0, k):
                        passed.append((output, k))
                except Refused:
                    continue
        if len(passed) != len(use.node.outputs) or use.node.domain:
            raise Refused(f"{use.node.op_type} {title(use.node)} reads it with its mean")
        return passed

    def _check(self, node: ir.Node, axis: int) -> None:
        affine = read_norm(self.net, node)
        where = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        rank = self.net.rank(node.outputs[0])
        if node in self.frozen:
            raise Refused(f"LayerNormalization {title(node)} stays as it is")
        if where % rank != rank - 1 or axis != rank - 1:
            raise Refused(f"LayerNormalization {title(node)} is over other axes")
        if affine is not None and not affine.keeps_zero:
            raise Refused(f"LayerNormalization {title(node)} keeps a bias, which RMSNormalization has not")
        if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            raise Refused(f"the mean of LayerNormalization {title(node)} is read")
        if self.net.opset < SINCE:
            raise Refused(f"opset {self.net.opset} has no RMSNormalization; opset {SINCE} has")

    def _centre(self, node: ir.Node, index: int, value: ir.Value, axis: int) -> Action:
        """Input `index` of the node minus its mean over `axis`; a constant that does not have the axis becomes 0."""
        net = self.net
        not_worth_a_copy(value)
        if is_quantised(value):
            raise Refused(f"{value.name!r} is quantised, and its grid would have to change")
        dtype, exact = net.float_type(value), net.constants.value(value)
        if exact is None:
            raise Refused(f"{value.name!r} is too large to evaluate")
        check_range(np.abs(exact).max(initial=0) * np.full(1, 2.0), np.ones(()), dtype, f"{value.name!r}", None)
        shape = exact.shape

        def act() -> None:
            now = node.inputs[index]
            assert now is not None
            before = net.constants.raw(now)
            hint = f"{now.name}_centred"
            net.set_input(node, index, lazy_constant(net, lambda: _centred(before(), axis), shape, dtype, hint))

        return act

    def run(self) -> None:
        for act in self.actions:
            act()
        done: list[Spelled] = []
        for node, spelled in self.norms.items():
            if spelled is None:
                _without_mean(self.net, node)
            elif spelled not in done:
                done.append(spelled)
                _without_difference(self.net, spelled)


def _centred(a: Array, axis: int) -> Array:
    a = np.asarray(a, np.float64)
    if axis < 0 or a.ndim == 0 or a.shape[axis] == 1:
        return np.zeros_like(a)
    return a - a.mean(axis, keepdims=True)


def _without_mean(net: Net, node: ir.Node) -> None:
    """LayerNormalization becomes RMSNormalization."""
    kept = [a for a in node.attributes.values() if a.name in ("axis", "epsilon", "stash_type")]
    made = ir.Node("", "RMSNormalization", node.inputs[:2], kept, name=node.name)
    old, new = node.outputs[0], made.outputs[0]
    new.shape, new.type = old.shape, old.type
    node.append(made)
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = net.fresh(f"{name}_unfolded")
    new.name = name
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _without_difference(net: Net, spelled: Spelled) -> None:
    """x - mean(x) is x."""
    for node in spelled.differences:
        net.bypass(node.outputs[0], spelled.x)
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def centre_streams(net: Net, skip: frozenset[str], frozen: Container[ir.Node], kept: dict[ir.Node, str],
                   records: list[Record]) -> bool:  # fmt: skip
    """N4, N5.  LayerNorm(W x + b) = RMSNorm(W' x + b'), and the same of a sum that many write."""
    done = False
    hopeless: dict[ir.Value, str] = {}
    spelled = {node: norm for norm in spelled_norms(net) for node in norm.differences}
    for node in list(net.nodes()):
        if node.graph is None or not (node in spelled or (node.op_type == "LayerNormalization" and not node.domain)):
            continue
        x, stream = node.inputs[0], Stream(net, spelled, frozen)
        assert x is not None
        try:
            if x in hopeless:
                raise Refused(hopeless[x])
            with followed():
                stream.follow(x)
            if stream.rule in skip:
                raise Refused(f"rule {stream.rule} is switched off")
        except Refused as refused:
            hopeless |= dict.fromkeys(stream.axes, str(refused))
            kept[node] = f"{kept[node]}; " if node in kept else ""
            kept[node] += f"its mean into what writes it: {refused}"
            continue
        steps = stream.steps()
        records += [Record(title(n), n.op_type, "merged", steps) for n in stream.norms]
        stream.run()
        done = True
    return done
