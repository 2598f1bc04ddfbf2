# SPDX-License-Identifier: Apache-2.0
"""Group and instance normalization as objects that hold parameters: torch.nn.GroupNorm and InstanceNorm1d, 2d, 3d."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arrays import as_array, as_axis, as_int, as_number
from .._module import BatchNormModule, Module, documented
from .._types import Activation, Array, BatchNormGradients, NonFinite, Readable
from ..functional import batch_norm_backward, group_norm, group_norm_backward, instance_norm, instance_norm_backward


class _Saved(NamedTuple):
    """What a forward call leaves for backward."""

    x: Array
    mean: Array
    var: Array
    bits: Array | None
    valid: Array | None
    given: bool  # mean and var do not depend on x
    has_residual: bool
    overwritten: bool  # out= may have been x itself


class _PerSample(Module):
    """What GroupNorm and InstanceNorm share: options, and the way back."""

    channel_axis: int
    activation: Activation | None
    negative_slope: float
    eps: float

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        """dx, the gradient of the input of the last forward call in training mode; one backward per forward.

        dy, dx: of the shape and dtype of x.  out: where dx goes; may be dy.  The gradients of the parameters, (c,), are
        added to weight_grad and bias_grad (None at first and after `zero_grad`); residual_grad is this call's alone.
        Errors: those of `group_norm_backward` (activation None or "relu"); RuntimeError where there is no forward call
        to go back through.
        """
        saved: _Saved | None = self._saved
        if saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        if saved.overwritten:
            raise RuntimeError(f"{self._name}.backward: the forward call may have overwritten x (out=)")
        dx, dweight, dbias, dresidual = self._gradients(saved, dy, out)
        self._saved = None
        if self.weight is not None:
            self.weight_grad = dweight if self.weight_grad is None else self.weight_grad + dweight
        if self.bias is not None:
            self.bias_grad = dbias if self.bias_grad is None else self.bias_grad + dbias
        self.residual_grad = dresidual
        return dx

    def _gradients(self, saved: _Saved, dy: Readable, out: Array | None) -> BatchNormGradients:
        raise NotImplementedError

    def _save(self, x: Any, made: Any, options: dict[str, Any], given: bool = False) -> _Saved:
        out = options["out"]
        overwritten = out is not None and (not isinstance(x, np.ndarray) or np.may_share_memory(x, out))
        has_residual = options["residual"] is not None
        return _Saved(x, made.mean, made.var, made.mask, options.get("mask"), given, has_residual, overwritten)

    def _options(self, residual: Any, out: Any, mask: Any) -> dict[str, Any]:
        return {
            "channel_axis": self.channel_axis, "activation": self.activation, "negative_slope": self.negative_slope,
            "residual": residual, "out": out, "mask": mask,
        }  # fmt: skip

    def _shown(self, names: tuple[str, ...]) -> str:
        usual = {"channel_axis": 1, "activation": None, "negative_slope": 0.01, "nonfinite": "propagate"}
        shown = {name: getattr(self, name) for name in names}
        shown |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name, value) != value}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _as_real(dtype: npt.DTypeLike) -> np.dtype[Any]:
    real = np.dtype(dtype)
    if real not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 (also for float16 data) or float64, got {real}")
    return real


def _as_sample(array: Any) -> Any:
    """With an axis of samples in front; what is no array goes on to where it is refused."""
    return array[None] if isinstance(array, np.ndarray) else array


class GroupNorm(_PerSample):
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), mean and var of a sample's groups.

    torch.nn.GroupNorm on arrays: https://docs.pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html

    num_groups      divides num_channels, the channels of x (n, num_channels, ...)
    affine, bias    whether there is a weight (c,), and with it a bias (c,)
    dtype           of the parameters: float32 for x of float32, float16 or bfloat16, or float64
    channel_axis    1, or -1 for channels-last x
    activation, negative_slope    as in `group_norm`

    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.

    >>> GroupNorm(2, 4)(np.array([[1, 3, 10, 30]], np.float32)).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = np.float32,
        channel_axis: int = 1,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_groups, self.num_channels = as_int("num_groups", num_groups), as_int("num_channels", num_channels)
        if self.num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        if self.num_groups < 1 or self.num_channels % self.num_groups:
            raise ValueError(f"num_groups must divide num_channels, {num_channels}, got {num_groups}")
        self.eps, self.affine = as_number("eps", eps, 0.0), affine
        self.channel_axis = as_int("channel_axis", channel_axis)
        self.activation, self.negative_slope = activation, as_number("negative_slope", negative_slope)
        real = _as_real(dtype)
        group_norm(np.zeros((2, 2), real), 1, activation=activation)  # says what it does not know
        self.weight = np.ones(num_channels, real) if affine else None
        self.bias = np.zeros(num_channels, real) if affine and bias else None

    def forward(
        self, x: Readable, residual: Readable | None = None, out: Array | None = None, mask: Array | None = None
    ) -> Array:
        """y of the shape and dtype of x.

        residual: added before the activation, of the shape and dtype of x.  out: where y goes; may be x.  mask: as in
        `group_norm`.  In training mode the layer keeps a reference to x for `backward`: change x in place only after
        that.  Errors: those of `group_norm`; ValueError for another number of channels.
        """
        usual = not self.training and self.activation is None and residual is None and mask is None
        if usual and self.weight is not None:  # which says how many channels there must be
            parameters = (self.weight, self.bias, self.eps, self.channel_axis)
            plain = _core.group_norm_plain(x, self.num_groups, *parameters, out)
            if plain is not None:
                self._saved = None
                return plain
        array = as_array("x", x)
        axis = self.channel_axis
        if array.ndim >= 2 and array.shape[as_axis("channel_axis", axis, array)] != self.num_channels:
            raise ValueError(f"x must have {self.num_channels} channels on axis {axis}, got shape {array.shape}")
        options, self._saved = self._options(residual, out, mask), None
        arguments = (array, self.num_groups, self.weight, self.bias, self.eps)
        if not self.training:
            y: Array = group_norm(*arguments, **options)
            return y
        made = group_norm(*arguments, **options, return_stats=True, return_mask=self.activation == "relu")
        self._saved = self._save(array, made, options)
        return made.y

    __call__ = forward

    def _gradients(self, saved: _Saved, dy: Readable, out: Array | None) -> BatchNormGradients:
        return group_norm_backward(
            dy, saved.x, saved.mean, saved.var, self.num_groups, self.weight, self.eps, channel_axis=self.channel_axis,
            activation=self.activation, mask=saved.bits, statistics_mask=saved.valid,
            residual=saved.has_residual, out=out,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"GroupNorm({self.num_groups}, {self.num_channels}, {self._shown(('eps', 'affine'))})"


class _InstanceNorm(_PerSample, BatchNormModule):
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), mean and var of a sample's channels.

    In training, and always without track_running_stats, mean and var (biased) are those of the samples, whose
    averages the buffers follow (variance unbiased): running = (1 - momentum) * running + momentum * average.  In
    evaluation with track_running_stats they are the buffers.  As in PyTorch num_batches_tracked stays 0, and a
    momentum of None is 0.
    https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html

    num_features    c, the channels of x
    affine, bias    whether there is a weight (c,), and with it a bias (c,)
    dtype           of parameters and buffers: float32 for x of float32, float16 or bfloat16, or float64
    channel_axis    1, or -1 for channels-last x; an x without the axis of samples is one sample
    activation, negative_slope, nonfinite    as in `instance_norm`

    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.
    """

    _ndim: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = np.float32,
        channel_axis: int = 1,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__()
        c = self.num_features = as_int("num_features", num_features)
        if c < 1:
            raise ValueError(f"num_features must be at least 1, got {c}")
        self.eps, self.affine, self.track_running_stats = as_number("eps", eps, 0.0), affine, track_running_stats
        self.momentum = momentum if momentum is None else as_number("momentum", momentum)
        self.channel_axis = as_int("channel_axis", channel_axis)
        if self.channel_axis not in (1, -1):
            raise ValueError(f"channel_axis must be 1 or -1, got {channel_axis}")
        self.activation, self.negative_slope = activation, as_number("negative_slope", negative_slope)
        self.nonfinite: NonFinite = nonfinite
        real = _as_real(dtype)
        instance_norm(np.zeros((2, 2, 2), real), activation=activation, nonfinite=nonfinite)
        self.weight = np.ones(c, real) if affine else None
        self.bias = np.zeros(c, real) if affine and bias else None
        self.running_mean = np.zeros(c, real) if track_running_stats else None
        self.running_var = np.ones(c, real) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def forward(
        self, x: Readable, residual: Readable | None = None, out: Array | None = None, mask: Array | None = None
    ) -> Array:
        """y of the shape and dtype of x.  residual, out, mask: as in `GroupNorm.forward`, mask where statistics are
        x's own.

        Errors: those of `instance_norm`; ValueError for another number of axes or channels.
        """
        usual = not self.training and self.activation is None and residual is None and mask is None
        if usual and isinstance(x, np.ndarray) and x.ndim == self._ndim:
            plain = self._plain(x, out)
            if plain is not None:
                self._saved = None
                return plain
        array = as_array("x", x)
        if array.ndim == self._ndim - 1:
            added = None if residual is None else as_array("residual", residual)[None]
            y = self._forward(array[None], added, _as_sample(out), _as_sample(mask))[0]
            return y if out is None else out
        return self._forward(array, residual, out, mask)

    __call__ = forward

    def _plain(self, x: Array, out: Any) -> Array | None:
        options = (self.weight, self.bias, self.eps, self.channel_axis, out)
        if x.shape[self.channel_axis] != self.num_features:
            return None
        if self.track_running_stats:
            return _core.batch_norm_plain(x, self.running_mean, self.running_var, *options)
        return _core.group_norm_plain(x, None, *options)

    def _forward(self, x: Array, residual: Any, out: Any, mask: Any) -> Array:
        if x.ndim != self._ndim:
            raise ValueError(f"expected {self._ndim - 1}D or {self._ndim}D input (got {x.ndim}D input)")
        if x.shape[self.channel_axis] != self.num_features:
            axis = self.channel_axis
            raise ValueError(f"x must have {self.num_features} channels on axis {axis}, got shape {x.shape}")
        learning = self.training and not self.frozen
        of_sample = learning or not self.track_running_stats
        options, self._saved = self._options(residual, out, mask), None
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        arguments = (x, *running, self.weight, self.bias, of_sample)
        if not self.training:
            y: Array = instance_norm(*arguments, eps=self.eps, **options)
            return y
        made = instance_norm(
            *arguments, self.momentum or 0.0, self.eps, **options, nonfinite=self.nonfinite, return_stats=True,
            return_mask=self.activation == "relu",
        )  # fmt: skip
        self.skipped_updates += made.skipped
        self._saved = self._save(x, made, options, given=not of_sample)
        return made.y

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        array = as_array("dy", dy)
        if array.ndim != self._ndim - 1:
            return super().backward(array, out)
        dx = super().backward(array[None], _as_sample(out))
        if self.residual_grad is not None:
            self.residual_grad = self.residual_grad[0]
        return dx[0] if out is None else out

    backward.__doc__ = _PerSample.backward.__doc__

    def _gradients(self, saved: _Saved, dy: Readable, out: Array | None) -> BatchNormGradients:
        options: dict[str, Any] = {
            "channel_axis": self.channel_axis, "activation": self.activation, "mask": saved.bits,
            "residual": saved.has_residual, "out": out,
        }  # fmt: skip
        arguments = (dy, saved.x, saved.mean, saved.var, self.weight, self.eps)
        if saved.given:
            return batch_norm_backward(*arguments, False, **options)
        return instance_norm_backward(*arguments, statistics_mask=saved.valid, **options)

    def __repr__(self) -> str:
        return f"{self._name}({self.num_features}, {self._shown(('eps', 'momentum', 'affine', 'track_running_stats'))})"


class InstanceNorm1d(_InstanceNorm):
    __doc__ = documented(_InstanceNorm, "InstanceNorm1d", "(n, c, l) or (c, l)", (4, 2, 3))
    _ndim = 3


class InstanceNorm2d(_InstanceNorm):
    __doc__ = documented(_InstanceNorm, "InstanceNorm2d", "(n, c, h, w) or (c, h, w)", (4, 2, 3, 3))
    _ndim = 4


class InstanceNorm3d(_InstanceNorm):
    __doc__ = documented(_InstanceNorm, "InstanceNorm3d", "(n, c, d, h, w) or (c, d, h, w)", (4, 2, 3, 3, 3))
    _ndim = 5
