"""The slots of a threads pool: a cancel strikes the tasks that it is meant for, and no other."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import pytest

from poolmagic.board import Board
from poolmagic.errors import RunCancelled
from poolmagic.messages import Batch, Cancel, Done, Function, Message, Resize, Returned, Stop
from poolmagic.payload import Direct
from poolmagic.worker.slots import ThreadSlots
from poolmagic.worker.tasks import Worker
from tests.conftest import wait_until


class Bench:
    """A worker with threads for slots, and a list instead of a supervisor."""

    def __init__(self, slots: int) -> None:
        self.sent: list[Message] = []
        self.board = Board()
        self.slots = ThreadSlots(slots, "poolmagic-test")
        self.worker = Worker(self.sent.append, Direct(), self.board, self.slots)
        self.slots.serve(self.worker)

    def batch(self, run: int, function: Any, first: int, stop: int) -> None:
        if first == 0:
            self.worker.receive(Function(run, 0, function))
        self.worker.receive(Batch(run, first, first, stop, (list(range(first, stop)), [])))

    def outcomes(self, run: int) -> tuple[Counter[int], dict[int, BaseException]]:
        """How often each position was reported as returned, and the errors."""
        returned: Counter[int] = Counter()
        failed: dict[int, BaseException] = {}
        for done in list(self.sent):
            if isinstance(done, Done) and done.run == run:
                returned.update(position for start, stop in done.spans for position in range(start, stop))
                failed |= dict(zip(done.failed, done.payload[1], strict=True))
        return returned, failed

    def given_back(self, run: int) -> set[int]:
        return {
            position
            for one in self.sent
            if isinstance(one, Returned) and one.run == run
            for start, stop in one.spans
            for position in range(start, stop)
        }

    def wait_for_end(self) -> None:
        """Have the threads end, and wait for it."""
        self.worker.receive(Stop())
        wait_until(lambda: not self.slots._alive, "the threads have ended")


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_every_item_is_run_once_whoever_takes_it(slots: int) -> None:
    """Values stay with their positions, though several slots share a batch."""
    bench = Bench(slots)
    total = 60_000
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for first in range(0, total, 5000):
            bench.batch(1, lambda x: (x, -x), first, first + 5000)
        bench.wait_for_end()
    finally:
        sys.setswitchinterval(before)

    values: dict[int, Any] = {}
    for done in bench.sent:
        if isinstance(done, Done):
            positions = [position for start, stop in done.spans for position in range(start, stop)]
            assert not values.keys() & set(positions)
            values |= dict(zip(positions, done.payload[0], strict=True))
    assert {x: (x, -x) for x in range(total)} == values
    assert ([], total) == bench.board.look(slots)


def test_a_cancel_strikes_its_own_run_only_and_costs_no_slot() -> None:
    """Though it comes at any moment between very short tasks of two runs in the same threads."""
    bench = Bench(4)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    total, doomed = 20_000, list(range(100, 140))
    try:
        bench.batch(1, lambda x: x, 0, 100)
        for round_, run in enumerate(doomed):
            bench.batch(run, lambda x: sum(range(x % 50)), 0, 300)
            if round_:
                first = 100 + (round_ - 1) * 500
                bench.batch(1, lambda x: x, first, first + 500)
            bench.worker.receive(Cancel(run))
        bench.wait_for_end()
    finally:
        sys.setswitchinterval(before)

    assert total > 100
    returned, failed = bench.outcomes(1)
    assert not failed
    assert Counter(range(100 + (len(doomed) - 1) * 500)) == returned
    for run in doomed:
        returned, failed = bench.outcomes(run)
        assert all(isinstance(error, RunCancelled) and error.struck for error in failed.values())
        assert set(range(300)) == returned.keys() | failed.keys() | bench.given_back(run)
        assert not (returned.keys() | failed.keys()) & bench.given_back(run)


def test_a_thread_without_a_task_is_left_alone_when_all_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has just finished one, or has never had any."""
    uncaught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    bench = Bench(6)
    bench.slots.wake(0)
    bench.batch(1, lambda x: x, 0, 1)
    portion = bench.worker.front()
    if portion is not None:
        portion.take_rest()
    bench.batch(1, lambda x: x, 1, 6)
    wait_until(lambda: bench.slots._idle == len(bench.slots._alive), "all are idle")
    bench.slots.cancel(None)
    bench.batch(1, lambda x: x, 6, 60)
    bench.wait_for_end()

    assert set(range(6, 60)) <= bench.outcomes(1)[0].keys()
    assert not uncaught


def test_threads_above_the_number_of_slots_end_after_their_task() -> None:
    """And come back when there are more slots again."""
    bench, gate, arrived = Bench(4), threading.Event(), threading.Semaphore(0)

    def task(x: int) -> str:
        arrived.release()
        gate.wait(30)
        return threading.current_thread().name

    bench.batch(1, task, 0, 20)
    for _ in range(4):
        assert arrived.acquire(timeout=30)
    bench.worker.receive(Resize(2))
    gate.set()
    wait_until(lambda: len(bench.slots._alive) == 2, "two have ended")
    wait_until(lambda: sum(bench.outcomes(1)[0].values()) == 20, "all is done")
    bench.worker.receive(Resize(5))
    bench.batch(1, task, 20, 60)
    bench.wait_for_end()

    assert Counter(range(60)) == bench.outcomes(1)[0]
