"""Seeded random walks: whatever happens in whatever order, each item is resolved once and each pool has its end."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from poolmagic.core import events as ev
from poolmagic.core.books import PoolLimits, PoolPhase
from poolmagic.core.state import PoolState
from poolmagic.core.throttle import Throttle
from poolmagic.testing import FakeCrew, FakeRun, FakeWorker

SHAPES = {
    "one process": ([1], "workers", "worker"),
    "processes": ([1, 1, 1], "workers", "worker"),
    "green threads": ([5], "slots", "slot"),
    "processes of green threads": ([3, 2], "slots", "slot"),
}
SEEDS = 600
"""Walks for each shape."""
STEPS = 130
LONGEST = 30
"""Most items of a run; a worker that lies names some beyond."""
ROUNDS = 1000
"""Far more than a pool needs to come to rest."""


class Walk:
    """One walk: a crew, and the dice."""

    def __init__(self, shape: str, seed: int) -> None:
        self.random = Random(f"{shape} {seed}")
        self.shape = SHAPES[shape]
        self.limits = self.draw_limits()
        self.lies = not self.random.randrange(3)
        self.crew = FakeCrew(PoolState(*self.shape, self.limits), pace=0.01, is_trusted=not self.lies)
        self.crew.abandons = self.shape[2] == "slot" and not self.random.randrange(2)
        self.runs: list[FakeRun] = []
        self.added: dict[int, float] = {}
        self.starts: Counter[int] = Counter()
        self.crashes = self.random.choice([0.0, 0.3, 1.0, 3.0])
        self.is_cursed = not self.random.randrange(10)

    def draw_limits(self) -> PoolLimits:
        dice = self.random
        total = sum(self.shape[0])
        return PoolLimits(
            max_tasks=dice.choice([0, 0, 0, 1, 3, 7]),
            autoscale=(total, dice.randrange(1, total + 1)) if not dice.randrange(4) else None,
            idle_timeout=dice.choice([0.0, 0.0, 20.0]),
        )

    def step(self) -> None:
        """Let one thing happen."""
        kinds = {
            self.add_run: 4.0 if len(self.crew.runs) < 3 else 0.2,
            self.fill: 12.0,
            self.work: 70.0,
            self.halt: 2.0,
            self.pause: 2.0,
            self.crash: self.crashes,
            self.lie: 3.0 if self.lies else 0.0,
            self.resize: 1.0,
            self.restart: 0.5,
            self.nap: 4.0,
            self.tick: 2.0,
            self.overdue: 1.0,
            self.recycle: 0.7,
            self.hold: 0.6,
            self.close: 0.25,
            self.terminate: 0.1,
        }
        self.random.choices(list(kinds), list(kinds.values()))[0]()

    def add_run(self) -> None:
        dice = self.random
        length = dice.choice([0, 1, 2, 5, LONGEST])
        run = FakeRun(
            len(self.runs),
            length,
            knows_total=dice.random() < 0.6,
            bad=frozenset(dice.sample(range(length), length // 5) if dice.random() < 0.2 else ()),
            fail_fast=dice.random() < 0.4,
            chunksize=dice.choice([None, None, 1, 4]),
            policy=ev.Policy(
                retries=dice.choice([0, 0, 1, 3]),
                backoff=dice.choice([0.0, 0.05, 2.0]),
                longest=3.0,
                crash_retries=dice.choice([0, 1, 1, 2]),
                rate=dice.choice([0.0, 0.0, 0.0, 3.0, 25.0, 900.0]),
            ),
        )
        self.runs.append(run)
        self.added[run.id] = self.crew.now
        if self.crew.state.phase is not PoolPhase.RUNNING:
            run.halts.add(ev.Verdict.CANCELLED)
        self.crew.add(run, *[dice.randrange(1, 6) for _ in range(dice.randrange(4))])

    def fill(self) -> None:
        asked = [run for run in self.crew.runs.values() if run.orders]
        if asked:
            self.crew.handle(self.random.choice(asked).fill(self.random.choice([None, None, 1])))

    def work(self) -> None:
        if self.crew.workers:
            worker = self.random.choice(list(self.crew.workers.values()))
            dice = self.random.randrange(6)
            if worker.is_killed and not worker.is_over and dice < 2:
                worker.exit()
            for _ in range(self.random.randrange(4)):
                self.turn(worker, dice)

    def turn(self, worker: FakeWorker, what: int) -> bool:
        """Let a worker do one thing of a kind, if it can."""
        if worker.outbox and (what == 0 or worker.is_over):
            self.crew.deliver(worker)
        elif worker.is_over:
            return False
        elif not worker.is_up:
            worker.hello()
        elif what == 1 and worker.inbox:
            worker.hear()
        elif what == 2 and (item := worker.start()):
            self.check_start(worker, self.runs[item[0]])
        elif what == 3 and worker.running:
            fails = self.random.random() < 0.15
            place = self.random.randrange(len(worker.running))
            worker.finish(place, fails=fails, retriable=self.random.random() < 0.7)
        elif what == 4:
            worker.flush(self.random.choice([0.0, 0.0001, 0.01, 1.0]))
            return False
        elif what == 5 and worker.may_exit:
            worker.exit()
        else:
            return False
        return True

    def check_start(self, worker: FakeWorker, run: FakeRun) -> None:
        """Check that an item may start: whoever lies about what it has not started is given more in its place."""
        if self.lies:
            return
        self.starts[run.id] += 1
        if self.limits.max_tasks:
            assert worker.started <= self.limits.max_tasks, f"worker {worker.id} has started {worker.started} items"
        if run.policy.rate and not self.crashes and not self.is_cursed:
            most = Throttle(run.policy.rate, 0.0).most + run.policy.rate * (self.crew.now - self.added[run.id])
            assert self.starts[run.id] <= most + 0.001, f"{self.starts[run.id]} items of run {run.id} have started"

    def nap(self) -> None:
        self.crew.now += self.random.choice([0.02, 0.2, 1.0, 1.0, 9.0, 40.0])

    def tick(self) -> None:
        if self.crew.state.due is not None and self.random.random() < 0.8:
            self.crew.tick()
        else:
            self.crew.handle(ev.Tick())

    def overdue(self) -> None:
        running = [(worker, item) for worker in self.crew.workers.values() for item in worker.running]
        if running:
            worker, (run, position) = self.random.choice(running)
            if self.lies:
                position = self.random.randrange(LONGEST + 5)
            self.crew.handle(ev.Overdue(worker.id, run, position))

    def recycle(self) -> None:
        if self.crew.workers:
            self.crew.handle(ev.Recycle(self.random.choice(list(self.crew.workers))))

    def hold(self) -> None:
        self.crew.handle(ev.Hold(self.random.random() < 0.5))

    def halt(self) -> None:
        if self.crew.runs:
            run = self.random.choice(list(self.crew.runs.values()))
            verdict = self.random.choice([ev.Verdict.CANCELLED, ev.Verdict.FAILED])
            run.halts.add(verdict)
            self.crew.handle(ev.Halt(run.id, verdict, kill=self.random.random() < 0.5))

    def pause(self) -> None:
        if self.crew.runs:
            run = self.random.choice(list(self.crew.runs))
            self.crew.handle(ev.Pause(run, on=self.random.random() < 0.6))

    def crash(self) -> None:
        alive = [worker for worker in self.crew.workers.values() if not worker.is_over]
        if alive:
            self.random.choice(alive).exit()

    def lie(self) -> None:
        up = [worker for worker in self.crew.workers.values() if worker.is_up and not worker.is_over]
        if up and self.runs:
            self.random.choice(up).lie(self.random, len(self.runs), LONGEST + 5)

    def resize(self) -> None:
        number = self.random.randrange(1, 4)
        self.crew.handle(ev.Grow(number) if self.random.random() < 0.5 else ev.Shrink(number))

    def restart(self) -> None:
        self.crew.handle(ev.Restart())

    def close(self) -> None:
        self.crew.handle(ev.Close())

    def terminate(self) -> None:
        self.halt_all()
        self.crew.handle(ev.Terminate())

    def halt_all(self) -> None:
        for run in self.crew.runs.values():
            run.halts.add(ev.Verdict.CANCELLED)

    def drain(self) -> None:
        """Let everybody do all that there is to do; on some walks no new worker lives long enough to say hello."""
        for _ in range(ROUNDS):
            events = len(self.crew.log)
            for worker in list(self.crew.workers.values()):
                if self.is_cursed and not worker.is_up and not worker.is_over:
                    worker.exit()
                for what in (1, 2, 3, 4, 0, 5):
                    while worker.id in self.crew.workers and self.turn(worker, what):
                        continue
            for run in list(self.crew.runs.values()):
                while run.orders and run.verdict is None:
                    self.crew.handle(run.fill())
            if events == len(self.crew.log) and self.crew.state.due is None:
                return
            if events == len(self.crew.log):
                self.crew.tick()
        raise AssertionError(f"it does not come to rest in {ROUNDS} rounds")

    def go_on(self) -> None:
        """Let nothing stay paused."""
        for run in list(self.crew.runs):
            self.crew.handle(ev.Pause(run, on=False))

    def check_pauses(self) -> None:
        """Check that nothing of a paused run was handed out, and that no pool that closes has one."""
        paused: set[int] = set()
        closes = False
        for event, commands in zip(self.crew.log, self.crew.commands, strict=True):
            closes = closes or isinstance(event, ev.Close | ev.Terminate)
            if isinstance(event, ev.Pause):
                (paused.add if event.on else paused.discard)(event.run)
            dispatched = {command.run for command in commands if isinstance(command, ev.Dispatch)}
            assert closes or not dispatched & paused, f"{dispatched & paused} are paused, and go on"

    def check(self) -> None:
        """Check what must hold once nothing more can happen."""
        self.check_pauses()
        assert [] == list(self.crew.runs), "nothing can happen any more, and runs are left"
        for run in self.runs:
            accepted = set(range(run.filled)) - run.outcomes.keys()
            assert self.lies or all(run.reruns[one] <= run.policy.crash_retries + 8 for one in run.reruns)
            failures = {"failed", "lost", "expired", "rejected"} & set(run.outcomes.values())
            match run.verdict:
                case ev.Verdict.DONE:
                    assert not accepted, f"run {run.id} is done without {accepted}"
                    assert not (run.fail_fast and failures), f"run {run.id} should have failed"
                case ev.Verdict.FAILED:
                    assert ev.Verdict.FAILED in run.halts or (run.fail_fast and failures)
                case ev.Verdict.CANCELLED:
                    assert ev.Verdict.CANCELLED in run.halts
                case ev.Verdict.BROKEN:
                    assert self.crashes or self.is_cursed
                case None:
                    raise AssertionError(f"run {run.id} has no end")
        outcomes = [outcome for run in self.runs for outcome in run.outcomes.values()]
        assert outcomes.count("done") == self.crew.state.done
        state = self.crew.state
        if state.phase is PoolPhase.RUNNING and self.crew.log:
            sitting = sorted(worker.slots for worker in self.crew.workers.values())
            assert sitting == ([] if state.is_asleep else sorted(state.wanted)) or self.crew.is_holding
        self.crew.handle(ev.Close())
        self.drain()
        assert self.crew.is_finished, "the pool is closed and idle, and does not end"
        assert {} == self.crew.workers
        assert PoolPhase.CLOSED is self.crew.state.phase
        self.crew.replay(PoolState(*self.shape, self.limits))


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS // 5))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_item_is_resolved_once_whatever_happens(shape: str, first: int) -> None:
    """Crashes, cancels, resizes, restarts, lies: every item has one outcome, every run one end, every pool an end."""
    for seed in range(first, first + SEEDS // 5):
        walk = Walk(shape, seed)
        try:
            for _ in range(STEPS):
                walk.step()
            walk.drain()
            walk.go_on()
            walk.drain()
            walk.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}, {shape}, event {len(walk.crew.log)}: {error!r}") from error
