# SPDX-License-Identifier: Apache-2.0
"""Moving an affine through the graph, dry: what comes back is a plan, or the sentence why there is none.

    pull(node, i, A)    make input i of `node` A of what it is: backwards, into whatever produces it
    push(value, A)      make every reader of `value` see A of what it is: forwards, into all of them

A rule is a function that takes the affine across one operation.  It names where the affine goes next, by pulling or
pushing further, and ends in weights.  Nothing is changed until a plan is complete and its actions are run.

Two paths may meet in one operation (both operands of a Mul, two inputs of a Concat).  An action reads the weights as
they are when it runs, and each operation is linear in each operand, so what the paths ask for multiplies up; actions
that cannot do so name their node in `sole`, and a plan that has it twice is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from .affine import Affine, Refused
from .exact import check_range, new_constant, not_worth_a_copy
from .net import Net, Use, title
from .weights import Action

FARTHEST = 64  # operations that one affine crosses
MOST = 512  # operations that one attempt looks at, over all branches


class Elsewhere(Refused):
    """A rule is for other cases than this one; what another rule says about it tells more."""


class Step(NamedTuple):
    rule: str  # its name in FOLDING's tables, such as "B11"
    node: str
    op_type: str
    operations: int = 0  # how many it adds to the model, where the rule is one of those that add
    parameters: int = 0

    def __str__(self) -> str:
        added = [(self.operations, "operation"), (self.parameters, "parameter")]
        costs = [f"{n:+d} {what}{'s' * (abs(n) != 1)}" for n, what in added if n]
        return f"{self.op_type} {self.node} ({', '.join([self.rule, *costs])})".strip()


@dataclass
class Record:
    """What became of one affine operation, for the report."""

    node: str
    op_type: str
    outcome: str  # "folded", "merged" or "kept"
    steps: list[Step] = field(default_factory=list)
    reason: str = ""

    @property
    def rules(self) -> list[str]:
        return list(dict.fromkeys(s.rule for s in self.steps))


@dataclass
class Plan:
    """Steps for the report, and what to do, in order.

    `sole` are nodes whose actions replace what they found when they were planned: a plan has each of them once.
    """

    steps: list[Step] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    sole: list[ir.Node] = field(default_factory=list)

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.steps + other.steps, self.actions + other.actions, self.sole + other.sole)

    def run(self) -> None:
        for act in self.actions:
            act()


# (mover, node, output, what the output shall become), or (mover, node, input, what the input no longer is)
Act = Callable[["Mover", ir.Node, int, Affine], Plan]


class Rule(NamedTuple):
    name: str
    act: Act


# {operation: its rules, tried in order}
BACKWARD: dict[str, list[Rule]] = {}
FORWARD: dict[str, list[Rule]] = {}


def _enter(table: dict[str, list[Rule]], name: str, op_types: tuple[str, ...]) -> Callable[[Act], Act]:
    def enter(act: Act) -> Act:
        for op_type in op_types:
            table.setdefault(op_type, []).append(Rule(name, act))
        return act

    return enter


def backward(name: str, *op_types: str) -> Callable[[Act], Act]:
    """Enters a function into the table: how an affine on an output of these operations goes to their inputs."""
    return _enter(BACKWARD, name, op_types)


def forward(name: str, *op_types: str) -> Callable[[Act], Act]:
    """Enters a function into the table: how an affine on an input of these operations goes to their outputs."""
    return _enter(FORWARD, name, op_types)


@contextmanager
def followed() -> Iterator[None]:
    """What goes wrong while planning, in a model that is not as it should be, is a refusal: nothing has changed yet."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise Refused(f"its way could not be followed: {type(error).__name__}: {error}") from error


class Mover:
    """Applies the tables.  `skip` are names of rules that are switched off, `frozen` nodes that stay as they are."""

    def __init__(self, net: Net, skip: frozenset[str] = frozenset(), frozen: dict[ir.Node, str] | None = None) -> None:
        self.net = net
        self.skip = skip
        self.frozen = frozen if frozen is not None else {}
        self.depth = 0
        self.looked = 0
        self.at: Step = Step("", "", "")

    def attempt(self, go: Callable[[], Plan]) -> Plan:
        """One affine's way, from its beginning."""
        self.depth = self.looked = 0
        with followed():
            plan = go()
        for k, node in enumerate(plan.sole):
            if node in plan.sole[:k]:
                raise Refused(f"two paths meet in {node.op_type} {title(node)}")
        return plan

    def pull(self, node: ir.Node, index: int, affine: Affine) -> Plan:
        value = node.inputs[index]
        affine.check_finite()
        if affine.is_identity:
            return Plan()
        if value is None:
            raise Refused(f"input {index} of {title(node)} is absent")
        if self.net.constants.is_constant(value):
            return self._constant(node, index, value, affine)
        producer = value.producer()
        if value.is_graph_output():
            raise Refused(f"{value.name!r} is an output of the graph")
        if producer is None:
            if value.is_initializer():
                raise Refused(f"{value.name!r} is an initializer that callers may override, being a graph input too")
            raise Refused(f"it reaches {value.name!r}, an input of the graph")
        others = [u for u in self.net.readers(value) if u != (node, index)]
        for use in others:
            if not self._sees_nothing(use, affine):
                raise Refused(f"{title(producer)} has another reader, {title(use.node)}")
        return self._across(producer, BACKWARD, value.index() or 0, affine)

    def push(self, value: ir.Value, affine: Affine) -> Plan:
        affine.check_finite()
        if affine.is_identity:
            return Plan()
        if value.is_graph_output():
            raise Refused(f"{value.name!r} is an output of the graph")
        plan = Plan()
        for use in self.net.readers(value):
            plan += self._across(use.node, FORWARD, use.at, affine)
        return plan

    def step(self, node: ir.Node, operations: int = 0, parameters: int = 0) -> Plan:
        """The beginning of a rule's plan: that it was used, and what it adds to the model."""
        return Plan([Step(self.at.rule, title(node), node.op_type, operations, parameters)])

    def _across(self, node: ir.Node, table: dict[str, list[Rule]], at: int, affine: Affine) -> Plan:
        """By the first of the operation's rules that takes it."""
        self.looked += 1
        if self.depth >= FARTHEST or self.looked > MOST:
            raise Refused(f"nothing takes it up within {FARTHEST} operations")
        rules = [] if node.domain else table.get(node.op_type, [])
        if not rules:
            where = f"{node.domain}." if node.domain else ""
            raise Refused(f"{where}{node.op_type} {title(node)} neither takes it up nor lets it pass")
        allowed = [rule for rule in rules if rule.name not in self.skip]
        if not allowed:
            raise Refused(f"rule {rules[0].name} ({node.op_type} {title(node)}) is switched off")
        if node in self.frozen:
            raise Refused(f"{node.op_type} {title(node)} {self.frozen[node]}")
        before, reasons = self.at, []
        self.depth += 1
        try:
            for rule in allowed:
                self.at = Step(rule.name, title(node), node.op_type)
                try:
                    return rule.act(self, node, at, affine)
                except Refused as refused:
                    reasons.append(refused)
        finally:
            self.depth -= 1
            self.at = before
        told = [str(refused) for refused in reasons if not isinstance(refused, Elsewhere)] or [str(reasons[0])]
        raise Refused("; ".join(dict.fromkeys(told)))

    def _sees_nothing(self, use: Use, affine: Affine) -> bool:
        """Whether another reader takes only elements that the affine leaves alone: other slices of the same tensor."""
        if use.node.op_type not in ("Slice", "Gather", "Split") or use.node.domain or use.at != 0:
            return False
        from .parts import forward_parts

        try:
            return all(part.is_identity for part in forward_parts(self.net, use.node, affine) if part is not None)
        except Refused:
            return False

    def _constant(self, node: ir.Node, index: int, value: ir.Value, affine: Affine) -> Plan:
        """B7.  A constant operand becomes scale * c + shift."""
        not_worth_a_copy(value)
        dtype = self.net.float_type(value)
        exact = self.net.constants.value(value)
        if exact is None:
            raise Refused(f"{value.name!r} is too large to evaluate")
        made = affine.scale * exact + affine.shift
        if made.shape != exact.shape:
            raise Refused(f"{value.name!r} would grow from {exact.shape} to {made.shape}")
        check_range(made, affine.scale * 0 + 1, dtype, f"constant {value.name!r}", None)
        net = self.net
        act = lambda: net.set_input(node, index, new_constant(net, made, dtype, f"{value.name}_folded"))  # noqa: E731
        return Plan([Step("B7", value.name or "", "constant")], [act], [node])
