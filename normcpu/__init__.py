# SPDX-License-Identifier: Apache-2.0
"""Normalization layers of neural networks on CPUs: exact, repeatable, at the speed of memory."""

from . import fold
from ._machine import Config, get_num_threads, set_num_threads, show_config
from ._module import IncompatibleKeys
from ._types import BatchNormGradients, BatchNormResult, GroupNormResult, MeanVar
from .conventions import CONVENTIONS, Convention, ConvertedState, convert_state
from .frozen import FrozenBatchNorm
from .functional import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    local_response_norm,
    local_response_norm_backward,
    lp_normalize,
    lp_normalize_backward,
    mean_variance_normalization,
    mean_variance_normalization_backward,
    scale_shift,
)
from .layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LocalResponseNorm,
)
from .statistics import Moments, moments

__version__ = "0.1.0"

__all__ = [
    "CONVENTIONS",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormGradients",
    "BatchNormResult",
    "Config",
    "Convention",
    "ConvertedState",
    "FrozenBatchNorm",
    "GroupNorm",
    "GroupNormResult",
    "IncompatibleKeys",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LocalResponseNorm",
    "MeanVar",
    "Moments",
    "batch_norm",
    "batch_norm_backward",
    "convert_state",
    "fold",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "lp_normalize",
    "lp_normalize_backward",
    "mean_variance_normalization",
    "mean_variance_normalization_backward",
    "moments",
    "scale_shift",
    "set_num_threads",
    "show_config",
]
