"""The slots of a threads pool: a cancel strikes the tasks that it is meant for, and no other."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import pytest

from poolmagic.board import Board
from poolmagic.errors import RunCancelled, SoftTimeLimitExceeded, TaskOverdue, TimeLimitExceeded
from poolmagic.messages import Batch, Cancel, Done, Function, Message, Resize, Returned, Stop
from poolmagic.payload import Direct
from poolmagic.worker.tasks import Worker
from poolmagic.worker.threads import ThreadSlots
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
            self.worker.receive(Function(run, 0, 0.0, 0.0, 0, (), 0, False, False, function))
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


# Strikes at single tasks ---------------------------------------------------------------------------------------------


class Turnstile:
    """Lets a test see that a task has begun, and holds the task in Python code, or in C code, until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.lock.acquire()
        self.is_open = False

    def wait_in_python(self) -> None:
        self.begun.release()
        while not self.is_open:
            pass

    def wait_in_c(self) -> None:
        self.begun.release()
        with self.lock:  # a strike may come as soon as it is taken
            pass

    def open(self) -> None:
        self.is_open = True
        self.lock.release()


def test_a_strike_hits_one_task_with_the_very_error_that_it_was_given() -> None:
    """Its neighbour of the same run goes on, and so does the thread."""
    bench, turnstile = Bench(2), Turnstile()
    names: dict[int, str] = {}

    def task(x: int) -> int:
        names[x] = threading.current_thread().name
        if x < 2:
            turnstile.wait_in_python()
        return x

    bench.batch(1, task, 0, 2)
    for _ in range(2):
        assert turnstile.begun.acquire(timeout=30)
    error = TaskOverdue(0.25)
    bench.slots.strike(1, 1, error)
    bench.slots.strike(1, 77, TaskOverdue(9.0))
    bench.slots.strike(2, 0, TaskOverdue(9.0))
    bench.batch(1, task, 2, 3)
    wait_until(lambda: 2 in names, "its thread goes on")
    turnstile.open()
    bench.wait_for_end()

    returned, failed = bench.outcomes(1)
    assert Counter([0, 2]) == returned
    assert isinstance(failed[1], TimeLimitExceeded)
    assert 0.25 == failed[1].limit
    assert names[1] == names[2]


def test_a_task_is_struck_softly_and_then_for_good() -> None:
    """It catches the first, and is ended by the second; a third one does not tear its end apart."""
    bench, turnstile, caught = Bench(1), Turnstile(), threading.Event()
    seen: list[BaseException] = []
    cleaned: list[bool] = []

    def task(x: int) -> None:
        try:
            turnstile.wait_in_python()
        except SoftTimeLimitExceeded as error:
            seen.append(error)
            caught.set()
        try:
            turnstile.wait_in_python()
        finally:
            bench.slots.cancel(1)
            cleaned.append(sum(range(1000)) > 0)

    bench.batch(1, task, 0, 1)
    assert turnstile.begun.acquire(timeout=30)
    soft = SoftTimeLimitExceeded("late", limit=1.0)
    bench.slots.strike(1, 0, soft)
    assert caught.wait(30)
    assert turnstile.begun.acquire(timeout=30)
    bench.slots.strike(1, 0, TaskOverdue(2.0))
    bench.wait_for_end()

    assert isinstance(bench.outcomes(1)[1][0], TimeLimitExceeded)
    assert [True] == cleaned
    assert [soft] == seen


def test_strikes_at_any_moment_hit_nobody_but_the_task_that_is_meant() -> None:
    """Though most tasks are over before it comes, and a thread runs thousands of them."""
    bench, over = Bench(3), threading.Event()
    meant: set[int] = set()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def strike() -> None:
        while not over.is_set():
            for mark in bench.board.look(3)[0]:
                meant.add(mark.position)
                bench.slots.strike(1, mark.position, TaskOverdue(1.0))

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        for first in range(0, 30_000, 1000):
            bench.batch(1, lambda x: sum(range(x % 100)) and x, first, first + 1000)
        bench.wait_for_end()
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before)

    returned, failed = bench.outcomes(1)
    assert set(range(30_000)) == returned.keys() | failed.keys()
    assert failed.keys() <= meant
    assert failed, "there were strikes"
    assert all(isinstance(error, TimeLimitExceeded) for error in failed.values())


def test_a_thread_in_c_code_is_left_alone_and_another_takes_its_slot(capfd: pytest.CaptureFixture[str]) -> None:
    """What it brings later is dropped; on the board nothing of it is seen as running, and nothing counted twice."""
    bench, turnstile = Bench(2), Turnstile()
    threads: dict[int, threading.Thread] = {}

    def task(x: int) -> int:
        threads[x] = threading.current_thread()
        if x == 0:
            turnstile.wait_in_c()
        return x

    bench.batch(1, task, 0, 1)
    assert turnstile.begun.acquire(timeout=30)
    bench.slots.strike(1, 0, TaskOverdue(0.1))
    assert not bench.slots.abandon(1, 5)
    assert bench.slots.abandon(1, 0)
    assert not bench.slots.abandon(1, 0)
    assert "does not stop at the time limit" in capfd.readouterr().err
    assert () == bench.board.running(bench.slots.records)

    bench.batch(1, task, 1, 51)
    wait_until(lambda: bench.outcomes(1)[0] == Counter(range(1, 51)), "the others go on")
    assert ([], 50) == bench.board.look(2 + bench.slots.spare)
    stuck = threads[0]
    assert stuck.is_alive()
    turnstile.open()
    stuck.join(30)
    assert not stuck.is_alive()
    bench.batch(1, task, 51, 60)
    bench.wait_for_end()

    returned, failed = bench.outcomes(1)
    assert Counter(range(1, 60)) == returned
    assert not failed
    assert ([], 59) == bench.board.look(2 + bench.slots.spare)


def test_every_slot_may_be_given_up_and_there_are_as_many_threads_again() -> None:
    """With records of their own, which are used again once a thread that was left alone has ended."""
    bench, turnstile = Bench(2), Turnstile()

    def task(x: int) -> int:
        if x < 4:
            turnstile.wait_in_c()
        return x

    for first in (0, 2):
        bench.batch(1, task, first, first + 2)
        for position in (first, first + 1):
            assert turnstile.begun.acquire(timeout=30)
            wait_until(lambda place=position: (1, place) in bench.board.running(8), "it runs")  # type: ignore[misc]
            assert bench.slots.abandon(1, position)
    assert 0 <= bench.slots.spare <= 2
    bench.batch(1, task, 4, 300)
    wait_until(lambda: bench.outcomes(1)[0] == Counter(range(4, 300)), "the others go on")
    assert bench.slots.records <= 6
    turnstile.open()
    bench.wait_for_end()
    wait_until(lambda: len(bench.slots._places) == bench.slots.records, "all have ended")

    assert Counter(range(4, 300)) == bench.outcomes(1)[0]
