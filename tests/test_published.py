# SPDX-License-Identifier: Apache-2.0
"""Published cases: ONNX's node tests of BatchNormalization and its five models converted from PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import peer

import normcpu

Array = np.ndarray
NODE_CASES = ["test_batchnorm_example", "test_batchnorm_epsilon", "test_batchnorm_example_training_mode",
              "test_batchnorm_epsilon_training_mode"]  # fmt: skip
MODELS = ["test_BatchNorm1d_3d_input_eval", "test_BatchNorm2d_eval", "test_BatchNorm2d_momentum_eval",
          "test_BatchNorm3d_eval", "test_BatchNorm3d_momentum_eval"]  # fmt: skip


def run_node(node: Any, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> list[Array]:
    """ONNX's BatchNormalization: momentum is the weight of the old value, and the running variance is biased."""
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    eps, momentum = attributes.get("epsilon", 1e-5), attributes.get("momentum", 0.9)
    training = bool(attributes.get("training_mode", 0))
    mean, var = mean.copy(), var.copy()
    y = normcpu.batch_norm(x, mean, var, scale, bias, training, 1 - momentum, eps, biased=True)
    return [y, mean, var] if training else [y]


def published_nodes() -> dict[str, Any]:
    peer("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests of other operators overflow while they are collected
        from onnx.backend.test.case.node import collect_testcases

        return {case.name: case for case in collect_testcases(None) if "batchnorm" in case.name}


@pytest.mark.peers
def test_onnx_nodes() -> None:
    cases = published_nodes()
    assert set(NODE_CASES) <= set(cases)
    for name, case in cases.items():
        [node] = case.model.graph.node
        assert node.op_type == "BatchNormalization"
        for inputs, outputs in case.data_sets:
            got = run_node(node, *inputs)
            assert len(got) == len(outputs)
            for ours, published in zip(got, outputs, strict=True):
                assert ours.dtype == published.dtype
                np.testing.assert_allclose(ours, published, rtol=4e-6, atol=1e-6, err_msg=name)


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
        [y] = run_node(node, *((known | read)[i] for i in node.input))
        np.testing.assert_allclose(y, tensor(onnx, data / "output_0.pb"), rtol=2e-6, atol=1e-6)


def tensor(onnx: Any, path: Path) -> Array:
    read = onnx.TensorProto()
    read.ParseFromString(path.read_bytes())
    made: Array = onnx.numpy_helper.to_array(read)
    return made
