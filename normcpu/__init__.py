# SPDX-License-Identifier: Apache-2.0
"""Normalization layers of neural networks on CPUs: exact, repeatable, at the speed of memory."""

from . import fold
from ._machine import Config, get_num_threads, set_num_threads, show_config
from ._types import BatchNormGradients, BatchNormResult, MeanVar
from .frozen import FrozenBatchNorm
from .functional import batch_norm, batch_norm_backward, scale_shift
from .layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .statistics import Moments, moments

__version__ = "0.1.0"

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormGradients",
    "BatchNormResult",
    "Config",
    "FrozenBatchNorm",
    "MeanVar",
    "Moments",
    "batch_norm",
    "batch_norm_backward",
    "fold",
    "get_num_threads",
    "moments",
    "scale_shift",
    "set_num_threads",
    "show_config",
]
