# SPDX-License-Identifier: Apache-2.0
"""Normalization as functions of arrays; names and order of arguments are torch.nn.functional's.

    x           float32, float64, float16 or bfloat16 (ml_dtypes), any strides: a NumPy array, or an object in the CPU's
                memory with the buffer protocol, __array__ or DLPack, which is read where it lies
    parameters  weight, bias and the like, (c) with c = x.shape[channel_axis]: any float dtype, or a list of numbers;
                computed with in float32, for float64 x in float64
    activation  after everything else: None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid",
                "tanh" or "hardswish"; for float64 x None, "relu", "relu6", "leaky_relu" or "hardswish"
    residual    of the shape and dtype of x, added before the activation
    out         an ndarray for the result, of any strides; it may be x or residual itself, but not overlap it otherwise.
                What is in it after an exception is undefined

Results are new ndarrays with the layout of x.  Ctrl-C stops a long call within 100 ms.
TypeError: not an array, or a dtype that is not as above.  ValueError: shapes, values and overlaps.
"""

from .affine import scale_shift
from .axes import lp_normalize, mean_variance_normalization
from .axes_backward import lp_normalize_backward, mean_variance_normalization_backward
from .batch import batch_norm, batch_norm_backward
from .dropout import alpha_dropout, dropout, dropout_backward
from .dropout_channels import dropout1d, dropout2d, dropout3d
from .groups import group_norm, group_norm_backward
from .instances import instance_norm, instance_norm_backward
from .local import local_response_norm, local_response_norm_backward
from .rows import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .rows_backward import layer_norm_backward, rms_norm_backward

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "alpha_dropout",
    "batch_norm",
    "batch_norm_backward",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "lp_normalize",
    "lp_normalize_backward",
    "mean_variance_normalization",
    "mean_variance_normalization_backward",
    "rms_norm",
    "rms_norm_backward",
    "scale_shift",
]
