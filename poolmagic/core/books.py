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
        waiting: Items in them.
        asked: Items asked for and not answered yet.
        orders: The same, order by order: for which worker, and how many. Answers come in this order.
        last: No more items will come.
        resolved: Positions that have their outcome, the failed ones included.
        kill: What runs is to be stopped.
        introduced: The workers that know the function.
    """

    id: int
    sizer: Sizer
    total: int | None
    fail_fast: bool
    phase: RunPhase = RunPhase.ACTIVE
    verdict: Verdict = Verdict.DONE
    filled: int = 0
    ready: deque[Span] = field(default_factory=deque)
    waiting: int = 0
    asked: int = 0
    orders: deque[tuple[int, int]] = field(default_factory=deque)
    last: bool = False
    resolved: int = 0
    failed: int = 0
    kill: bool = False
    introduced: set[int] = field(default_factory=set)

    @property
    def remaining(self) -> int | None:
        """Items not handed to a worker yet, as far as is known."""
        if self.last:
            return self.waiting
        return None if self.total is None else max(0, self.total - self.filled) + self.waiting

    def put(self, spans: list[Span]) -> None:
        """Put spans at the end of the queue."""
        self.ready.extend(spans)
        self.waiting += sum(stop - start for start, stop in spans)

    def put_back(self, spans: list[Span]) -> None:
        """Put spans in front of the queue, in their order."""
        self.ready.extendleft(sorted(spans, reverse=True))
        self.waiting += sum(stop - start for start, stop in spans)

    def next_span(self, size: int) -> Span:
        """Take the first span out of the queue, or `size` items of it if it is more than twice as long."""
        start, stop = self.ready.popleft()
        if stop - start > 2 * size:
            self.ready.appendleft((start + size, stop))
            stop = start + size
        self.waiting -= stop - start
        return start, stop

    def clear(self) -> None:
        """Empty the queue."""
        self.ready.clear()
        self.waiting = 0


@dataclass(slots=True)
class WorkerBook:
    """What the core knows of a worker.

    Attributes:
        seat: Its place among the pool's workers; a replacement takes the same seat.
        most_slots: The most that it ever had; tasks in slots that were taken away go on to their end.
        assigned: What it has in hand, by run.
        load: How many items that are.
        promised: Items that are on order for it, by run.
        doomed: We had it killed ourselves, so what it ran is not to blame.
        robbed_at: How much the pool had finished when it was last told to give back what it has not started.
    """

    id: int
    seat: int
    slots: int
    phase: WorkerPhase = WorkerPhase.STARTING
    assigned: dict[int, SpanSet] = field(default_factory=dict)
    load: int = 0
    promised: dict[int, int] = field(default_factory=dict)
    done: int = 0
    doomed: bool = False
    robbed_at: int = -1
    most_slots: int = 0

    def __post_init__(self) -> None:
        self.most_slots = self.slots

    def resize(self, slots: int) -> None:
        """Have this many slots."""
        self.slots = slots
        self.most_slots = max(self.most_slots, slots)

    @property
    def is_up(self) -> bool:
        """Whether it obeys."""
        return self.phase in (WorkerPhase.READY, WorkerPhase.DRAINING) and not self.doomed

    @property
    def is_able(self) -> bool:
        """Whether it may be given something."""
        return self.phase is WorkerPhase.READY and not self.doomed

    def give(self, run: int, span: Span) -> None:
        """Assign a span."""
        self.assigned.setdefault(run, SpanSet()).add(span)
        self.load += span[1] - span[0]

    def take_promised(self, run: int, count: int) -> None:
        """Take an order out of what is promised; nothing is if the run has been halted since."""
        left = self.promised.pop(run, count) - count
        if left > 0:
            self.promised[run] = left

    def take(self, run: int, spans: list[Span] | tuple[Span, ...]) -> list[Span]:
        """Take spans out of what is assigned, and return what really was."""
        held = self.assigned.get(run)
        if held is None:
            return []
        before = held.count
        taken = [piece for span in spans for piece in held.remove(span)]
        self.load -= before - held.count
        if not held.count:
            del self.assigned[run]
        return taken
