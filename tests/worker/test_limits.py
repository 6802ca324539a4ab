"""Time limits in a worker: whom they strike, and when the worker looks."""

from __future__ import annotations

import contextvars
import itertools
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from poolmagic.board import LOOK, POSITION, RUN, SINCE, Board
from poolmagic.equipped import Equipped
from poolmagic.errors import RunCancelled, SoftTimeLimitExceeded, TaskCancelled, TaskOverdue, TimeLimitExceeded
from poolmagic.messages import Batch, Done, Function, Message, Output, Stop
from poolmagic.payload import Direct
from poolmagic.worker import slots as slots_module
from poolmagic.worker.limits import AGAIN, LEAST, Limits
from poolmagic.worker.output import TaskStream
from poolmagic.worker.slots import InlineSlots
from poolmagic.worker.tasks import Worker
from tests.conftest import wait_until


class FakeSlots:
    """Slots of which only the strikes are of interest."""

    records = 4

    def __init__(self) -> None:
        self.strikes: list[tuple[int, int, type[BaseException], float]] = []
        self.insisted = 3

    def strike(self, run: int, position: int, error: BaseException) -> None:
        limit = getattr(error, "limit", 0.0)
        self.strikes.append((run, position, type(error), limit))

    def insist(self) -> bool:
        self.insisted += 1
        return self.insisted < 3


class Watched:
    """The limits of a worker with a board that the test writes."""

    def __init__(self) -> None:
        self.board, self.slots = Board(), FakeSlots()
        self.limits = Limits(self.board, self.slots)

    def introduce(self, run: int, soft: float, hard: float) -> None:
        self.limits.add(Function(run, 0, soft, hard, 0, (), 0, False, False, None))

    def runs(self, slot: int, run: int, position: int, since: float) -> None:
        record, times = self.board.record(slot)
        times[SINCE], record[POSITION], record[RUN] = since, position, run + 1

    def due(self) -> float:
        """Infinity stands for never."""
        return math.inf if self.limits.due is None else self.limits.due

    def look(self, now: float, *waiting: int) -> list[tuple[int, int, type[BaseException], float]]:
        self.limits.look(now, waiting)
        strikes, self.slots.strikes = self.slots.strikes, []
        return strikes


def test_without_limits_nobody_ever_looks() -> None:
    """There is no time at which a look is due."""
    watched = Watched()
    watched.introduce(1, 0.0, 0.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 0, 0.0)

    assert math.inf == watched.due()
    assert not watched.limits.are_set
    assert [] == watched.look(1e6, 1)


def test_each_limit_strikes_a_task_once_and_its_neighbours_never() -> None:
    """Counted from the task's own start; tasks of runs without limits are left alone."""
    watched = Watched()
    watched.introduce(1, 2.0, 5.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 7, 100.0)
    watched.runs(1, 1, 8, 101.5)
    watched.runs(2, 2, 7, 1.0)

    assert 102.0 == watched.due()
    assert [] == watched.look(101.9)
    assert [(1, 7, SoftTimeLimitExceeded, 2.0)] == watched.look(102.0)
    assert 102.0 + AGAIN == watched.due()
    assert [] == watched.look(102.0 + AGAIN)
    assert 103.5 == watched.due()
    assert [(1, 8, SoftTimeLimitExceeded, 2.0)] == watched.look(103.5)
    assert watched.due() <= 105.0
    assert [(1, 7, TaskOverdue, 5.0)] == watched.look(105.5)
    assert [(1, 8, TaskOverdue, 5.0)] == watched.look(107.0)
    assert [] == watched.look(200.0)


def test_who_is_past_both_limits_is_struck_by_the_second_only() -> None:
    """Because the first one is no use any more."""
    watched = Watched()
    watched.introduce(1, 2.0, 5.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 7, 100.0)

    assert [(1, 7, TaskOverdue, 5.0)] == watched.look(106.0)


def test_the_same_item_that_runs_again_has_its_time_again() -> None:
    """A retry is a task of its own."""
    watched = Watched()
    watched.introduce(1, 0.0, 5.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 7, 100.0)
    assert [(1, 7, TaskOverdue, 5.0)] == watched.look(106.0)
    watched.runs(0, 1, 7, 107.0)

    assert [] == watched.look(111.0, 1)
    assert [(1, 7, TaskOverdue, 5.0)] == watched.look(112.5)


def test_an_item_of_which_it_is_not_known_when_it_began_is_left_alone() -> None:
    """One of a series of short ones, or one whose record is just being written."""
    watched = Watched()
    watched.introduce(1, 0.0, 5.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 7, 100.0)
    watched.board.record(0)[0][LOOK] = 3

    assert [] == watched.look(106.0)


def test_looks_end_when_nothing_runs_and_nothing_waits() -> None:
    """And begin again with the next batch. An item that was just taken off its batch is not forgotten for that."""
    watched = Watched()
    watched.introduce(1, 0.0, 5.0)
    watched.limits.expect(1, 100.0)
    assert [] == watched.look(105.0)
    watched.runs(0, 1, 0, 104.9)
    assert 110.0 == watched.due()
    assert [(1, 0, TaskOverdue, 5.0)] == watched.look(110.0)
    watched.board.clear(0)
    for now in (1000.0, 2000.0, 3000.0):
        watched.look(now)
    assert math.inf == watched.due()
    watched.limits.expect(1, 4000.0)
    assert 4005.0 == watched.due()
    watched.limits.forget(1)
    watched.look(5000.0)
    assert math.inf == watched.due()


def test_a_strike_that_does_not_come_is_repeated() -> None:
    """A signal may come just before the wait that it is to interrupt; then there is another one soon."""
    watched = Watched()
    watched.introduce(1, 0.0, 5.0)
    watched.limits.expect(1, 100.0)
    watched.runs(0, 1, 7, 100.0)
    watched.slots.insisted = 0
    now = 105.0
    assert [(1, 7, TaskOverdue, 5.0)] == watched.look(now)
    for _ in range(2):
        assert watched.due() == now + AGAIN
        now += AGAIN
        assert [] == watched.look(now)

    now = watched.due()
    watched.look(now)
    assert 3 == watched.slots.insisted
    assert watched.due() > now + AGAIN


def test_the_smallest_limit_does_not_make_the_worker_look_all_the_time() -> None:
    """There is a pause between two looks."""
    watched = Watched()
    watched.introduce(1, 0.0, 1e-6)
    watched.limits.expect(1, 100.0)

    assert 100.0 + LEAST == watched.due()


# The slot of a prefork worker --------------------------------------------------------------------------------------


class Bench:
    """A worker with the slot of a prefork worker in this very thread, and a list instead of a supervisor."""

    def __init__(self, function: Callable[[Any], Any], *, limited: bool = True) -> None:
        self.sent: list[Message] = []
        self.board, self.slots = Board(), InlineSlots()
        self.worker = Worker(self.sent.append, Direct(), self.board, self.slots)
        self.worker.receive(Function(1, 0, 0.0, 3600.0 if limited else 0.0, 0, (), 0, False, False, function))

    def serve(self, count: int) -> tuple[dict[int, Any], dict[int, BaseException]]:
        """Run so many items; return values and errors."""
        self.worker.receive(Batch(1, 0, 0, count, (range(count), [])))
        self.worker.receive(Stop())
        contextvars.copy_context().run(self.slots.serve, self.worker)
        values: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        for done in self.sent:
            if isinstance(done, Done):
                positions = [position for start, stop in done.spans for position in range(start, stop)]
                assert not values.keys() & set(positions)
                values |= dict(zip(positions, done.payload[0], strict=True))
                errors |= dict(zip(done.failed, done.payload[1], strict=True))
        assert values.keys() | errors.keys() == set(range(count))
        return values, errors


def struck_at(bench: Bench, position: int, error: BaseException, began: threading.Event) -> threading.Thread:
    """Strike an item of a run in the main thread, from another thread, once it has begun."""

    def strike() -> None:
        began.wait(30)
        bench.slots.strike(1, position, error)
        wait_until(lambda: not bench.slots.insist(), "it has come")

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["a sleep", "a wait", "a loop"])
def test_a_strike_interrupts_what_the_task_waits_for(how: str) -> None:
    """A sleep, a wait for a lock, or a loop of Python code; the slot goes on with the next item."""
    began = threading.Event()

    def task(x: int) -> int:
        if x == 2:
            began.set()
            if how == "a sleep":
                time.sleep(60)
            elif how == "a wait":
                threading.Lock().acquire() and threading.Event().wait(60)
            while how == "a loop":
                pass
        return x

    bench = Bench(task)
    thread = struck_at(bench, 2, TaskOverdue(1.5), began)
    values, errors = bench.serve(5)
    thread.join()

    assert {0: 0, 1: 1, 3: 3, 4: 4} == values
    assert isinstance(errors[2], TimeLimitExceeded)
    assert 1.5 == errors[2].limit
    assert "the task ran for longer than its time limit of 1.5 s" == str(errors[2])


def test_a_soft_limit_can_be_caught() -> None:
    """Where the task waits; then it returns what it likes."""
    began = threading.Event()

    def task(x: int) -> Any:
        try:
            began.set()
            time.sleep(60 if x == 0 else 0)
        except SoftTimeLimitExceeded as error:
            return error.limit
        return x

    bench = Bench(task)
    thread = struck_at(bench, 0, SoftTimeLimitExceeded("too long", limit=2.5), began)
    values, errors = bench.serve(2)
    thread.join()

    assert {0: 2.5, 1: 1} == values
    assert not errors


def test_a_soft_limit_that_is_not_caught_is_the_items_own_failure() -> None:
    """Of its own type, and with the line at which it struck."""
    began = threading.Event()

    def task(x: int) -> None:
        began.set()
        time.sleep(60)

    bench = Bench(task)
    thread = struck_at(bench, 0, SoftTimeLimitExceeded("too long", limit=2.5), began)
    _, errors = bench.serve(1)
    thread.join()

    assert SoftTimeLimitExceeded is type(errors[0])
    trace = errors[0].__traceback__
    assert trace is not None
    assert "task" == trace.tb_frame.f_code.co_name


def test_strikes_at_any_moment_hit_nobody_but_the_task_that_is_meant() -> None:
    """Here of tasks of some microseconds, of which most are over before the strike comes; nothing else is struck."""
    meant: set[int] = set()
    over = threading.Event()

    def task(x: int) -> int:
        return sum(range(x % 200)) and x

    bench = Bench(task)

    def strike() -> None:
        chance = random.Random(1)
        while not over.wait(chance.random() / 1000):
            for mark in bench.board.look(1)[0]:
                meant.add(mark.position)
                bench.slots.strike(1, mark.position, TaskOverdue(1.0))

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        values, errors = bench.serve(60_000)
    finally:
        over.set()
        thread.join()

    assert errors.keys() <= meant
    assert meant, "there were strikes"
    assert all(isinstance(error, TimeLimitExceeded) for error in errors.values())
    assert all(value in (0, position) for position, value in values.items())


def test_what_a_task_prints_is_sent_whole_whenever_a_strike_comes() -> None:
    """It comes before or after that: a frame of which a part is missing would end the worker."""
    inside: list[int] = []
    torn: list[int] = []

    class Terminal:
        encoding = "utf-8"

        def flush(self) -> None:
            """There is nothing to do."""

    def send(message: Message) -> None:
        if isinstance(message, Output):
            inside.append(message.position)
            bench.slots.strike(1, message.position, TaskOverdue(1.0))
            torn.extend(message.position for _ in range(100))
            inside.pop()
        else:
            bench.sent.append(message)

    def task(x: int) -> int:
        stream.write("a line\n")
        return x

    bench = Bench(task)
    bench.worker._send = send
    stream = TaskStream(bench.worker.printer, "stdout", Terminal())  # type: ignore[arg-type]
    _, errors = bench.serve(3)

    assert {0, 1, 2} == errors.keys()
    assert [0] * 100 + [1] * 100 + [2] * 100 == torn
    assert not inside


def test_each_item_of_a_run_with_limits_has_its_own_time_on_the_board() -> None:
    """However fast it is, and so are those before it."""
    exact: list[bool] = []

    def task(x: int) -> None:
        exact.extend(mark.exact for mark in bench.board.look(1)[0])

    bench = Bench(task)
    bench.serve(3000)

    assert [True] * 3000 == exact


def test_an_interrupt_belongs_to_a_task_or_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on, whether it comes within a task, between two, or when there is none."""
    bench = Bench(lambda x: x, limited=False)
    looks = itertools.count()

    def clock() -> float:
        if sys._getframe(1).f_code.co_name == "_look" and next(looks) % 2:
            os.kill(os.getpid(), signal.SIGINT)
        return time.perf_counter()

    monkeypatch.setattr(slots_module, "perf_counter", clock)
    bench.worker.tidy = lambda: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    values, errors = bench.serve(1000)
    assert 1000 == len(values)
    assert not errors

    def task(x: int) -> int:
        if x == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        return x

    values, errors = Bench(task, limited=False).serve(10)
    assert {5} == errors.keys()
    assert "KeyboardInterrupt" in str(errors[5])


# Failures that may be tried again -----------------------------------------------------------------------------------


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "retry_on", "is_retriable"),
    [
        (OSError(), (OSError,), True),
        (ConnectionError(), (ValueError, OSError), True),
        (ValueError(), (OSError,), False),
        (SystemExit(), (Exception,), False),
        (TaskCancelled(), (BaseException,), False),
        (TaskOverdue(1.0), (Exception,), True),
        (TaskOverdue(1.0), (TimeLimitExceeded,), True),
        (TaskOverdue(1.0), (OSError,), False),
        (SoftTimeLimitExceeded("late", limit=1.0), (SoftTimeLimitExceeded,), True),
    ],
)
def test_failures_of_the_named_types_may_be_tried_again(
    error: BaseException, retry_on: tuple[type[BaseException], ...], is_retriable: bool
) -> None:
    """A task that was cancelled never."""
    bench = Bench(Equipped(lambda x: _raise(error) if x == 1 else x, retry_on))
    values, errors = bench.serve(3)

    assert {0: 0, 2: 2} == values
    assert {1} == errors.keys()
    [done] = [done for done in bench.sent if isinstance(done, Done) and done.failed]
    assert ((1,) if is_retriable else ()) == done.retriable
    if isinstance(error, TaskCancelled) and not isinstance(error, TaskOverdue):
        assert isinstance(errors[1], RunCancelled)


def test_without_a_policy_nothing_is_tried_again() -> None:
    """As a plain function has none."""
    bench = Bench(lambda x: _raise(OSError()))
    bench.serve(3)

    assert all(not done.retriable for done in bench.sent if isinstance(done, Done))
