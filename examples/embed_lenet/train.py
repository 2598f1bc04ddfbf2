# SPDX-License-Identifier: Apache-2.0
"""Write lenet.onnx anew: the LeNet of examples/lenet_batchnorm.py, trained, with its BatchNorms.

    python examples/embed_lenet/train.py

Half a minute; wants scikit-learn, tqdm and onnx.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from lenet_batchnorm import SEEN, Network, frozen, lenet, run, train  # noqa: E402

EPOCHS = 25
NORM = ("weight", "bias", "running_mean", "running_var")


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """1,797 images (n, 1, 8, 8) from 0 to 1, and what they show; in the order of lenet_batchnorm.py."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    return (data.images[order, None] / 16).astype(np.float32), data.target[order]


def exported(network: Network) -> onnx.ModelProto:
    """As an exporter writes it: one operation for each layer, batches of any size."""
    nodes, arrays, x = [], [], "image"
    for name, layer in network.items():
        options: dict[str, Any] = {}
        roles: tuple[str, ...] = ()
        if name.startswith("conv"):
            op, roles, options = "Conv", NORM[:2], {"pads": [2, 2, 2, 2]}
        elif name.startswith("norm"):
            op, roles, options = "BatchNormalization", NORM, {"epsilon": layer.eps}
        elif name.startswith("pool"):
            op, options = "AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}
        elif name.startswith("linear"):
            op, roles, options = "Gemm", NORM[:2], {"transB": 1}
        else:
            op = "Relu"
        if name == "linear1":
            nodes.append(helper.make_node("Flatten", [x], ["flat"], "flat"))
            x = "flat"
        arrays += [numpy_helper.from_array(getattr(layer, role), f"{name}.{role}") for role in roles]
        nodes.append(helper.make_node(op, [x, *(f"{name}.{role}" for role in roles)], [f"{name}_out"], name, **options))
        x = f"{name}_out"
    nodes.append(helper.make_node("Softmax", [x], ["chances"], "chances", axis=1))
    sizes: tuple[list[Any], ...] = (["batch", 1, 8, 8], ["batch", 10])
    image, chances = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip(("image", "chances"), sizes, strict=True)
    )
    graph = helper.make_graph(nodes, "lenet", [image], [chances], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    images, shown = digits()
    network = lenet(batch_norm=True)
    train([network, lenet(batch_norm=False)], images[:SEEN], shown[:SEEN], EPOCHS)
    guesses = run(frozen(network), images[SEEN:]).argmax(1)
    print(f"read right: {(guesses == shown[SEEN:]).mean():.1%} of {len(guesses)} unseen digits")
    onnx.save(exported(network), HERE / "lenet.onnx")


if __name__ == "__main__":
    main()
