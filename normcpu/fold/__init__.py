# SPDX-License-Identifier: Apache-2.0
"""Normalization folded into weights, on arrays."""

from ._scale import FoldError, scale_axis

__all__ = ["FoldError", "scale_axis"]
