# SPDX-License-Identifier: Apache-2.0
"""Every rule folds its models, exactly, and what must stay stays, for the stated reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_cases import FOLDED, KEPT, Case, build
from peers import peer

pytestmark = pytest.mark.peers
TOLERANCE = 3e-6  # of the largest output: float32 weights, each rounded once


@pytest.fixture(scope="module")
def tools() -> Any:
    peer("onnx")
    peer("onnx_ir")
    return peer("normcpu.onnx")


def outputs(model: Any, feeds: dict[str, np.ndarray], reference: bool) -> list[np.ndarray]:
    """In float64, with the weights as they are."""
    import onnx.reference

    from normcpu.onnx.run import as_double, run

    if not reference:
        peer("onnxruntime")
        return run(model, feeds)[0]
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}
    return list(onnx.reference.ReferenceEvaluator(as_double(model)).run(None, wide))


def fold(tools: Any, case: Case, **options: Any) -> tuple[Any, Any, Any]:
    import onnx
    import onnx_ir

    model = build(case)
    folded, report = tools.fold(model, verify=False, **options)
    proto = onnx_ir.to_proto(folded)
    onnx.checker.check_model(proto)
    return model, proto, report


@pytest.mark.parametrize("case", FOLDED, ids=lambda c: c.name)
def test_folds(tools: Any, case: Case) -> None:
    from normcpu.onnx.run import random_inputs

    model, folded, report = fold(tools, case)
    assert (report.before, report.after) == (case.before, case.after), report.table()
    used = {rule for record in report.folded for rule in record.rules}
    assert used >= set(case.rules.split()), used
    feeds = random_inputs(model)
    names = [o.name for o in model.graph.output]
    both = (outputs(m, feeds, case.reference) for m in (model, folded))
    for name, want, got in zip(names, *both, strict=True):
        assert got.shape == want.shape, name
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), name


@pytest.mark.parametrize("case", KEPT, ids=lambda c: c.name)
def test_keeps(tools: Any, case: Case) -> None:
    import onnx_ir

    model, folded, report = fold(tools, case)
    assert (report.before, report.after) == (case.before, case.after)
    assert not report.folded, report.table()
    assert any(case.rules in record.reason for record in report.kept), report.table()
    assert folded == onnx_ir.to_proto(onnx_ir.from_proto(model))


@pytest.mark.parametrize("rule", ["B1", "B11", "F1", "X1", "R1", "N6"])
def test_a_rule_switched_off_is_not_used(tools: Any, rule: str) -> None:
    for case in FOLDED:
        if rule in case.rules.split():
            _, _, report = fold(tools, case, skip=[rule])
            assert rule not in {r for record in report.folded for r in record.rules}, case.name


def test_nodes_that_are_to_be_kept(tools: Any) -> None:
    case = next(c for c in FOLDED if c.name == "conv, padded")
    _, _, report = fold(tools, case, keep=["n1"])
    assert report.after == 1
    assert report.kept[0].reason == "it is to be kept"
