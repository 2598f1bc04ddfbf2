# SPDX-License-Identifier: Apache-2.0
"""To small devices: arrays and frozen layers as C that stands alone, with tests that compare it with NumPy.

`params` writes arrays, `function` layers; what they return has the texts, their needs of memory, and `write`.
The layers here are those around a normalization, so that a folded network is a list of them; `normcpu embed` makes one
of a model in ONNX.
"""

from .function import function, simulate
from .layers import AveragePool, Conv, GlobalAveragePool, Linear, MaxPool
from .names import identifier
from .params import params
from .pointwise import Activate, Clip, Reshape, ScaleShift, Softmax
from .writing import Generated

__all__ = [
    "Activate",
    "AveragePool",
    "Clip",
    "Conv",
    "Generated",
    "GlobalAveragePool",
    "Linear",
    "MaxPool",
    "Reshape",
    "ScaleShift",
    "Softmax",
    "function",
    "identifier",
    "params",
    "simulate",
]
