# SPDX-License-Identifier: Apache-2.0
"""Normalization layers of neural networks on CPUs: exact, repeatable, at the speed of memory."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import embed as embed
    from . import onnx as onnx
    from ._public import *  # noqa: F403
    from ._public import __all__ as __all__
else:

    def __getattr__(name):
        """All names come when the first is asked for: the command line's help is there before NumPy could be."""
        if name in ("embed", "onnx"):
            return import_module(f"{__name__}.{name}")
        if name == "__all__" or not name.startswith("_"):
            public = import_module(f"{__name__}._public")
            globals().update({known: getattr(public, known) for known in ("__all__", *public.__all__)})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__():
        return [*globals(), *__getattr__("__all__")]
