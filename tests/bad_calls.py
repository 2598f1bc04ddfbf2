# SPDX-License-Identifier: Apache-2.0
"""(call, exception, exact message), with the names of `names()`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from bad_family_calls import ACTIVATIONS, BAD_FAMILY_CALLS, FLOATS, TO_FLOAT
from numpy.lib.stride_tricks import as_strided

import normcpu


class OnGpu:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Unreadable:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("the file is gone")


def names() -> dict[str, Any]:
    """Fresh for each call: x (2, 3, 4) and what belongs to it; buffers (3) to update."""
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    block = np.ones(28, np.float32)
    read_only = np.ones(3, np.float32)
    read_only.flags.writeable = False
    return vars(normcpu) | {
        "np": np, "x": x, "mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32), "w": np.ones(3, np.float32),
        "m64": np.zeros(3), "v64": np.ones(3), "OnGpu": OnGpu, "Unreadable": Unreadable, "read_only": read_only,
        "misaligned": np.zeros(13, np.uint8)[1:].view(np.float32), "bits": np.zeros((2, 3, 1), np.uint8),
        "front": block[:24].reshape(2, 3, 4), "back": block[4:].reshape(2, 3, 4), "first": block[:3],
        "stacked": as_strided(np.ones(12, np.float32), (2, 3, 4), (0, 16, 4)), "one": x[:1, :, :1],
        "of": SimpleNamespace(x=normcpu.Moments.of(x), two=normcpu.Moments.of(x[:, :2])),
    }  # fmt: skip


BYTES = "x must be float32, float64, float16, bfloat16, uint8 or int8, got "

X = [
    ("batch_norm(None, mean, var)", TypeError, "x must be an array, got NoneType"),
    ("batch_norm(1.0, mean, var)", TypeError, "x must be an array, got float"),
    ("batch_norm('x', mean, var)", TypeError, "x must be an array, got str"),
    ("batch_norm([[1.0]], mean, var)", TypeError,
     "x must be an array, got list: convert with numpy.asarray(x, dtype='float32')"),
    ("batch_norm(object(), mean, var)", TypeError, "x must be an array, got object"),
    ("batch_norm(Unreadable(), mean, var)", TypeError,
     "x must be an array, got Unreadable, which says: the file is gone"),
    ("batch_norm(OnGpu(), mean, var)", TypeError,
     "x must be in the CPU's memory, got OnGpu on device (2, 0): copy it there first"),
    ("batch_norm(x.astype('int64'), mean, var)", TypeError, FLOATS + "int64" + TO_FLOAT),
    ("batch_norm(x.astype('uint8'), mean, var)", TypeError,
     FLOATS + "uint8: scale_shift takes it as it is; or convert it with x.astype('float32')"),
    ("batch_norm(x.astype(bool), mean, var)", TypeError, FLOATS + "bool" + TO_FLOAT),
    ("batch_norm(x.astype(object), mean, var)", TypeError, FLOATS + "object" + TO_FLOAT),
    ("batch_norm(x.astype('complex64'), mean, var)", TypeError,
     FLOATS + "complex64: pass x.real and x.imag one after the other"),
    ("batch_norm(x.astype('longdouble'), mean, var)", TypeError,
     f"{FLOATS}{np.dtype('longdouble')}: convert it with x.astype('float64')"),
    ("batch_norm(x.astype('S1'), mean, var)", TypeError, FLOATS + "|S1"),
    ("batch_norm(x.astype('>f4'), mean, var)", TypeError,
     "x must be in native byte order, got >f4: convert it with x.astype('float32')"),
    ("batch_norm(np.ma.array(x), mean, var)", TypeError,
     "x must not be a masked array, whose mask would be ignored: fill it with x.filled()"),
    ("batch_norm(x[0].view(np.matrix), mean, var)", TypeError,
     "x must not be a numpy.matrix: pass numpy.asarray(x)"),
    ("batch_norm(np.float32(1), mean, var)", TypeError, "x must be an array, got float32"),
    ("batch_norm(np.array(1, 'f4'), mean, var)", ValueError, "x must have at least 2 dimensions, got shape ()"),
    ("batch_norm(w, mean, var)", ValueError, "x must have at least 2 dimensions, got shape (3,)"),
    ("batch_norm(np.ones((1,) * 17, 'f4'), mean, var)", ValueError, "x must have at most 16 dimensions, got 17"),
    ("scale_shift(x.astype('int16'))", TypeError, BYTES + "int16" + TO_FLOAT),
    ("scale_shift(np.array(1, 'f4'))", ValueError, "x must have at least 1 dimension, got shape ()"),
    ("scale_shift(w)", ValueError, "channel_axis must be an axis of x, which has shape (3,), got 1"),
    ("moments(x.astype('int32'))", TypeError, FLOATS + "int32" + TO_FLOAT),
]  # fmt: skip

PARAMETERS = [
    ("batch_norm(x, mean[:2], var)", ValueError, "running_mean must have shape (3,), one value per channel, got (2,)"),
    ("batch_norm(x, mean, var[:, None])", ValueError,
     "running_var must have shape (3,), one value per channel, got (3, 1)"),
    ("batch_norm(x, mean, var, [1, [2], 3])", ValueError,
     "weight must be numbers, one value per channel, got [1, [2], 3]"),
    ("batch_norm(x, mean, var, np.ones(4))", ValueError,
     "weight must have shape (3,), one value per channel, got (4,)"),
    ("batch_norm(x, mean, var, w, np.ones((1, 3, 1)))", ValueError,
     "bias must have shape (3,), one value per channel, got (1, 3, 1)"),
    ("batch_norm(x, mean, var, np.ones(3, int))", TypeError,
     "weight must be float32, float64, float16 or bfloat16, got int64: convert it with weight.astype('float32')"),
    ("batch_norm(x, mean, var, ['1', '2', '3'])", TypeError, "weight must be real numbers, got a list of <U1"),
    ("batch_norm(x, mean, var, 2.0)", TypeError, "weight must be an array, got float"),
    ("scale_shift(x, 1 / 255)", TypeError, "scale must be an array, got float"),
    ("scale_shift(x, center=[1.0, 2.0])", ValueError, "center must have shape (3,), one value per channel, got (2,)"),
    ("batch_norm(x, None, None)", ValueError,
     "running_mean and running_var must be arrays unless in training, got None"),
    ("batch_norm(x, mean, None)", ValueError, "running_mean and running_var must be given together, got one of them"),
    ("batch_norm(x, mean, var, residual=x[:1])", ValueError,
     "residual must have the shape of x, (2, 3, 4), got (1, 3, 4)"),
    ("batch_norm(x, mean, var, residual=x.astype(float))", TypeError,
     "residual must have the dtype of x, float32, got float64"),
    ("scale_shift(x.astype('uint8'), residual=x)", ValueError, "residual must be None where x is uint8, got ndarray"),
    ("batch_norm_backward(None, x, m64, v64)", TypeError, "dy must be an array, got NoneType"),
    ("batch_norm_backward(x[:1], x, m64, v64)", ValueError, "dy must have the shape of x, (2, 3, 4), got (1, 3, 4)"),
    ("batch_norm_backward(x, x, None, v64)", TypeError, "mean must be an array, got NoneType"),
    ("batch_norm_backward(x, x, m64, v64[:1])", ValueError,
     "var must have shape (3,), one value per channel, got (1,)"),
    ("batch_norm_backward(x, x, m64, v64, activation='silu')", ValueError,
     "activation of the backward pass must be None or 'relu', got 'silu'"),
    ("batch_norm_backward(x, x, m64, v64, activation='relu')", ValueError,
     "activation='relu' needs y or mask, got neither"),
    ("batch_norm_backward(x, x, m64, v64, activation='relu', y=x, mask=bits)", ValueError,
     "activation='relu' needs y or mask, got both"),
    ("batch_norm_backward(x, x, m64, v64, activation='relu', mask=bits[:1])", ValueError,
     "mask must have shape (2, 3, 1), got (1, 3, 1)"),
    ("batch_norm_backward(x, x, m64, v64, activation='relu', mask=bits > 0)", TypeError,
     "mask must be uint8, got bool"),
]  # fmt: skip

NUMBERS = [
    ("batch_norm(x, mean, var, channel_axis=3)", ValueError,
     "channel_axis must be an axis of x, which has shape (2, 3, 4), got 3"),
    ("batch_norm(x, mean, var, channel_axis=True)", TypeError, "channel_axis must be an int, got bool"),
    ("batch_norm(x, mean, var, channel_axis=1.0)", TypeError, "channel_axis must be an int, got float"),
    ("batch_norm(x, mean, var, eps=-1e-5)", ValueError, "eps must be finite and at least 0, got -1e-05"),
    ("batch_norm(x, mean, var, eps=np.nan)", ValueError, "eps must be finite and at least 0, got nan"),
    ("batch_norm(x, mean, var, eps=10**400)", ValueError, "eps must be finite and at least 0, got inf"),
    ("batch_norm(x, mean, var, eps='1')", TypeError, "eps must be a number, got str"),
    ("batch_norm(x, mean, var, eps=True)", TypeError, "eps must be a number, got bool"),
    ("batch_norm(x, mean, var, training=True, momentum=None)", TypeError, "momentum must be a number, got NoneType"),
    ("batch_norm(x, mean, var, training=True, momentum=np.inf)", ValueError, "momentum must be finite, got inf"),
    ("batch_norm(x, mean, var, activation='selu')", ValueError, f"activation must be None, {ACTIVATIONS}, got 'selu'"),
    ("batch_norm(x, mean, var, activation=['relu'])", ValueError,
     f"activation must be None, {ACTIVATIONS}, got ['relu']"),
    ("batch_norm(x.astype(float), mean, var, activation='silu')", ValueError,
     "activation must be None, 'relu', 'relu6', 'leaky_relu' or 'hardswish' where x is float64, got 'silu'"),
    ("batch_norm(x, mean, var, activation='leaky_relu', negative_slope=None)", TypeError,
     "negative_slope must be a number, got NoneType"),
    ("batch_norm(x, mean, var, return_mask=True)", ValueError,
     "activation must be 'relu' for return_mask, got None"),
    ("batch_norm(x, mean, var, nonfinite='ignore')", ValueError,
     "nonfinite must be 'propagate', 'skip' or 'raise', got 'ignore'"),
    ("batch_norm(x, mean, var, single_value='nan')", ValueError,
     "single_value must be 'raise', 'zero' or 'running', got 'nan'"),
    ("batch_norm(one, mean, var, training=True)", ValueError,
     "Expected more than 1 value per channel when training, got input size (1, 3, 1)"),
    ("batch_norm(one, None, None, training=True, single_value='running')", ValueError,
     "running_mean and running_var must be arrays for single_value='running', got None"),
    ("batch_norm(x + np.float32('inf'), mean, var, training=True, nonfinite='raise')", FloatingPointError,
     "a running statistic would become NaN or infinite (nonfinite='raise'); none was changed"),
    ("moments(x, 3)", ValueError, "axis must be an axis of x, which has shape (2, 3, 4), got 3"),
    ("moments(x, (0, -3))", ValueError, "axis must not name an axis twice, got (0, -3)"),
    ("moments(x, 1, channel_axis=1)", ValueError, "axis must be None where channel_axis is given, got 1"),
    ("moments(x, ddof='1')", TypeError, "ddof must be a number, got str"),
    ("set_num_threads(-1)", ValueError, "threads must be at least 0, got -1"),
    ("batch_norm(x, mean, var, channel_axis=10**30)", ValueError,
     f"channel_axis must be an axis of x, which has shape (2, 3, 4), got {10**30}"),
    ("convert_state({}, ['keras'])", ValueError,
     "convention must be one of pytorch, keras, keras_fused, keras_std, flax, flax_nnx, onnx, textbook, got ['keras']"),
    ("convert_state({'gamma': w}, 'keras', eps='1')", TypeError, "eps must be a number, got str"),
    ("convert_state({'gamma': w}, 'keras', count=2.5)", TypeError, "count must be an int, got float"),
    ("BatchNorm1d(2.0)", TypeError, "num_features must be an int, got float"),
    ("BatchNorm1d(2, momentum='0.1')", TypeError, "momentum must be a number, got str"),
    ("BatchNorm1d(2, eps='0.1')", TypeError, "eps must be a number, got str"),
    ("set_num_threads(1.5)", TypeError, "threads must be an int, got float"),
]  # fmt: skip

WRITTEN = [
    ("batch_norm(x, [0.0] * 3, var, training=True)", TypeError,
     "running_mean is updated in place, so it must be a numpy.ndarray, got list"),
    ("batch_norm(x, m64, var, training=True)", TypeError,
     "running_mean is updated in place, so it must be float32 for this x, got float64"),
    ("batch_norm(x.astype(float), mean, var, training=True)", TypeError,
     "running_mean is updated in place, so it must be float64 for this x, got float32"),
    ("batch_norm(x, mean, var.astype('>f4'), training=True)", TypeError,
     "running_var is updated in place, so it must be float32 for this x, got >f4"),
    ("batch_norm(x, mean, read_only, training=True)", TypeError,
     "running_var is updated in place, so it must be writeable, got a read-only array"),
    ("batch_norm(x, np.ma.array(mean), var, training=True)", TypeError,
     "running_mean must not be a masked array, whose mask would be ignored: fill it with running_mean.filled()"),
    ("batch_norm(x, mean[:2], var, training=True)", ValueError,
     "running_mean must have shape (3,), one value per channel, got (2,)"),
    ("batch_norm(x, np.ones(6, 'f4')[::2], var, training=True)", ValueError,
     "running_mean is updated in place, so it must be contiguous, got strides (8,)"),
    ("batch_norm(x, misaligned, var, training=True)", ValueError,
     "running_mean is updated in place, so it must be aligned, got a misaligned array"),
    ("batch_norm(x, mean, mean, training=True)", ValueError, "running_mean must not share memory with running_var"),
    ("batch_norm(x, mean, w, w, training=True)", ValueError, "running_var must not share memory with weight"),
    ("batch_norm(x, mean, x.reshape(-1)[:3], training=True)", ValueError, "running_var must not share memory with x"),
    ("batch_norm(x, first, var, out=front, training=True)", ValueError, "out must not share memory with running_mean"),
    ("batch_norm(x, mean, var, first, out=front)", ValueError, "out must not share memory with weight"),
    ("batch_norm(x, mean, var, out=[1.0])", TypeError, "out must be a numpy.ndarray, got list"),
    ("batch_norm(x, mean, var, out=np.ma.array(x))", TypeError,
     "out must not be a masked array, whose mask would be ignored: fill it with out.filled()"),
    ("batch_norm(x, mean, var, out=x[:1])", ValueError, "out must have shape (2, 3, 4), got (1, 3, 4)"),
    ("batch_norm(x, mean, var, out=x.astype(float))", TypeError, "out must be float32, got float64"),
    ("batch_norm(x, mean, var, out=np.broadcast_to(x, x.shape))", ValueError,
     "out must be writeable, got a read-only array"),
    ("batch_norm(x, mean, var, out=stacked)", ValueError,
     "out must have a place of its own for every element, got strides (0, 16, 4)"),
    ("batch_norm(front, mean, var, out=back)", ValueError,
     "out partly overlaps x: it must be x itself or share no memory with it"),
    ("batch_norm(x, mean, var, out=x[::-1])", ValueError,
     "out partly overlaps x: it must be x itself or share no memory with it"),
    ("batch_norm(x, mean, var, residual=front, out=back)", ValueError,
     "out partly overlaps residual: it must be residual itself or share no memory with it"),
    ("batch_norm_backward(x.copy(), x, m64, v64, out=x)", ValueError, "out must not share memory with x"),
    ("moments(x, out=v64)", TypeError, "out must be a tuple of two arrays, for mean and var, got ndarray"),
    ("moments(x, channel_axis=1, out=(m64, w))", TypeError, "out[1] must be float64, got float32"),
    ("moments(x, channel_axis=1, out=(m64, m64))", ValueError, "out[0] must not share memory with out[1]"),
]  # fmt: skip

MOMENTS = [
    ("Moments(1.0)", TypeError, "channel_axis must be an int, got float"),
    ("of.x.update(x[:, :2])", ValueError, "x must have 3 channels on axis 1, got shape (2, 2, 4)"),
    ("of.x.merge(x)", TypeError, "other must be a Moments, got ndarray"),
    ("of.x.merge(of.two)", ValueError, "other must have 3 channels, got 2"),
    ("Moments.from_state({'mean': m64})", ValueError, "state must have count, mean and m2, got none of: count, m2"),
    ("Moments.from_state({'count': 1.5, 'mean': m64, 'm2': m64})", TypeError, "count must be an int, got float"),
    ("Moments.from_state({'count': 1, 'mean': m64, 'm2': m64[:2]})", ValueError,
     "state must have a count of at least 0 and arrays (c), "
     "got 1 and mean (3,), mean_tail (3,), m2 (2,), m2_tail (3,)"),
]  # fmt: skip

BAD_CALLS = [*X, *PARAMETERS, *NUMBERS, *WRITTEN, *MOMENTS, *BAD_FAMILY_CALLS]
