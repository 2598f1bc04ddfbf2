# SPDX-License-Identifier: Apache-2.0
"""The functions as objects that hold parameters, with PyTorch's constructors and state_dict keys."""

from .batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .groups import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .local import LocalResponseNorm
from .rows import LayerNorm, RMSNorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
]
