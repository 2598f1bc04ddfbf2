# SPDX-License-Identifier: Apache-2.0
"""Normalization of rows as objects that hold parameters: torch.nn.LayerNorm and RMSNorm on arrays."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arrays import as_activation, as_axis_numbers, as_int, as_number
from .._module import Module
from .._types import Activation, Array, Readable, RowNormGradients, RowNormResult
from ..functional import (
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)

Extents = int | tuple[int, ...]


class _Saved(NamedTuple):
    """What a forward call leaves for backward."""

    x: Any  # that was normalized: the input, or its sum with what was added
    mean: Array
    var: Array
    bits: Array | None
    valid: Array | None
    has_residual: bool
    overwritten: bool  # out= may have been x itself


class _RowNorm(Module):
    _rms: ClassVar[bool] = False

    def __init__(
        self, normalized_shape: Extents, eps: Any, elementwise_affine: bool, bias: bool, axis: Extents | None,
        dtype: npt.DTypeLike, activation: Activation | None, negative_slope: float, fill: float,
    ) -> None:  # fmt: skip
        super().__init__()
        extents = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        shape = self.normalized_shape = tuple(as_int("normalized_shape", n) for n in extents)
        if not shape or min(shape) < 1:
            raise ValueError(f"normalized_shape must be extents of at least 1, got {normalized_shape}")
        self.axis = None if axis is None else as_axis_numbers("axis", axis, len(shape))
        self.eps = eps if eps is None else as_number("eps", eps, 0.0)
        self.elementwise_affine = elementwise_affine
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 (also for float16 data) or float64, got {np.dtype(dtype)}")
        self.activation, self.negative_slope = activation, as_number("negative_slope", negative_slope)
        as_activation(activation, negative_slope, np.empty(0, dtype))
        self._fill = fill
        self.weight = np.full(shape, fill, dtype) if elementwise_affine else None
        self.bias = np.zeros(shape, dtype) if elementwise_affine and bias else None

    def reset_parameters(self) -> None:
        """weight 1 (0 where 1 is added to it) and bias 0, in place."""
        super().reset_parameters()
        if self.weight is not None:
            self.weight[...] = self._fill

    def forward(
        self, x: Readable, out: Array | None = None, *, residual: Readable | None = None, mask: Array | None = None
    ) -> Array:
        """y of the shape and dtype of x.

        out: where y goes; may be x.  residual: added before the activation, of the shape and dtype of x.  mask: as in
        `layer_norm`.  In training mode the layer keeps a reference to x for `backward`: change x in place only after
        that.  Errors: those of the function.
        """
        self._saved = None
        if not self.training and residual is None and mask is None:
            plain = self._plain(x, out)
            if plain is not None:
                return plain
        result: Any = self._function(x, residual=residual, **self._options(out, mask))
        if not self.training:
            y: Array = result
            return y
        overwritten = out is not None and (not isinstance(x, np.ndarray) or np.may_share_memory(x, out))
        self._saved = _Saved(x, result.mean, result.var, result.mask, mask, residual is not None, overwritten)
        y = result.y
        return y

    __call__ = forward

    def add(
        self, x: Readable, added: Readable, out: Array | None = None, out_sum: Array | None = None, *,
        mask: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """(y, sum): sum = x + added and y, its normalization, in one pass.

        out, for y, and out_sum may each be x or added.  mask: as in `layer_norm`.  `backward` then goes back from the
        sum, of which the layer keeps a reference.
        """
        self._saved = None
        result = self._add_function(x, added, out_sum=out_sum, **self._options(out, mask))
        assert result.sum is not None
        if self.training:
            assert result.mean is not None
            assert result.var is not None
            self._saved = _Saved(result.sum, result.mean, result.var, result.mask, mask, False, False)
        return result.y, result.sum

    def backward(self, dy: Readable, dsum: Readable | None = None, out: Array | None = None) -> Array:
        """dx, the gradient of the last forward call's input in training mode; one backward per forward.

        After `add`, dsum is the gradient that reached the sum by other ways, and dx that of x and of added.  out: where
        dx goes; may be dy or dsum.  The gradients of the parameters are added to weight_grad and bias_grad;
        residual_grad is this call's alone.
        Errors: those of the function (activation None or "relu"); RuntimeError where there is no forward call to go
        back through.
        """
        saved: _Saved | None = self._saved
        if saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        if saved.overwritten:
            raise RuntimeError(f"{self._name}.backward: the forward call may have overwritten x (out=)")
        options = {
            "axis": self.axis, "activation": self.activation, "mask": saved.bits, "statistics_mask": saved.valid,
            "residual": saved.has_residual, "dsum": dsum, "out": out,
        }  # fmt: skip
        gradients = self._gradients(saved, dy, options)
        self._saved = None
        self.residual_grad = gradients.dresidual
        self._accumulate(gradients.dweight, gradients.dbias)
        return gradients.dx

    def _plain(self, x: Any, out: Any) -> Array | None:
        """y without a detour, where that is possible."""
        if self.axis is not None or self.activation is not None:
            return None
        return _core.layer_norm_plain(x, self.normalized_shape, self.weight, self.bias, self.eps, self._rms, out)

    def _options(self, out: Array | None, mask: Array | None) -> dict[str, Any]:
        options: dict[str, Any] = {
            "normalized_shape": self.normalized_shape, "weight": self.weight, "eps": self.eps, "axis": self.axis,
            "activation": self.activation, "negative_slope": self.negative_slope, "mask": mask,
            "return_stats": self.training, "return_mask": self.training and self.activation == "relu", "out": out,
        }  # fmt: skip
        return options

    def _function(self, x: Readable, **options: Any) -> Array | RowNormResult:
        raise NotImplementedError

    def _add_function(self, x: Readable, added: Readable, **options: Any) -> RowNormResult:
        raise NotImplementedError

    def _gradients(self, saved: _Saved, dy: Any, options: dict[str, Any]) -> RowNormGradients:
        raise NotImplementedError

    def _shown(self) -> dict[str, Any]:
        return {"eps": self.eps, "elementwise_affine": self.elementwise_affine}

    def __repr__(self) -> str:
        usual = {"axis": None, "activation": None, "negative_slope": 0.01}
        shown = self._shown() | {n: getattr(self, n) for n, value in usual.items() if getattr(self, n) != value}
        options = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{self._name}({self.normalized_shape}, {options})"


class LayerNorm(_RowNorm):
    """Layer normalization: y = (x - mean) / sqrt(var + eps) * weight + bias, with the statistics of each row.

    normalized_shape    the extents of a row: of the last axes of x, or of `axis`
    elementwise_affine, bias    whether there is a weight, and with it a bias, both of shape normalized_shape
    axis                the axes that are normalized over: 1 for the channels of (n, c, h, w)
    dtype               of the parameters: float32 for x of float32, float16 or bfloat16, or float64
    activation, negative_slope    what follows, as in `layer_norm`

    https://docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html
    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.

    >>> LayerNorm(2)(np.array([[1, 3], [10, 30]], np.float32)).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: Extents,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        axis: Extents | None = None,
        dtype: npt.DTypeLike = np.float32,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        eps = as_number("eps", eps, 0.0)
        after = (activation, negative_slope)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, axis, dtype, *after, 1.0)
        self.eps: float

    def _function(self, x: Readable, **options: Any) -> Array | RowNormResult:
        return layer_norm(x, bias=self.bias, **options)

    def _add_function(self, x: Readable, added: Readable, **options: Any) -> RowNormResult:
        return add_layer_norm(x, added, bias=self.bias, **options)

    def _gradients(self, saved: _Saved, dy: Any, options: dict[str, Any]) -> RowNormGradients:
        return layer_norm_backward(
            dy, saved.x, saved.mean, saved.var, self.normalized_shape, self.weight, self.eps, **options
        )

    def _shown(self) -> dict[str, Any]:
        return super()._shown() | {"bias": self.bias is not None}


class RMSNorm(_RowNorm):
    """Root mean square normalization: y = x / sqrt(mean(x^2) + eps) * weight, with the mean of each row.

    eps         None for the distance of 1 from the next number of the type computed in (see `rms_norm`)
    plus_one    the factor is 1 + weight, and weight starts from 0, as in Gemma
    normalized_shape, elementwise_affine, axis, dtype, activation, negative_slope    as of `LayerNorm`

    https://docs.pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html
    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.

    >>> RMSNorm(2)(np.array([[1, -7]], np.float32)).round(3)
    array([[ 0.2, -1.4]], dtype=float32)
    """

    _rms = True

    def __init__(
        self,
        normalized_shape: Extents,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        plus_one: bool = False,
        axis: Extents | None = None,
        dtype: npt.DTypeLike = np.float32,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        after = (activation, negative_slope, 0.0 if plus_one else 1.0)
        super().__init__(normalized_shape, eps, elementwise_affine, False, axis, dtype, *after)
        self.plus_one = plus_one and elementwise_affine

    def _plain(self, x: Any, out: Any) -> Array | None:
        return None if self.plus_one else super()._plain(x, out)

    def _options(self, out: Array | None, mask: Array | None) -> dict[str, Any]:
        return super()._options(out, mask) | {"plus_one": self.plus_one}

    def _function(self, x: Readable, **options: Any) -> Array | RowNormResult:
        return rms_norm(x, **options)

    def _add_function(self, x: Readable, added: Readable, **options: Any) -> RowNormResult:
        return add_rms_norm(x, added, **options)

    def _gradients(self, saved: _Saved, dy: Any, options: dict[str, Any]) -> RowNormGradients:
        return rms_norm_backward(
            dy, saved.x, saved.var, self.normalized_shape, self.weight, self.eps, plus_one=self.plus_one, **options
        )

    def _shown(self) -> dict[str, Any]:
        return super()._shown() | ({"plus_one": True} if self.plus_one else {})
