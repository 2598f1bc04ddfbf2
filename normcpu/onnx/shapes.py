# SPDX-License-Identifier: Apache-2.0
"""Shapes of results where ONNX infers none: behind a Reshape to sizes that are computed at run time, mostly.

Only the number of axes and the sizes that are certain; an axis of unknown size gets a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from .affine import Dim, Refused, reshaped
from .constants import attribute_or_input, integer, ints

if TYPE_CHECKING:
    from .net import Net

Shape = list[Dim]


def shape_of(net: Net, node: ir.Node, name: str) -> Shape | None:
    """The shape of the first output, None where there is no telling; `name` is what unknown sizes are named after."""
    rule = None if node.domain else RULES.get(node.op_type)
    if rule is None:
        return None
    try:
        return rule(net, node, name)
    except (ArithmeticError, LookupError, Refused, TypeError, ValueError):  # refused, or the node is not valid
        return None


def _input(net: Net, node: ir.Node, index: int = 0) -> Shape:
    value = node.inputs[index]
    if value is None:
        raise Refused("it has no such input")
    return net.shape(value)


def _same(net: Net, node: ir.Node, name: str) -> Shape:
    return _input(net, node)


def broadcast(a: Shape, b: Shape, name: str) -> Shape:
    """NumPy's rule.  An unknown size beside a known one other than 1 is that one; two unknown ones may be anything."""
    rank = max(len(a), len(b))
    pairs = zip([1] * (rank - len(a)) + a, [1] * (rank - len(b)) + b, strict=True)
    return [_together(x, y, f"{k}@{name}") for k, (x, y) in enumerate(pairs)]


def _together(x: Dim, y: Dim, unknown: str) -> Dim:
    if x == y or y == 1:
        return x
    if x == 1 or (isinstance(x, str) and isinstance(y, int)):
        return y
    return x if isinstance(x, int) and isinstance(y, str) else unknown


def _elementwise(net: Net, node: ir.Node, name: str) -> Shape:
    shape = _input(net, node)
    for k in range(1, len(node.inputs)):
        shape = broadcast(shape, _input(net, node, k), name)
    return shape


def _matmul(net: Net, node: ir.Node, name: str) -> Shape:
    a, b = _input(net, node), _input(net, node, 1)
    if len(a) < 2 or len(b) < 2:
        raise Refused("vectors")
    return [*broadcast(a[:-2], b[:-2], name), a[-2], b[-1]]


def _reshape(net: Net, node: ir.Node, name: str) -> Shape:
    wanted = known_sizes(net, node.inputs[1] if len(node.inputs) > 1 else None, name)
    if "shape" in node.attributes:
        wanted = list(ints(node, "shape") or [])
    if wanted is None:
        (rank,) = _input(net, node, 1)
        if not isinstance(rank, int):
            raise Refused("no telling")
        return [f"{k}@{name}" for k in range(rank)]
    return reshaped(_input(net, node), wanted, f"-1@{name}", bool(integer(node, "allowzero")))


def known_sizes(net: Net, value: ir.Value | None, name: str, depth: int = 0) -> Shape | None:
    """The elements of a tensor of sizes, put together from constants and parts of Shape; unknown ones get names."""
    known = net.constants.value(value)
    if known is not None:
        return [int(n) for n in known.ravel()]
    node = None if value is None else value.producer()
    if node is None or node.domain or depth > 16:
        return None
    if node.op_type == "Shape" and not set(node.attributes) & {"start", "end"}:
        try:
            return _input(net, node)
        except Refused:
            return None
    if node.op_type == "Concat":
        parts = [known_sizes(net, i, f"{name}.{k}", depth + 1) for k, i in enumerate(node.inputs)]
        return None if any(p is None for p in parts) else [n for part in parts if part is not None for n in part]
    if node.op_type in ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"):
        return known_sizes(net, node.inputs[0], name, depth + 1)
    if node.op_type in ("Slice", "Gather"):
        return _part(net, node, known_sizes(net, node.inputs[0], name, depth + 1))
    shape = net.inferred.get(value.name or "", (None, None))[1] if value is not None else None
    if shape == [] or shape == [1]:
        return [f"computed@{value.name if value else name}"]
    return None


def _part(net: Net, node: ir.Node, sizes: Shape | None) -> Shape | None:
    if sizes is None:
        return None
    if node.op_type == "Gather":
        chosen = net.constants.value(node.inputs[1])
        return None if chosen is None else [sizes[int(k)] for k in chosen.ravel()]
    bounds = [
        attribute_or_input(net.constants, node, what, k) for k, what in ((1, "starts"), (2, "ends"), (4, "steps"))
    ]
    if bounds[0] is None or bounds[1] is None or len(bounds[0]) != 1:
        return None
    return sizes[bounds[0][0] : bounds[1][0] : bounds[2][0] if bounds[2] else 1]


def _concat(net: Net, node: ir.Node, name: str) -> Shape:
    shapes = [_input(net, node, k) for k in range(len(node.inputs))]
    axis, rank = integer(node, "axis"), len(shapes[0])
    if any(len(shape) != rank for shape in shapes):
        raise Refused("they do not fit")
    along = [shape[axis] for shape in shapes]
    known = [n for n in along if isinstance(n, int)]
    made = shapes[0].copy()
    made[axis] = sum(known) if len(known) == len(along) else f"{axis % rank}@{name}"
    return made


def _split(net: Net, node: ir.Node, name: str) -> Shape:
    """Parts of equal sizes; others ONNX infers."""
    shape, axis = _input(net, node), integer(node, "axis")
    given = attribute_or_input(net.constants, node, "split", 1)
    size, parts = shape[axis], len(node.outputs)
    equal = isinstance(size, int) and size % parts == 0 and (given is None or set(given) == {size // parts})
    equal &= given is not None or len(node.inputs) < 2
    shape[axis] = int(size) // parts if equal else f"{axis % len(shape)}@{name}"
    return shape


def _transpose(net: Net, node: ir.Node, name: str) -> Shape:
    shape = _input(net, node)
    return [shape[k] for k in ints(node, "perm") or range(len(shape))[::-1]]


def _slice(net: Net, node: ir.Node, name: str) -> Shape:
    shape = _input(net, node)
    axes = attribute_or_input(net.constants, node, "axes", 3)
    cut = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
    return [f"{k}@{name}" if k in cut else n for k, n in enumerate(shape)]


def _squeeze(net: Net, node: ir.Node, name: str) -> Shape:
    axes, shape = attribute_or_input(net.constants, node, "axes", 1), _input(net, node)
    if axes is None:
        raise Refused("no telling")
    gone = {a % len(shape) for a in axes}
    return [n for k, n in enumerate(shape) if k not in gone]


def _unsqueeze(net: Net, node: ir.Node, name: str) -> Shape:
    axes, shape = attribute_or_input(net.constants, node, "axes", 1), _input(net, node)
    if axes is None:
        raise Refused("no telling")
    rank = len(shape) + len(axes)
    new, rest = {a % rank for a in axes}, iter(shape)
    if len(new) != len(axes):
        raise Refused("an axis is named twice")
    return [1 if k in new else next(rest) for k in range(rank)]


def _reduce(net: Net, node: ir.Node, name: str) -> Shape:
    axes, shape = attribute_or_input(net.constants, node, "axes", 1), _input(net, node)
    if axes is None:
        raise Refused("no telling")
    gone = {a % len(shape) for a in axes}
    if integer(node, "keepdims", 1):
        return [1 if k in gone else n for k, n in enumerate(shape)]
    return [n for k, n in enumerate(shape) if k not in gone]


def _window(net: Net, node: ir.Node, name: str) -> Shape:
    """Batch and channels; the rest is unknown.  A convolution's channels are its weight's."""
    shape = _input(net, node) if node.op_type != "Conv" else _input(net, node, 1)
    if node.op_type == "Conv":
        return [f"0@{name}", shape[0], *(f"{k}@{name}" for k in range(2, len(shape)))]
    return [*shape[:2], *(f"{k}@{name}" for k in range(2, len(shape)))]


RULES: dict[str, Callable[[Net, ir.Node, str], Shape]] = {
    "MatMul": _matmul, "Reshape": _reshape, "Transpose": _transpose, "Slice": _slice, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Where", "PRelu"), _elementwise),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _window),
}  # fmt: skip
LIKE_INPUT = (
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "Identity", "Dropout", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish",
    "HardSigmoid", "Elu", "Selu", "Gelu", "Swish", "Mish", "Clip", "Neg", "Abs", "Sqrt", "Exp", "Erf", "Softmax",
    "Reciprocal", "Cast", "Softplus",
)  # fmt: skip
RULES |= dict.fromkeys(LIKE_INPUT, _same)
SAME_TYPE = (set(RULES) - {"Cast", "Where"}) | {
    "Concat",
    "Resize",
    "Upsample",
    "ConvTranspose",
    "Gemm",
    "Flatten",
    "Split",
}
