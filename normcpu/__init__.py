# SPDX-License-Identifier: Apache-2.0
"""Normalization layers of neural networks on CPUs: exact, repeatable, at the speed of memory."""

from . import fold
from ._machine import Config, get_num_threads, set_num_threads, show_config
from ._module import IncompatibleKeys
from ._types import BatchNormGradients, BatchNormResult, DropoutResult, MeanVar
from .conventions import CONVENTIONS, Convention, ConvertedState, convert_state
from .frozen import FrozenBatchNorm
from .functional import (
    alpha_dropout,
    batch_norm,
    batch_norm_backward,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    dropout_backward,
    scale_shift,
)
from .layers import (
    AlphaDropout,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
)
from .optim import SGD, AdamW
from .statistics import Moments, moments

__version__ = "0.1.0"

__all__ = [
    "CONVENTIONS",
    "SGD",
    "AdamW",
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormGradients",
    "BatchNormResult",
    "Config",
    "Convention",
    "ConvertedState",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutResult",
    "FrozenBatchNorm",
    "IncompatibleKeys",
    "MeanVar",
    "Moments",
    "alpha_dropout",
    "batch_norm",
    "batch_norm_backward",
    "convert_state",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_backward",
    "fold",
    "get_num_threads",
    "moments",
    "scale_shift",
    "set_num_threads",
    "show_config",
]
