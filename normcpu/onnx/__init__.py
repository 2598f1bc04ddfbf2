# SPDX-License-Identifier: Apache-2.0
"""Folding in exported models: every affine operation that can go into weights exactly goes there.

    folded, report = normcpu.onnx.fold("model.onnx")
    normcpu.onnx.save(folded, "folded.onnx")

Wants the extra `onnx`: pip install "normcpu[onnx]".  `normcpu fold` is the same on the command line.
"""

try:
    import onnx_ir  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f'{missing.name} is not installed: folding models wants pip install "normcpu[onnx]"', name=missing.name
    ) from None

from .bench import Timing, bench
from .embed import CannotEmbed, embed, layers
from .engine import AGGRESSIVE, RULES
from .fold import UnknownNode, UnknownRule, fold
from .push import Record
from .report import Report
from .run import CannotRun
from .save import load, save
from .valid import ModelError
from .verify import Reference, Verification

__all__ = [
    "AGGRESSIVE",
    "RULES",
    "CannotEmbed",
    "CannotRun",
    "ModelError",
    "Record",
    "Reference",
    "Report",
    "Timing",
    "UnknownNode",
    "UnknownRule",
    "Verification",
    "bench",
    "embed",
    "fold",
    "layers",
    "load",
    "save",
]
