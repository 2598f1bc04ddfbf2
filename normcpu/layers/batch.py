# SPDX-License-Identifier: Apache-2.0
"""Batch normalization as objects that hold parameters: torch.nn.BatchNorm1d, 2d and 3d on arrays."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .._arrays import as_array, as_int, as_number
from .._module import BatchNormModule, documented
from .._types import Activation, Array, NonFinite, Readable, SingleValue
from ..conventions import Convention, get_convention
from ..functional import batch_norm, batch_norm_backward
from ..functional.parts import as_batch_size

# The options PyTorch does not have: shown by repr where they are not these.
_OURS = {
    "channel_axis": 1, "activation": None, "negative_slope": 0.01, "nonfinite": "propagate",
    "single_value": "raise", "biased": False, "virtual_batch_size": None,
}  # fmt: skip


class _Saved(NamedTuple):
    """What a forward call leaves for backward."""

    x: Any
    mean: Array
    var: Array
    mask: Array | None
    valid: Array | None  # the mask of positions
    of_batch: bool  # mean and var depend on x
    has_residual: bool
    overwritten: bool  # out= may have been x itself


class _BatchNorm(BatchNormModule):
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), per channel.

    While training, mean and var (biased) are those of the batch and the buffers follow them,

        running = (1 - momentum) * running + momentum * batch      (variance unbiased, unless biased=True)

    with momentum 1 / num_batches_tracked where it is None: the plain average of all batches.  In evaluation
    mean and var are the buffers, or those of the batch where there are none (track_running_stats=False).
    https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html

    num_features    c, the channels of x
    momentum        the weight of the new value; None for a cumulative average
    affine, bias    whether there is a weight (c,), and with it a bias (c,)
    dtype           of parameters and buffers: float32 for x of float32, float16 or bfloat16, or float64
    channel_axis    1, or -1 for channels-last x
    activation, negative_slope, nonfinite, single_value, biased, virtual_batch_size    as in `batch_norm`

    weight, bias, running_mean, running_var (c,) and num_batches_tracked (), int64, are NumPy arrays or None.
    skipped_updates counts training calls that left the buffers as they were (nonfinite="skip", single_value
    "zero" or "running", an empty batch).  Such a call, and one that raises or is interrupted, leaves buffers
    and num_batches_tracked bit for bit; PyTorch counts a batch before it looks at it.

    Errors: ValueError and TypeError for arguments, each naming what was expected and what came.
    """

    _ndims: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = np.float32,
        channel_axis: int = 1,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        nonfinite: NonFinite = "propagate",
        single_value: SingleValue = "raise",
        biased: bool = False,
        virtual_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        c = self.num_features = as_int("num_features", num_features)
        self.eps = as_number("eps", eps, 0.0)
        self.momentum = momentum if momentum is None else as_number("momentum", momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.channel_axis = as_int("channel_axis", channel_axis)
        self.activation = activation
        self.negative_slope = as_number("negative_slope", negative_slope)
        self.nonfinite = nonfinite
        self.single_value = single_value
        self.biased = biased
        self.virtual_batch_size = as_batch_size(virtual_batch_size)
        self._check_arguments(np.dtype(dtype))
        self.weight = np.ones(c, dtype) if affine else None
        self.bias = np.zeros(c, dtype) if affine and bias else None
        self.running_mean = np.zeros(c, dtype) if track_running_stats else None
        self.running_var = np.ones(c, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    @classmethod
    def from_convention(
        cls,
        convention: str | Convention,
        num_features: int,
        *,
        eps: float | None = None,
        momentum: float | None = None,
        **options: Any,
    ) -> Self:
        """A layer that trains as another framework's does: "keras", "flax", "onnx", ... (see CONVENTIONS).

        eps and momentum are in that convention's terms, and its defaults where left out; the layer's own
        momentum is always the weight of the new value.  options: further arguments of the constructor.
        """
        rule = get_convention(convention)
        if rule.holds_std:
            raise ValueError(f"convention must average variances, got {rule.name!r}")
        options = {"channel_axis": rule.channel_axis, "biased": rule.biased, **options}
        weight_of_new = rule.momentum_of_new(rule.momentum if momentum is None else momentum)
        return cls(num_features, rule.eps if eps is None else eps, weight_of_new, **options)

    def forward(
        self, x: Readable, residual: Readable | None = None, out: Array | None = None, mask: Array | None = None
    ) -> Array:
        """y of the shape and dtype of x.

        residual: added before the activation, of the shape and dtype of x.  out: where y goes; may be x.  mask: the
        positions that the batch's statistics are taken of, as in `batch_norm`.
        In training mode the layer keeps a reference to x for `backward`: change x in place only after that.
        Errors: those of `batch_norm`; ValueError for another number of axes or channels.
        """
        x = x if type(x) is np.ndarray else as_array("x", x)
        self._check_input(x)
        learning = self.training and not self.frozen
        of_batch = learning or (self.running_mean is None and self.running_var is None)
        tracked = self.track_running_stats or not learning
        mean, var = (self.running_mean, self.running_var) if tracked else (None, None)
        arguments = (x, mean, var, self.weight, self.bias, of_batch, self._step_momentum(), self.eps)
        options = self._options(of_batch, residual, out, mask)
        if not self.training:
            y: Array = batch_norm(*arguments, **options)
            return y
        options |= {"return_stats": True, "return_mask": self.activation == "relu"}
        return self._training_step(arguments, options, counted=learning and self.track_running_stats)

    __call__ = forward

    def backward(self, dy: Readable, out: Array | None = None) -> Array:
        """dx, the gradient of the input of the last forward call in training mode; one backward per forward.

        dy, dx: of the shape and dtype of x.  out: where dx goes; may be dy.  The gradients of the parameters,
        (c,), are added to weight_grad and bias_grad (None at first and after `zero_grad`); residual_grad is
        this call's alone.  In evaluation mode nothing is kept: `freeze` and `train` for the gradient through
        given statistics.
        Errors: those of `batch_norm_backward` (activation None or "relu"); RuntimeError where there is no
        forward call to go back through.
        """
        saved: _Saved | None = self._saved
        if saved is None:
            raise RuntimeError(f"{self._name}.backward: call the layer in training mode first, once for each")
        if saved.overwritten:
            raise RuntimeError(f"{self._name}.backward: the forward call may have overwritten x (out=)")
        activation: Any = self.activation  # what backward refuses it says itself
        dx, dweight, dbias, dresidual = batch_norm_backward(
            dy, saved.x, saved.mean, saved.var, self.weight, self.eps, saved.of_batch,
            channel_axis=self.channel_axis, activation=activation, mask=saved.mask,
            statistics_mask=saved.valid, virtual_batch_size=self.virtual_batch_size,
            residual=saved.has_residual, out=out,
        )  # fmt: skip
        self._saved = None
        self._accumulate(dweight, dbias)
        self.residual_grad = dresidual
        return dx

    def _training_step(self, arguments: tuple[Any, ...], options: dict[str, Any], counted: bool) -> Array:
        candidates = (self.running_mean, self.running_var, self.num_batches_tracked)
        buffers = [buffer for buffer in candidates if isinstance(buffer, np.ndarray)]
        before = [buffer.copy() for buffer in buffers]
        self._saved = None
        try:
            result: Any = batch_norm(*arguments, **options)
            self._saved = self._save(arguments[0], arguments[5], result, options)
            if counted and (result.skipped or self._count(arguments[0], options) < 2):
                self.skipped_updates += 1
            elif counted and self.num_batches_tracked is not None:
                self.num_batches_tracked[...] += 1
            y: Array = result.y
            return y
        except BaseException:
            # The call itself commits all or nothing, but Ctrl-C may come between its return and the count.
            for buffer, old in zip(buffers, before, strict=True):
                if buffer.flags.writeable:
                    buffer[...] = old
            raise

    def _save(self, x: Array, of_batch: bool, result: Any, options: dict[str, Any]) -> _Saved:
        out = options["out"]
        overwritten = out is not None and np.may_share_memory(x, out)
        # A single value per channel normalized with the running statistics: they do not depend on x.
        borrowed = self.single_value == "running" and self._count(x, options) == 1
        of_batch, residual = of_batch and not borrowed, options["residual"] is not None
        return _Saved(x, result.mean, result.var, result.mask, options.get("mask"), of_batch, residual, overwritten)

    def _count(self, x: Array, options: dict[str, Any]) -> int:
        """Values per channel; the fewest of a ghost batch."""
        samples, mask = x.shape[0], options.get("mask")
        parts = max(1, samples // self.virtual_batch_size) if self.virtual_batch_size else 1
        if mask is None:
            return int(x.size // self.num_features // parts)
        return int(mask.reshape(parts, -1).sum(1).min()) if mask.size else 0

    def _options(self, of_batch: bool, residual: Any = None, out: Any = None, mask: Any = None) -> dict[str, Any]:
        options = {
            "channel_axis": self.channel_axis, "activation": self.activation,
            "negative_slope": self.negative_slope, "residual": residual, "out": out,
        }  # fmt: skip
        if of_batch:
            options |= {"nonfinite": self.nonfinite, "single_value": self.single_value, "biased": self.biased}
        if of_batch and (mask is not None or self.virtual_batch_size is not None):
            options |= {"mask": mask, "virtual_batch_size": self.virtual_batch_size}
        return options

    def _step_momentum(self) -> float:
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.num_batches_tracked is None else 1.0 / (int(self.num_batches_tracked) + 1)

    def _check_arguments(self, dtype: np.dtype[Any]) -> None:
        if self.num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {self.num_features}")
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 (also for float16 data) or float64, got {dtype}")
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be None or a number from 0 to 1, got {self.momentum}")
        # The other arguments are checked where they are defined.
        x, zeros = np.zeros((2,) * self._ndims[-1], dtype), np.zeros(2, dtype)
        options = self._options(of_batch=True) | {"virtual_batch_size": None}
        batch_norm(x, zeros, zeros.copy(), training=True, eps=self.eps, **options)

    def _check_input(self, x: Array) -> None:
        shape = x.shape
        if len(shape) not in self._ndims:
            expected = " or ".join(f"{ndim}D" for ndim in self._ndims)
            raise ValueError(f"expected {expected} input (got {len(shape)}D input)")
        if shape[self.channel_axis] != self.num_features:
            axis = self.channel_axis
            raise ValueError(f"x must have {self.num_features} channels on axis {axis}, got shape {shape}")

    def __repr__(self) -> str:
        names = ("eps", "momentum", "affine", "bias", "track_running_stats")
        shown = {name: getattr(self, name) for name in names} | {"bias": self.bias is not None}
        shown |= {name: getattr(self, name) for name, usual in _OURS.items() if getattr(self, name) != usual}
        return f"{self._name}({self.num_features}, {', '.join(f'{name}={shown[name]!r}' for name in shown)})"


class BatchNorm1d(_BatchNorm):
    __doc__ = documented(_BatchNorm, "BatchNorm1d", "(n, c) or (n, c, l)", (4, 2))
    _ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = documented(_BatchNorm, "BatchNorm2d", "(n, c, h, w)", (4, 2, 3, 3))
    _ndims = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = documented(_BatchNorm, "BatchNorm3d", "(n, c, d, h, w)", (4, 2, 3, 3, 3))
    _ndims = (5,)
