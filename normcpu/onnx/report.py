# SPDX-License-Identifier: Apache-2.0
"""What was folded, into what and through what, and why the rest stays."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

from .bench import Timing
from .push import Record
from .ranges import WeightRange
from .verify import Verification


@dataclass
class Report:
    """Counts are of affine operations: BatchNormalization, arithmetic of activations with constants, and norms with
    weights other than 1 or biases other than 0."""

    before: int = 0
    after: int = 0
    records: list[Record] = field(default_factory=list)
    verification: Verification | None = None
    not_verified: str = ""  # why there is no verification
    external_data: bool = False  # whether the model's weights are in files of their own
    switched_off: dict[str, float] = field(default_factory=dict)  # {rule: the error it made}
    latency: list[Timing] = field(default_factory=list)  # of original and folded model, where benched
    ranges: list[WeightRange] = field(default_factory=list)  # of the weights that changed, where asked for

    @property
    def folded(self) -> list[Record]:
        return [r for r in self.records if r.outcome != "kept"]

    @property
    def kept(self) -> list[Record]:
        return [r for r in self.records if r.outcome == "kept"]

    @property
    def added(self) -> dict[str, int]:
        """How many operations and parameters the aggressive rules have added, or taken away; {} if none did."""
        plans = {id(r.steps): r.steps for r in self.folded}  # a chain's operations share one
        steps = [s for plan in plans.values() for s in plan if s.operations or s.parameters]
        if not steps:
            return {}
        return {"operations": sum(s.operations for s in steps), "parameters": sum(s.parameters for s in steps)}

    def to_json(self) -> str:
        plain = asdict(self)
        if self.verification is not None:
            plain["verification"]["passed"] = self.verification.passed
        for told, weight in zip(plain["ranges"], self.ranges, strict=True):
            told |= {"spread_before": weight.spread_before, "spread_after": weight.spread_after}
        plain["added"] = self.added
        plain["latency"] = [{"model": t.model, "minimum": t.minimum, "median": t.median} for t in self.latency]
        return json.dumps(plain, indent=1, default=float)

    def to_html(self, name: str = "model") -> str:
        """One page that needs nothing else: counts, errors, every operation, ranges of weights.  Wants jinja2."""
        from .page import page

        return page(self, name)

    def table(self, width: int = 110) -> str:
        """One line per operation, and the counts; what is kept says why."""
        from tabulate import tabulate

        rows = [[r.outcome, r.op_type, r.node, _cut(self._what(r), width)] for r in self.records]
        lines = [tabulate(rows, ["", "operation", "node", "into, by rule; or why not"], "simple")] if rows else []
        return "\n\n".join([*lines, self.summary()])

    def _what(self, record: Record) -> str:
        if record.outcome == "kept":
            return record.reason
        return ", ".join(dict.fromkeys(map(str, record.steps[-3:])))

    def summary(self) -> str:
        lines = [f"affine operations: {self.before} before, {self.after} after"]
        rules = Counter(s for r in self.folded for s in r.rules)
        if rules:
            lines.append("rules: " + ", ".join(f"{name} {count}" for name, count in sorted(rules.items())))
        if added := self.added:
            lines.append("aggressive rules: " + ", ".join(f"{n:+d} {what}" for what, n in added.items()))
        for rule, error in self.switched_off.items():
            lines.append(f"rule {rule} was switched off: with it, verification found an error of {error:.1e}")
        if self.verification is not None:
            v = self.verification
            verdict = "verified" if v.passed else "VERIFICATION FAILED"
            bound = max((o.bound for o in v.outputs), default=0.0)
            lines.append(
                f"{verdict}: largest error {v.worst:.1e} of at most {bound:.1e} ({v.runtime}; against {v.reference})"
            )
            lines += [f"top-1 agreement of {o.name}: {o.same}" for o in v.outputs if o.same]
        else:
            lines.append(f"not verified: {self.not_verified or 'not asked for'}")
        if self.latency:
            told = ", ".join(f"{1e3 * t.minimum:.3f} ms (median {1e3 * t.median:.3f})" for t in self.latency)
            lines.append(f"latency in ONNX Runtime, one thread, before and after: {told}")
        return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
