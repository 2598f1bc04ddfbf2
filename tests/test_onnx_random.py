# SPDX-License-Identifier: Apache-2.0
"""Random models: whatever is folded computes the same, to the last digits of float64."""

from __future__ import annotations

import numpy as np
import pytest
from peers import peer

pytestmark = pytest.mark.peers
MODELS = 300
TOLERANCE = 1e-6  # of the largest output: ONNX's reference LayerNormalization computes in float32


@pytest.mark.parametrize("block", range(6))
@pytest.mark.filterwarnings("ignore")
def test_random_models(block: int) -> None:
    onnx, onnx_ir = peer("onnx"), peer("onnx_ir")
    import onnx_random
    from onnx.reference import ReferenceEvaluator

    import normcpu.onnx

    before = after = 0
    used: set[str] = set()
    for seed in range(block * MODELS // 6, (block + 1) * MODELS // 6):
        model, feeds = onnx_random.random_model(seed)
        target = "generic" if seed % 3 == 0 else "onnxruntime"
        folded, report = normcpu.onnx.fold(model, verify=False, target=target, aggressive=seed % 2 == 1)
        assert not any("could not be followed" in record.reason for record in report.kept), (seed, report.table())
        proto = onnx_ir.to_proto(folded)
        onnx.checker.check_model(proto)
        used |= {rule for record in report.folded for rule in record.rules}
        before, after = before + report.before, after + report.after
        outputs = [o.name for o in model.graph.output]
        both = (ReferenceEvaluator(m).run(None, feeds) for m in (model, proto))
        for name, want, got in zip(outputs, *both, strict=True):
            assert got.shape == want.shape, (seed, name)
            assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max() + 1e-13, (seed, name, report.table())
    assert after < 0.7 * before
    assert len(used & normcpu.onnx.AGGRESSIVE) >= 2
