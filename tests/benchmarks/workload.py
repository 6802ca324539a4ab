"""What a workload is: something to be done, the figures that it gives, and who is asked to do it. Plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.peers.adapter import Adapter

__all__ = ["Figure", "Job", "Workload"]


@dataclass(frozen=True)
class Figure:
    """One figure that a workload gives.

    Attributes:
        name: Its name in files.
        title: Its name in tables; empty for the only figure of a workload.
        unit: What it is counted in.
        is_smaller_better: Whether less is better.
        scales: Whether it grows with the number of items, so that it can be reckoned from fewer.
    """

    name: str
    title: str
    unit: str
    is_smaller_better: bool = True
    scales: bool = False


@dataclass(frozen=True)
class Job:
    """A workload as one measurement has it: who does it, with what functions, and how much of it.

    `cell` is the ``__main__`` of the measurement; the functions in it are untyped here, as they are in a notebook.
    """

    adapter: Adapter
    cell: Any
    items: int
    concurrency: int


@dataclass(frozen=True)
class Workload:
    """Something to be done.

    Attributes:
        name: Its name in files and on the command line.
        title: Its name in tables.
        what: What is done, in a sentence.
        target: What poolmagic wants to be.
        figures: What is found out; the first is the one that the chart shows.
        items: How many items there are.
        peers: Who does it.
        cannot: Who has nothing to do it with, and is shown with dashes.
        measure: Does it, in a process of its own, and returns the figures.
        cell: The module of `cells` that it runs in its ``__main__``.
        concurrency: Tasks at once.
        chunk: Items in a batch for those peers that want to be told.
        reduced: Fewer items for peers that would take minutes.
        rounds: Most rounds.
        timeout: Seconds until a measurement is given up.
    """

    name: str
    title: str
    what: str
    target: str
    figures: tuple[Figure, ...]
    items: int
    peers: tuple[str, ...]
    measure: Callable[[Job], dict[str, float]]
    cannot: tuple[str, ...] = ()
    cell: str = "plain"
    concurrency: int = 2
    chunk: int = 1
    reduced: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 9
    timeout: float = 90.0

    def items_of(self, peer: str) -> int:
        """Return how many items a peer is given."""
        return self.reduced.get(peer, self.items)

    def figure(self, name: str) -> Figure:
        """Return the figure of that name."""
        return next(figure for figure in self.figures if figure.name == name)
