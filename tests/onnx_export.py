# SPDX-License-Identifier: Apache-2.0
"""The networks of onnx_networks.py as files, with trained-like statistics, in float32, float16 and bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from onnx_networks import Network
from torch import nn


def network(which: Network) -> nn.Module:
    torch.manual_seed(0)
    made = which.make()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            signs = torch.sign(torch.rand_like(module.weight) - 0.2)
            module.weight.data.uniform_(0.5, 1.5).mul_(signs)
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return made.eval()


def export(which: Network, path: Any, dtype: str = "float32") -> None:
    """With its BatchNorms."""
    model, x = network(which), torch.randn(which.shape)
    if dtype == "float16":
        model, x = model.half(), x.half()
    torch.onnx.export(
        model, (x,), path, dynamo=False, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    if dtype == "bfloat16":
        to_bfloat16(path)


def to_bfloat16(path: Any) -> None:
    """Opset 22 is the first whose Conv takes it; PyTorch exports older ones.  What is used here did not change."""
    import ml_dtypes
    import onnx

    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 22, 10
    constants = (a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute)
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            wide = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide.astype(ml_dtypes.bfloat16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    onnx.save(model, path)
