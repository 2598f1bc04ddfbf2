# SPDX-License-Identifier: Apache-2.0
"""Normalization layers of neural networks on CPUs: exact, repeatable, at the speed of memory."""

from . import fold
from ._machine import Config, get_num_threads, set_num_threads, show_config
from ._module import IncompatibleKeys
from ._types import BatchNormGradients, BatchNormResult, MeanVar, Quantization, RowNormGradients, RowNormResult
from .conventions import CONVENTIONS, Convention, ConvertedState, convert_state
from .frozen import FrozenBatchNorm
from .functional import (
    add_layer_norm,
    add_rms_norm,
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
    scale_shift,
)
from .layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm, RMSNorm
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
    "IncompatibleKeys",
    "LayerNorm",
    "MeanVar",
    "Moments",
    "Quantization",
    "RMSNorm",
    "RowNormGradients",
    "RowNormResult",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "batch_norm_backward",
    "convert_state",
    "fold",
    "get_num_threads",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "rms_norm",
    "rms_norm_backward",
    "scale_shift",
    "set_num_threads",
    "show_config",
]
