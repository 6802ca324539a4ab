"""The figures of a report as tables, for a terminal and for a page. Text only, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import Report, Row
from tests.benchmarks.workload import Figure, Workload

__all__ = ["cells_of", "markdown_table", "show", "text_table"]

NOTHING: Final = "-"
"""Stands where a peer does not do a workload, or has no such figure."""


def show(value: float | None, unit: str = "") -> str:
    """Return a figure with three digits, and its unit."""
    if value is None:
        return NOTHING
    size = abs(value)
    text = f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    if size < 0.0995 and value:
        text = f"{value:.3f}"
    return f"{text} {unit}".rstrip()


def cells_of(report: Report, workload: Workload) -> list[list[str]]:
    """Return the rows of a workload's table, the head first: the peers that were asked, and those that cannot do it.

    For each figure there are the median and, where there are others, the ratio to poolmagic's; for the first figure
    also the best of all rounds.
    """
    head = ["", *_heads(workload), "rounds", ""]
    asked = [peer for peer in workload.peers if report.row(workload.name, peer) is not None]
    return [head, *(_cells(report, workload, peer) for peer in (*asked, *workload.cannot))]


def _heads(workload: Workload) -> list[str]:
    heads: list[str] = []
    for number, figure in enumerate(workload.figures):
        heads.append(figure.title or "median")
        heads += ["best"] * (number == 0) + ["ratio"] * (len(workload.peers) > 1)
    return heads


def _cells(report: Report, workload: Workload, name: str) -> list[str]:
    peer, row = PEERS[name], report.row(workload.name, name)
    if row is None:
        return [peer.title, *([NOTHING] * len(_heads(workload))), NOTHING, "has no such thing"]
    cells = [peer.title]
    for number, figure in enumerate(workload.figures):
        cells.append(show(row.median(figure.name), figure.unit))
        if number == 0:
            cells.append(show(row.best(figure), figure.unit))
        if len(workload.peers) > 1:
            cells.append(_ratio(report, row, figure, peer.against))
    return [*cells, str(max(map(len, row.samples.values()), default=0)), row.note]


def _ratio(report: Report, row: Row, figure: Figure, against: str) -> str:
    value = report.ratio(row, figure.name, against)
    return NOTHING if value is None else f"{show(value)} x"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as lines of text: the first column and the last to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, with poolmagic's rows in bold."""
    last = len(rows[0]) - 1
    rule = [":---" if column in (0, last) else "---:" for column in range(last + 1)]
    body = [[f"**{cell}**" if cell and row[0].startswith("poolmagic") else cell for cell in row] for row in rows[1:]]
    lines = [[_escaped(cell) for cell in rows[0]], rule, *([_escaped(cell) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(cell: str) -> str:
    for sign in ("\\", "|", "<", "_", "`", "$"):
        cell = cell.replace(sign, f"\\{sign}")
    return cell
