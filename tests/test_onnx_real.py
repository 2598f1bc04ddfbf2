# SPDX-License-Identifier: Apache-2.0
"""Networks that packages ship: what is left is at most what can be, and the outputs are equal to 1e-6."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import peer
from real_models import MODELS, Model, path_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.peers,
    pytest.mark.skipif("NORMCPU_REAL" not in os.environ, reason="downloads 80 MB: make real"),
]
TOLERANCE = 1e-6
NOISE = 4  # times what the original's own results move by when ONNX Runtime optimizes it: 3e-6 for text recognition


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_real_model(model: Model, tmp_path: Path) -> None:
    tools = peer("normcpu.onnx")
    path, out = path_of(model), tmp_path / "folded.onnx"
    folded, report = tools.fold(path, verify=False)
    tools.save(folded, out)
    assert report.before == model.before
    assert report.after <= model.most, report.table()
    feeds = inputs(session(path, True), model)
    (plain, optimized), both = ([session(p, o).run(None, feeds) for o in (False, True)] for p in (path, out))
    for k, own in enumerate(zip(plain, optimized, strict=True)):
        for want, got in zip(own, (results[k] for results in both), strict=True):
            assert got.shape == want.shape
            bound = TOLERANCE * max(1.0, np.abs(want).max()) + NOISE * np.abs(own[0] - own[1]).max()
            assert np.abs(got - want).max() <= bound


def session(path: Path, optimized: bool) -> Any:
    """As users run it, or operation by operation."""
    ort = peer("onnxruntime")
    options, level = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(session: Any, model: Model) -> dict[str, np.ndarray]:
    """Of the sizes that the network is used with: bytes where it reads integers, else normal numbers."""
    rng = np.random.default_rng(0)
    made = {}
    for given, shape in zip(session.get_inputs(), [s for s in (model.shape, model.second) if s], strict=True):
        is_float = given.type == "tensor(float)"
        made[given.name] = rng.normal(size=shape).astype("f4") if is_float else rng.integers(0, 256, shape, np.int32)
    return made
