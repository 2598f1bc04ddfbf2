# SPDX-License-Identifier: Apache-2.0
"""Exported networks: every BatchNorm that has somewhere to go is gone, and the outputs are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peers import peer

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
# onnx_networks.py, which needs PyTorch, has them too
NAMES = ["ResNet", "MobileNetV2", "MobileNetV3", "EfficientNet", "DenseNet", "pre-activation", "RepVGG", "MobileOne"]
NAMES += ["U-Net", "3-D", "separable", "ConvNeXt", "ViT", "LSTM"]


@pytest.mark.parametrize("name", NAMES)
def test_network(name: str, tmp_path: Path) -> None:
    which, report = fold(name, tmp_path, "float32")
    assert report.before > which.left
    assert report.after == which.left, report.table()
    assert report.verification is not None
    assert report.verification.passed, report.summary()
    assert not report.switched_off


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["ResNet", "DenseNet", "RepVGG", "separable"])
def test_network_of_half_precision(name: str, dtype: str, tmp_path: Path) -> None:
    """As exact as its type allows: what remains is at most what remains in float32, and nothing had to be undone."""
    which, report = fold(name, tmp_path, dtype)
    assert report.after == which.left, report.table()
    assert not report.switched_off
    if report.verification is None:  # ONNX Runtime has no such operation
        assert "cannot be run here" in report.not_verified
    else:
        assert report.verification.passed, report.summary()


def fold(name: str, folder: Path, dtype: str) -> tuple[Any, Any]:
    _, onnx, *_ = (peer(tool) for tool in ("torch", "onnx", "onnx_ir", "onnxruntime"))
    from onnx_export import export
    from onnx_networks import NETWORKS

    import normcpu.onnx

    which = {n.name: n for n in NETWORKS}[name]
    path, out = folder / "network.onnx", folder / "folded.onnx"
    export(which, path, dtype)
    folded, report = normcpu.onnx.fold(path)
    normcpu.onnx.save(folded, out)
    onnx.checker.check_model(out, full_check=True)
    return which, report
