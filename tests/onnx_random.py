# SPDX-License-Identifier: Apache-2.0
"""Random small models in float64, to fold: every operation there is a rule for, and some there is none for.

Sizes are small and often equal, so that a wrong axis is a wrong result and not an error; factors are negative half
of the time; values have several readers, and some are outputs of the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 23
Array = np.ndarray


class Builder:
    """A graph that grows by one random operation at a time, on values whose arrays are known."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.wander = float(self.rng.choice([0.2, 0.6, 1.5]))  # how far back operands are taken from
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}

    def name(self, prefix: str) -> str:
        return f"{prefix}{len(self.nodes)}_{len(self.constants)}"

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.values[name] = self.rng.normal(size=shape)
        return name

    def constant(self, array: Any) -> str:
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def factors(self, *shape: int) -> str:
        """Away from 0, positive half of the time."""
        a = self.rng.uniform(0.5, 2.0, shape)
        if self.rng.random() < 0.5:
            a = a * self.rng.choice([-1.0, 1.0], shape)
        return self.constant(a)

    def normal(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape))

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Appends the node if it runs; [] if it does not."""
        names = [f"{op_type.lower()}{len(self.nodes)}_{k}" for k in range(outputs)]
        node = helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        made = evaluate(node, self.values, self.constants)
        if made is None or any(not np.isfinite(m).all() or m.size == 0 or m.ndim == 0 or m.size > 5000 for m in made):
            return []
        self.nodes.append(node)
        self.values |= dict(zip(names, made, strict=True))
        return names

    def pick(self, rank: int | None = None) -> str:
        """Mostly a late value, so that chains grow."""
        names = [n for n, v in self.values.items() if rank is None or v.ndim == rank]
        if not names:
            return self.input(*[int(n) for n in self.rng.integers(2, 5, rank or 4)])
        return names[max(len(names) - 1 - int(self.rng.exponential(self.wander)), 0)]

    def model(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        read = {i for n in self.nodes for i in n.input}
        outputs = [o for n in self.nodes for o in n.output if o not in read or self.rng.random() < 0.05]
        graph = helper.make_graph(
            self.nodes, "random", [self._input_info(n, v) for n, v in self.inputs.items()],
            [_info(n, self.values[n]) for n in outputs], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11), self.inputs

    def _input_info(self, name: str, value: Array) -> onnx.ValueInfoProto:
        """Half of the models know nothing of batch and place, only the channels."""
        info = _info(name, value)
        if self.rng.random() < 0.5:
            for k, dim in enumerate(info.type.tensor_type.shape.dim):
                if k != 1:
                    dim.dim_param = f"{name}_{k}"
        return info


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def evaluate(node: onnx.NodeProto, values: dict[str, Array], constants: list[onnx.TensorProto]) -> list[Array] | None:
    from onnx.reference import ReferenceEvaluator

    own = [c for c in constants if c.name in node.input]
    feeds = {i: values[i] for i in node.input if i in values}
    outputs = [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in node.output]
    graph = helper.make_graph([node], "one", [_info(n, v) for n, v in feeds.items()], outputs, own)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:  # shapes that do not fit: another operation is tried
        return None


def random_model(seed: int, operations: int = 12) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model and inputs for it."""
    b = Builder(seed)
    size = int(b.rng.integers(3, 6))
    b.input(2, 4, size, size) if b.rng.random() < 0.7 else b.input(2, 4, 4)
    growers = list(GROWERS)
    weights = np.array([GROWERS[g] for g in growers], float)
    tries = 0
    while len(b.nodes) < operations and tries < 8 * operations:
        tries += 1
        growers[int(b.rng.choice(len(growers), p=weights / weights.sum()))](b)
    for name in [n for n in b.values if not any(n in node.input for node in b.nodes)]:
        _end(b, name)
    return b.model()


def _end(b: Builder, x: str) -> None:
    """A linear operation behind most of what would be an output, for affines to go forward into."""
    shape = b.values[x].shape
    if len(shape) == 4 and b.rng.random() < 0.6:
        b.add("Conv", x, b.normal(2, shape[1], 1, 1))
    elif len(shape) > 1 and b.rng.random() < 0.6:
        b.add("MatMul", x, b.normal(shape[-1], 2))


def affine(b: Builder) -> None:
    x = b.pick()
    shape = b.values[x].shape
    kind = b.rng.integers(4)
    if kind == 0:
        c: tuple[int, ...] = ()
    elif kind == 1 and len(shape) > 1:
        c = (shape[1], *[1] * (len(shape) - 2))
    elif kind == 2:
        c = (shape[-1],)
    else:
        c = tuple(n if b.rng.random() < 0.3 else 1 for n in shape)
    op = str(b.rng.choice(["Mul", "Add", "Sub", "Div"]))
    operands = [x, b.factors(*c)]
    if op != "Div" and b.rng.random() < 0.3:
        operands.reverse()
    b.add(op, *operands)


def batch_norm(b: Builder) -> None:
    x = b.pick()
    if b.values[x].ndim < 2:
        return
    c = b.values[x].shape[1]
    var = b.constant(b.rng.uniform(0.3, 2, c))
    mean = b.normal(c)
    shift = b.normal(c)
    if b.rng.random() < 0.2:
        mean = shift = b.constant(np.zeros(c))
    b.add("BatchNormalization", x, b.factors(c), shift, mean, var, epsilon=1e-3)


def conv(b: Builder) -> None:
    x = b.pick(4)
    c = b.values[x].shape[1]
    groups = int(b.rng.choice([g for g in (1, 2, c) if c % g == 0]))
    out = groups * int(b.rng.integers(1, 4))
    k = [int(n) for n in b.rng.choice([1, 1, 2, 3], 2)]
    weights = [b.normal(out, c // groups, *k), *([b.normal(out)] if b.rng.random() < 0.5 else [])]
    attributes: dict[str, Any] = {"group": groups, "strides": [int(n) for n in b.rng.choice([1, 1, 2], 2)]}
    kind = b.rng.integers(4)
    if kind == 0:
        attributes["pads"] = [int(n) for n in b.rng.integers(0, 2, 4)]
    elif kind == 1:
        attributes["auto_pad"] = str(b.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    elif kind == 2:
        attributes["dilations"] = [int(n) for n in b.rng.choice([1, 2], 2)]
    b.add("Conv", x, *weights, **attributes)


def padded(b: Builder) -> None:
    """A shift in front of zeros, the same in all channels or not."""
    x = b.pick(4)
    c = b.values[x].shape[1]
    if b.rng.random() < 0.5:
        y = b.add("Mul", b.add("Add", x, b.normal())[0], b.factors(c, 1, 1))
    else:
        y = b.add("BatchNormalization", x, b.factors(c), b.normal(c), b.normal(c), b.factors(c))[:1]
    k = [int(n) for n in b.rng.choice([1, 2, 3], 2)]
    groups = int(b.rng.choice([1, c]))
    attributes: dict[str, Any] = {"group": groups, "strides": [int(n) for n in b.rng.choice([1, 2], 2)]}
    if y and b.rng.random() < 0.5:
        b.add("Conv", y[0], b.normal(c, c // groups, *k), b.normal(c), auto_pad="SAME_UPPER", **attributes)
    elif y:
        attributes |= {"pads": [int(n) for n in b.rng.integers(0, 3, 4)], "dilations": [1, int(b.rng.integers(1, 3))]}
        b.add("Conv", y[0], b.normal(c, c // groups, *k), **attributes)


def conv_transpose(b: Builder) -> None:
    """One group: ONNX's reference evaluator adds the first group's bias to all of them."""
    x = b.pick(4)
    c = b.values[x].shape[1]
    out, k = (int(n) for n in b.rng.integers(1, 4, 2))
    weights = [b.normal(c, out, k, k), *([b.normal(out)] if b.rng.random() < 0.5 else [])]
    strides = [k if b.rng.random() < 0.5 else int(b.rng.integers(1, 3))] * 2
    b.add("ConvTranspose", x, *weights, strides=strides, pads=[int(b.rng.integers(0, 2))] * 4)


def branches(b: Builder) -> None:
    x = b.pick(4)
    c = b.values[x].shape[1]
    made = []
    for _ in range(int(b.rng.integers(2, 4))):
        k = [int(n) for n in b.rng.choice([1, 3], 2)]
        made.append(b.add("Conv", x, b.normal(c, c, *k), pads=[n // 2 for n in k] * 2, kernel_shape=k)[0])
    if b.rng.random() < 0.3:
        pool = b.add("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=int(b.rng.integers(2)))
        made += b.add("Mul", pool[0], b.factors(c, 1, 1)) if pool and b.rng.random() < 0.5 else pool
    if b.rng.random() < 0.5:
        made.append(b.add("BatchNormalization", x, b.factors(c), b.normal(c), b.normal(c), b.factors(c))[0:1] or [x])
    names = [m if isinstance(m, str) else m[0] for m in made]
    total = names[0]
    for name in names[1:]:
        total = b.add("Add", total, name)[0]


def linear(b: Builder) -> None:
    x = b.pick()
    shape = b.values[x].shape
    n = int(b.rng.choice([3, 4, shape[-1]]))
    kind = b.rng.integers(5)
    if kind == 0 and len(shape) == 2:
        trans = [int(t) for t in b.rng.integers(0, 2, 2)]
        k = shape[0] if trans[0] else shape[1]
        m = shape[1] if trans[0] else shape[0]
        c = b.normal(*[(n,), (), (1, n), (m, n), (m, 1)][int(b.rng.integers(5))])
        extra = [c] if b.rng.random() < 0.7 else []
        b.add(
            "Gemm",
            x,
            b.normal(n, k) if trans[1] else b.normal(k, n),
            *extra,
            transA=trans[0],
            transB=trans[1],
            alpha=0.5,
            beta=2.0,
        )
    elif kind == 1 and len(shape) > 1:
        b.add("MatMul", b.normal(n, shape[-2]), x)
    elif kind == 2 and len(shape) == 4:
        equation = str(b.rng.choice(["nchw,cd->ndhw", "nchw,dw->nchd", "nchw,hd->ncdw", "nchw,ch->nchw"]))
        sizes = dict(zip("nchw", shape, strict=True)) | {"d": n}
        b.add("Einsum", x, b.normal(*[sizes[k] for k in equation.split(",")[1].split("->")[0]]), equation=equation)
    else:
        y = b.add("MatMul", x, b.normal(shape[-1], n))
        if y and b.rng.random() < 0.5:
            b.add("Add", y[0], b.normal(n))


def residual(b: Builder) -> None:
    """A stream that linear operations write and norms read."""
    x = b.pick(3)
    n = 4
    stream = b.add("MatMul", x, b.normal(b.values[x].shape[-1], n))
    for _ in range(int(b.rng.integers(0, 3))):
        h = b.add("LayerNormalization", stream[0], b.factors(n), b.normal(n), axis=-1)[0]
        h = b.add("Relu", b.add("MatMul", h, b.normal(n, 3))[0])[0]
        h = b.add("Add", b.add("MatMul", h, b.normal(3, n))[0], b.normal(n))[0]
        stream = b.add("Add", stream[0], h)
    b.add("LayerNormalization", stream[0], b.factors(n), b.normal(n), axis=-1)


def attention(b: Builder) -> None:
    x = b.pick(3)
    y = b.pick(3)
    biased = b.rng.random(2) < 0.5
    keys = b.add("Transpose", y, perm=[0, 2, 1])
    if biased[0]:
        y = b.add("Add", y, b.normal(b.values[y].shape[-1]))[0]
        keys = b.add("Transpose", y, perm=[0, 2, 1])
    scores = b.add("MatMul", x, keys[0]) if keys else []
    if scores and b.rng.random() < 0.7:
        rows = b.add("Softmax", scores[0], axis=int(b.rng.choice([-1, -1, 1])))
        v = b.add("MatMul", y, b.normal(b.values[y].shape[-1], 3))[0]
        v = b.add("Add", v, b.normal(3))[0] if biased[1] else v
        b.add("MatMul", rows[0], v)


def unary(b: Builder) -> None:
    op = str(
        b.rng.choice(["Relu", "Relu", "LeakyRelu", "Abs", "Sigmoid", "Identity", "Neg", "Dropout", "PRelu", "Tanh"])
    )
    x = b.pick()
    extra = [b.factors(b.values[x].shape[-1])] if op == "PRelu" else []
    b.add(op, x, *extra)


def pool(b: Builder) -> None:
    x = b.pick(4)
    kind = b.rng.integers(4)
    shape: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [int(n) for n in b.rng.integers(1, 3, 2)]}
    if kind == 0:
        b.add("MaxPool", x, pads=[int(b.rng.integers(0, 2))] * 4, **shape)
    elif kind == 1:
        pads = [int(b.rng.integers(0, 2))] * 4
        b.add("AveragePool", x, pads=pads, count_include_pad=int(b.rng.integers(0, 2)), **shape)
    elif kind == 2:
        b.add(str(b.rng.choice(["GlobalAveragePool", "GlobalMaxPool"])), x)
    else:
        b.add(
            "Resize",
            x,
            "",
            b.constant(np.array([1, 1, 2, 2], np.float32)),
            mode=str(b.rng.choice(["nearest", "linear"])),
        )


def reduce(b: Builder) -> None:
    x = b.pick()
    rank = b.values[x].ndim
    axes = b.rng.choice(rank, int(b.rng.integers(1, rank)) if rank > 1 else 1, replace=False)
    op = str(b.rng.choice(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
    b.add(op, x, b.constant(axes.astype(np.int64)), keepdims=int(b.rng.integers(0, 2)))


def move(b: Builder) -> None:
    x = b.pick()
    shape = b.values[x].shape
    rank = len(shape)
    kind = b.rng.integers(10)
    if kind == 0:
        b.add("Transpose", x, perm=[int(n) for n in b.rng.permutation(rank)])
    elif kind == 1:
        factors = [f for n in shape for f in ((2, n // 2) if n % 2 == 0 and b.rng.random() < 0.5 else (n,))]
        if b.rng.random() < 0.5 and len(factors) > 1:
            k = int(b.rng.integers(len(factors) - 1))
            factors[k : k + 2] = [factors[k] * factors[k + 1]]
        b.add("Reshape", x, b.constant(np.array(factors if b.rng.random() < 0.5 else [*factors[:-1], -1], np.int64)))
    elif kind == 2:
        b.add("Flatten", x, axis=int(b.rng.integers(0, rank + 1)))
    elif kind == 3:
        b.add("Unsqueeze", x, b.constant(np.array([int(b.rng.integers(rank + 1))], np.int64)))
    elif kind == 4:
        axis = int(b.rng.integers(rank))
        start, step = int(b.rng.integers(-2, 2)), int(b.rng.choice([1, 2, -1]))
        arrays = [[start if step > 0 else -1], [100 if step > 0 else -100], [axis], [step]]
        b.add("Slice", x, *[b.constant(np.array(a, np.int64)) for a in arrays])
    elif kind == 5:
        axis = int(b.rng.integers(rank))
        cut = int(b.rng.integers(1, shape[axis])) if shape[axis] > 1 else 1
        b.add("Split", x, b.constant(np.array([cut, shape[axis] - cut], np.int64)), axis=axis, outputs=2)
    elif kind == 6:
        axis = int(b.rng.integers(rank))
        b.add(
            "Gather", x, b.constant(b.rng.integers(0, shape[axis], [(), (2,), (3,)][int(b.rng.integers(3))])), axis=axis
        )
    elif kind == 7 and rank == 4:
        b.add(str(b.rng.choice(["DepthToSpace", "SpaceToDepth"])), x, blocksize=2)
    elif kind == 9:
        b.add("Tile", x, b.constant(b.rng.choice([1, 1, 2], rank).astype(np.int64)))
    elif kind == 8:
        pads = b.rng.integers(0, 2, 2 * rank) * (b.rng.random(2 * rank) < 0.4)
        b.add("Pad", x, b.constant(pads.astype(np.int64)), mode=str(b.rng.choice(["constant", "reflect", "edge"])))


def join(b: Builder) -> None:
    x, y = b.pick(), b.pick()
    op = str(b.rng.choice(["Add", "Mul", "Sub", "Concat"]))
    if op == "Concat":
        b.add(op, x, y, axis=int(b.rng.integers(b.values[x].ndim)))
    else:
        b.add(op, x, y)


def norm(b: Builder) -> None:
    x = b.pick()
    shape = b.values[x].shape
    kind = b.rng.integers(3)
    if kind == 0:
        b.add("LayerNormalization", x, b.factors(shape[-1]), b.normal(shape[-1]), axis=-1)
    elif len(shape) > 2 and kind == 1:
        b.add("InstanceNormalization", x, b.factors(shape[1]), b.normal(shape[1]))
    elif len(shape) > 2 and shape[1] % 2 == 0:
        b.add("GroupNormalization", x, b.factors(shape[1]), b.normal(shape[1]), num_groups=2)


def recurrent(b: Builder) -> None:
    x = b.pick(3)
    n, h = b.values[x].shape[2], 3
    op, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][int(b.rng.integers(3))]
    extra = [b.normal(1, 2 * gates * h)] if b.rng.random() < 0.5 else []
    b.add(op, x, b.normal(1, gates * h, n), b.normal(1, gates * h, h), *extra, hidden_size=h)


GROWERS = {
    affine: 5, batch_norm: 5, conv: 5, conv_transpose: 1, branches: 0.5, linear: 4, attention: 0.7, unary: 3, pool: 2,
    reduce: 1, move: 5, join: 2, norm: 1.5, recurrent: 0.5,
    residual: 0.4, padded: 0.7,
}  # fmt: skip
