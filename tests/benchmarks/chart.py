"""The chart of a report: for each workload the bars of its peers, as an SVG. Text only, no I/O.

The colours are middle tones, which can be read on white and on black: a picture does not know on what it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import Report
from tests.benchmarks.tables import show
from tests.benchmarks.workload import Workload

__all__ = ["Bar", "bars_of", "draw"]

# Sizes in pixels.
WIDTH, MARGIN, COLUMNS, GUTTER, ROW, BAR, HEAD, GAP = 880, 8, 2, 28, 19, 11, 26, 24
LABELS, FIGURES = 166, 66
"""Room for the names and for the figures beside the bars."""

OURS, OTHERS, TEXT = "#3584e4", "#959595", "#787878"
LONGEST: Final = 5.0
"""A bar is cut off at so many times the length of poolmagic's, or the short ones would not be seen."""


@dataclass(frozen=True)
class Bar:
    """One bar: its `label`, the `value` that it shows (None for a failure), its `text`, and how far it is drawn.

    `length` is a part of the room for bars, `is_cut` says that the value is beyond it.
    """

    label: str
    value: float | None
    text: str
    length: float
    is_cut: bool
    is_ours: bool


def bars_of(report: Report, workload: Workload) -> list[Bar]:
    """Return the bars of a workload's first figure, one for each peer that was asked."""
    figure = workload.figures[0]
    rows = [row for row in (report.row(workload.name, peer) for peer in workload.peers) if row is not None]
    values = {row.peer: row.median(figure.name) for row in rows}
    known = [value for value in values.values() if value is not None]
    ours = [value for peer, value in values.items() if value is not None and PEERS[peer].is_ours]
    full = min(max(known, default=0.0), LONGEST * max(ours)) if ours else max(known, default=0.0)
    bars = []
    for peer, value in values.items():
        length = 0.0 if value is None or full <= 0 else max(0.0, min(1.0, value / full))
        text = "failed" if value is None else show(value, figure.unit)
        is_cut = value is not None and value > full
        bars.append(Bar(PEERS[peer].title, value, text, length, is_cut, PEERS[peer].is_ours))
    return bars


def draw(report: Report, workloads: Sequence[Workload]) -> str:
    """Return the SVG with a panel for each workload that more than one peer does."""
    panels = [(workload, bars_of(report, workload)) for workload in workloads]
    panels = [(workload, bars) for workload, bars in panels if len(bars) > 1]
    width = (WIDTH - 2 * MARGIN - GUTTER * (COLUMNS - 1)) / COLUMNS
    parts: list[str] = []
    top = float(MARGIN)
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, (workload, bars) in enumerate(line):
            parts += _panel(MARGIN + column * (width + GUTTER), top, width, workload, bars)
        top += HEAD + max(len(bars) for _, bars in line) * ROW + GAP
    height = max(top - GAP + MARGIN, 2 * MARGIN)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">\n'
        "<title>What each workload took poolmagic and its peers; shorter is better</title>"
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _panel(left: float, top: float, width: float, workload: Workload, bars: Sequence[Bar]) -> list[str]:
    figure = workload.figures[0]
    title = escape(f"{workload.title}: {figure.title}" if figure.title else workload.title)
    parts = [f'<text x="{left:.1f}" y="{top + 13:.1f}" font-size="13" font-weight="600">{title}</text>']
    room = width - LABELS - FIGURES
    for number, bar in enumerate(bars):
        middle = top + HEAD + number * ROW + ROW / 2
        parts += _bar(left, middle, room, bar)
    return parts


def _bar(left: float, middle: float, room: float, bar: Bar) -> list[str]:
    start, long = left + LABELS, max(1.0, bar.length * room)
    words = f'fill="{OURS}" font-weight="600"' if bar.is_ours else ""
    colour = OURS if bar.is_ours else OTHERS
    parts = [f'<text x="{start - 8:.1f}" y="{middle + 4:.1f}" text-anchor="end" {words}>{escape(bar.label)}</text>']
    if bar.value is not None:
        # What is cut off shows a gap, as broken axes do.
        pieces = [(start, long)] if not bar.is_cut else [(start, long - 16), (start + long - 12, 12.0)]
        parts += [
            f'<rect x="{x:.1f}" y="{middle - BAR / 2:.1f}" width="{wide:.1f}" height="{BAR}" rx="1.5" fill="{colour}"/>'
            for x, wide in pieces
        ]
    end = start + (long if bar.value is not None else 0)
    parts.append(f'<text x="{end + 6:.1f}" y="{middle + 4:.1f}" {words}>{escape(bar.text)}</text>')
    return parts
