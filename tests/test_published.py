# SPDX-License-Identifier: Apache-2.0
"""Published cases: ONNX's node tests, and its five models of BatchNorm converted from PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_backend
import pytest
from peers import peer

Array = np.ndarray
MODELS = ["test_BatchNorm1d_3d_input_eval", "test_BatchNorm2d_eval", "test_BatchNorm2d_momentum_eval",
          "test_BatchNorm3d_eval", "test_BatchNorm3d_momentum_eval"]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("operation", onnx_backend.PUBLISHED)
def test_onnx_nodes(operation: str) -> None:
    peer("onnx")
    passed = [onnx_backend.check(case) for case in onnx_backend.cases(operation)]
    assert len(passed) >= onnx_backend.PUBLISHED[operation]


@pytest.mark.peers
@pytest.mark.parametrize("name", MODELS)
def test_models_converted_from_pytorch(name: str) -> None:
    onnx = peer("onnx")
    folder = Path(onnx.__file__).parent / "backend/test/data/pytorch-converted" / name
    graph = onnx.load(folder / "model.onnx").graph
    [node] = graph.node
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names = [i.name for i in graph.input if i.name not in known]
    data_sets = sorted(folder.glob("test_data_set_*"))
    assert data_sets
    for data in data_sets:
        read = {names[i]: tensor(onnx, data / f"input_{i}.pb") for i in range(len(names))}
        [y] = onnx_backend.run_node(node, *((known | read)[i] for i in node.input))
        np.testing.assert_allclose(y, tensor(onnx, data / "output_0.pb"), rtol=2e-6, atol=1e-6)


def tensor(onnx: Any, path: Path) -> Array:
    read = onnx.TensorProto()
    read.ParseFromString(path.read_bytes())
    made: Array = onnx.numpy_helper.to_array(read)
    return made
