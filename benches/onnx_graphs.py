# SPDX-License-Identifier: Apache-2.0
"""Networks as training leaves them, with a BatchNorm behind every convolution and random weights: what is timed."""

import numpy as np
import onnx
from onnx import helper


class Graph:
    def __init__(self, channels, size):
        self.nodes, self.weights, self.count = [], [], 0
        self.rng = np.random.default_rng(0)
        self.shape = [1, channels, size, size]

    def add(self, op_type, *inputs, **attributes):
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [output], name=f"{op_type}{self.count}", **attributes)
        )
        return output

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def norm(self, x, c):
        signs = np.where(self.rng.random(c) < 0.1, -1, 1)
        parameters = (signs * self.rng.uniform(0.5, 1.5, c), self.rng.normal(size=c),
                      self.rng.normal(size=c), self.rng.uniform(0.5, 2, c))  # fmt: skip
        return self.add("BatchNormalization", x, *map(self.weight, parameters))

    def conv(self, x, i, o, k, stride=1, groups=1):
        """Convolution and BatchNorm."""
        weight = self.rng.standard_normal((o, i // groups, k, k), np.float32) * (2 / (i // groups * k * k)) ** 0.5
        pads, strides = [k // 2] * 4, [stride] * 2
        y = self.add("Conv", x, self.weight(weight), kernel_shape=[k, k], pads=pads, strides=strides, group=groups)
        return self.norm(y, o)

    def relu(self, x):
        return self.add("Relu", x)

    def model(self, y):
        ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", self.shape), (y, None))]
        graph = helper.make_graph(self.nodes, "graph", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet50():
    """https://arxiv.org/abs/1512.03385, table 1: 53 convolutions, 102 MB."""
    g = Graph(3, 224)
    x = g.add("MaxPool", g.relu(g.conv("x", 3, 64, 7, 2)), kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    channels = 64
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride, out = first if block == 0 else 1, 4 * width
            y = g.relu(g.conv(x, channels, width, 1))
            y = g.conv(g.relu(g.conv(y, width, width, 3, stride)), width, out, 1)
            skip = g.conv(x, channels, out, 1, stride) if block == 0 else x
            x, channels = g.relu(g.add("Add", y, skip)), out
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    return g.model(g.add("Gemm", x, g.weight(g.rng.normal(size=(2048, 1000))), g.weight(np.zeros(1000))))


def mobileone(branches=4):
    """https://arxiv.org/abs/2206.04040, S0 as it is trained: parallel convolutions and BatchNorms, all in all 229."""
    g = Graph(3, 224)

    def block(x, i, o, k, stride=1, groups=1):
        ys = [g.conv(x, i, o, k, stride, groups) for _ in range(branches)]
        ys += [g.conv(x, i, o, 1, stride, groups)] if k > 1 else []
        ys += [g.norm(x, i)] if i == o and stride == 1 else []
        y = ys[0]
        for other in ys[1:]:
            y = g.add("Add", y, other)
        return g.relu(y)

    x, channels = block("x", 3, 48, 3, 2), 48
    for width, blocks in ((48, 2), (128, 8), (256, 10), (1024, 1)):
        for k in range(blocks):
            x = block(x, channels, channels, 3, 2 if k == 0 else 1, channels)
            x, channels = block(x, channels, width, 1), width
    return g.model(g.add("GlobalAveragePool", x))


def chain(nodes):
    """Convolution, BatchNorm and ReLU, over and over."""
    g, x = Graph(4, 3), "x"
    for _ in range(nodes // 3):
        x = g.relu(g.conv(x, 4, 4, 1))
    return g.model(x)
