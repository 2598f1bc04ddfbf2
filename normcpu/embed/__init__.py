# SPDX-License-Identifier: Apache-2.0
"""To small devices: arrays and frozen layers as C that stands alone, with tests that compare it with NumPy.

`params` writes arrays, `function` layers; what they return has the texts, their needs of memory, and `write`.
"""

from .function import function
from .names import identifier
from .params import params
from .writing import Generated

__all__ = ["Generated", "function", "identifier", "params"]
