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
SingleValue: TypeAlias = Literal["raise", "zero", "running"]


class BatchNormResult(NamedTuple):
    y: Array
    mean: Float64s  # (c) the statistics that x was normalized with; batch_norm_backward takes them
    var: Float64s  # (c) biased
    mask: Bits | None  # where relu passed its argument on; batch_norm_backward takes it
    skipped: bool  # the running statistics were left as they were, because of nonfinite="skip"


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
