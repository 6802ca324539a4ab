"""Fakes for tests of the pure core: workers that do as the real ones do, or lie, and a crew that obeys the core.

Nothing here runs a task, starts a thread or reads a clock: a test decides what happens next, so every race can be made
to happen, and a seed repeats it. `FakeWorker` does as `worker.tasks.Worker`, `FakeRun` as `asking.Asking`, `FakeCrew`
as `crew.Crew`; they raise `AssertionError` as soon as the core breaks a promise. They belong to the thread of the test.
"""

from __future__ import annotations

import math
from collections import Counter, deque
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
        started: Items that it has started, ever.
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
    started: int = 0
    _introduced: set[int] = field(default_factory=set)
    _cancelled: set[tuple[int, int]] = field(default_factory=set)
    _finished: list[tuple[int, int, str]] = field(default_factory=list)
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
        self.started += 1
        self.running.append(self.waiting.popleft())
        return self.running[-1]

    def finish(self, place: int = 0, *, fails: bool = False, retriable: bool = False) -> None:
        """End the item at a place of `running`; one that was cancelled fails, for good."""
        item = self.running.pop(place)
        how = "retriable" if retriable and item not in self._cancelled else "failed"
        self._finished.append((*item, how if fails or item in self._cancelled else "done"))
        self._cancelled.discard(item)

    def abandon(self, item: tuple[int, int]) -> bool:
        """Leave a running item alone, as threads can be; return whether it was running."""
        is_running = item in self.running
        self.running = [one for one in self.running if one != item]
        return is_running

    def flush(self, seconds: float = 0.01) -> None:
        """Report what is finished, with one `WorkerDone` for each run."""
        for run in sorted({one[0] for one in self._finished}):
            ended = [(position, outcome) for one, position, outcome in self._finished if one == run]
            spans = spans_of([position for position, outcome in ended if outcome == "done"])
            failures = tuple(position for position, outcome in ended if outcome != "done")
            retriable = tuple(position for position, outcome in ended if outcome == "retriable")
            self._say(ev.WorkerDone(self.id, run, spans, failures, seconds, retriable))
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
                retriable = (*failed[1:], *failed[1:], random.randrange(positions))
                seconds = random.choice([0.0, 1e-9, 1e9])
                done = ev.WorkerDone(worker, run, tuple(spans), (*failed, *failed[:1]), seconds, retriable)
                self.outbox.append(done)
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
        policy: What it does about items that fail or are lost, and how fast it may go.
        outcomes: By position: ``"done"``, ``"failed"``, ``"lost"``, ``"expired"`` or ``"rejected"``.
        retried: How often each position was tried again after a failure; `reruns`: after a crash that it may have made.
        verdict: How the run ended; None while it goes on.
        halts: The verdicts that the test asked for; to be kept by the test.
    """

    id: int
    length: int
    knows_total: bool = True
    bad: frozenset[int] = frozenset()
    fail_fast: bool = False
    chunksize: int | None = None
    policy: ev.Policy = field(default_factory=ev.Policy)
    filled: int = 0
    orders: deque[int] = field(default_factory=deque)
    outcomes: dict[int, str] = field(default_factory=dict)
    retried: Counter[int] = field(default_factory=Counter)
    reruns: Counter[int] = field(default_factory=Counter)
    verdict: ev.Verdict | None = None
    halts: set[ev.Verdict] = field(default_factory=set)

    def added(self, *sizes: int) -> ev.RunAdded:
        """Return the event that starts the run, with first batches of these sizes as far as there are items."""
        spans = tuple(span for size in sizes if (span := self._pull(size)) is not None)
        bad = tuple(position for span in spans for position in range(*span) if position in self.bad)
        # The end is known where the length is, or where a batch came out short.
        last = self.filled == self.length and (self.knows_total or self.filled < sum(sizes))
        total = self.length if self.knows_total else None
        return ev.RunAdded(self.id, spans, bad, last, total, self.fail_fast, self.chunksize, self.policy)

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

    def repeat(self, position: int, *, failed: bool = False, blamed: bool = False) -> None:
        """Take word that a position runs again, because it failed, or because its worker ended."""
        is_open = self.verdict is None and position < self.filled and position not in self.outcomes
        assert is_open, f"run {self.id}: {position} is {self.outcomes.get(position)}, and runs again"
        self.retried[position] += failed
        self.reruns[position] += blamed
        assert self.retried[position] <= self.policy.retries, f"run {self.id}: {position} is tried again too often"

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
        now: The time, which goes on by `pace` with every event, and else only where a test says so.
        log: Every event, in order, with `times`; `commands` is what the core answered to each.
        suspects: Items that were on the board of a worker when it crashed, with how many may run together now.
        abandons: A task that does not stop is left alone, as threads are; else its worker is killed.
        is_trusted: No worker lies, so what the core says of items is true.
        is_finished: The core has said that the pool is over; `is_holding`: it was told to hold.
    """

    state: PoolState
    workers: dict[int, FakeWorker] = field(default_factory=dict)
    runs: dict[int, FakeRun] = field(default_factory=dict)
    now: float = 0.0
    pace: float = 1.0
    log: list[ev.Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    commands: list[list[ev.Command]] = field(default_factory=list)
    suspects: dict[tuple[int, int], int] = field(default_factory=dict)
    abandons: bool = False
    is_trusted: bool = True
    is_holding: bool = False
    is_finished: bool = False
    _coming: deque[ev.Event] = field(default_factory=deque)

    def add(self, run: FakeRun, *sizes: int) -> None:
        """Start a run, with first batches of these sizes."""
        self.runs[run.id] = run
        self.handle(run.added(*sizes))

    def deliver(self, worker: FakeWorker) -> None:
        """Hand the oldest message of a worker, or its end, to the core."""
        event = worker.outbox.popleft()
        if isinstance(event, ev.WorkerExited) and not worker.is_killed:
            held = self.state.workers[worker.id].assigned if worker.id in self.state.workers else {}
            running = [item for item in event.running if item[1] in held.get(item[0], ())]
            self.suspects.update((item, -(-len(running) // 2)) for item in running)
        self.handle(event)
        if isinstance(event, ev.WorkerExited):
            del self.workers[worker.id]

    def tick(self) -> None:
        """Let the time come that the core waits for."""
        assert self.state.due is not None, "nothing is due"
        self.now = max(self.now, self.state.due - self.pace)
        self.handle(ev.Tick())

    def handle(self, event: ev.Event) -> None:
        """Apply an event, check the books, and carry out what follows; what that leads to comes after it."""
        self._coming.append(event)
        if len(self._coming) > 1:
            return
        while self._coming:
            self._apply(self._coming[0])
            self._coming.popleft()

    def _apply(self, event: ev.Event) -> None:
        self.now += self.pace
        self.log.append(event)
        self.times.append(self.now)
        held = self.is_holding
        self.is_holding = event.on if isinstance(event, ev.Hold) else held
        commands = self.state.handle(event, self.now)
        self.commands.append(commands)
        if held and self.is_holding and any(isinstance(command, ev.Dispatch) for command in commands):
            assert sum(bool(book.load) for book in self.state.workers.values()) == 1, "the pool holds, and goes on"
        self.state.validate()
        assert (self.state.due or math.inf) > self.now, f"something was due at {self.state.due}, and is still"
        for command in commands:
            self._carry_out(command)
        self._check_suspects()

    def _check_suspects(self) -> None:
        """Check that suspects are with their like only, and half as many as they were."""
        for book in self.state.workers.values() if self.suspects else ():
            pieces = [(run, span) for run, spans in book.assigned.items() for span in spans]
            hand = [(run, position) for run, span in pieces for position in range(*span)]
            limits = [self.suspects[item] for item in hand if item in self.suspects]
            if limits and self.is_trusted and not book.doomed:
                assert len(limits) == len(hand), f"worker {book.id} has more in hand than suspects: {hand}"
                assert len(hand) <= max(limits), f"worker {book.id} has too many suspects: {hand}"

    def _carry_out(self, command: ev.Command) -> None:
        assert not self.is_finished or isinstance(command, ev.Settle), f"the pool is over, and yet: {command}"
        match command:
            case ev.Spawn():
                assert command.worker not in self.workers, f"there is a worker {command.worker}"
                self.workers[command.worker] = FakeWorker(command.worker, command.slots)
            case ev.KillWorker():
                if command.run is None or any(run == command.run for run, _ in self.workers[command.worker].running):
                    self._kill(self.workers[command.worker])
            case ev.KillTask():
                worker = self.workers[command.worker]
                if not self.abandons or not worker.abandon((command.run, command.position)):
                    self._kill(worker)
            case ev.Ask():
                assert command.size > 0, f"nothing is asked for: {command}"
                self.runs[command.run].orders.append(command.size)
            case ev.Finish():
                assert all(one.is_over for one in self.workers.values()), "the pool is over, and workers are left"
                assert self.state.due is None, "the pool is over, and something is due"
                self.is_finished = True
            case ev.Accept() | ev.Lose() | ev.Rerun() | ev.Expire() | ev.Settle():
                self._tell(command)
            case _:
                self._send(command)

    def _tell(self, command: ev.Accept | ev.Lose | ev.Rerun | ev.Expire | ev.Settle) -> None:
        """Tell a run."""
        run = self.runs[command.run]
        match command:
            case ev.Accept():
                self._accept(run, command)
            case ev.Lose():
                assert not self.workers[command.worker].is_killed, f"an item that we stopped is blamed: {command}"
                self._resolve(run, command.position, "lost")
            case ev.Rerun():
                assert command.blamed is not self.workers[command.worker].is_killed, f"wrong: {command}"
                run.repeat(command.position, blamed=command.blamed)
            case ev.Expire():
                self._resolve(run, command.position, "expired")
            case ev.Settle():
                self.runs.pop(command.run).settle(command.verdict)
                self.suspects = {item: most for item, most in self.suspects.items() if item[0] != command.run}

    def _accept(self, run: FakeRun, command: ev.Accept) -> None:
        assert command.spans or command.failed or command.retried, "nothing is accepted"
        for position in [position for span in command.spans for position in range(*span)]:
            self._resolve(run, position, "done")
        for position in command.failed:
            self._resolve(run, position, "failed")
        for position in command.retried:
            run.repeat(position, failed=True)
            self.suspects.pop((run.id, position), None)

    def _resolve(self, run: FakeRun, position: int, outcome: str) -> None:
        run.resolve(position, outcome)
        self.suspects.pop((run.id, position), None)

    def _send(self, command: _ForWorker) -> None:
        if isinstance(command, ev.Dispatch):
            again = self.runs[command.run].outcomes.keys() & set(range(*command.span))
            assert self.workers[command.worker].is_up or not self.is_trusted, (
                f"worker {command.worker} has not said hello"
            )
            assert not again, f"run {command.run}: {sorted(again)} have their outcome, and are dispatched"
        if isinstance(command, ev.StopWorker):
            assert not self.state.workers[command.worker].assigned, f"there are items in hand: {command}"
        self.workers[command.worker].inbox.append(command)

    def _kill(self, worker: FakeWorker) -> None:
        if not worker.is_killed:
            self.handle(ev.WorkerDoomed(worker.id))
            worker.is_killed = True

    def replay(self, state: PoolState) -> None:
        """Check that a fresh state answers the log with the same commands."""
        log = zip(self.log, self.times, self.commands, strict=True)
        for number, (event, now, commands) in enumerate(log):
            again = state.handle(event, now)
            assert commands == again, f"event {number}, {event}, is answered in another way"
