# SPDX-License-Identifier: Apache-2.0
"""What rules do to weights: scale them, set them, read them.  Each checks now, and returns what to do later."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .affine import Array, Refused
from .constants import Evaluated
from .exact import (
    check_range,
    exact_value,
    new_constant,
    not_worth_a_copy,
    scaled_constant,
    unfolded,
    whose,
    why_not_constant,
)
from .net import Net, numpy_type
from .quantised import is_quantised, scale_quantised

Action = Callable[[], None]


def scale_weight(net: Net, node: ir.Node, index: int, factors: Array, axis: int | None) -> list[Action]:
    """Input `index` of `node` times `factors`, which broadcast against it.

    `axis` is the only axis along which the factors vary, or None if there are more: int8 weights, whose scales are
    per tensor or along one axis, need to know.
    """
    weight = node.inputs[index]
    if weight is None or not net.constants.is_constant(weight):
        raise Refused(f"{whose(node, index)} is {why_not_constant(net, weight)}")
    not_worth_a_copy(weight)
    if is_quantised(weight):
        return scale_quantised(net, node, index, factors, axis)
    dtype = net.float_type(weight)
    most = net.constants.extent(weight) * float(np.abs(factors).max(initial=0))
    if dtype == ir.DataType.FLOAT16 or not most <= float(ml_dtypes.finfo(numpy_type(dtype)).max) * 0.999:
        check_range(*unfolded(net, weight, factors), dtype, whose(node, index), axis)

    def act() -> None:
        now = node.inputs[index]
        assert now is not None
        net.set_input(node, index, scaled_constant(net, now, factors, dtype))

    return [act]


def set_constant(net: Net, node: ir.Node, index: int, exact: Evaluated, dtype: ir.DataType, hint: str) -> Action:
    """Input `index` of `node` becomes `exact`, rounded to `dtype`; checked now, done later."""
    check_range(exact, np.ones(()), dtype, f"{whose(node, index)}", None)
    return lambda: net.set_input(node, index, new_constant(net, exact, dtype, hint))


def constant_input(net: Net, node: ir.Node, index: int) -> Evaluated | None:
    """Input `index` as float64, None where the node has none; refused where it is not constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    known = net.constants.value(value)
    if known is None:
        raise Refused(f"{whose(node, index)} is {why_not_constant(net, value)}")
    return known


def weight_shape(net: Net, node: ir.Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not net.constants.is_constant(value):
        raise Refused(f"{whose(node, index)} is {why_not_constant(net, value)}")
    shape = value.shape
    if shape is not None and shape.is_static():
        return tuple(shape.numpy())
    return tuple(exact_value(net, value).shape)
