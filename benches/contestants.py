# SPDX-License-Identifier: Apache-2.0
"""Who is timed from Python: a method per operation, which prepares and returns the call that is timed.

Everybody writes into an array made beforehand, where it can: what is timed is the layer, not malloc
(torch's backward and NumPy's training allocate; __main__.py gives them a malloc that keeps its pages).
"""

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

import normcpu

EPS, MOMENTUM = 1e-5, 0.1


@lru_cache(maxsize=1)
def problem(shape, dtype):
    """Arrays of both layouts, with float64 or float32 parameters."""
    dt = np.dtype({"f32": "f4", "f64": "f8", "f16": "f2"}.get(dtype) or bfloat16())
    real = np.float64 if dtype == "f64" else np.float32
    rng = np.random.default_rng(0)
    p = SimpleNamespace(shape=shape, dtype=dtype, axes=(0, *range(2, len(shape))))
    for name in ("x", "dy"):
        first = (rng.standard_normal(shape, np.float32) + np.float32(0.1)).astype(dt)
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(first, 1, -1)), -1, 1)
        setattr(p, name, {"first": first, "last": last})
    p.y = {layout: np.zeros_like(x) for layout, x in p.x.items()}  # zeros_like keeps the order of the axes
    for name in ("weight", "bias", "mean"):
        setattr(p, name, rng.uniform(0.5, 1.5, shape[1]).astype(real))
    p.var = rng.uniform(0.5, 1.5, shape[1]).astype(real)
    p.running = np.zeros(shape[1], real), np.ones(shape[1], real)
    return p


def bfloat16():
    return pytest.importorskip("ml_dtypes").bfloat16


class Laid:
    def __init__(self, layout):
        self.layout = layout

    def arrays(self, p):
        return p.x[self.layout], p.dy[self.layout], p.y[self.layout]


class Normcpu(Laid):
    def eval(self, p):
        x, _, y = self.arrays(p)
        return lambda: normcpu.batch_norm(x, p.mean, p.var, p.weight, p.bias, out=y)

    def train(self, p):
        x, _, y = self.arrays(p)
        return lambda: normcpu.batch_norm(x, *p.running, p.weight, p.bias, True, MOMENTUM, EPS, out=y)

    def backward(self, p):
        x, dy, dx = self.arrays(p)
        mean, var = p.mean.astype("f8"), p.var.astype("f8")
        return lambda: normcpu.batch_norm_backward(dy, x, mean, var, p.weight, EPS, out=dx)

    def moments(self, p):
        x, _, _ = self.arrays(p)
        return lambda: normcpu.moments(x, channel_axis=1)

    def scale_shift(self, p):
        x, _, y = self.arrays(p)
        return lambda: normcpu.scale_shift(x, p.weight, p.bias, out=y)

    def scale_axis(self, p):
        x, _, y = self.arrays(p)
        factors = p.weight.astype("f8")
        return lambda: normcpu.fold.scale_axis(x, factors, 1, out=y)

    def layer_norm(self, p):
        x, _, y = self.arrays(p)
        return lambda: normcpu.layer_norm(x, x.shape[1], p.weight, p.bias, EPS, out=y)

    def rms_norm(self, p):
        x, _, y = self.arrays(p)
        return lambda: normcpu.rms_norm(x, x.shape[1], p.weight, EPS, out=y)

    def add_layer_norm(self, p):
        x, added, y = self.arrays(p)
        total = np.empty_like(x)
        return lambda: normcpu.add_layer_norm(x, added, x.shape[1], p.weight, p.bias, EPS, out=y, out_sum=total)

    def layer_norm_int8(self, p):
        x, _, _ = self.arrays(p)
        if p.dtype == "f64":
            pytest.skip("doubles are not quantized")
        y, how = np.empty(x.shape, np.int8), normcpu.Quantization(0.02, 3)
        return lambda: normcpu.layer_norm(x, x.shape[1], p.weight, p.bias, EPS, quantize=how, out=y)

    def layer_norm_backward(self, p):
        x, dy, dx = self.arrays(p)
        stats = normcpu.layer_norm(x, x.shape[1], eps=EPS, return_stats=True)
        arguments = dy, x, stats.mean, stats.var, x.shape[1], p.weight, EPS
        return lambda: normcpu.layer_norm_backward(*arguments, out=dx)


class Torch(Laid):
    def arrays(self, p):
        torch = pytest.importorskip("torch")
        torch.set_num_threads(normcpu.get_num_threads())
        arrays = super().arrays(p)
        if p.dtype == "bf16":  # torch.from_numpy knows no bfloat16
            return tuple(torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) for a in arrays)
        return tuple(map(torch.from_numpy, arrays))

    def norm(self, p, training):
        x, _, y = self.arrays(p)
        import torch

        weight, bias, mean, var = map(torch.from_numpy, (p.weight, p.bias, *p.running))
        out = y, torch.empty_like(mean), torch.empty_like(var)
        if not training:
            mean, var = torch.from_numpy(p.mean), torch.from_numpy(p.var)
        return lambda: torch.native_batch_norm(x, weight, bias, mean, var, training, MOMENTUM, EPS, out=out)

    def eval(self, p):
        return self.norm(p, False)

    def train(self, p):
        return self.norm(p, True)

    def backward(self, p):
        x, dy, _ = self.arrays(p)
        import torch

        inv = torch.from_numpy(1 / np.sqrt(p.var + np.asarray(EPS, p.var.dtype)))
        weight, mean, *running = map(torch.from_numpy, (p.weight, p.mean, *p.running))
        call = torch.ops.aten.native_batch_norm_backward
        return lambda: call(dy, x, weight, *running, mean, inv, True, EPS, [True, True, True])

    def rows(self, p):
        """x, dy, y, the extents of a row, weight and bias: of x's dtype, as torch wants them."""
        import torch

        x, dy, y = self.arrays(p)
        weight, bias = (torch.from_numpy(a).to(x.dtype) for a in (p.weight, p.bias))
        return x, dy, y, (p.shape[1],), weight, bias

    def layer_norm(self, p):
        x, _, y, shape, weight, bias = self.rows(p)
        import torch

        stats = torch.empty(p.shape[0], 1), torch.empty(p.shape[0], 1)
        if p.dtype != "f32":
            return lambda: torch.nn.functional.layer_norm(x, shape, weight, bias, EPS)
        return lambda: torch.ops.aten.native_layer_norm.out(
            x, shape, weight, bias, EPS, out0=y, out1=stats[0], out2=stats[1]
        )

    def rms_norm(self, p):
        x, _, _, shape, weight, _ = self.rows(p)
        import torch

        return lambda: torch.nn.functional.rms_norm(x, shape, weight, EPS)

    def add_layer_norm(self, p):
        x, added, _, shape, weight, bias = self.rows(p)
        import torch

        total = torch.empty_like(x)
        return lambda: torch.nn.functional.layer_norm(torch.add(x, added, out=total), shape, weight, bias, EPS)

    def layer_norm_int8(self, p):
        x, _, _, shape, weight, bias = self.rows(p)
        import torch

        if p.dtype != "f32":
            pytest.skip("quantize_per_tensor takes float32")
        norm = torch.nn.functional.layer_norm
        return lambda: (norm(x, shape, weight, bias, EPS) / 0.02).round_().add_(3).clamp_(-128, 127).to(torch.int8)

    def layer_norm_backward(self, p):
        x, dy, _, shape, weight, bias = self.rows(p)
        import torch

        _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, EPS)
        call = torch.ops.aten.native_layer_norm_backward
        return lambda: call(dy, x, shape, mean, rstd, weight, bias, [True, True, True])


class OnnxRuntime:
    def session(self, p, nodes, constants):
        """A model of these nodes from X to Y, bound to the problem's arrays."""
        ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
        from onnx import helper

        if p.dtype != "f32":
            pytest.skip("compared in float32")
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes],
            "rows",
            [helper.make_tensor_value_info("X", kind, p.shape)],
            [helper.make_tensor_value_info("Y", kind if nodes[-1][0] != "QuantizeLinear" else onnx.TensorProto.INT8,
                                           p.shape)],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = normcpu.get_num_threads()
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("X", p.x["first"])
        y = np.empty(p.shape, np.int8) if nodes[-1][0] == "QuantizeLinear" else p.y["first"]
        binding.bind_output("Y", "cpu", 0, y.dtype, p.shape, y.ctypes.data)
        return lambda: (session.run_with_iobinding(binding), y)

    def layer_norm(self, p):
        node = "LayerNormalization", ["X", "W", "B"], ["Y"], {"epsilon": EPS}
        return self.session(p, [node], {"W": p.weight, "B": p.bias})

    def layer_norm_int8(self, p):
        norm = "LayerNormalization", ["X", "W", "B"], ["N"], {"epsilon": EPS}
        quantize = "QuantizeLinear", ["N", "S", "Z"], ["Y"], {}
        constants = {"W": p.weight, "B": p.bias, "S": np.float32(0.02).reshape(()), "Z": np.int8(3).reshape(())}
        return self.session(p, [norm, quantize], constants)

    def eval(self, p):
        ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
        from onnx import helper

        if p.dtype not in ("f32", "f64"):
            pytest.skip("the CPU provider normalizes float and double")
        real = p.weight.dtype
        kind = helper.np_dtype_to_tensor_dtype(real)
        names = ["scale", "B", "input_mean", "input_var"]
        graph = helper.make_graph(
            [helper.make_node("BatchNormalization", ["X", *names], ["Y"], epsilon=EPS)],
            "norm",
            [helper.make_tensor_value_info("X", kind, p.shape)],
            [helper.make_tensor_value_info("Y", kind, p.shape)],
            [onnx.numpy_helper.from_array(getattr(p, name), to)
             for name, to in zip(("weight", "bias", "mean", "var"), names, strict=True)],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = normcpu.get_num_threads()
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("X", p.x["first"])
        y = p.y["first"]
        binding.bind_output("Y", "cpu", 0, real, p.shape, y.ctypes.data)
        return lambda: session.run_with_iobinding(binding)


class NumPy:
    """What one writes without a library."""

    def apply(self, p, x, y, scale, shift):
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        np.multiply(x, scale.reshape(shape), out=y, casting="same_kind")
        np.add(y, shift.reshape(shape), out=y, casting="same_kind")

    def eval(self, p):
        scale = p.weight / np.sqrt(p.var + EPS).astype(p.var.dtype)
        return lambda: self.apply(p, p.x["first"], p.y["first"], scale, p.bias - p.mean * scale)

    def train(self, p):
        def call():
            x = p.x["first"]
            mean, var = x.mean(p.axes, dtype=p.mean.dtype), x.var(p.axes, dtype=p.var.dtype)
            scale = p.weight / np.sqrt(var + p.var.dtype.type(EPS))
            self.apply(p, x, p.y["first"], scale, p.bias - mean * scale)

        return call

    def moments(self, p):
        return lambda: (p.x["first"].mean(p.axes), p.x["first"].var(p.axes))

    def scale_shift(self, p):
        return lambda: self.apply(p, p.x["first"], p.y["first"], p.weight, p.bias)


# Who, and how its array lies.
PEERS = {
    ("normcpu", "first"): Normcpu("first"),
    ("normcpu", "last"): Normcpu("last"),
    ("torch", "first"): Torch("first"),
    ("torch", "last"): Torch("last"),
    ("onnxruntime", "first"): OnnxRuntime(),
    ("numpy", "first"): NumPy(),
}
