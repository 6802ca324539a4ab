"""A pool with a clock of its own: the real books, and a parent and workers that cost the time that real ones cost.

It is a discrete-event simulation: events stand in a heap by their time, and nothing happens between two of them. The
parent does one thing at a time (its two threads share the GIL); messages take a while; a worker reports by the rules of
`worker.tasks`. A worker of one slot jumps from report to report, so half a million short items cost no more than a
hundred long ones. The same arguments always give the same numbers.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poolmagic.core import events as ev
from poolmagic.core.state import PoolState
from poolmagic.messages import Span
from poolmagic.testing import spans_of
from poolmagic.worker.slots import REPORT_SECONDS, WORTH_SECONDS
from poolmagic.worker.tasks import FLUSH_SECONDS, TICK

__all__ = ["Costs", "Simulation"]


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds; measured on the machines that we develop on, and rounded up.

    Attributes:
        latency: From one end of a socket to the other, with the waking of who waits there.
        event: The loop thread, to take a message or an answer and carry out what follows.
        order: The asking thread, to wake, take an order and hand over the batch; as much to take a report.
        item: The asking thread, to pull and pack one item; as much to unpack and keep its result.
        overhead: The worker, for one item beside the user's function.
        deafness: A busy worker, until its control thread gets the interpreter and hears a message.
    """

    latency: float = 0.0001
    event: float = 0.00005
    order: float = 0.00005
    item: float = 0.00000005
    overhead: float = 0.00000015
    deafness: float = 0.0


class Simulation:
    """A pool that does one or more runs; `run` lets everything happen.

    Args:
        workers: Processes, each of so many `slots`.
        runs: For each run the durations of its items, in seconds. They all start at 0.
        slots: Slots of a worker.
        knows_total: Whether the length of the input is known.
        chunksize: As in `RunAdded`.
        shortest: Most items in an answer to an order: payloads are bounded in bytes, too.
        costs: What things take.

    Attributes:
        ends: By run the time of its end.
        batches: What was dispatched, as (time, worker, run, span).
        accepted: What was finished, as (time of the report, run, span).
        messages: Messages from and to workers, and orders.
        withdrawals: How many of them asked for items back.
    """

    def __init__(
        self,
        workers: int,
        *runs: Sequence[float],
        slots: int = 1,
        knows_total: bool = True,
        chunksize: int | None = None,
        shortest: int | None = None,
        costs: Costs | None = None,
    ) -> None:
        self.now = 0.0
        self.costs = costs or Costs()
        self.durations = runs
        self.sums = [[0.0, *itertools.accumulate(one + self.costs.overhead for one in run)] for run in runs]
        self.ends: dict[int, float] = {}
        self.batches: list[tuple[float, int, int, Span]] = []
        self.accepted: list[tuple[float, int, Span]] = []
        self.messages = 0
        self.withdrawals = 0
        self._places = workers * slots
        self._knows_total = knows_total
        self._shortest = shortest
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._filled = [0] * len(runs)
        self._parent_is_free = 0.0
        self.state = PoolState([slots] * workers, "workers", "worker")
        self.state.handle(ev.Grow(0), 0.0)  # any event will do to have the workers spawned
        kind = Process if slots == 1 else Threads
        self._workers = {number: kind(self, number, slots) for number in range(1, workers + 1)}
        for number in self._workers:
            self.state.handle(ev.WorkerReady(number), 0.0)
        for run, durations in enumerate(runs):
            # As `Asking.start` does.
            size = max(1, min(chunksize or slots, math.ceil(len(durations) / workers)))
            spans = [self._pull(run, size) for _ in range(min(workers, math.ceil(len(durations) / size)))]
            total = len(durations) if knows_total else None
            event = ev.RunAdded(run, tuple(spans), (), self._is_dry(run), total, False, chunksize)
            self._in_parent(self.costs.order + self._filled[run] * self.costs.item, self.handle, event)

    def after(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        """Call a function in so many seconds."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), function, args))

    def run(self) -> Simulation:
        """Let everything happen."""
        while self._queue:
            self.now, _, function, args = heapq.heappop(self._queue)
            function(*args)
        assert len(self.durations) == len(self.ends), "nothing happens any more, and a run is not over"
        return self

    # What came of it -----------------------------------------------------------------------------------------------

    @property
    def efficiency(self) -> float:
        """Work, divided by the time that all slots had for it."""
        return sum(map(sum, self.durations)) / (self._places * max(self.ends.values()))

    @property
    def quality(self) -> float:
        """The time of a scheduler that pays nothing for handing out item by item (Graham, 1969), divided by ours."""
        free = [0.0] * self._places
        for seconds in itertools.chain(*self.durations):
            heapq.heapreplace(free, free[0] + seconds)
        return max(free) / max(self.ends.values())

    @property
    def longest_batch(self) -> float:
        """Seconds of work in the longest batch that had more than one item."""
        return max((self.work(run, span) for _, _, run, span in self.batches if span[1] > span[0] + 1), default=0.0)

    def work(self, run: int, span: Span) -> float:
        """Return the seconds that a span takes one slot."""
        return self.sums[run][span[1]] - self.sums[run][span[0]]

    def finished_without(self, *positions: int) -> float:
        """Return when all items of the first run were finished but these."""
        return max(time for time, _, span in self.accepted if span not in {(one, one + 1) for one in positions})

    # The parent ----------------------------------------------------------------------------------------------------

    def _in_parent(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        """Do something that takes the parent so long, once it has done all that came before."""
        self._parent_is_free = max(self.now, self._parent_is_free) + seconds
        self.after(self._parent_is_free - self.now, function, *args)

    def report(self, event: ev.Event) -> None:
        """Take a worker's message on its way."""
        self.messages += 1
        self.after(self.costs.latency, self._in_parent, self.costs.event, self.handle, event)

    def handle(self, event: ev.Event) -> None:
        """Apply an event and do what follows."""
        costs = self.costs
        for command in self.state.handle(event, self.now):
            match command:
                case ev.Dispatch():
                    self.messages += 1
                    self.batches.append((self.now, command.worker, command.run, command.span))
                    self.after(costs.latency, self._workers[command.worker].batch, command.run, *command.span)
                case ev.WithdrawItems():
                    self.messages += 1
                    self.withdrawals += 1
                    self.after(costs.latency + costs.deafness, self._workers[command.worker].withdraw, command.run)
                case ev.Ask():
                    self.messages += 1
                    size = min(command.size, self._shortest or command.size)
                    seconds = costs.order + size * costs.item
                    self._in_parent(seconds, self._fill, command.run, command.size, size)
                case ev.Accept():
                    self.accepted += [(self.now, command.run, span) for span in command.spans]
                    count = sum(stop - start for start, stop in command.spans)
                    self._in_parent(costs.order + count * costs.item, _nothing)
                case ev.Settle():
                    self.ends[command.run] = max(self.now, self._parent_is_free)

    def _fill(self, run: int, asked: int, size: int) -> None:
        start, stop = self._pull(run, size)
        last = stop - start < size or self._is_dry(run)
        answer = ev.Filled(run, asked, (start, stop) if start < stop else None, (), last)
        self._in_parent(self.costs.event, self.handle, answer)

    def _pull(self, run: int, size: int) -> Span:
        start = self._filled[run]
        self._filled[run] = min(start + size, len(self.durations[run]))
        return (start, self._filled[run])

    def _is_dry(self, run: int) -> bool:
        return self._knows_total and self._filled[run] == len(self.durations[run])


def _nothing() -> None:
    """Only the time that it takes matters."""


class Process:
    """A worker of one slot. It looks at what it does only when a report may be due, and when it hears something."""

    def __init__(self, simulation: Simulation, worker: int, slots: int) -> None:
        self._simulation = simulation
        self._id = worker
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._current: tuple[int, int, int] | None = None
        self._began = 0.0
        self._finished: list[tuple[int, int, int]] = []
        self._since = 0.0
        self._look = 0
        """The number of the look that is planned; others were planned before something changed."""

    def batch(self, run: int, start: int, stop: int) -> None:
        """Take a batch."""
        self._waiting.append((run, start, stop))
        if self._current is None:
            self._since = self._simulation.now
            self._next()

    def withdraw(self, run: int) -> None:
        """Give back what has not started."""
        self._advance()
        self._flush()
        back = [(start, stop) for one, start, stop in self._waiting if one == run]
        self._waiting = deque(span for span in self._waiting if span[0] != run)
        if self._current is not None and self._current[0] == run:
            _, start, stop = self._current
            self._current = (run, start, start + 1)
            back += [(start + 1, stop)] if start + 1 < stop else []
        self._simulation.report(ev.WorkerReturned(self._id, run, tuple(sorted(back))))
        self._plan()

    def _next(self) -> None:
        """Go on to the next batch, or be idle."""
        self._current = self._waiting.popleft() if self._waiting else None
        self._began = self._simulation.now
        if self._current is None or self._simulation.now - self._since > WORTH_SECONDS:
            self._flush()
        self._plan()

    def _plan(self) -> None:
        """Plan the next look: at the end of the batch, or when it is time to report."""
        self._look += 1
        if self._current is None:
            return
        run, start, stop = self._current
        sums = self._simulation.sums[run]
        zero = self._began - sums[start]  # the time when item 0 would have begun
        look = zero + sums[stop]
        due = bisect_right(sums, self._since + REPORT_SECONDS - zero, start + 1, stop + 1)
        if due <= stop:
            look = min(look, zero + sums[due])
        tick = self._since + TICK
        if self._simulation.now < tick < look:
            look = tick
        self._simulation.after(max(0.0, look - self._simulation.now), self._wake, self._look)

    def _wake(self, look: int) -> None:
        if look != self._look:
            return
        self._advance()
        if self._simulation.now - self._since >= REPORT_SECONDS:
            self._flush()
        if self._current is None:
            self._next()
        else:
            self._plan()

    def _advance(self) -> None:
        """Note what has been finished by now; an item that has begun stays the first of `_current`."""
        if self._current is None:
            return
        run, start, stop = self._current
        sums = self._simulation.sums[run]
        elapsed = self._simulation.now - self._began + 1e-9  # times are sums of floats
        middle = bisect_right(sums, sums[start] + elapsed, start, stop + 1) - 1
        if middle > start:
            self._finished.append((run, start, middle))
            self._began += sums[middle] - sums[start]
        self._current = (run, middle, stop) if middle < stop else None

    def _flush(self) -> None:
        if not self._finished:
            return
        now = self._simulation.now
        seconds, self._since = now - self._since, now
        finished, self._finished = self._finished, []
        for run in sorted({run for run, _, _ in finished}):
            spans = tuple((start, stop) for one, start, stop in finished if one == run)
            self._simulation.report(ev.WorkerDone(self._id, run, spans, (), seconds))


class Threads:
    """A worker of many slots; every item is looked at."""

    def __init__(self, simulation: Simulation, worker: int, slots: int) -> None:
        self._simulation = simulation
        self._id = worker
        self._free = slots
        self._waiting: deque[tuple[int, int]] = deque()
        self._finished: list[tuple[int, int]] = []
        self._since = 0.0
        self._running = 0
        self._flush_is_due = False

    def batch(self, run: int, start: int, stop: int) -> None:
        """Take a batch."""
        if not self._waiting and not self._running:
            self._since = self._simulation.now
        self._waiting.extend((run, position) for position in range(start, stop))
        self._start()

    def withdraw(self, run: int) -> None:
        """Give back what has not started."""
        self._flush()
        back = spans_of([position for one, position in self._waiting if one == run])
        self._waiting = deque(item for item in self._waiting if item[0] != run)
        self._simulation.report(ev.WorkerReturned(self._id, run, back))

    def _start(self) -> None:
        while self._free and self._waiting:
            run, position = self._waiting.popleft()
            self._free -= 1
            self._running += 1
            seconds = self._simulation.durations[run][position] + self._simulation.costs.overhead
            self._simulation.after(seconds, self._finish, run, position)

    def _finish(self, run: int, position: int) -> None:
        self._finished.append((run, position))
        self._free += 1
        self._running -= 1
        self._start()
        is_due = self._free or self._simulation.now - self._since > FLUSH_SECONDS
        if is_due and not self._flush_is_due:  # once for all that end at the same moment
            self._flush_is_due = True
            self._simulation.after(0.0, self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if not self._finished:
            return
        now = self._simulation.now
        seconds, self._since = now - self._since, now
        finished, self._finished = self._finished, []
        for run in sorted({run for run, _ in finished}):
            spans = spans_of([position for one, position in finished if one == run])
            self._simulation.report(ev.WorkerDone(self._id, run, spans, (), seconds))
