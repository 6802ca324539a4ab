"""What a run of the benchmarks found: rows of samples, what they come to, and their file. Plain values, no I/O."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.benchmarks.workload import Figure, Workload

__all__ = ["Report", "Row"]


@dataclass
class Row:
    """All measurements of one workload done by one peer.

    Attributes:
        workload: Its name.
        peer: Its name.
        items: How many items there were.
        usual: How many items others had; if these are more, `samples` are reckoned up to them.
        samples: For each figure its values, one for each round.
        failure: Why there are no more samples; empty if all went well.
    """

    workload: str
    peer: str
    items: int
    usual: int
    samples: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    @classmethod
    def of(cls, workload: Workload, peer: str, items: int | None = None) -> Self:
        """Return an empty row; `items` if they are not the workload's own number."""
        usual = items or workload.items
        return cls(workload.name, peer, min(usual, workload.items_of(peer)), usual)

    def add(self, workload: Workload, figures: Mapping[str, float]) -> None:
        """Take in what one measurement found, reckoned up to the usual number of items."""
        for name, value in figures.items():
            factor = self.usual / self.items if workload.figure(name).scales else 1
            self.samples.setdefault(name, []).append(value * factor)

    def median(self, figure: str) -> float | None:
        """Return the median of a figure; None if it was never measured."""
        return statistics.median(self.samples[figure]) if self.samples.get(figure) else None

    def best(self, figure: Figure) -> float | None:
        """Return the best value of a figure; None if it was never measured."""
        if not self.samples.get(figure.name):
            return None
        return (min if figure.is_smaller_better else max)(self.samples[figure.name])

    @property
    def note(self) -> str:
        """What must be said beside the figures."""
        if self.failure:
            return f"failed: {self.failure}"
        return f"scaled from {self.items:,}" if self.items != self.usual else ""


@dataclass
class Report:
    """All rows of a run, and the facts of the machine.

    Attributes:
        facts: What machine it was, for people.
        versions: Of the peers.
        rows: In the order of the tables.
    """

    facts: dict[str, str]
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def workloads(self) -> list[str]:
        """Return the names of the workloads that there are rows of, in their order."""
        return list(dict.fromkeys(row.workload for row in self.rows))

    def row(self, workload: str, peer: str) -> Row | None:
        """Return the row of a workload and a peer, if there is one."""
        return next((row for row in self.rows if (row.workload, row.peer) == (workload, peer)), None)

    def ratio(self, row: Row, figure: str, against: str) -> float | None:
        """Return how many times the other peer's median a median is; None if there are not both."""
        other = self.row(row.workload, against)
        mine, theirs = row.median(figure), None if other is None else other.median(figure)
        return mine / theirs if mine is not None and theirs else None

    def merged(self, newer: Report) -> Report:
        """Return a report with the newer rows in the place of these; the facts are the newer ones."""
        measured = {(row.workload, row.peer) for row in newer.rows}
        kept = [row for row in self.rows if (row.workload, row.peer) not in measured]
        return Report(newer.facts, newer.versions, kept + newer.rows)

    def to_json(self) -> str:
        """Return the report as the text of a file."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the report that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        return cls(data["facts"], data["versions"], [Row(**row) for row in data["rows"]])
