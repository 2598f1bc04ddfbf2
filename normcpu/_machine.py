# SPDX-License-Identifier: Apache-2.0
"""Threads and instruction sets.  Importing this gives _core the threads of OpenMP, where they can be had."""

from __future__ import annotations

import operator
from typing import Any

from . import _core


def _load_openmp() -> str:
    try:
        from ._omp import runtime
    except ModuleNotFoundError:
        return "none: built without OpenMP"
    except ImportError as error:
        return f"none: {error}"
    return runtime()


openmp_runtime = _load_openmp()


def set_num_threads(threads: int) -> None:
    """Use at most so many threads per call, 0: as many as OpenMP gives (OMP_NUM_THREADS, threadpoolctl).

    Results do not depend on it.  A call uses fewer where more would not pay.  The default is NORMCPU_NUM_THREADS, or 0.
    """
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise TypeError(f"threads must be an int, got {type(threads).__name__}")
    number = operator.index(threads)
    if number < 0:
        raise ValueError(f"threads must be at least 0, got {number}")
    number = min(number, 2**31 - 1)
    _core.set_num_threads(number)


def get_num_threads() -> int:
    """How many threads a call uses at most."""
    return _core.get_num_threads()


class Config(dict[str, Any]):
    """A dict that prints as a table."""

    def __repr__(self) -> str:
        values = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in self.items()}
        return "\n".join(f"{name:22} {value}" for name, value in values.items())


def show_config() -> Config:
    """What this build is and what it uses here; print it for a bug report.

    >>> show_config()["instruction_set"]  # doctest: +SKIP
    'avx512'
    """
    built = _core.isas_built()
    return Config(
        version=_core.version,
        instruction_set=_core.isa(),
        instruction_sets_built=built,
        instruction_sets_here=tuple(name for name in built if _core.isa_supported(name)),
        threads=_core.get_num_threads(),
        threading_layer=_core.threading_name(),
        openmp_runtime=openmp_runtime,
    )
