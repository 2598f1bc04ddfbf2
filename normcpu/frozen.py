# SPDX-License-Identifier: Apache-2.0
"""Batch normalization with statistics that never change."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ._arrays import as_activation, as_int, as_number
from ._state import StateSource, as_entry, fit
from ._types import Activation, Array, Readable
from .conventions import Convention, convert_state, get_convention
from .functional import batch_norm


class FrozenBatchNorm:
    """y = activation((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual), per channel.

    x (n, c, ...), with 2 axes or more; weight, bias (c,) or None; running_mean, running_var (c,).
    The arrays are copied to dtype (float32, for x of float32, float16 or bfloat16, or float64) and read-only.
    Always in evaluation: train() has no effect.  Where gradients are wanted, use BatchNorm2d(...).freeze().
    https://docs.pytorch.org/vision/stable/generated/torchvision.ops.FrozenBatchNorm2d.html

    Errors: TypeError and ValueError naming the argument.

    >>> FrozenBatchNorm(None, [1.0], [3.0], [4.0], eps=0.0)(np.array([[3], [7]], np.float32))
    array([[1.],
           [3.]], dtype=float32)
    """

    training = False

    def __init__(
        self,
        weight: npt.ArrayLike | None,
        bias: npt.ArrayLike | None,
        running_mean: npt.ArrayLike,
        running_var: npt.ArrayLike,
        eps: float = 1e-5,
        *,
        dtype: npt.DTypeLike = np.float32,
        channel_axis: int = 1,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
        mean = as_entry("running_mean", running_mean)
        if mean.ndim != 1:
            raise ValueError(f"running_mean must have shape (c,), got {mean.shape}")

        def parameter(name: str, value: npt.ArrayLike) -> Array:
            array = fit(name, as_entry(name, value), mean.shape, dtype)
            array.flags.writeable = False
            return array

        self.weight = None if weight is None else parameter("weight", weight)
        self.bias = None if bias is None else parameter("bias", bias)
        self.running_mean = parameter("running_mean", mean)
        self.running_var = parameter("running_var", running_var)
        self.num_features = mean.shape[0]
        self.eps = as_number("eps", eps, 0.0)
        self.channel_axis = as_int("channel_axis", channel_axis)
        self.activation = activation
        self.negative_slope = as_number("negative_slope", negative_slope)
        as_activation(activation, self.negative_slope, mean.astype(dtype))

    @classmethod
    def from_state_dict(
        cls,
        state_dict: StateSource,
        eps: float | None = None,
        *,
        prefix: str = "",
        convention: str | Convention = "pytorch",
        **options: Any,
    ) -> Self:
        """From a mapping of arrays or tensors, or a .npz or .safetensors path, with a convention's names.

        prefix: the layer's place in a model's state, "layer1.0.bn1."; weight and bias may be missing there.
        options: further arguments of the constructor.  eps and channel_axis left out: the convention's.
        Errors: ValueError for missing and unknown names and for wrong shapes.
        """
        rule = get_convention(convention)
        state, eps = convert_state(state_dict, rule, prefix=prefix, eps=eps)
        keys = rule.keys(prefix)
        for name in ("running_mean", "running_var"):
            if name not in state:
                raise ValueError(f"{cls.__name__}.from_state_dict: missing {keys[name]!r}")
        options = {"channel_axis": rule.channel_axis, **options}
        arrays = (state.get("weight"), state.get("bias"), state["running_mean"], state["running_var"])
        return cls(*arrays, eps, **options)

    def forward(self, x: Readable, residual: Readable | None = None, out: Array | None = None) -> Array:
        """y of the shape and dtype of x.  residual, out: as in `batch_norm`, whose errors these are."""
        y: Array = batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps,
            channel_axis=self.channel_axis, activation=self.activation, negative_slope=self.negative_slope,
            residual=residual, out=out,
        )  # fmt: skip
        return y

    __call__ = forward

    def train(self, mode: bool = True) -> Self:
        """No effect: a frozen layer stays in evaluation."""
        return self

    def eval(self) -> Self:
        """No effect: a frozen layer is in evaluation already."""
        return self

    def state_dict(self, prefix: str = "") -> dict[str, Array]:
        """{prefix + name: copy} of weight, bias, running_mean and running_var, no None."""
        arrays = {name: getattr(self, name) for name in ("weight", "bias", "running_mean", "running_var")}
        return {prefix + name: array.copy() for name, array in arrays.items() if array is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of pickle and copy: read-only again."""
        self.__dict__.update(state)
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __repr__(self) -> str:
        return f"FrozenBatchNorm({self.num_features}, eps={self.eps}, channel_axis={self.channel_axis})"
