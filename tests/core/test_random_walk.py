"""Seeded random walks: whatever happens in whatever order, each item is resolved once and each pool has its end."""

from __future__ import annotations

from random import Random

import pytest

from poolmagic.core import events as ev
from poolmagic.core.books import PoolPhase
from poolmagic.core.state import PoolState
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
        self.crew = FakeCrew(PoolState(*self.shape))
        self.runs: list[FakeRun] = []
        self.lies = not self.random.randrange(3)
        self.crashes = self.random.choice([0.0, 0.3, 1.0, 3.0])
        self.is_cursed = not self.random.randrange(10)

    def step(self) -> None:
        """Let one thing happen."""
        kinds = {
            self.add_run: 4.0 if len(self.crew.runs) < 3 else 0.2,
            self.fill: 12.0,
            self.work: 70.0,
            self.halt: 2.0,
            self.crash: self.crashes,
            self.lie: 3.0 if self.lies else 0.0,
            self.resize: 1.0,
            self.restart: 0.5,
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
        )
        self.runs.append(run)
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
            assert self.lies or item not in self.crew.blamed, f"{item} was lost with its worker, and is run again"
        elif what == 3 and worker.running:
            fails = self.random.random() < 0.1
            worker.finish(self.random.randrange(len(worker.running)), fails=fails)
        elif what == 4:
            worker.flush(self.random.choice([0.0, 0.0001, 0.01, 1.0]))
            return False
        elif what == 5 and worker.may_exit:
            worker.exit()
        else:
            return False
        return True

    def halt(self) -> None:
        if self.crew.runs:
            run = self.random.choice(list(self.crew.runs.values()))
            verdict = self.random.choice([ev.Verdict.CANCELLED, ev.Verdict.FAILED])
            run.halts.add(verdict)
            self.crew.handle(ev.Halt(run.id, verdict, kill=self.random.random() < 0.5))

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
            if events == len(self.crew.log):
                return
        raise AssertionError(f"it does not come to rest in {ROUNDS} rounds")

    def check(self) -> None:
        """Check what must hold once nothing more can happen."""
        assert [] == list(self.crew.runs), "nothing can happen any more, and runs are left"
        for run in self.runs:
            accepted = set(range(run.filled)) - run.outcomes.keys()
            failures = {"failed", "lost", "rejected"} & set(run.outcomes.values())
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
        if self.crew.state.phase is PoolPhase.RUNNING and self.crew.log:
            assert sorted(self.crew.state.seats) == sorted(worker.slots for worker in self.crew.workers.values())
        self.crew.handle(ev.Close())
        self.drain()
        assert self.crew.is_finished, "the pool is closed and idle, and does not end"
        assert {} == self.crew.workers
        assert PoolPhase.CLOSED is self.crew.state.phase
        self.crew.replay(PoolState(*self.shape))


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
            walk.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}, {shape}, event {len(walk.crew.log)}: {error!r}") from error
