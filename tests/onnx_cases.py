# SPDX-License-Identifier: Apache-2.0
"""Small models in ONNX's text form, one or more per rule, and one per reason to leave something alone.

In a body, a capital name with sizes, W[5,4,3,3], is an initializer: G gammas of both signs away from 0, P positive
ones, V variances, Z zeros, S scales of integers, Q int8, anything else normal.  The input is x, or what `inputs`
says; the output is y, or what `outputs` says.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, NamedTuple

import numpy as np

X = "float[2,4,6,6] x"
CONV = "c = Conv<pads=[1,1,1,1]>(x, W[5,4,3,3], B[5])"
BN5 = "y = BatchNormalization(%s, G[5], B1[5], M[5], V[5])"
BN4 = "b = BatchNormalization(%s, G[4], B1[4], M[4], V[4])"
POSITIVE4 = "b = BatchNormalization(%s, P[4], B1[4], M[4], V[4])"
ONE = "y = Conv(%s, W[3,4,1,1], B[3])"


class Case(NamedTuple):
    name: str
    rules: str  # that must have been used; for what stays, words of the reason
    before: int
    after: int
    body: str
    inputs: str = X
    outputs: str = "float[] y"
    opset: int = 17
    reference: bool = True  # ONNX's reference evaluator can run it; ONNX Runtime does otherwise, in float32


FOLDED = [
    Case("conv, padded", "B1", 1, 0, f"{CONV}\n{BN5 % 'c'}"),
    Case("conv of groups, auto_pad", "B1", 1, 0, 'c = Conv<group=2, auto_pad="SAME_LOWER", strides=[2,2]>(x, W[6,2,3,3])'
         "\ny = BatchNormalization(c, G[6], B1[6], M[6], V[6])"),
    Case("3-D conv", "B1", 1, 0, "c = Conv(x, W[5,4,2,2,2])\n" + BN5 % "c", "float[1,4,3,3,3] x"),
    Case("transposed conv of groups", "B2", 1, 0,
         "c = ConvTranspose<group=2, strides=[2,2]>(x, W[4,3,2,2])\ny = BatchNormalization(c, G[6], B1[6], M[6], V[6])",
         reference=False),
    Case("Gemm, alpha, beta, transposed", "B3", 1, 0,
         "c = Gemm<alpha=0.5, beta=2.0, transA=1, transB=1>(x, W[5,8], B[1,5])\n" + BN5 % "c", "float[8,3] x"),
    Case("Gemm, scalar bias", "B3", 1, 0, "c = Gemm(x, W[8,5], B[])\n" + BN5 % "c", "float[3,8] x"),
    Case("Gemm, no bias", "B3", 1, 0, "c = Gemm(x, W[8,5])\n" + BN5 % "c", "float[3,8] x"),
    Case("MatMul, bias", "B4 B9", 2, 0, "m = MatMul(x, W[6,5])\na = Add(m, B[5])\ns = Mul(a, G[5])\ny = Sub(B1[5], s)"),
    Case("MatMul, shift made", "B4", 1, 0, "m = MatMul(x, W[6,5])\n" + BN5 % "m", "float[3,6] x"),
    Case("MatMul, weight on the left", "B4", 1, 0, "m = MatMul(W[5,6], x)\ny = Mul(m, G[5,1])"),
    Case("Einsum", "B5", 1, 0, 'm = Einsum<equation="nchw,cd->ndhw">(x, W[4,5])\n' + BN5 % "m"),
    Case("embedding", "B1", 1, 0, "e = Gather(W[9,6], x)\ny = Mul(e, G[6])", "int64[2,3] x"),
    Case("chain of every spelling", "B1", 6, 0, f"{CONV}\nd = Sub(c, M[5,1,1])\ne = Div(d, P[5,1,1])\nf = Mul(G[5,1,1], e)\n"
         "g = Sub(B1[1,5,1,1], f)\nh = Neg(g)\ny = Add(h, B2[])"),
    Case("constants behind operations", "B1", 3, 0, f"{CONV}\nv = Identity(V[5])\nq = Sqrt(v)\nr = Reciprocal(q)\n"
         "k = Constant<value_ints=[0,2,3]>()\nu = Unsqueeze(r, k)\nm = Mul(c, u)\nd = Cast<to=11>(B1[1,5,1,1])\nf = Cast<to=1>(d)\n"
         "a = Add(m, f)\nz = Constant<value_float=2.0>()\ny = Div(a, z)"),
    Case("Concat of convs", "B8 B1", 1, 0, "a = Conv(x, W[2,4,1,1])\nb = Conv(x, W1[3,4,1,1])\nc = Concat<axis=1>(a, b)\n" + BN5 % "c"),
    Case("sum of convs", "B9 B1", 1, 0, "a = Conv(x, W[5,4,1,1])\nb = Conv(x, W1[5,4,1,1])\nc = Sub(a, b)\n" + BN5 % "c"),
    Case("gate", "B9 B1", 1, 0, "m = GlobalAveragePool(x)\nd = Conv(m, W1[5,4,1,1])\ng = Sigmoid(d)\n" + CONV
         + "\np = Mul(c, g)\ny = Mul(p, G[5,1,1])"),
    Case("MaxPool, padded", "B11 B1", 1, 0, CONV + "\np = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)\n"
         "y = BatchNormalization(p, P[5], B1[5], M[5], V[5])"),
    Case("AveragePool that does not count pads", "B12 B1", 1, 0,
         CONV + "\np = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)\n" + BN5 % "p"),
    Case("AveragePool that counts pads, scale", "B12 B1", 1, 0, CONV + "\np = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], "
         "count_include_pad=1>(c)\ny = Mul(p, G[5,1,1])"),
    Case("ReduceMean", "B12 B1", 1, 0, CONV + "\np = ReduceMean<axes=[2,3], keepdims=0>(c)\n" + BN5 % "p"),
    Case("Resize", "B13 B1", 1, 0, CONV + '\nk = Constant<value_floats=[1.0,1.0,2.0,2.0]>()\np = Resize<mode="linear">(c, , k)\n' + BN5 % "p"),
    Case("channel shuffle", "B14 B1", 1, 0, "c = Conv(x, W[6,4,1,1])\ni = Constant<value_ints=[2,2,3,6,6]>()\nr = Reshape(c, i)\n"
         "t = Transpose<perm=[0,2,1,3,4]>(r)\nj = Constant<value_ints=[0,6,6,-1]>()\ns = Reshape(t, j)\n"
         "y = BatchNormalization(s, G[6], B1[6], M[6], V[6])"),
    Case("Split, one part", "B14 B4", 1, 0, "m = MatMul(x, W[6,9])\na, b, c = Split<axis=-1>(m)\ns = Mul(a, G[3])\nt = Add(s, b)\ny = Add(t, c)"),
    Case("Slice, others elsewhere", "B14 B4", 1, 0, "m = MatMul(x, W[6,6])\nz = Constant<value_ints=[0]>()\nh = Constant<value_ints=[3]>()\n"
         "e = Constant<value_ints=[6]>()\nd = Constant<value_ints=[3]>()\na = Slice(m, z, h, d)\nb = Slice(m, h, e, d)\ns = Mul(a, G[])\n"
         "y = Add(s, b)"),
    Case("DepthToSpace", "B14 B1", 1, 0, 'c = Conv(x, W[8,4,1,1])\nd = DepthToSpace<blocksize=2, mode="CRD">(c)\n'
         "y = BatchNormalization(d, G[2], B1[2], M[2], V[2])"),
    Case("Dropout, Identity, Squeeze", "B14 B1", 1, 0, "c = Conv(x, W[5,4,1,1])\nd = Dropout(c)\ni = Identity(d)\n"
         "k = Constant<value_ints=[3]>()\ns = Squeeze(i, k)\n" + BN5 % "s", "float[2,4,6,1] x"),
    Case("ReLU, positive", "B15 B1", 1, 0, f"{CONV}\nr = LeakyRelu<alpha=0.1>(c)\ny = Mul(r, P[5,1,1])"),
    Case("Pad by reflection", "B16 B1", 1, 0,
         CONV + '\nk = Constant<value_ints=[0,0,1,1,0,0,1,1]>()\np = Pad<mode="reflect">(c, k)\n' + BN5 % "p"),
    Case("scale of attention", "B4", 1, 0, "q = MatMul(x, W[6,6])\nk = MatMul(x, W1[6,6])\nt = Transpose<perm=[0,2,1]>(k)\n"
         "s = MatMul(q, t)\nd = Mul(s, G[])\ny = Softmax(d)", "float[2,5,6] x"),
    Case("scale behind attention, by column", "B4", 1, 0, "q = Softmax(x)\nv = MatMul(x, W[5,4])\ns = MatMul(q, v)\ny = Mul(s, G[4])",
         "float[2,5,5] x"),
    Case("into a valid conv of groups", "F1", 1, 0, f"{BN4 % 'x'}\ny = Conv<group=2>(b, W[6,2,3,3])"),
    Case("scale into a padded conv", "F1", 1, 0, "b = Mul(x, G[4,1,1])\ny = Conv<pads=[1,1,1,1]>(b, W[3,4,3,3])"),
    Case("into Gemm, transposed", "F3", 1, 0, "b = BatchNormalization(x, G[4], B1[4], M[4], V[4])\ny = Gemm<transB=1, alpha=0.5, beta=2.0>"
         "(b, W[3,4], B[3])", "float[5,4] x"),
    Case("into MatMul, left and right", "F3", 2, 0, "b = Mul(x, G[6])\nc = Add(b, B[6])\ny = MatMul(c, W[6,3])"),
    Case("through Transpose and Flatten", "F4 F3", 1, 0,
         BN4 % "x" + "\nt = Transpose<perm=[0,2,3,1]>(b)\nf = Flatten(t)\ny = MatMul(f, W[144,3])"),
    Case("through Concat", "F4 F1", 1, 0, BN4 % "x" + "\nc = Concat<axis=1>(x, b)\ny = Conv(c, W[3,8,1,1], B[3])"),
    Case("through MaxPool and GlobalAveragePool", "F5 F1", 1, 0, POSITIVE4 % "x"
         + "\np = MaxPool<kernel_shape=[2,2]>(b)\ng = GlobalAveragePool(p)\n" + ONE % "g"),
    Case("several readers", "F1 F4", 1, 0, BN4 % "x" + "\nc = Conv(b, W[3,4,1,1])\nk = Constant<value_ints=[1,3]>()\n"
         "s, t = Split<axis=1>(b, k)\nd = Conv(s, W1[3,1,1,1])\ne = Conv(t, W2[3,3,1,1])\nf = Add(c, d)\ny = Add(e, f)"),
    Case("scale into a transposed conv", "F7", 1, 0, "b = Mul(x, G[4,1,1])\ny = ConvTranspose<strides=[2,2]>(b, W[4,3,3,3])"),
    *[Case(f"into {op}", "F8", 1, 0, "t = Transpose<perm=[1,2,0]>(x)\nb = BatchNormalization(t, G[6], B1[6], M[6], V[6])\n"
           f"s = Transpose<perm=[2,0,1]>(b)\ny = {op}<hidden_size=2>(s, W[1,{2 * gates},6], R[1,{2 * gates},2])", "float[5,2,6] x")
      for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))],
    Case("both ways", "F9 B1", 1, 0, f"a = Conv(x, W[4,4,1,1])\ns = Add(a, x)\n{POSITIVE4 % 's'}\nr = Relu(b)\n{ONE % 'r'}".replace("W[3", "U[3")),
    Case("tail of HardSwish", "F1", 2, 1, "k = Constant<value_float=3.0>()\na = Add(x, k)\nr = Clip(a, Z[], Six[])\nm = Mul(x, r)\n"
         "s = Constant<value_float=6.0>()\nd = Div(m, s)\ny = Conv<pads=[1,1,1,1]>(d, W[3,4,3,3])"),
    Case("two BatchNorms", "X1", 2, 1, BN4 % "x" + "\nr = BatchNormalization(b, G1[4], B2[4], M1[4], V1[4])\ny = Sigmoid(r)"),
    Case("LayerNorm into three", "F3", 1, 0, "n = LayerNormalization(x, G[6], B[6])\na = MatMul(n, W[6,3])\nb = MatMul(n, W1[6,3])\n"
         "c = Add(a, b)\nd = MatMul(n, W2[6,3])\ny = Add(c, d)"),
    Case("affine into LayerNorm", "N1", 3, 1, "n = LayerNormalization(x, G[6], B[6])\nm = Mul(n, G1[6])\na = Add(m, B1[6])\ny = Sigmoid(a)"),
    Case("RMSNorm", "F3", 1, 0, "n = RMSNormalization(x, G[6])\ny = MatMul(n, W[6,3])", opset=23),
    Case("GroupNorm", "F1", 1, 0, "n = GroupNormalization<num_groups=2>(x, G[4], B1[4])\n" + ONE % "n", opset=21),
    Case("LayerNorm spelled out", "F3", 2, 0, "m = ReduceMean<axes=[-1]>(x)\nd = Sub(x, m)\ntwo = Constant<value_float=2.0>()\np = Pow(d, two)\n"
         "v = ReduceMean<axes=[-1]>(p)\neps = Constant<value_float=0.00001>()\ne = Add(v, eps)\ns = Sqrt(e)\nq = Div(d, s)\n"
         "g = Mul(q, G[6])\na = Add(g, B[6])\ny = MatMul(a, W[6,3])"),
    Case("bias in front of InstanceNorm", "D1", 1, 0, "a = Add(x, B[4,1,1])\ny = InstanceNormalization(a, One[4], Z[4])"),
    Case("RepVGG", "B1 R1 R2", 3, 0, "a = Conv<pads=[1,1,1,1]>(x, W[4,4,3,3])\n" + BN4 % "a" + "\nc = Conv(x, W1[4,4,1,1])\n"
         "d = BatchNormalization(c, G1[4], B2[4], M1[4], V1[4])\ne = BatchNormalization(x, G2[4], B3[4], M2[4], V2[4])\n"
         "f = Add(b, d)\nh = Add(f, e)\ny = Relu(h)"),
    Case("ACNet, groups, dilated", "R2", 0, 0, "a = Conv<pads=[2,2,2,2], dilations=[2,2], group=2>(x, W[4,2,3,3])\n"
         "b = Conv<pads=[2,0,2,0], dilations=[2,2], group=2>(x, W1[4,2,3,1])\nc = Add(b, a)\ny = Add(c, x)"),
    Case("int8 weight, negative factors", "B1", 1, 0, "w = DequantizeLinear<axis=0>(Q[5,4,3,3], S[5])\nc = Conv(x, w, B[5])\n" + BN5 % "c",
         opset=21),
    Case("int8 weight, one scale", "B1", 1, 0, "w = DequantizeLinear(Q[5,4,3,3], S[])\nc = Conv(x, w)\n" + BN5 % "c",
         opset=21),
    Case("in both branches of an If", "B1", 2, 0, "m = ReduceMean<keepdims=0>(x)\ng = Greater(m, Z[])\n" + CONV + "\ny = If (g) <then_branch = t () "
         "=> (float[2,5,6,6] p) { p = BatchNormalization(c, G[5], B1[5], M[5], V[5]) }, else_branch = e () => (float[2,5,6,6] q) "
         "{ q = BatchNormalization(c, G1[5], B2[5], M1[5], V1[5]) }>"),
]  # fmt: skip

KEPT = [
    Case("training mode", "training mode", 1, 1, f"{CONV}\ny, m, v = BatchNormalization<training_mode=1>(c, G[5], B1[5], M[5], V[5])"),
    Case("negative variance", "variance in channel", 1, 1, f"{CONV}\nv = Neg(V[5])\ny = BatchNormalization(c, G[5], B1[5], M[5], v)"),
    Case("parameters of other lengths", "has shape (4,)", 1, 1, f"{CONV}\ny = BatchNormalization(c, G[5], B1[4], M[5], V[5])"),
    Case("statistics of the graph", "computed at run time", 1, 1, f"{CONV}\nm = ReduceMean<axes=[0,2,3], keepdims=0>(c)\n"
         "y = BatchNormalization(c, G[5], B1[5], m, V[5])"),
    Case("another axis", "not only along axis", 1, 1, "m = MatMul(x, W[6,6])\ny = BatchNormalization(m, G[6], B1[6], M[6], V[6])",
         "float[2,6,6] x"),
    Case("weight of the caller", "computed at run time", 1, 1, "c = Conv(x, w)\n" + BN5 % "c", X + ", float[5,4,3,3] w"),
    Case("another reader", "another reader", 1, 1, f"{CONV}\nb = BatchNormalization(c, G[5], B1[5], M[5], V[5])\ns = Sigmoid(c)\ny = Add(b, s)"),
    Case("an output on the way", "is an output of the graph", 1, 1, f"{CONV}\n{BN5 % 'c'}", outputs="float[] c, float[] y"),
    Case("MaxPool, negative", "scales are negative", 1, 1, f"{CONV}\np = MaxPool<kernel_shape=[2,2]>(c)\n{BN5 % 'p'}"),
    Case("ReLU, negative", "scales are negative", 1, 1, f"{CONV}\nr = Relu(c)\ny = Mul(r, G[5,1,1])"),
    Case("ReLU, shift", "bends at 0", 1, 1, f"{CONV}\nr = Relu(c)\ny = Add(r, B1[5,1,1])"),
    Case("pads that count", "counts padding", 1, 1,
         f"{CONV}\np = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)\n{BN5 % 'p'}"),
    Case("padded conv", "pads with zeros", 1, 1, f"{BN4 % 'x'}\ny = Conv<pads=[1,1,1,1]>(b, W[3,4,3,3])"),
    Case("conv with auto_pad", "pads with zeros", 1, 1, f'{BN4 % "x"}\ny = Conv<auto_pad="SAME_UPPER">(b, W[3,4,3,3])'),
    Case("Pad with zeros", "pads with a constant", 1, 1,
         BN4 % "x" + "\nk = Constant<value_ints=[0,0,1,1,0,0,1,1]>()\np = Pad(b, k)\n" + ONE % "p"),
    Case("a reader that is not linear", "neither takes it up", 1, 1, f"{BN4 % 'x'}\nc = Conv(b, W[4,4,1,1])\nt = Tanh(b)\ny = Add(c, t)"),
    Case("an activation in between", "neither takes it up", 1, 1, f"{CONV}\nr = Sigmoid(c)\n{BN5 % 'r'}"),
    Case("a gate, shift", "does not take a shift", 1, 1, f"{CONV}\ng = Sigmoid(x1)\np = Mul(c, g)\n{BN5 % 'p'}", X + ", float[2,5,1,1] x1"),
    Case("a gate along the channels", "broadcasts", 1, 1, "m = Conv(x, W[1,4,1,1])\ng = Sigmoid(x1)\np = Mul(m, g)\ny = Mul(p, G[5,1,1])",
         X + ", float[2,5,1,1] x1"),
    Case("transposed conv, shift", "unevenly", 1, 1, f"{BN4 % 'x'}\ny = ConvTranspose<strides=[2,2]>(b, W[4,3,3,3])"),
    Case("constant that broadcasts", "may broadcast", 1, 1, "m = MatMul(x, W[6,1])\ny = Mul(m, G[5])", "float[2,6] x"),
    Case("constant divided by it", "does not take a shift", 2, 2, f"{BN4 % 'x'}\ny = Div(P1[4,1,1], b)"),
    Case("post-LN residual", "adds something", 1, 1, "n = LayerNormalization(x, G[6], B[6])\nm = MatMul(n, W[6,6])\ny = Add(m, n)"),
    Case("scale in front of a norm", "epsilon would weigh", 1, 1, "m = Mul(x, G[4,1,1])\ny = InstanceNormalization(m, One[4], Z[4])"),
    Case("across a quantiser", "neither takes it up", 1, 1, f"{CONV}\nq = QuantizeLinear(c, S[])\nd = DequantizeLinear(q, S[])\n{BN5 % 'd'}"),
    Case("int8 weight, along its inputs", "vary along another", 1, 1,
         "m = Mul(x, G[4,1,1])\nw = DequantizeLinear<axis=0>(Q[5,4,3,3], S[5])\ny = Conv(m, w)"),
    Case("int8 weight with -128", "no negative", 1, 1, "n = Constant<value_float=-1.0>()\nw = DequantizeLinear(Least[5,4,3,3], S[])\n"
         "c = Conv(x, w)\ny = Mul(c, n)"),
    Case("slices that overlap", "another reader", 1, 1, "m = MatMul(x, W[6,6])\nz = Constant<value_ints=[0]>()\nh = Constant<value_ints=[4]>()\n"
         "two = Constant<value_ints=[2]>()\ne = Constant<value_ints=[6]>()\nd = Constant<value_ints=[3]>()\na = Slice(m, z, h, d)\n"
         "b = Slice(m, two, e, d)\ns = Mul(a, G[])\ny = Add(s, b)"),
    Case("masked attention", "fuses as a whole", 1, 1, "q = MatMul(x, W[6,6])\nt = Transpose<perm=[0,2,1]>(x)\ns = MatMul(q, t)\n"
         "d = Div(s, P[])\nm = Add(d, x1)\ny = Softmax(m)", "float[2,5,6] x, float[2,1,5] x1"),
]  # fmt: skip

WEIGHT = re.compile(r"\b([A-Z]\w*)\[([\d,]*)\]")


def build(case: Case) -> Any:
    """The onnx.ModelProto of a case; its weights depend on their names and shapes alone."""
    import onnx

    weights = {name: tuple(int(n) for n in sizes.split(",") if n) for name, sizes in WEIGHT.findall(case.body)}
    body = WEIGHT.sub(r"\1", case.body)
    head = f'<ir_version: 8, opset_import: ["" : {case.opset}]>'
    model = onnx.parser.parse_model(f"{head} g ({case.inputs}) => ({case.outputs}) {{\n{body}\n}}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight(name, shape), name))
    for k, node in enumerate(model.graph.node):
        node.name = f"n{k}"
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.type.CopyFrom(known.type)
        output.type.tensor_type.shape.SetInParent()
    return model


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
    constants = {"Z": 0.0, "One": 1.0, "Six": 6.0}
    if name in constants:
        return np.full(shape, constants[name], np.float32)
    if name == "Q":
        return rng.integers(-127, 128, shape).astype(np.int8)
    if name == "Least":
        return np.full(shape, -128, np.int8)
    kind = name.rstrip("0123456789")
    positive = rng.uniform(0.5, 2.0, shape)
    if kind == "G":
        signs = np.where(np.arange(positive.size) % 2, 1.0, -1.0).reshape(shape)
        return (positive * signs).astype(np.float32)
    return (positive if kind in ("P", "V", "S") else rng.normal(size=shape)).astype(np.float32)
