"""The records of the core: one per run and one per worker, with spans instead of items."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from poolmagic.core.batching import Sizer
from poolmagic.core.events import Verdict
from poolmagic.core.spans import SpanSet
from poolmagic.messages import Span

__all__ = ["PoolPhase", "RunBook", "RunPhase", "WorkerBook", "WorkerPhase"]


class PoolPhase(Enum):
    """The life of a pool."""

    RUNNING = "running"
    CLOSING = "closing"
    TERMINATING = "terminating"
    BROKEN = "broken"
    CLOSED = "closed"


class RunPhase(Enum):
    """The life of a run."""

    ACTIVE = "active"
    HALTING = "halting"
    SETTLED = "settled"


class WorkerPhase(Enum):
    """The life of a worker."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    EXITED = "exited"


@dataclass(slots=True)
class RunBook:
    """What the core knows of a run.

    Attributes:
        filled: Positions ``[0, filled)`` have been handed in.
        ready: Spans that wait for a worker, lowest first; none crosses the border of a batch as it was encoded.
        asked: Items asked for and not answered yet.
        last: No more items will come.
        resolved: Positions that have their outcome, the failed ones included.
        kill: What runs is to be stopped.
    """

    id: int
    sizer: Sizer
    total: int | None
    fail_fast: bool
    phase: RunPhase = RunPhase.ACTIVE
    verdict: Verdict = Verdict.DONE
    filled: int = 0
    ready: deque[Span] = field(default_factory=deque)
    asked: int = 0
    last: bool = False
    resolved: int = 0
    failed: int = 0
    kill: bool = False
    introduced: set[int] = field(default_factory=set)

    @property
    def waiting(self) -> int:
        """Items that wait for a worker."""
        return sum(stop - start for start, stop in self.ready)

    @property
    def remaining(self) -> int | None:
        """Items not handed to a worker yet, as far as is known."""
        if self.last:
            return self.waiting
        return None if self.total is None else max(0, self.total - self.filled) + self.waiting

    def put_back(self, spans: list[Span]) -> None:
        """Put spans in front of the queue, in their order."""
        self.ready.extendleft(sorted(spans, reverse=True))


@dataclass(slots=True)
class WorkerBook:
    """What the core knows of a worker.

    Attributes:
        seat: Its place among the pool's workers; a replacement takes the same seat.
        most_slots: The most that it ever had; tasks in slots that were taken away go on to their end.
        assigned: What it has in hand, by run.
        doomed: We had it killed ourselves, so what it ran is not to blame.
        asked_back: The runs of which it was told to give back what it has not started, and has not answered yet.
    """

    id: int
    seat: int
    slots: int
    phase: WorkerPhase = WorkerPhase.STARTING
    assigned: dict[int, SpanSet] = field(default_factory=dict)
    done: int = 0
    doomed: bool = False
    asked_back: set[int] = field(default_factory=set)
    most_slots: int = 0

    def __post_init__(self) -> None:
        self.most_slots = self.slots

    def resize(self, slots: int) -> None:
        """Have this many slots."""
        self.slots = slots
        self.most_slots = max(self.most_slots, slots)

    @property
    def load(self) -> int:
        """Items in hand."""
        return sum(spans.count for spans in self.assigned.values())

    def take(self, run: int, spans: list[Span] | tuple[Span, ...]) -> list[Span]:
        """Take spans out of what is assigned, and return what really was."""
        held = self.assigned.get(run)
        if held is None:
            return []
        taken = [piece for span in spans for piece in held.remove(span)]
        if not held.count:
            del self.assigned[run]
        return taken
