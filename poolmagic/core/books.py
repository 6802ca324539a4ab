"""The records of the core: one per run and one per worker, with spans instead of items."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from poolmagic.core.batching import Sizer
from poolmagic.core.events import Policy, Verdict
from poolmagic.core.spans import SpanSet
from poolmagic.core.throttle import Throttle
from poolmagic.messages import Span

__all__ = ["UNLIMITED", "PoolLimits", "PoolPhase", "RunBook", "RunPhase", "WorkerBook", "WorkerPhase"]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What a pool's workers are limited to; 0 and None mean no limit.

    Attributes:
        max_tasks: Items that a worker is given in its life.
        autoscale: The most and the fewest workers or slots; the seats of the pool are those for the most.
        idle_timeout: Seconds without a run after which a pool stops its workers.
    """

    max_tasks: int = 0
    autoscale: tuple[int, int] | None = None
    idle_timeout: float = 0.0


UNLIMITED: Final = PoolLimits()


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
    RETIRING = "retiring"
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
        is_paused: Nothing of it is handed out for the time being.
        introduced: The workers that know the function.
        throttle: What may start by now, if there is a rate.
        attempts: How often items failed that were tried again.
        crashes: How often the worker of an item died while nothing else ran on it.
        resting: Positions that wait for their next attempt.
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
    is_paused: bool = False
    introduced: set[int] = field(default_factory=set)
    policy: Policy = field(default_factory=Policy)
    throttle: Throttle | None = None
    attempts: dict[int, int] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    resting: set[int] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether what waits of it may be handed out."""
        return self.phase is RunPhase.ACTIVE and not self.is_paused

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

    def next_span(self, size: int, most: float = math.inf) -> Span:
        """Take the first span out of the queue, or `size` items of it if it is over twice as long, or over `most`."""
        start, stop = self.ready.popleft()
        if stop - start > 2 * size or stop - start > most:
            middle = start + int(min(size, most))
            self.ready.appendleft((middle, stop))
            stop = middle
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
        robbed_of: The runs of which it was to give something back then; how many items it must have for it to be asked
            again before something is finished.
        budget: Items that it may still be given.
        alone: What it has in hand is a group of suspects, and it gets nothing else.
        dries: It gets nothing, for it is to be empty for such a group.
        idle_since: When it last had nothing in hand any more.
        peak: The most that it had in hand of late.
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
    robbed_of: dict[int, float] = field(default_factory=dict)
    most_slots: int = 0
    budget: float = math.inf
    alone: bool = False
    dries: bool = False
    idle_since: float = 0.0
    peak: int = 0

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

    @property
    def is_closed(self) -> bool:
        """Whether it gets nothing for the time being, able or not."""
        return self.alone or self.dries or self.budget <= 0

    def give(self, run: int, span: Span) -> None:
        """Assign a span."""
        self.assigned.setdefault(run, SpanSet()).add(span)
        count = span[1] - span[0]
        self.load += count
        self.budget -= count
        if self.load > self.peak:  # noqa: PLR1730 - it is done for every batch, and a call costs more
            self.peak = self.load

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
