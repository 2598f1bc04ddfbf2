# SPDX-License-Identifier: Apache-2.0
"""What the functions take and return."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Bits: TypeAlias = npt.NDArray[np.uint8]
Float64s: TypeAlias = npt.NDArray[np.float64]


class SupportsDLPack(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


# Arrays, whatever has the buffer protocol or __array__, and tensors in the memory of the CPU.
Readable: TypeAlias = npt.ArrayLike | SupportsDLPack

Activation: TypeAlias = Literal[
    "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish"
]
NonFinite: TypeAlias = Literal["propagate", "skip", "raise"]
Placing: TypeAlias = Literal["pytorch", "onnx"]
SingleValue: TypeAlias = Literal["raise", "zero", "running"]


class BatchNormResult(NamedTuple):
    y: Array
    mean: Float64s  # (c) the statistics that x was normalized with; batch_norm_backward takes them
    var: Float64s  # (c) biased
    mask: Bits | None  # where relu passed its argument on; batch_norm_backward takes it
    skipped: bool  # the running statistics were left as they were, because of nonfinite="skip"


class GroupNormResult(NamedTuple):
    y: Array
    mean: Float64s  # (n, groups) the statistics that x was normalized with; group_norm_backward takes them
    var: Float64s  # (n, groups) biased
    mask: Bits | None  # where relu passed its argument on; group_norm_backward takes it


class BatchNormGradients(NamedTuple):
    dx: Array
    dweight: Array  # (c)
    dbias: Array  # (c)
    dresidual: Array | None


class DropoutResult(NamedTuple):
    y: Array
    mask: Bits  # one bit per element, or per channel of each sample, 1 where kept; dropout_backward takes it


class MeanVar(NamedTuple):
    mean: Float64s
    var: Float64s


class Quantization(NamedTuple):
    """How a result becomes integers: q = round(y / scale) + zero_point, ties to even, within the range of dtype.

    dtype: numpy.int8 or numpy.uint8.  scale: None for a scale of each row, max |y| / 127, which is returned (int8, and
    zero_point 0).  A NaN becomes the smallest integer, -127 where scale is None.
    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html

    >>> import normcpu
    >>> normcpu.layer_norm(np.array([[1, 3]], np.float32), 2, quantize=Quantization(0.25, 128, np.uint8))
    array([[124, 132]], dtype=uint8)
    """

    scale: float | None = None
    zero_point: int = 0
    dtype: npt.DTypeLike = np.int8


class RowNormResult(NamedTuple):
    y: Array
    sum: Array | None  # x + added, which was normalized
    mean: Float64s | None  # of each row, broadcasting against x: layer_norm_backward takes them; 0 of rms_norm
    var: Float64s | None  # biased; of rms_norm the mean square
    scales: npt.NDArray[np.float32] | None  # of each row, broadcasting against y: y * scales is what was quantized
    mask: Bits | None = None  # where relu passed its argument on; layer_norm_backward takes it


class RowNormGradients(NamedTuple):
    dx: Array
    dweight: Array  # x's extents along the axes that were normalized over
    dbias: Array | None
    dresidual: Array | None = None
