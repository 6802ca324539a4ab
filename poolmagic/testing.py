"""Fakes for tests of the pure core: workers that do as the real ones do, or lie, and a crew that obeys the core.

Nothing here runs a task, starts a thread or reads a clock: a test decides what happens next, so every race can be made
to happen, and a seed repeats it. `FakeWorker` does as `worker.tasks.Worker`, `FakeRun` as `asking.Asking`, `FakeCrew`
as `crew.Crew`; they raise `AssertionError` as soon as the core breaks a promise. They belong to the thread of the test.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from poolmagic.core import events as ev
from poolmagic.core.state import PoolState
from poolmagic.messages import Span

__all__ = ["FakeCrew", "FakeRun", "FakeWorker", "spans_of"]

_ForWorker: TypeAlias = (
    ev.Introduce | ev.Dispatch | ev.WithdrawItems | ev.CancelItems | ev.Drop | ev.ResizeWorker | ev.StopWorker
)


def spans_of(positions: list[int]) -> tuple[Span, ...]:
    """Return positions as the fewest spans, lowest first; does not block."""
    ends = iter(sorted(set(positions) ^ {position + 1 for position in positions}))
    return tuple(zip(ends, ends, strict=True))


@dataclass
class FakeWorker:
    """A worker that goes only as far as it is told; items are pairs of (run, position).

    Attributes:
        inbox: Commands that were sent to it and not heard yet.
        outbox: What it sent and the core has not handled yet; the last is its `WorkerExited`.
        waiting: Items that it has and has not started; `running` are those on its board.
        is_up: It has said hello; `is_killed`: it was sent a signal, and is to `exit`; `is_over`: it has ended.
    """

    id: int
    slots: int
    inbox: deque[_ForWorker] = field(default_factory=deque)
    outbox: deque[ev.Event] = field(default_factory=deque)
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    running: list[tuple[int, int]] = field(default_factory=list)
    is_up: bool = False
    is_killed: bool = False
    is_over: bool = False
    _introduced: set[int] = field(default_factory=set)
    _cancelled: set[tuple[int, int]] = field(default_factory=set)
    _finished: list[tuple[int, int, bool]] = field(default_factory=list)
    _said: list[ev.Event] = field(default_factory=list)
    _stopping: bool = False

    def hello(self) -> None:
        """Come up."""
        self.is_up = True
        self._say(ev.WorkerReady(self.id))

    def hear(self) -> None:
        """Take the next command of the inbox; one that a real worker could not obey is an `AssertionError`."""
        match command := self.inbox.popleft():
            case ev.Introduce():
                self._introduced.add(command.run)
            case ev.Dispatch():
                assert command.run in self._introduced, f"worker {self.id} does not know run {command.run}"
                assert not self._stopping, f"worker {self.id} was told to stop, and gets {command}"
                self.waiting.extend((command.run, position) for position in range(*command.span))
            case ev.WithdrawItems() | ev.CancelItems():
                self._give_back(command.run)
                if isinstance(command, ev.CancelItems):
                    self._cancelled.update(one for one in self.running if one[0] == command.run)
            case ev.Drop():
                self._introduced.discard(command.run)
            case ev.ResizeWorker():
                self.slots = command.slots
            case ev.StopWorker():
                self._stopping = True

    def _give_back(self, run: int) -> None:
        back = [position for one, position in self.waiting if one == run]
        self.waiting = deque(one for one in self.waiting if one[0] != run)
        self._say(ev.WorkerReturned(self.id, run, spans_of(back)))

    def start(self) -> tuple[int, int] | None:
        """Let a free slot start the next item, and return its (run, position); None if there is no slot or no item."""
        if not self.waiting or len(self.running) >= self.slots:
            return None
        self.running.append(self.waiting.popleft())
        return self.running[-1]

    def finish(self, place: int = 0, *, fails: bool = False) -> None:
        """End the item at a place of `running`; one that was cancelled fails."""
        item = self.running.pop(place)
        self._finished.append((*item, fails or item in self._cancelled))
        self._cancelled.discard(item)

    def flush(self, seconds: float = 0.01) -> None:
        """Report what is finished, with one `WorkerDone` for each run."""
        for run in sorted({one[0] for one in self._finished}):
            spans = spans_of([position for one, position, failed in self._finished if one == run and not failed])
            failures = tuple(position for one, position, failed in self._finished if one == run and failed)
            self._say(ev.WorkerDone(self.id, run, spans, failures, seconds))
        self._finished.clear()

    @property
    def may_exit(self) -> bool:
        """Whether it was told to stop, or killed."""
        return not self.is_over and (self.is_killed or (self._stopping and not self.waiting and not self.running))

    def exit(self) -> None:
        """End: by itself if it was told to stop, else as in a crash, with what it had in hand."""
        if self._stopping and not self.is_killed:
            self.flush()
        self.is_over = True
        self.outbox.append(ev.WorkerExited(self.id, tuple(self.running)))

    def lie(self, random: Random, runs: int, positions: int) -> None:
        """Send something late, double, foreign, out of order, overlapping or just wrong, on numbers up to these."""
        worker = random.choice([self.id, self.id, self.id, random.randrange(1, self.id + 3)])
        run = random.randrange(runs + 1)
        starts = [random.randrange(positions) for _ in range(random.randrange(3))]
        spans = [(start, start + random.randrange(1, 6)) for start in starts]
        match random.randrange(4):
            case 0 if self._said:
                self.outbox.append(random.choice(self._said))
            case 1:
                self.outbox.append(ev.WorkerReturned(worker, run, tuple(spans + spans[:1])))
            case 2:
                failed = [random.randrange(positions) for _ in range(random.randrange(3))]
                seconds = random.choice([0.0, 1e-9, 1e9])
                self.outbox.append(ev.WorkerDone(worker, run, tuple(spans), tuple(failed + failed[:1]), seconds))
            case _:
                self.outbox.append(ev.WorkerReady(worker))

    def _say(self, event: ev.Event) -> None:
        self._said.append(event)
        self.outbox.append(event)


@dataclass
class FakeRun:
    """The asking thread of a run, without items: it answers orders, and writes down what became of each position.

    Attributes:
        length: Items that there are, of which `bad` cannot be packed; `knows_total` says whether the core is told.
        filled: How many positions were handed in.
        orders: Sizes that were asked for and have no answer yet.
        outcomes: By position: ``"done"``, ``"failed"``, ``"lost"`` or ``"rejected"``.
        verdict: How the run ended; None while it goes on.
        halts: The verdicts that the test asked for; to be kept by the test.
    """

    id: int
    length: int
    knows_total: bool = True
    bad: frozenset[int] = frozenset()
    fail_fast: bool = False
    chunksize: int | None = None
    filled: int = 0
    orders: deque[int] = field(default_factory=deque)
    outcomes: dict[int, str] = field(default_factory=dict)
    verdict: ev.Verdict | None = None
    halts: set[ev.Verdict] = field(default_factory=set)

    def added(self, *sizes: int) -> ev.RunAdded:
        """Return the event that starts the run, with first batches of these sizes as far as there are items."""
        spans = tuple(span for size in sizes if (span := self._pull(size)) is not None)
        bad = tuple(position for span in spans for position in range(*span) if position in self.bad)
        # The end is known where the length is, or where a batch came out short.
        last = self.filled == self.length and (self.knows_total or self.filled < sum(sizes))
        total = self.length if self.knows_total else None
        return ev.RunAdded(self.id, spans, bad, last, total, self.fail_fast, self.chunksize)

    def fill(self, most: int | None = None) -> ev.Filled:
        """Answer the oldest order, with at most so many items."""
        asked = self.orders.popleft()
        size = asked if most is None else min(asked, most)
        span = self._pull(size)
        bad = () if span is None else tuple(position for position in range(*span) if position in self.bad)
        short = span is None or span[1] - span[0] < size
        return ev.Filled(self.id, asked, span, bad, short or (self.knows_total and self.filled == self.length))

    def _pull(self, size: int) -> Span | None:
        start = self.filled
        self.filled = min(self.length, start + size)
        self.outcomes.update((position, "rejected") for position in range(start, self.filled) if position in self.bad)
        return (start, self.filled) if self.filled > start else None

    def resolve(self, position: int, outcome: str) -> None:
        """Take the outcome of a position, which must be the only one."""
        assert self.verdict is None, f"run {self.id} was over, and position {position} is {outcome}"
        assert 0 <= position < self.filled, f"run {self.id} has not handed in position {position}, which is {outcome}"
        assert position not in self.outcomes, f"run {self.id}: {position} was {self.outcomes[position]}, now {outcome}"
        self.outcomes[position] = outcome

    def settle(self, verdict: ev.Verdict) -> None:
        """Take the end of the run: only one that was halted may leave items without an outcome."""
        assert self.verdict is None, f"run {self.id} is settled twice"
        self.verdict = verdict
        whole = self.outcomes.keys() == set(range(self.length)) and not self.halts
        assert whole or verdict is not ev.Verdict.DONE, f"run {self.id} is done, and items are not, or it was halted"


@dataclass
class FakeCrew:
    """Carries out what the core commands, and has the core check its books after every event.

    Attributes:
        workers: Those that the core has not learned the end of; `runs` are those that are not settled.
        log: Every event, in order; `commands` is what the core answered to each.
        blamed: Items on the board of a worker when it crashed: they must never run again.
        is_finished: The core has said that the pool is over.
    """

    state: PoolState
    workers: dict[int, FakeWorker] = field(default_factory=dict)
    runs: dict[int, FakeRun] = field(default_factory=dict)
    log: list[ev.Event] = field(default_factory=list)
    commands: list[list[ev.Command]] = field(default_factory=list)
    blamed: set[tuple[int, int]] = field(default_factory=set)
    is_finished: bool = False

    def add(self, run: FakeRun, *sizes: int) -> None:
        """Start a run, with first batches of these sizes."""
        self.runs[run.id] = run
        self.handle(run.added(*sizes))

    def deliver(self, worker: FakeWorker) -> None:
        """Hand the oldest message of a worker, or its end, to the core."""
        event = worker.outbox.popleft()
        if isinstance(event, ev.WorkerExited) and not worker.is_killed:
            self.blamed.update(event.running)
        self.handle(event)
        if isinstance(event, ev.WorkerExited):
            del self.workers[worker.id]

    def handle(self, event: ev.Event) -> None:
        """Apply an event, check the books, and carry out what follows."""
        self.log.append(event)
        commands = self.state.handle(event, float(len(self.log)))
        self.commands.append(commands)
        self.state.validate()
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: ev.Command) -> None:
        assert not self.is_finished or isinstance(command, ev.Settle), f"the pool is over, and yet: {command}"
        match command:
            case ev.Spawn():
                assert command.worker not in self.workers, f"there is a worker {command.worker}"
                self.workers[command.worker] = FakeWorker(command.worker, command.slots)
            case ev.KillWorker():
                self._kill(command)
            case ev.Accept():
                self._accept(self.runs[command.run], command)
            case ev.Lose():
                assert not self.workers[command.worker].is_killed, f"an item that we stopped is blamed: {command}"
                self.runs[command.run].resolve(command.position, "lost")
            case ev.Settle():
                self.runs.pop(command.run).settle(command.verdict)
            case ev.Ask():
                assert command.size > 0, f"nothing is asked for: {command}"
                self.runs[command.run].orders.append(command.size)
            case ev.Finish():
                assert all(one.is_over for one in self.workers.values()), "the pool is over, and workers are left"
                self.is_finished = True
            case _:
                self._send(command)

    def _accept(self, run: FakeRun, command: ev.Accept) -> None:
        assert command.spans or command.failed, "nothing is accepted"
        outcomes = [(position, "done") for span in command.spans for position in range(*span)]
        for position, outcome in outcomes + [(position, "failed") for position in command.failed]:
            run.resolve(position, outcome)

    def _send(self, command: _ForWorker) -> None:
        if isinstance(command, ev.Dispatch):
            again = self.runs[command.run].outcomes.keys() & set(range(*command.span))
            assert self.workers[command.worker].is_up, f"worker {command.worker} has not said hello"
            assert not again, f"run {command.run}: {sorted(again)} have their outcome, and are dispatched"
        if isinstance(command, ev.StopWorker):
            assert not self.state.workers[command.worker].assigned, f"there are items in hand: {command}"
        self.workers[command.worker].inbox.append(command)

    def _kill(self, command: ev.KillWorker) -> None:
        worker = self.workers[command.worker]
        if command.run is None or any(run == command.run for run, _ in worker.running):
            self.handle(ev.WorkerDoomed(command.worker))
            worker.is_killed = True

    def replay(self, state: PoolState) -> None:
        """Check that a fresh state answers the log with the same commands."""
        for number, (event, commands) in enumerate(zip(self.log, self.commands, strict=True)):
            again = state.handle(event, float(number + 1))
            assert commands == again, f"event {number}, {event}, is answered in another way"
