# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import normcpu

MODULES = [f"normcpu.{info.name}" for info in pkgutil.iter_modules(normcpu.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_function_has_an_example() -> None:
    missing = [name for name in normcpu.__all__ if name.islower() and ">>>" not in getattr(normcpu, name).__doc__]
    assert missing == ["get_num_threads", "set_num_threads"]
