# SPDX-License-Identifier: Apache-2.0
"""The functions as objects that hold parameters, with PyTorch's constructors and state_dict keys."""

from .batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d
from .groups import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .local import LocalResponseNorm, LpNormalization, MeanVarianceNormalization
from .rows import LayerNorm, RMSNorm

__all__ = [
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNorm",
]
