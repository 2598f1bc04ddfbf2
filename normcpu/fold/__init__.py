# SPDX-License-Identifier: Apache-2.0
"""Normalization folded into weights, on arrays: exact rewrites, computed in float64 and rounded once, or refused.

One value carries it, `Affine`: y = x * scale + shift per channel.  It goes into the layer before it or behind it,
into another affine, or into a sum of branches.  https://arxiv.org/abs/1712.05877, 3.2.

>>> import numpy as np
>>> norm = Affine.of_batch_norm([0.5, 0.0], [4.0, 1.0], eps=0.0)
>>> conv_then_affine(np.ones((2, 3, 1, 1)), np.ones(2), norm).bias
array([0.25, 1.  ])
"""

from ._scale import FoldError, scale_axis
from ._weights import Weights
from .affine import Affine, BatchNormParameters
from .branches import Branch, average_pool_conv, identity_conv, parallel_convs, pointwise_then_conv
from .convolution import (
    PaddedWeights,
    affine_then_conv,
    affine_then_conv_transpose,
    affine_then_padded_conv,
    conv_then_affine,
    conv_transpose_then_affine,
)
from .linear import affine_then_linear, centre_linear, linear_then_affine
from .quantized import QuantizedWeights, quantized_then_affine
from .state import Doubt, FoldedState, Pair, fold_state_dict

__all__ = [
    "Affine",
    "BatchNormParameters",
    "Branch",
    "Doubt",
    "FoldError",
    "FoldedState",
    "PaddedWeights",
    "Pair",
    "QuantizedWeights",
    "Weights",
    "affine_then_conv",
    "affine_then_conv_transpose",
    "affine_then_linear",
    "affine_then_padded_conv",
    "average_pool_conv",
    "centre_linear",
    "conv_then_affine",
    "conv_transpose_then_affine",
    "fold_state_dict",
    "identity_conv",
    "linear_then_affine",
    "parallel_convs",
    "pointwise_then_conv",
    "quantized_then_affine",
    "scale_axis",
]
