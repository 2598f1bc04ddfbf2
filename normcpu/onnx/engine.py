# SPDX-License-Identifier: Apache-2.0
"""Folding one model: sites in order, each backwards, else forwards, else merged, until nothing moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

# They enter their rules: padded those that are tried after conv's.
from . import attention, blocks, conv, einsum, matmul, move, norms, padded, parts, pointwise, pool  # noqa: F401
from .affine import Refused
from .branches import merge_branches
from .centre import centre_streams
from .chains import Chain, follow, outer_product, part_of
from .compose import compose_norms
from .hard_swish import compose_hard_swish
from .metadata import add_properties, weight_and_bias
from .net import Net, title
from .norms import read_norm, reset_norm
from .prepare import fold_preparations
from .push import BACKWARD, FORWARD, Mover, Plan, Record, Step
from .ranges import Watched
from .read import composites, is_bias, masked_attention, read
from .spell import respell, spelled
from .successive import merge_successive

AGGRESSIVE = frozenset({"F2c", "F2d", "F2e", "F7b", "N4", "N5", "R3"})  # they add to the model, and are off by default
RULES = frozenset(rule.name for table in (BACKWARD, FORWARD) for rules in table.values() for rule in rules) | {
    "F2b", "N1", "N2", "N3", "N6", "N7", "P1", "R1", "R2", "S1", "S2", "X1", "X2",
} | AGGRESSIVE  # fmt: skip
LONGEST_PART = 8  # nodes; chains are rarely longer, and each part is tried
OPSETS = range(7, 29)  # whose operations these rules were written for


@dataclass
class Options:
    skip: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()  # names of nodes that stay
    target: str = "onnxruntime"
    ranges: bool = False  # read every weight that changes, before and after
    keep_metadata: bool = False  # write the weights and biases of folded BatchNorms into the model's properties


class Engine:
    def __init__(self, model: ir.Model, options: Options) -> None:
        self.options = options
        self.records: list[Record] = []
        self.kept: dict[ir.Node, str] = {}
        self.changed = False
        fold_preparations(model, options.skip)
        self.net = Net(model)
        self.left = compose_norms(self.net, options.skip)  # affine, and to stay
        self.generic = options.target == "generic"
        whole = {} if self.generic else masked_attention(self.net)
        self.left |= {n: why for n, why in whole.items() if n.op_type != "MatMul"}
        self.left |= {n: "is to be kept" for n in self.net.nodes() if title(n) in options.keep}
        self.frozen = composites(self.net, gelu=not self.generic) | whole | self.left
        self.mover = Mover(self.net, options.skip, self.frozen)
        self.watched = Watched(self.net) if options.ranges else None
        self.batch_norms: list[dict[str, Any]] = []

    def run(self) -> None:
        """Each round ends with fewer operations than it began with, or is the last."""
        if self.net.opset not in OPSETS:
            self.records.append(Record("model", "", "kept", [], f"opset {self.net.opset} is not one that is known"))
            return
        if "X2" not in self.options.skip:
            compose_hard_swish(self.net, self.frozen, self.records)
        while self._round() or self._rewrite():
            self.changed = True
        self.kept |= {node: f"it {why}" for node, why in self.left.items()}
        self.records += [Record(title(n), n.op_type, "kept", [], why) for n, why in self.kept.items()]
        self.net.sweep()
        if self.batch_norms:
            add_properties(self.net.model, self.batch_norms)

    def _round(self) -> bool:
        """Whether anything went anywhere."""
        before = len(self.records)
        self.kept = {}
        seen: set[ir.Node] = set()
        for node in list(self.net.nodes()):
            if node.graph is None or node in seen or not any(y.uses() or y.is_graph_output() for y in node.outputs):
                continue
            if node.op_type in norms.NORMS:
                self._norm(node)
                continue
            chain = self._chain(node)
            if chain is not None:
                seen.update(chain.nodes)
                self._site(chain)
        merge_branches(self.net, self.options.skip, self.frozen, self.records)
        return len(self.records) > before

    def _rewrite(self) -> bool:
        """R3, N4, N5: what is no affine, after all affines."""
        done = False
        if "R3" not in self.options.skip:
            done = merge_successive(self.net, self.frozen, self.kept, self.records)
        if not self.options.skip >= {"N4", "N5"}:
            done |= centre_streams(self.net, self.options.skip, self.frozen, self.kept, self.records)
        return done

    def _chain(self, node: ir.Node) -> Chain | None:
        """The chain that begins at `node`; None where it is not affine or stays what it is."""
        if node in self.frozen:
            return None
        try:
            reading = read(self.net, node)
            if reading is not None and is_bias(self.net, node):
                self._bias(Chain([node], reading.at, reading.affine))
                return None
        except Refused as refused:
            if not is_bias(self.net, node) and not self._outer(node):
                self.kept[node] = str(refused)
            return None
        if reading is None:
            return None
        return follow(self.net, self.frozen, node, reading)

    def _site(self, chain: Chain) -> bool:
        """The whole chain, or else as much of its beginning backwards or of its end forwards as goes."""
        reasons: list[str] = []
        if any(self._try(go, chain, reasons) for go in (self._backward, self._forward, self._both_ways)):
            return True
        unheard: list[str] = []
        for k in range(min(len(chain.nodes) - 1, LONGEST_PART), 0, -1):
            for go, nodes in ((self._backward, chain.nodes[:k]), (self._forward, chain.nodes[-k:])):
                part = part_of(self.net, chain, nodes)
                if part is not None and self._try(go, part, unheard):
                    return True
        if self._leave_shift(chain) or self._merge(chain):
            return True
        for node in chain.nodes:
            self.kept[node] = f"backwards: {reasons[0]}; forwards: {reasons[1]}"
        return False

    def _bias(self, chain: Chain) -> None:
        """D2.  The bias of a MatMul stays with it, but where attention has no use for it."""
        try:
            plan = self.mover.attempt(lambda: self._forward(chain))
        except Refused:
            return
        if any(step.rule == "D2" for step in plan.steps):
            self._commit(plan, chain)

    def _outer(self, node: ir.Node) -> bool:
        """What broadcasts its operand goes forwards alone."""
        try:
            reading = outer_product(self.net, node)
        except Refused:
            return False
        return reading is not None and self._try(self._forward, Chain([node], reading.at, reading.affine), [])

    def _try(self, go: Callable[[Chain], Plan], chain: Chain, reasons: list[str]) -> bool:
        try:
            plan = self.mover.attempt(lambda: go(chain))
        except Refused as refused:
            reasons.append(str(refused))
            return False
        self._commit(plan, chain)
        return True

    def _backward(self, chain: Chain) -> Plan:
        self._can_go(chain)
        return self.mover.pull(chain.nodes[0], chain.at, chain.affine)

    def _forward(self, chain: Chain) -> Plan:
        self._can_go(chain)
        return self.mover.push(chain.y, chain.affine)

    def _both_ways(self, chain: Chain) -> Plan:
        """s x + t = s (x + t / s): the scale forwards, t / s backwards.  Or s x backwards, and t forwards."""
        self._can_go(chain)
        affine = chain.affine
        if affine.keeps_zero or affine.keeps_scale:
            raise Refused("it has only one part")
        first, index = chain.nodes[0], chain.at
        if affine.scale.all():
            try:
                before = type(affine).of(affine.rank, 1.0, affine.shift / affine.scale)
                return self.mover.pull(first, index, before) + self.mover.push(chain.y, affine.only_scale())
            except Refused:
                pass
        return self.mover.pull(first, index, affine.only_scale()) + self.mover.push(chain.y, affine.only_shift())

    def _can_go(self, chain: Chain) -> None:
        if not self.net.can_bypass(chain.y, chain.x):
            raise Refused(f"{chain.y.name!r} is an output of the graph, and {chain.x.name!r} cannot take its place")

    def _commit(self, plan: Plan, chain: Chain) -> None:
        for node in chain.nodes:
            self.records.append(Record(title(node), node.op_type, "folded", plan.steps))
            if self.options.keep_metadata and node.op_type == "BatchNormalization":
                self.batch_norms.append(weight_and_bias(self.net, node, plan.steps))
        plan.run()
        self.net.bypass(chain.y, chain.x)
        for node in reversed(chain.nodes):
            if node.graph is not None:
                node.graph.remove(node, safe=True)

    def _leave_shift(self, chain: Chain) -> bool:
        """F2b.  s x + t = s (x + t / s): the scale forwards, and an Add stays.

        Not for ONNX Runtime where a BatchNorm would stay: it makes a blocked convolution of that, and none of an Add,
        which is 6 % slower in blocks of BatchNorm, ReLU and 3x3 convolution.
        """
        affine = chain.affine
        pays = self.generic or spelled(self.net, chain.y, affine) > 1
        if not pays or affine.keeps_scale or affine.keeps_zero or not affine.scale.all() or "F2b" in self.options.skip:
            return False
        left = type(affine).of(affine.rank, 1.0, affine.shift / affine.scale)
        try:
            plan = self.mover.attempt(lambda: self.mover.push(chain.y, affine.only_scale()))
            plan.actions.append(respell(self.net, chain.nodes, chain.at, left.check_finite()))
        except Refused:
            return False
        plan.steps.insert(0, Step("F2b", chain.y.name or "", "Add"))
        self.records += [Record(title(node), node.op_type, "merged", plan.steps) for node in chain.nodes]
        plan.run()
        return True

    def _merge(self, chain: Chain) -> bool:
        """X1.  Fewer operations for the same affine."""
        try:
            if "X1" in self.options.skip or spelled(self.net, chain.y, chain.affine) >= len(chain.nodes):
                return False
            if chain.affine.is_identity:
                self._can_go(chain)
                act: Callable[[], None] = lambda: self.net.bypass(chain.y, chain.x)  # noqa: E731
            else:
                act = respell(self.net, chain.nodes, chain.at, chain.affine)
        except Refused:
            return False
        for node in chain.nodes:
            steps = [Step("X1", chain.y.name or "", "")]
            self.records.append(Record(title(node), node.op_type, "merged", steps))
        act()
        return True

    def _norm(self, node: ir.Node) -> bool:
        """N1 to N3.  weight and bias of another norm into all that reads it."""
        if node in self.frozen:
            return False
        try:
            affine = read_norm(self.net, node)
            if affine is None:
                return False
            rule = norms.RULE[node.op_type]
            if rule in self.options.skip:
                raise Refused(f"rule {rule} is switched off")
            plan = self.mover.attempt(lambda: self.mover.push(node.outputs[0], affine))
            plan.steps.insert(0, Step(rule, title(node), node.op_type))
            plan.actions += reset_norm(self.net, node)
        except Refused as refused:
            self.kept[node] = f"forwards: {refused}"
            return False
        self.records.append(Record(title(node), node.op_type, "folded", plan.steps))
        plan.run()
        return True
