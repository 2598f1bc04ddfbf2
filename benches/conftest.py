# SPDX-License-Identifier: Apache-2.0
"""Options of bench_norms.py.  Without any: the smoke shapes on one thread, for continuous integration."""

import sys
from pathlib import Path

import numpy as np
import pytest

np.seterr(all="ignore")  # what NumPy's own float16 overflows to is no failure of a contest

sys.path.insert(0, str(Path(__file__).parent))  # the benches' own modules


def pytest_addoption(parser):
    group = parser.getgroup("benches")
    group.addoption("--shapes", choices=("smoke", "table", "all"), default="smoke")
    group.addoption("--threads", type=int, default=1)
    group.addoption("--filter", default="", help="keep shapes whose 'source shape dtype' contains this")
    group.addoption("--limits", type=Path, help="the memory limit: what native.py measured, JSON lines")


def pytest_collect_file(file_path, parent):
    """bench_*.py is no name that pytest looks for; a file named on the command line it takes in any case."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    import bench_norms
    import native
    import shapes

    option = metafunc.config.option
    pairs = shapes.select(option.shapes == "smoke", option.shapes == "all", option.filter)
    limits = native.read_limits(option.limits) if option.limits else {}
    cases = list(bench_norms.cases(pairs, option.threads, limits))
    metafunc.parametrize("case", cases, ids=str)
