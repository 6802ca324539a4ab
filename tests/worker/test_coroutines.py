"""The slots of an asyncio pool: a coroutine runs many tasks, and what is meant for one never reaches the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from poolmagic.board import Board
from poolmagic.errors import RunCancelled, SoftTimeLimitExceeded, TaskOverdue, TimeLimitExceeded
from poolmagic.messages import Batch, Cancel, Done, Function, Message, Stop
from poolmagic.payload import Direct
from poolmagic.worker.coroutines import CoroutineSlots
from poolmagic.worker.tasks import Worker


class Bench:
    """A worker with coroutines for slots, and a list instead of a supervisor."""

    def __init__(self, slots: int) -> None:
        self.sent: list[Message] = []
        self.board = Board()
        self.slots = CoroutineSlots(slots)
        self.worker = Worker(self.sent.append, Direct(), self.board, self.slots)

    def batch(self, run: int, function: Any, first: int, stop: int) -> None:
        if first == 0:
            self.worker.receive(Function(run, 0, 0.0, 0.0, 0, (), 0, False, False, function))
        self.worker.receive(Batch(run, first, first, stop, (list(range(first, stop)), [])))

    def limited(self, run: int, function: Any, first: int, stop: int, soft: float) -> None:
        self.worker.receive(Function(run, 0, soft, 200.0, 0, (), 0, False, False, function))
        self.worker.receive(Batch(run, first, first, stop, (list(range(first, stop)), [])))

    def serve(self) -> tuple[dict[int, Any], dict[int, BaseException]]:
        """Run all there is in a thread; return values and errors of all runs."""
        self.worker.receive(Stop())
        thread = threading.Thread(target=self.slots.serve, args=(self.worker,))
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
        self.slots._loop.close()
        values: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        for done in self.sent:
            if isinstance(done, Done):
                positions = [position for start, stop in done.spans for position in range(start, stop)]
                values |= dict(zip(positions, done.payload[0], strict=True))
                errors |= dict(zip(done.failed, done.payload[1], strict=True))
        return values, errors


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_values_stay_with_their_positions_in_any_order_of_ends(slots: int) -> None:
    """Some wait, some do not."""
    bench = Bench(slots)

    async def task(x: int) -> int:
        for _ in range(x % 4):
            await asyncio.sleep(0)
        return -x

    bench.batch(1, task, 0, 500)
    bench.batch(1, task, 500, 700)

    assert ({x: -x for x in range(700)}, {}) == bench.serve()
    assert ([], 700) == bench.board.look(slots)


def _cancel_oneself(later: bool) -> Callable[[int], Any]:
    async def task(x: int) -> int:
        if x % 2:
            coroutine = asyncio.current_task()
            assert coroutine is not None
            coroutine.cancel()
            if not later:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return x

    async def careless(x: int) -> int:
        coroutine = asyncio.current_task()
        assert coroutine is not None
        assert not coroutine.cancelling()
        if x % 2:
            coroutine.cancel()  # and never waits again: the cancel would strike whatever comes next
        return x

    return careless if later else task


def test_a_task_that_cancels_itself_fails_alone() -> None:
    """With the error that it brought upon itself."""
    bench = Bench(2)
    bench.batch(1, _cancel_oneself(later=False), 0, 20)

    values, errors = bench.serve()

    assert {x: x for x in range(0, 20, 2)} == values
    assert set(range(1, 20, 2)) == errors.keys()
    assert not any(isinstance(error, RunCancelled) for error in errors.values())


def test_a_cancel_that_comes_too_late_does_not_strike_the_next_task() -> None:
    """It is forgotten with the task that it was meant for."""
    bench = Bench(2)
    bench.batch(1, _cancel_oneself(later=True), 0, 50)

    assert ({x: x for x in range(50)}, {}) == bench.serve()


def test_our_cancel_stops_what_runs_and_the_slot_goes_on() -> None:
    """A task that is deaf to it is finished; both ways the next task finds nothing of it."""
    bench = Bench(3)

    async def doomed(x: int) -> int:
        if x == 2:
            bench.worker.receive(Cancel(1))
        try:
            await asyncio.sleep(0 if x == 2 else 60)
        except asyncio.CancelledError:
            if x == 1:
                return 111
            raise
        return x

    async def healthy(x: int) -> int:
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        return x

    bench.batch(1, doomed, 0, 100)
    bench.batch(2, healthy, 0, 1)
    bench.batch(2, healthy, 1000, 1100)

    values, errors = bench.serve()

    assert 111 == values[1]
    assert isinstance(errors[0], RunCancelled)
    assert errors[0].struck
    assert {x: x for x in range(1000, 1100)}.items() <= values.items()
    assert errors.keys() <= {0, 2}


def test_a_task_that_cancels_every_coroutine_it_finds_costs_no_slot() -> None:
    """The others fail, those that have not begun yet included in what goes on."""
    bench = Bench(5)

    async def task(x: int) -> int:
        if x == 2:
            for coroutine in asyncio.all_tasks():
                if coroutine is not asyncio.current_task():
                    coroutine.cancel()
        await asyncio.sleep(0)
        return x

    bench.batch(1, task, 0, 200)

    values, errors = bench.serve()

    assert set(range(200)) == values.keys() | errors.keys()
    assert 190 < len(values)


# Strikes at single tasks ---------------------------------------------------------------------------------------------


def test_a_strike_hits_the_task_that_is_meant() -> None:
    """For good: the item's error is that of its limit. The others find nothing of it."""
    bench = Bench(3)

    async def task(x: int) -> int:
        if x == 2:
            bench.slots.strike(1, 0, TaskOverdue(1.5))
            bench.slots.strike(1, 77, TaskOverdue(9.0))
            bench.slots.strike(2, 1, TaskOverdue(9.0))
        async with asyncio.timeout(30):
            await asyncio.sleep(60 if x == 0 else 0.001)
        return x

    bench.limited(1, task, 0, 20, 0.0)
    values, errors = bench.serve()

    assert {x: x for x in range(1, 20)} == values
    assert isinstance(errors[0], TimeLimitExceeded)
    assert 1.5 == errors[0].limit


@pytest.mark.parametrize("waits_for", ["a sleep", "a task", "a turn", "a group"])
def test_a_soft_limit_is_raised_within_the_coroutine_and_can_be_caught_there(waits_for: str) -> None:
    """Whatever it waits for; then it waits again as if nothing had been, and a later cancel is a cancel."""
    bench = Bench(2)

    async def wait() -> None:
        if waits_for == "a sleep":
            await asyncio.sleep(60)
        elif waits_for == "a task":
            await asyncio.create_task(asyncio.sleep(60))
        elif waits_for == "a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                await asyncio.sleep(60)
        else:
            while True:  # noqa: ASYNC110 - to be in no wait is the point
                await asyncio.sleep(0)

    async def task(x: int) -> Any:
        limit = 0.0
        if x != 0:
            await asyncio.sleep(0.001)
            bench.slots.strike(1, 0, SoftTimeLimitExceeded("late", limit=2.5))
            return x
        try:
            await wait()
        except* SoftTimeLimitExceeded as group:
            limit = max(getattr(error, "limit", 0.0) for error in group.exceptions)
        coroutine = asyncio.current_task()
        assert coroutine is not None
        assert not coroutine.cancelling()
        await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        return limit

    bench.limited(1, task, 0, 2, 100.0)
    values, errors = bench.serve()

    assert not errors, errors
    assert {0: 2.5, 1: 1} == values


def test_a_soft_limit_that_is_not_caught_is_the_tasks_own_failure_and_a_later_one_ends_it() -> None:
    """The first by its type, with the task's line; the second though the first was caught."""
    bench, caught = Bench(3), asyncio.Event()

    async def task(x: int) -> Any:
        if x == 2:
            await asyncio.sleep(0.001)
            bench.slots.strike(1, 0, SoftTimeLimitExceeded("late", limit=2.5))
            bench.slots.strike(1, 1, SoftTimeLimitExceeded("late", limit=2.5))
            await caught.wait()
            bench.slots.strike(1, 1, TaskOverdue(3.5))
            return x
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            if x == 0:
                raise
        caught.set()
        await asyncio.sleep(60)
        return x

    bench.limited(1, task, 0, 3, 100.0)
    values, errors = bench.serve()

    assert {2: 2} == values
    assert SoftTimeLimitExceeded is type(errors[0])
    assert isinstance(errors[1], TimeLimitExceeded)
    trace = errors[1].__traceback__
    assert trace is not None


def test_a_task_that_ends_before_the_strike_comes_passes_nothing_on() -> None:
    """Neither kind of it."""
    bench = Bench(2)

    async def task(x: int) -> int:
        bench.slots.strike(1, x, TaskOverdue(1.5) if x % 2 else SoftTimeLimitExceeded("late", limit=2.5))
        if x % 3 == 0:
            await asyncio.sleep(0)
        return x

    bench.limited(1, task, 0, 300, 100.0)
    values, errors = bench.serve()

    assert set(range(300)) == values.keys() | errors.keys()
    assert all(x % 3 == 0 for x in errors)
    assert all(isinstance(error, TimeLimitExceeded | SoftTimeLimitExceeded) for error in errors.values())
