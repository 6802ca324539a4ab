"""Batch sizes: what a sizer learns, and how busy it keeps the workers, in a simulation with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from random import Random

import pytest

from poolmagic.core import events as ev
from poolmagic.core.batching import GROWTH, TARGET, Sizer
from poolmagic.core.state import PoolState
from poolmagic.testing import spans_of
from poolmagic.worker.tasks import FLUSH_SECONDS, TICK

# The sizer ---------------------------------------------------------------------------------------------------------


def test_the_first_batch_is_one_item_for_each_slot() -> None:
    """Nothing is known yet, and one item may take an hour."""
    assert [1, 5] == [Sizer().size(slots, None, 2) for slots in (1, 5)]
    assert [1, 5] == [Sizer().limit(slots) for slots in (1, 5)]


def test_batches_grow_to_their_target() -> None:
    """Not at once: never to more than four times what was measured in one go."""
    sizer = Sizer()
    sizes = []
    for _ in range(8):
        size = sizer.size(1, None, 1)
        sizes.append(size)
        sizer.learn(size, size * 0.0001, 1)
    assert [GROWTH**power for power in range(5)] == sizes[:5]
    assert round(TARGET / 0.0001) == pytest.approx(sizes[-1], rel=0.01)


def test_a_slow_item_is_believed_at_once() -> None:
    """A batch that is too small costs less than one that is too big."""
    sizer = Sizer()
    for _ in range(10):
        sizer.learn(sizer.size(1, None, 1), sizer.size(1, None, 1) * 0.0001, 1)
    sizer.learn(1, 1.0, 1)
    assert 1 == sizer.size(1, None, 1)


def test_slow_items_get_no_batch_in_advance() -> None:
    """They would wait behind the one that runs while another worker has nothing to do."""
    slow, fast = Sizer(), Sizer()
    slow.learn(1, 0.5, 1)
    fast.learn(1, 0.01, 1)
    assert 1 == slow.limit(1)
    assert 2 * fast.size(1, None, 1) == fast.limit(1)


def test_batches_shrink_towards_the_end() -> None:
    """To the half of an even share, so that workers end together."""
    sizer = Sizer()
    for _ in range(10):
        sizer.learn(500, 0.05, 1)
    assert [500, 125, 13, 1, 1] == [sizer.size(1, remaining, 4) for remaining in (100_000, 1000, 100, 3, 0)]


def test_a_size_that_the_user_chose_is_kept() -> None:
    """Whatever is measured."""
    sizer = Sizer(7)
    sizer.learn(7, 100.0, 1)
    assert 7 == sizer.size(1, 3, 5)
    assert 7 == sizer.limit(1)


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 1e9])
@pytest.mark.parametrize("count", [1, 10**6])
def test_any_measurement_can_be_learned(count: int, seconds: float) -> None:
    """A clock may not have moved between two looks, and a computer may have slept between them."""
    sizer = Sizer()
    for _ in range(3):
        sizer.learn(count, seconds, 1)
        assert 1 <= sizer.size(1, None, 1) <= sizer.limit(1) <= 10**9


# The simulation ----------------------------------------------------------------------------------------------------

LATENCY = 0.0002
"""Seconds from one end of a socket to the other, with the waking of who waits there."""
PACKING = 0.000003
"""Seconds that the asking thread takes for one item: to pull and to pack it, to unpack and to keep its result."""


class Process:
    """A worker of one slot, as far as time is concerned: see `worker.tasks` and `worker.process`."""

    def __init__(self, simulation: Simulation, worker: int) -> None:
        self.simulation = simulation
        self.id = worker
        self.items: deque[tuple[int, int]] = deque()
        self.finished: list[tuple[int, int]] = []
        self.is_busy = False
        self.since = 0.0
        self.busy = 0.0

    def batch(self, run: int, start: int, stop: int) -> None:
        if not self.items and not self.is_busy:
            self.since = self.simulation.now
        self.items.extend((run, position) for position in range(start, stop))
        if not self.is_busy:
            self.next()

    def withdraw(self, run: int) -> None:
        back = spans_of([position for one, position in self.items if one == run])
        self.items = deque(item for item in self.items if item[0] != run)
        self.simulation.after(LATENCY, self.simulation.handle, ev.WorkerReturned(self.id, run, back))

    def next(self) -> None:
        self.is_busy = bool(self.items)
        if not self.items:
            self.flush()
            return
        run, position = self.items.popleft()
        seconds = self.simulation.durations[run][position]
        self.busy += seconds
        self.simulation.after(seconds, self.finish, run, position)
        if seconds > TICK:
            self.simulation.after(TICK, self.flush)

    def finish(self, run: int, position: int) -> None:
        self.finished.append((run, position))
        if self.simulation.now - self.since > FLUSH_SECONDS:
            self.flush()
        self.next()

    def flush(self) -> None:
        seconds, self.since = self.simulation.now - self.since, self.simulation.now
        finished, self.finished = self.finished, []
        for run in {run for run, _ in finished}:
            positions = [position for one, position in finished if one == run]
            self.simulation.after(LATENCY, self.simulation.unpack, len(positions))
            event = ev.WorkerDone(self.id, run, spans_of(positions), (), seconds)
            self.simulation.after(LATENCY, self.simulation.handle, event)


class Simulation:
    """A pool of processes with a virtual clock: items take the time that they are given, and nothing else happens.

    Args:
        workers: Processes of one slot.
        runs: For each run the durations of its items, in seconds.
        knows_total: Whether the length of the input is known.
        chunksize: As in `RunAdded`.
    """

    def __init__(
        self, workers: int, *runs: list[float], knows_total: bool = True, chunksize: int | None = None
    ) -> None:
        self.now = 0.0
        self.durations = runs
        self.ends: dict[int, float] = {}
        self.reports = 0
        self._knows_total = knows_total
        self._state = PoolState([1] * workers, "workers", "worker")
        self._processes = {number: Process(self, number) for number in range(1, workers + 1)}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._filled = [0] * len(runs)
        self._asking_is_free = 0.0
        self.handle(ev.Grow(0))  # any event will do to have the workers spawned
        for number in self._processes:
            self.handle(ev.WorkerReady(number))
        for run, durations in enumerate(runs):
            size = max(1, min(chunksize or 1, math.ceil(len(durations) / workers)))
            spans = [self._pull(run, size) for _ in range(min(workers, math.ceil(len(durations) / size)))]
            total = len(durations) if knows_total else None
            self.handle(
                ev.RunAdded(run, tuple(spans), (), knows_total and self._is_empty(run), total, False, chunksize)
            )

    def after(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        """Call a function in so many seconds."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), function, args))

    def run(self) -> Simulation:
        """Let everything happen."""
        while self._queue:
            self.now, _, function, args = heapq.heappop(self._queue)
            function(*args)
        assert len(self.durations) == len(self.ends)
        return self

    @property
    def efficiency(self) -> float:
        """Work, divided by the time that all workers had for it."""
        work = sum(map(sum, self.durations))
        return work / (len(self._processes) * max(self.ends.values()))

    @property
    def goodness(self) -> float:
        """The shortest time that any schedule could take, divided by the time that it took."""
        work = sum(map(sum, self.durations))
        longest = max(map(max, self.durations))
        return max(work / len(self._processes), longest) / max(self.ends.values())

    def unpack(self, count: int) -> None:
        """Take the asking thread's time for so many results."""
        self.reports += 1
        self._asking_is_free = max(self.now, self._asking_is_free) + count * PACKING

    def handle(self, event: ev.Event) -> None:
        """Apply an event and do what follows."""
        for command in self._state.handle(event, self.now):
            match command:
                case ev.Dispatch():
                    self.after(LATENCY, self._processes[command.worker].batch, command.run, *command.span)
                case ev.WithdrawItems():
                    self.after(LATENCY, self._processes[command.worker].withdraw, command.run)
                case ev.Ask():
                    self._asking_is_free = max(self.now, self._asking_is_free) + command.size * PACKING
                    self.after(self._asking_is_free - self.now, self._fill, command.run, command.size)
                case ev.Settle():
                    self.ends[command.run] = self.now

    def _fill(self, run: int, size: int) -> None:
        span = self._pull(run, size)
        last = span[1] - span[0] < size or (self._knows_total and self._is_empty(run))
        self.handle(ev.Filled(run, size, span if span[0] < span[1] else None, (), last))

    def _pull(self, run: int, size: int) -> tuple[int, int]:
        start = self._filled[run]
        self._filled[run] = min(start + size, len(self.durations[run]))
        return (start, self._filled[run])

    def _is_empty(self, run: int) -> bool:
        return self._filled[run] == len(self.durations[run])


def _bimodal(number: int, short: float, long: float, share: float) -> list[float]:
    random = Random(1)
    return [long if random.random() < share else short for _ in range(number)]


def _ramp(number: int, most: float) -> list[float]:
    return [most * place / number for place in range(1, number + 1)]


DURATIONS: dict[str, tuple[list[float], float]] = {
    "constant, 0.1 ms": ([0.0001] * 20_000, 0.96),
    "constant, 1 ms": ([0.001] * 4_000, 0.98),
    "constant, 10 ms": ([0.01] * 800, 0.99),
    "constant, 100 ms": ([0.1] * 200, 0.99),
    "constant, 1 s": ([1.0] * 40, 0.99),
    "rising to 20 ms": (_ramp(2_000, 0.02), 0.98),
    "falling from 20 ms": (_ramp(2_000, 0.02)[::-1], 0.99),
    "rising to 1 s": (_ramp(200, 1.0), 0.95),
    "falling from 1 s": (_ramp(200, 1.0)[::-1], 0.98),
    "one in 5 of 200 ms among 10 ms": (_bimodal(1_000, 0.01, 0.2, 0.2), 0.95),
    "one in 20 of 50 ms among 0.1 ms": (_bimodal(5_000, 0.0001, 0.05, 0.05), 0.96),
    "one in 50 of 1 s among 1 ms": (_bimodal(2_000, 0.001, 1.0, 0.02), 0.93),
    "one giant, first": ([1.5] + [0.001] * 12_000, 0.98),
    "one giant, in the middle": ([0.001] * 6_000 + [1.5] + [0.001] * 6_000, 0.73),
    "one giant, last": ([0.001] * 12_000 + [1.5], 0.55),
    "1 ms, and then 100 ms": ([0.001] * 2_000 + [0.1] * 200, 0.97),
}
"""Durations of items, and the efficiency that 8 workers have at least. An optimum is near 1, but for a giant in the
middle (0.75) or at the end (0.56), which no scheduler can see coming. The last row is about batches that were sized for
short items and hold long ones: idle workers must take them over."""


@pytest.mark.parametrize("knows_total", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("name", DURATIONS)
def test_workers_are_kept_busy(name: str, knows_total: bool) -> None:
    """Whatever the items' durations are, and in whatever order they come."""
    durations, least = DURATIONS[name]
    simulation = Simulation(8, durations, knows_total=knows_total).run()
    assert least <= simulation.efficiency <= 1.0


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_more_workers_are_kept_busy_too(workers: int) -> None:
    """From one worker to more than most machines have."""
    assert Simulation(workers, [0.01] * 100 * workers).run().efficiency > 0.97


def test_short_items_cost_few_messages() -> None:
    """A batch is as long as it takes to make the cost of a message vanish."""
    simulation = Simulation(8, [0.0001] * 20_000).run()
    assert simulation.reports < 20_000 / 40


@pytest.mark.parametrize(("size", "least"), [(1, 0.8), (10, 0.95), (100, 0.98)])
def test_a_chosen_batch_size_keeps_workers_busy(size: int, least: float) -> None:
    """A worker has the next batch before it ends the last."""
    assert Simulation(4, [0.001] * 4_000, chunksize=size).run().efficiency > least


def test_equal_runs_share_the_workers() -> None:
    """The second run of two equal ones need not wait for the end of the first."""
    first, second = Simulation(4, [0.1] * 100, [0.1] * 100).run().ends.values()
    assert abs(first - second) < 0.3
