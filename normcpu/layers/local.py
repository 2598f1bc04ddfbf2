# SPDX-License-Identifier: Apache-2.0
"""Normalizations without parameters as objects: torch.nn.LocalResponseNorm, and what ONNX has, on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .._arrays import as_array, as_int, as_number
from .._module import Module
from .._types import Array, Readable
from ..functional import (
    local_response_norm,
    local_response_norm_backward,
    lp_normalize,
    lp_normalize_backward,
    mean_variance_normalization,
    mean_variance_normalization_backward,
)

Axes = int | tuple[int, ...]


class _WithoutParameters(Module):
    """A function of x, its options and its gradient."""

    _function: ClassVar[Callable[..., Array]]
    _gradient: ClassVar[Callable[..., Array]]
    _names: ClassVar[tuple[str, ...]]  # of the options

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def forward(self, x: Readable, out: Array | None = None) -> Array:
        """y of the shape and dtype of x.  out: where y goes; may be x.  In training mode the layer keeps a reference
        to x for `backward`: change x in place only after that."""
        array = as_array("x", x)
        self._saved = None
        y = type(self)._function(array, **self._options(), out=out)
        overwritten = out is not None and np.may_share_memory(array, out)
        self._saved = (array, overwritten) if self.training else None
        return y

    __call__ = forward

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        """dx, the gradient of the input of the last forward call in training mode; one backward per forward.

        Errors: those of the function's gradient; RuntimeError where there is no forward call to go back through.
        """
        if self._saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        x, overwritten = self._saved
        if overwritten:
            raise RuntimeError(f"{self._name}.backward: the forward call may have overwritten x (out=)")
        dx = type(self)._gradient(dy, x, **self._options(), out=out)
        self._saved = None
        return dx

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(f'{name}={value!r}' for name, value in self._options().items())})"


class LocalResponseNorm(_WithoutParameters):
    """y = x / (k + alpha / size * sum(x^2))^beta, sums over a window of `size` channels; no parameters.

    https://docs.pytorch.org/docs/stable/generated/torch.nn.LocalResponseNorm.html

    size, alpha, beta, k, channel_axis, placing    as in `local_response_norm`

    >>> LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0)(np.array([[1, 2, 2]], np.float32))
    array([[1., 1., 1.]], dtype=float32)
    """

    _function, _gradient = local_response_norm, local_response_norm_backward
    _names = ("size", "alpha", "beta", "k", "channel_axis", "placing")

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        channel_axis: int = 1,
        placing: Any = "pytorch",
    ) -> None:
        super().__init__()
        self.size, self.channel_axis, self.placing = as_int("size", size), as_int("channel_axis", channel_axis), placing
        self.alpha, self.beta, self.k = as_number("alpha", alpha), as_number("beta", beta), as_number("k", k)
        local_response_norm(np.zeros((1, 1), np.float32), **self._options() | {"channel_axis": 0})  # says what is wrong

    def __repr__(self) -> str:
        shown = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
        return f"LocalResponseNorm({shown}{'' if self.placing == 'pytorch' else f', placing={self.placing!r}'})"


class LpNormalization(_WithoutParameters):
    """y = x / max(norm, eps), norm = sum(|x|^p)^(1/p) over the axes: ONNX's, and torch.nn.functional.normalize.

    https://onnx.ai/onnx/operators/onnx__LpNormalization.html

    p       1, 2 or inf         axis    those that are summed over, ONNX's default being the last
    eps     0 for ONNX's, PyTorch's default is 1e-12

    >>> LpNormalization()(np.array([[3, -4]], np.float32))
    array([[ 0.6, -0.8]], dtype=float32)
    """

    _function, _gradient = lp_normalize, lp_normalize_backward
    _names = ("p", "axis", "eps")

    def __init__(self, p: float = 2.0, axis: Axes = -1, *, eps: float = 0.0) -> None:
        super().__init__()
        self.p, self.axis, self.eps = p, axis, as_number("eps", eps, 0.0)
        lp_normalize(np.zeros((1, 1), np.float32), p)  # says what is wrong


class MeanVarianceNormalization(_WithoutParameters):
    """y = (x - mean) / (sqrt(var) + eps), mean and (biased) variance over the axes: ONNX's.

    https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html

    axis    those that are reduced      eps     is added to the standard deviation

    >>> MeanVarianceNormalization(1)(np.array([[1, 3]], np.float32))
    array([[-1.,  1.]], dtype=float32)
    """

    _function, _gradient = mean_variance_normalization, mean_variance_normalization_backward
    _names = ("axis", "eps")

    def __init__(self, axis: Axes = (0, 2, 3), *, eps: float = 1e-9) -> None:
        super().__init__()
        self.axis, self.eps = axis, as_number("eps", eps, 0.0)
