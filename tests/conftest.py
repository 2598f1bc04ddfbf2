# SPDX-License-Identifier: Apache-2.0
"""Hypothesis profiles; --ulp: a table of the largest errors that the tests saw; --share: some of the cases."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator

import budgets
import pytest
from hypothesis import HealthCheck, settings

from normcpu import _core

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, max_examples=250, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.register_profile("brief", settings.get_profile("ci"), max_examples=10)
settings.register_profile("emulated", settings.get_profile("ci"), max_examples=4)
settings.register_profile("long", settings.get_profile("ci"), derandomize=False, max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ulp", action="store_true", help="print the largest errors measured, in ulp")
    parser.addoption("--share", type=int, default=1, metavar="N", help="run every Nth of a test's cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share, seen, left_out = config.getoption("--share"), Counter[str](), []
    for item in items[:]:
        test = item.nodeid.partition("[")[0]
        if seen[test] % share:
            items.remove(item)
            left_out.append(item)
        seen[test] += 1
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Those marked peers run again where peers are installed, and only those: another must not wait for one."""
    report = yield
    if report.skipped and "peer not installed" in str(report.longrepr) and not item.get_closest_marker("peers"):
        report.outcome, report.longrepr = "failed", f"wants the mark peers: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not terminalreporter.config.getoption("--ulp"):
        return
    terminalreporter.section("largest errors, in ulp (of the mean: in units of its budget's sigma)")
    rows = sorted({what for what, _ in budgets.MEASURED})
    terminalreporter.line(f"{'':40}" + "".join(f"{name:>10}" for name in budgets.DTYPES))
    for what in rows:
        cells = (budgets.MEASURED.get((what, name)) for name in budgets.DTYPES)
        terminalreporter.line(f"{what:40}" + "".join(f"{'':>10}" if c is None else f"{c:10.3f}" for c in cells))


@pytest.fixture(autouse=True)
def machine_as_found() -> Iterator[None]:
    """A test may choose threads and the instruction set; the next one does not notice."""
    isa = _core.isa()
    yield
    _core.use_isa(isa)
    _core.set_num_threads(0)
