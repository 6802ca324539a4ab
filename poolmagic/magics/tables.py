"""What a bare ``%pool`` shows: frozen `PoolSnapshot`s as a table of text and of HTML. The module owns no state."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from poolmagic.snapshot import pool_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolmagic.snapshot import PoolSnapshot

__all__ = ["PoolTable"]

_NUMBERS: Final = ("busy", "done", "failed", "memory")
"""The columns that are set to the right."""

_NONE: Final = "no pool is alive; the first map starts one"


class PoolTable:
    """Some pools as they were when the table was made.

    Args:
        snapshots: One of each pool, in the order of the rows.
        current: The name of the pool that `pool` means, which gets a remark.
    """

    def __init__(self, snapshots: Sequence[PoolSnapshot], current: str | None = None) -> None:
        remarks = ["", *("current" if snapshot.name == current else "" for snapshot in snapshots)]
        table = pool_table(list(snapshots))
        self._rows = [(*row, remark) for row, remark in zip(table, remarks, strict=True)]
        self._to_the_right = [heading in _NUMBERS for heading in self._rows[0]]

    def __repr__(self) -> str:
        if len(self._rows) == 1:
            return _NONE
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
            return f"<div>{html.escape(_NONE)}</div>"
        head, *body = (self._html_row(row, "td" if row is not self._rows[0] else "th") for row in self._rows)
        return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"

    def _html_row(self, row: tuple[str, ...], tag: str) -> str:
        cells = (
            f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(cell)}</{tag}>'
            for cell, right in zip(row, self._to_the_right, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"
