# SPDX-License-Identifier: Apache-2.0
"""Every rule folds its models, exactly, and what must stay stays, for the stated reason."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx_cases import AGGRESSIVE, AGGRESSIVE_KEPT, FOLDED, KEPT, Case, build
from peers import peer

pytestmark = pytest.mark.peers
TOLERANCE = 3e-6  # of the largest output: float32 weights, each rounded once


@pytest.fixture(scope="module")
def tools() -> Any:
    peer("onnx")
    peer("onnx_ir")
    return peer("normcpu.onnx")


def random_inputs(model: Any) -> dict[str, np.ndarray]:
    from normcpu.onnx import run

    return run.random_inputs(model)


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
    model, folded, report = fold(tools, case)
    right(case, model, folded, report)


def right(case: Case, model: Any, folded: Any, report: Any) -> None:
    """The counts, the rules and the outputs are those of the case."""
    assert (report.before, report.after) == (case.before, case.after), report.table()
    used = {rule for record in report.folded for rule in record.rules}
    assert used >= set(case.rules.split()), used
    feeds = random_inputs(model)
    names = [o.name for o in model.graph.output]
    both = (outputs(m, feeds, case.reference) for m in (model, folded))
    for name, want, got in zip(names, *both, strict=True):
        assert got.shape == want.shape, name
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), name


@pytest.mark.parametrize("case", AGGRESSIVE, ids=lambda c: c.name)
def test_aggressive_rules(tools: Any, case: Case) -> None:
    """Only where asked for, as a whole or by name."""
    model, folded, report = fold(tools, case, aggressive=True)
    right(case, model, folded, report)
    used = {rule for record in report.folded for rule in record.rules}
    assert used & tools.AGGRESSIVE
    _, _, default = fold(tools, case)
    assert not tools.AGGRESSIVE & {rule for record in default.folded for rule in record.rules}
    _, _, named = fold(tools, case, only=sorted(used | {"N7"}))
    assert named.after == case.after
    _, _, without = fold(tools, case, aggressive=True, skip=sorted(tools.AGGRESSIVE))
    assert without.to_json() == default.to_json()


ADDED = {  # {case: operations, parameters that the aggressive rules add}
    "one value of padding for all channels": (1, 0),
    "a map behind": (1, 4 * 3 * 4),
    "a map behind, joined with an Add": (0, 4 * 6 * 6 - 4),
    "a channel of ones": (1, 3 * 9),
    "1x1, then 3x3": (-1, 3 * 4 * 9 - (16 * 4 + 16 + 3 * 16 * 9)),
    "LayerNorm of a Linear": (0, -8),
    "LayerNorm spelled out": (-2, 0),
    "a residual stream": (0, -16),
}


@pytest.mark.parametrize("name", ADDED)
def test_aggressive_rules_say_what_they_add(tools: Any, name: str) -> None:
    case = next(c for c in AGGRESSIVE if c.name == name)
    _, _, report = fold(tools, case, aggressive=True)
    operations, parameters = ADDED[name]
    assert report.added == {"operations": operations, "parameters": parameters}
    assert json.loads(report.to_json())["added"] == report.added
    assert f"aggressive rules: {operations:+d} operations, {parameters:+d} parameters" in report.summary()
    told = " ".join(str(step) for record in report.folded for step in record.steps)
    assert all(f"{n:+d} {what}" in told for what, n in (("op", operations), ("param", parameters)) if n)


@pytest.mark.parametrize("case", KEPT, ids=lambda c: c.name)
def test_keeps(tools: Any, case: Case) -> None:
    stays(tools, case)


@pytest.mark.parametrize("case", AGGRESSIVE_KEPT, ids=lambda c: c.name)
def test_aggressive_rules_keep(tools: Any, case: Case) -> None:
    stays(tools, case, aggressive=True)


def stays(tools: Any, case: Case, **options: Any) -> None:
    """Nothing is changed, and the reason is that of the case."""
    import onnx_ir

    model, folded, report = fold(tools, case, **options)
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


GELU = """h = MatMul(x, W[6,8])
  two = Constant<value_float=1.41421356>()
  a = Div(h, two)
  e = Erf(a)
  one = Constant<value_float=1.0>()
  p = Add(e, one)
  q = Mul(h, p)
  half = Constant<value_float=0.5>()
  g = Mul(q, half)
  y = MatMul(g, W2[8,3])"""
TANH = """h = MatMul(x, W[6,8])
  three = Constant<value_float=3.0>()
  c = Pow(h, three)
  k = Constant<value_float=0.044715>()
  d = Mul(c, k)
  s = Add(h, d)
  r = Constant<value_float=0.7978845608>()
  a = Mul(s, r)
  e = Tanh(a)
  one = Constant<value_float=1.0>()
  p = Add(e, one)
  half = Constant<value_float=0.5>()
  z = Mul(half, h)
  g = Mul(z, p)
  y = MatMul(g, W2[8,3])"""
SILU = """h = MatMul(x, W[6,8])
  alpha = Constant<value_float=1.702>()
  a = Mul(h, alpha)
  s = Sigmoid(a)
  g = Mul(h, s)
  y = MatMul(g, W2[8,3])"""
ATTENTION = """q = MatMul(x, W[6,8])
  k0 = MatMul(x, W2[6,8])
  k = Add(k0, B[8])
  t = Transpose<perm=[0,2,1]>(k)
  p = MatMul(q, t)
  eight = Constant<value_float=2.828427>()
  s = Div(p, eight)
  m = Add(s, mask)
  w = Softmax(m)
  v = MatMul(x, W3[6,8])
  y = MatMul(w, v)"""
COMPOSITES = {  # {name: text, operations that go for onnxruntime, for another}
    "GELU": (GELU, [], ["Mul"]),
    "GELU by tanh": (TANH, [], ["Mul"]),
    "SiLU": (SILU, [], []),
    "attention with a mask": (ATTENTION, [], ["Add", "Div"]),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("target", ["onnxruntime", "generic"])
def test_composites_stay_whole_where_the_target_fuses_them(tools: Any, name: str, target: str) -> None:
    body, *folds = COMPOSITES[name]
    case = Case(name, "", 0, 0, body, "float[2,5,6] x" + ", float[5] mask" * ("mask" in body))
    model, folded, report = fold(tools, case, target=target)
    had, has = (Counter(node.op_type for node in m.graph.node) for m in (model, folded))
    assert sorted(op for op in (had - has).elements() if op != "Constant") == folds[target == "generic"], report.table()
    assert not has - had
    feeds = random_inputs(model)
    want, got = (outputs(m, feeds, True)[0] for m in (model, folded))
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


LEFT = {  # {name: what the BatchNorm is before, what is left of it for onnxruntime, for another}
    "pads": ("y = Conv<pads=[1,1,1,1]>(b, W[3,4,3,3])", "BatchNormalization", "Add"),
    "ReLU": ("r = Relu(b)\n  y = Conv(r, W[3,4,3,3])", "BatchNormalization", "Add"),
    "Sigmoid": ("r = Sigmoid(b)\n  y = Conv(r, W[3,4,3,3])", "BatchNormalization", "BatchNormalization"),
    "an output": ("y = Identity(b)", "BatchNormalization", "BatchNormalization"),
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("target", ["onnxruntime", "generic"])
def test_a_shift_alone_is_left_where_that_is_faster(tools: Any, name: str, target: str) -> None:
    body, *left = LEFT[name]
    case = Case(name, "", 1, 1, f"b = BatchNormalization(x, P[4], B[4], M[4], V[4])\n  {body}")
    model, folded, report = fold(tools, case, target=target)
    assert folded.graph.node[0].op_type == left[target == "generic"]
    right(case, model, folded, report)
    assert ("F2b" in report.summary()) == (folded.graph.node[0].op_type == "Add")
    model, folded, _ = fold(tools, case, target=target, skip=["F2b"])
    assert folded.graph.node[0].op_type == "BatchNormalization"
