# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import normcpu

MODULES = [info.name for info in pkgutil.walk_packages(normcpu.__path__, "normcpu.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_function_has_an_example() -> None:
    missing = [
        name
        for room in (normcpu, normcpu.fold)
        for name in room.__all__
        if name.islower() and ">>>" not in getattr(room, name).__doc__
    ]
    assert missing == ["get_num_threads", "set_num_threads"]
