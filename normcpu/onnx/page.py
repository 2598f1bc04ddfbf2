# SPDX-License-Identifier: Apache-2.0
"""The report as one page of HTML; page.html is its template, and needs no network."""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from .push import Record
from .ranges import WeightRange

if TYPE_CHECKING:
    from .report import Report

WIDTH, HEIGHT = 240, 90  # of a plot, in pixels
LOWEST = 12  # a plot's lower edge, in halvings of the largest channel
POINTS = 64  # of a curve at most
MOST_PLOTS = 400  # a page of more is slow to open; they are in the JSON report


class Row(NamedTuple):
    outcome: str
    op_type: str
    node: str
    rules: str
    text: str  # the path, or why it stays


class Plot(NamedTuple):
    node: str
    weight: str
    channels: int
    before: str  # the points of an SVG polyline
    after: str
    spread_before: float
    spread_after: float


def page(report: Report, name: str) -> str:
    """HTML of a report about the model `name`; every name in it is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"shown": shown, "place": place}
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    widest = sorted(report.ranges, key=lambda weight: -weight.spread_after)[:MOST_PLOTS]
    return template.render(
        name=name,
        report=report,
        rows=[row(record) for record in report.records],
        plots=[plot(weight) for weight in widest],
        left_out=len(report.ranges) - len(widest),
        sizes={"width": WIDTH, "height": HEIGHT, "lowest": LOWEST, "step": HEIGHT * math.log2(127) / LOWEST},
    )


def place(error: float) -> str:
    """Where an error stands on a line from 1e-9 to 1, in percent: a third of the line is a factor of 1000."""
    return f"{100 * min(max(math.log10(max(error, 1e-9)) / 9 + 1, 0), 1):.1f}%"


def row(record: Record) -> Row:
    if record.outcome == "kept":
        return Row("kept", record.op_type, record.node, "", record.reason)
    path = dict.fromkeys(map(str, record.steps))
    return Row(record.outcome, record.op_type, record.node, ", ".join(record.rules), " → ".join(path))


def plot(weight: WeightRange) -> Plot:
    return Plot(
        weight.node, weight.weight, len(weight.before), curve(weight.before), curve(weight.after),
        weight.spread_before, weight.spread_after,
    )  # fmt: skip


def curve(magnitudes: list[float]) -> str:
    """Channels by size, the largest on the left at the top, each halving as far below it as the one before."""
    ordered = sorted(magnitudes, reverse=True)
    last = len(ordered) - 1
    picked = sorted({round(k * last / (POINTS - 1)) for k in range(POINTS)}) if last else [0, 0]
    points = []
    for k, at in enumerate(picked):
        x = WIDTH * (at / last if last else k)
        halvings = math.log2(ordered[0] / ordered[at]) if ordered[at] > 0 else LOWEST
        points.append(f"{x:.1f},{HEIGHT * min(halvings, LOWEST) / LOWEST:.1f}")
    return " ".join(points)


def shown(text: Any) -> str:
    """With what would not be seen, or would turn the direction of the text around it, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
