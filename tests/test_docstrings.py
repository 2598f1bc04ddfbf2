# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings give what they say, and whoever reads a signature can name what is in it."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from peers import peer

import normcpu
import normcpu._public
import normcpu.embed

MODULES = [
    pytest.param(info.name, marks=pytest.mark.peers if info.name.startswith("normcpu.onnx") else ())
    for info in pkgutil.walk_packages(normcpu.__path__, "normcpu.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    for needed in ("onnx", "onnx_ir") if name.startswith("normcpu.onnx") else ():
        peer(needed)
    assert doctest.testmod(importlib.import_module(name), extraglobs={"np": np}).failed == 0


def test_every_function_has_an_example() -> None:
    missing = [
        name
        for room in (normcpu, normcpu.embed, normcpu.fold)
        for name in room.__all__
        if name.islower() and ">>>" not in getattr(room, name).__doc__
    ]
    assert missing == ["get_num_threads", "set_num_threads"]


def public_functions() -> Iterator[Callable[..., Any]]:
    for value in (getattr(normcpu, name) for name in normcpu.__all__):
        if inspect.isfunction(value):
            yield value
        elif inspect.isclass(value):
            yield from (f for name, f in inspect.getmembers(value, inspect.isfunction) if not name.startswith("_"))


def classes_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


def test_what_signatures_name_is_public() -> None:
    named = {
        kind
        for function in public_functions()
        for hint in typing.get_type_hints(function).values()
        for kind in classes_in(hint)
        if kind.__module__.startswith("normcpu")
    }
    assert {normcpu.Convention, normcpu.ConvertedState, normcpu.BatchNormResult} <= named
    assert {kind.__name__ for kind in named if getattr(normcpu, kind.__name__, None) is not kind} <= {"SupportsDLPack"}
    imported = {name for name, value in vars(normcpu._public).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert imported == {name for name in normcpu.__all__ if not inspect.ismodule(getattr(normcpu, name))}
