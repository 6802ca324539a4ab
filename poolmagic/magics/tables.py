"""What a bare ``%pool`` and ``%pool runs`` show: frozen snapshots as a table of text and of HTML.

The module owns no state.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from poolmagic.snapshot import pool_table, show_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from poolmagic.logbook import LogEntry
    from poolmagic.snapshot import PoolSnapshot, RunSnapshot

__all__ = ["PoolTable", "RunTable"]


class _Table:
    """Rows of texts, the head first; shown as text and as HTML.

    Args:
        rows: The rows.
        numbers: The headings of the columns that are set to the right.
        none: What is shown if there is nothing but a head.
    """

    def __init__(self, rows: Sequence[tuple[str, ...]], numbers: Collection[str], none: str) -> None:
        self._rows = rows
        self._to_the_right = [heading in numbers for heading in rows[0]]
        self._none = none

    def __repr__(self) -> str:
        if len(self._rows) == 1:
            return self._none
        columns = list(zip(*self._rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._to_the_right, strict=True)
            ).rstrip()
            for row in self._rows
        )

    def _repr_html_(self) -> str:
        if len(self._rows) == 1:
            return f"<div>{html.escape(self._none)}</div>"
        head, *body = (self._html_row(row, "td" if row is not self._rows[0] else "th") for row in self._rows)
        return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"

    def _html_row(self, row: tuple[str, ...], tag: str) -> str:
        cells = (
            f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(cell)}</{tag}>'
            for cell, right in zip(row, self._to_the_right, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"


class PoolTable(_Table):
    """Some pools as they were when the table was made.

    Args:
        snapshots: One of each pool, in the order of the rows.
        current: The name of the pool that `pool` means, which gets a remark.
    """

    def __init__(self, snapshots: Sequence[PoolSnapshot], current: str | None = None) -> None:
        remarks = ["", *("current" if snapshot.name == current else "" for snapshot in snapshots)]
        table = pool_table(list(snapshots))
        rows = [(*row, remark) for row, remark in zip(table, remarks, strict=True)]
        super().__init__(rows, ("busy", "done", "failed", "memory"), "no pool is alive; the first map starts one")


class RunTable(_Table):
    """Some runs and background cells as they were when the table was made.

    Args:
        entries: In the order of the rows.
    """

    def __init__(self, entries: Sequence[LogEntry]) -> None:
        head = ("number", "name", "what", "pool", "state", "done", "failed", "time")
        rows = [head, *(_run_row(entry, entry.snapshot) for entry in entries)]
        super().__init__(rows, ("number", "done", "failed", "time"), "nothing was run yet")


def _run_row(entry: LogEntry, snapshot: RunSnapshot) -> tuple[str, ...]:
    what = "cell" if entry.is_cell else "run" if entry.cell is None else f"run of {entry.cell}"
    of = "" if snapshot.total is None else f"/{snapshot.total:,}"
    return (
        str(entry.number),
        entry.name,
        what,
        entry.pool,
        "paused" if snapshot.paused else snapshot.state,
        f"{snapshot.done:,}{of}",
        f"{snapshot.failed:,}",
        show_seconds(snapshot.elapsed),
    )
