# SPDX-License-Identifier: Apache-2.0
"""What tests compare with, or run: absent, they skip; NORMCPU_REQUIRE_PEERS=1 makes that a failure."""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any

import pytest


def peer(name: str) -> Any:
    """The module `name`, or a skip that says which peer is missing."""
    if os.environ.get("NORMCPU_REQUIRE_PEERS") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"peer not installed: {name}", exc_type=ModuleNotFoundError)


def tool(name: str) -> str:
    """The program `name`, or a skip that says which is missing."""
    found = shutil.which(name)
    if not found and os.environ.get("NORMCPU_REQUIRE_PEERS") == "1":
        pytest.fail(f"program not installed: {name}")
    return found or pytest.skip(f"program not installed: {name}")
