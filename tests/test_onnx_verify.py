# SPDX-License-Identifier: Apache-2.0
"""Verification finds what is wrong, names the rule, and keeps the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_cases import FOLDED, KEPT, Case, build
from peers import peer

pytestmark = pytest.mark.peers
CONV = next(c for c in FOLDED if c.name == "conv, padded")
BOTH = Case(
    "a conv and a product", "", 2, 0, CONV.body.replace("y =", "z =") + "\nn = Mul(z, G2[6])\ny = MatMul(n, W2[6,3])"
)


@pytest.fixture(autouse=True)
def tools() -> Any:
    peer("onnx")
    peer("onnx_ir")
    return peer("normcpu.onnx")


@pytest.mark.parametrize(
    "case",
    [c for c in FOLDED if c.name in ("conv, padded", "RepVGG", "into LSTM", "scale of attention")],
    ids=lambda c: c.name,
)
def test_a_right_fold_is_verified(tools: Any, case: Case) -> None:
    _, report = tools.fold(build(case))
    assert report.verification.passed
    assert report.verification.reference == "float64"
    assert report.verification.worst < 2e-6
    assert not report.switched_off


def test_the_rule_that_is_wrong_is_switched_off(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx import conv

    monkeypatch.setattr(conv, "bias", lambda *arguments: [])
    model, report = tools.fold(build(BOTH))
    assert set(report.switched_off) == {"B1"}
    assert report.switched_off["B1"] > 0.01
    assert report.verification.passed
    assert (report.before, report.after) == (2, 1)
    assert [n.op_type for n in model.graph] == ["Conv", "BatchNormalization", "MatMul"]


def test_nothing_is_left_where_every_rule_is_wrong(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx import conv

    monkeypatch.setattr(conv, "bias", lambda *arguments: [])
    model, report = tools.fold(build(CONV))
    assert report.not_verified == "nothing is folded any more"
    assert [n.op_type for n in model.graph] == ["Conv", "BatchNormalization"]


def test_aggressive_rules_are_verified_too(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx import padded

    stays = next(c for c in KEPT if c.name == "padded conv")
    _, report = tools.fold(build(stays), aggressive=True)
    assert [record.rules for record in report.folded] == [["F2d"]]
    assert report.verification.passed
    right = padded.taps
    monkeypatch.setattr(padded, "taps", lambda *arguments: 2 * right(*arguments))
    model, report = tools.fold(build(stays), aggressive=True)
    assert set(report.switched_off) == {"F2d", "F2e"}
    assert [n.op_type for n in model.graph] == ["BatchNormalization", "Conv"]


def test_own_inputs(tools: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    _, report = tools.fold(build(CONV), inputs=[{"x": x}, {"x": 100 * x}])
    assert report.verification.passed


def test_errors_of_two_models(tools: Any) -> None:
    import onnx

    model = build(CONV)
    reference = tools.Reference(model)
    assert reference.compare(model).passed
    other = build(CONV)
    weight = onnx.numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1 + 1e-4)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "W"))
    result = reference.compare(other)
    assert not result.passed
    assert 1e-5 < result.worst < 1e-3


def test_ulp_and_top_1(tools: Any) -> None:
    """By their definitions, on a model that is off by a known number of units in the last place."""
    import onnx

    from normcpu.onnx.verify import _top_1, _ulps

    case = Case("", "", 0, 0, "f = Flatten(x)\ny = Gemm(f, W[144,5], B[5])")
    result = tools.Reference(build(case)).compare(build(case))
    (output,) = result.outputs
    assert output.top_1 == 1.0
    assert 0 < output.ulp[0] <= output.ulp[1]
    assert "100 %" in result.table()
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    away = (rows.view(np.int32) + np.arange(200, dtype=np.int32).reshape(40, 5) % 4).view(
        np.float32
    )  # 0 to 3 further from zero
    assert _ulps([(away, rows.astype(np.float64))]) == (1.5, 3.0)
    half = np.array([1.0, 2.0, 2.0**-14, 0.0], np.float16)
    assert _ulps([(half + np.float16(2**-10), half)]) == (2.0**13 + 0.5, 2.0**14)
    turned = rows.copy()
    turned[:10] = -turned[:10]
    assert _top_1([(turned, rows)]) == 0.75
    assert _top_1([(turned, rows), (rows, rows)]) == 0.875
    for shape in [(40,), (40, 1), (2, 2, 2, 25)]:  # no rows of scores
        assert _top_1([(np.zeros(shape, np.float32), np.zeros(shape))]) is None
    assert _ulps([(np.arange(3), np.arange(3))]) is None
    model = build(case)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((144, 5), np.float32), "W"))
    assert tools.Reference(build(case)).compare(model).outputs[0].top_1 < 1.0


def test_a_large_model_is_compared_with_itself(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx import verify

    monkeypatch.setattr(verify, "SMALL", 0)
    _, report = tools.fold(build(CONV))
    assert report.verification.passed
    assert report.verification.reference.startswith("itself")


def test_a_model_that_does_not_run_is_said_not_to_be_verified(tools: Any) -> None:
    model = build(Case("custom", "", 1, 0, CONV.body.replace("y =", "z =") + "\ny = Identity(z)"))
    model.opset_import.add(domain="other", version=1)
    model.graph.node[2].domain = "other"
    model.graph.node[2].op_type = "Thing"
    _, report = tools.fold(model)
    assert report.verification is None
    assert "cannot be run here" in report.not_verified
    assert report.after == 0


def test_random_results_cannot_be_compared(tools: Any) -> None:
    case = Case("", "", 1, 0, CONV.body.replace("y =", "z =") + "\nr = RandomNormalLike(z)\ny = Mul(z, r)")
    _, report = tools.fold(build(case))
    assert "its results are random" in report.not_verified


def test_integers_may_differ_where_they_nearly_tie(tools: Any) -> None:
    case = Case("", "", 1, 0, CONV.body.replace("y =", "z =") + "\ny = ArgMax<axis=1>(z)", outputs="int64[] y")
    model = build(case)
    _, report = tools.fold(model)
    assert report.verification.passed
    wrong = build(Case("", "", 1, 0, case.body.replace("axis=1", "axis=0"), outputs="int64[] y"))
    assert not tools.Reference(model).compare(wrong).passed
    negated = build(Case("", "", 1, 0, case.body.replace("ArgMax", "ArgMin"), outputs="int64[] y"))
    assert tools.Reference(model).compare(negated).worst > 0.5


def test_what_stays_is_named_in_the_report(tools: Any) -> None:
    import json

    for case in KEPT:
        _, report = tools.fold(build(case), verify=False)
        told = json.loads(report.to_json())
        assert [r["reason"] for r in told["records"] if r["outcome"] == "kept"] == [r.reason for r in report.kept]
        assert "affine operations" in report.table()
