# SPDX-License-Identifier: Apache-2.0
"""Exported networks: every BatchNorm that has somewhere to go is gone, and the outputs are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers import peer

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
NAMES = ["ResNet", "MobileNetV3", "EfficientNet", "pre-activation", "RepVGG", "MobileOne", "U-Net"]
NAMES += ["3-D", "ConvNeXt", "ViT", "LSTM"]  # onnx_networks.py, which needs PyTorch, has them too


@pytest.mark.parametrize("name", NAMES)
def test_network(name: str, tmp_path: Path) -> None:
    for tool in ("torch", "onnx", "onnx_ir", "onnxruntime"):
        peer(tool)
    import onnx
    from onnx_networks import NETWORKS, export

    import normcpu.onnx

    which = {n.name: n for n in NETWORKS}[name]
    path, out = tmp_path / "network.onnx", tmp_path / "folded.onnx"
    export(which, path)
    folded, report = normcpu.onnx.fold(path)
    normcpu.onnx.save(folded, out)
    onnx.checker.check_model(out, full_check=True)
    assert report.before > which.left
    assert report.after == which.left, report.table()
    assert report.verification is not None
    assert report.verification.passed, report.summary()
    assert not report.switched_off
