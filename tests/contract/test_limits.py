"""Time limits, through the public interface: what runs for too long is stopped, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated

LIMIT = 0.3


@pytest.fixture(autouse=True)
def rings() -> Iterator[list[int]]:
    """Take the alarm clock from the time-out of the tests for a while: solo refuses limits if it is set.

    Holds what rang that is not solo's own.
    """
    found: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: found.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.0)
    yield found
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def size_of(kind: str) -> int:
    """Solo is of one size."""
    return 1 if kind == "solo" else 2


def pids(pool: pm.Pool) -> list[int | None]:
    """The processes of the workers, in the order of their numbers."""
    return [worker.pid for worker in pool.snapshot().workers]


def sleep_at_2(x: int) -> int:
    """Sleep for a minute at 2."""
    if x == 2:
        time.sleep(60)
    return x


async def sleep_at_2_async(x: int) -> int:
    """Sleep for a minute at 2, in a coroutine."""
    if x == 2:
        await asyncio.sleep(60)
    return x


def compute_at_2(x: int) -> int:
    """Compute for ever at 2."""
    while x == 2:
        pass
    return x


def refuse_at_2(x: int) -> int:
    """Swallow whatever is thrown at 2."""
    while x == 2:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)
    return x


def sleeper(kind: str) -> Callable[[int], Any]:
    """Return the task that sleeps in the way that is the kind's own."""
    return sleep_at_2_async if kind == "asyncio" else sleep_at_2


def check(results: list[Any], limit: float = LIMIT) -> None:
    """The second item went beyond its limit, all others are fine."""
    failure = results[2]
    assert isinstance(failure, pm.Failure)
    assert isinstance(failure.exception, pm.TimeLimitExceeded), failure
    assert limit == failure.exception.limit
    assert f"{limit:g} s" in str(failure.exception)
    assert [0, 1, *range(3, len(results))] == [value for value in results if not isinstance(value, pm.Failure)]


@pytest.mark.parametrize("how", ["sleeps", "computes"])
def test_a_task_that_runs_for_too_long_is_stopped(kind: str, how: str, make_pool: MakePool) -> None:
    """Whether it waits or computes. Its neighbours are fine, and the workers stay: nothing is killed for it."""
    pool = make_pool(kind, size_of(kind))
    task = sleeper(kind) if how == "sleeps" else for_kind(kind, compute_at_2)
    pool.map(for_kind(kind, abs), range(8))
    before = pids(pool)

    began = time.monotonic()
    check(pool.map(task, range(20), on_error="return", time_limit=LIMIT))
    assert LIMIT <= time.monotonic() - began < 20

    assert before == pids(pool)
    assert list(range(50)) == pool.map(for_kind(kind, abs), range(50))


def test_a_blocking_wait_in_an_event_loop_or_a_coroutine_is_stopped_too(make_pool: MakePool) -> None:
    """Though no other task of the worker runs meanwhile, and no cancel gets through to it."""
    pool = make_pool("asyncio", 2)
    check(pool.map(for_kind("asyncio", sleep_at_2), range(20), on_error="return", time_limit=LIMIT))


def test_a_task_that_swallows_its_end_is_ended_by_force(working_kind: str, make_pool: MakePool) -> None:
    """Its worker is killed and replaced, or its thread left alone; the others run all the same."""
    if working_kind == "threads":
        return  # its thread would go on for ever, in this very process; see test_threads.py
    pool = make_pool(working_kind, 2)
    check(pool.map(for_kind(working_kind, refuse_at_2), range(20), on_error="return", time_limit=LIMIT))

    assert list(range(50)) == pool.map(for_kind(working_kind, abs), range(50))


def test_a_thread_in_c_code_is_replaced(make_pool: MakePool, gate: Gate) -> None:
    """The pool has as many threads as before, and what the old one brings later changes nothing."""
    pool = make_pool("threads", 2)

    def task(x: int) -> int:
        if x == 2:
            lock.acquire()
        return x

    lock = threading.Lock()
    lock.acquire()
    check(pool.map(task, range(20), on_error="return", time_limit=LIMIT))
    run = pool.start(gated("threads", gate.port), range(2))
    gate.wait_for(2)
    lock.release()
    gate.open()

    assert [0, 1] == run.result(30)
    assert list(range(50)) == pool.map(abs, range(50))
    wait_until(lambda: pool.snapshot().busy == 0, "nothing is seen as running")


def test_the_neighbours_in_the_same_worker_go_on(make_pool: MakePool, gate: Gate) -> None:
    """A run without limits shares the workers of one with limits."""
    for kind in ("gevent", "threads", "asyncio"):
        pool = make_pool(kind, 4)
        others = pool.start(gated(kind, gate.port), [f"{kind} {x}" for x in range(2)])
        wait_until(lambda name=kind: sum(one.startswith(name) for one in gate.arrived) == 2, "they run")  # type: ignore[misc]
        check(pool.map(sleeper(kind), range(4), on_error="return", time_limit=LIMIT))
        assert not others.done()
        others.cancel()


def catching(x: int) -> Any:
    """Wait, in Python code, for a soft limit; catch it and return what it says."""
    try:
        compute_at_2(x)  # Python 3.13 leaves the jump at the end of a loop out of the `try` that the loop is in
    except pm.SoftTimeLimitExceeded as error:
        return error.limit
    return x


async def catching_async(x: int) -> Any:
    """Wait for a soft limit in a coroutine, catch it, wait again and return what it says."""
    try:
        await asyncio.sleep(60 if x == 2 else 0)
    except pm.SoftTimeLimitExceeded as error:
        await asyncio.sleep(0.01)
        return error.limit
    return x


@pytest.mark.parametrize("task", [catching, catching_async], ids=["computes", "waits"])
def test_a_soft_limit_can_be_caught(kind: str, task: Callable[[int], Any], make_pool: MakePool) -> None:
    """And the task returns what it has by then."""
    if task is catching_async and kind not in ("asyncio", "solo"):
        return
    pool = make_pool(kind, size_of(kind))
    task = task if task is catching_async else for_kind(kind, task)
    results = pool.map(task, range(10), soft_time_limit=LIMIT, time_limit=30)

    assert [0, 1, LIMIT, *range(3, 10)] == results


def test_a_soft_limit_that_is_not_caught_is_the_items_error(kind: str, make_pool: MakePool) -> None:
    """With the line of the task at which it struck."""
    pool = make_pool(kind, size_of(kind))
    results = pool.map(for_kind(kind, compute_at_2), range(5), soft_time_limit=LIMIT, on_error="return")

    error = results[2].exception
    assert pm.SoftTimeLimitExceeded is type(error)
    assert LIMIT == error.limit
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "compute_at_2" in names
    assert [0, 1, 3, 4] == [value for value in results if not isinstance(value, pm.Failure)]


def test_each_item_has_its_own_time(kind: str, make_pool: MakePool) -> None:
    """It counts from the item's own start, not from that of its batch or of its run."""

    def task(x: int) -> int:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        return x

    pool = make_pool(kind, size_of(kind))
    assert list(range(12)) == pool.map(for_kind(kind, task), range(12), chunksize=6, time_limit=1.0)


def test_a_pool_has_limits_for_all_of_its_runs(kind: str, make_pool: MakePool) -> None:
    """Those of a call go before them."""
    pool = make_pool(kind, size_of(kind), time_limit=LIMIT)
    check(pool.map(sleeper(kind), range(4), on_error="return"))
    check(pool.map(sleeper(kind), range(4), on_error="return", time_limit=0.2), 0.2)
    assert isinstance(pool.submit(sleeper(kind), 2).exception(30), pm.TimeLimitExceeded)
    assert 7 == pool.submit(sleeper(kind), 7).result(30)


# A task that blocks a hub ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["gevent", "eventlet", "asyncio"])
def test_the_user_is_told_of_a_task_that_lets_no_other_run(
    shared: str, make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, in the cell that started it, with the line at which it is; and what helps."""

    def task(x: int) -> int:
        end = time.monotonic() + (2.5 if x == 2 else 0)
        while time.monotonic() < end:
            pass
        return x

    assert list(range(5)) == make_pool(shared, 3).map(for_kind(shared, task), range(5))

    told = capsys.readouterr().err
    assert 1 == told.count("has let no other task")
    assert "item 2 " in told
    assert "in task" in told
    assert "prefork" in told


# Solo --------------------------------------------------------------------------------------------------------------


def test_solo_gives_the_alarm_clock_back(make_pool: MakePool, rings: list[int]) -> None:
    """The user's own handler is there again, and no alarm is set."""
    handler = signal.getsignal(signal.SIGALRM)
    check(make_pool("solo").map(compute_at_2, range(10), on_error="return", time_limit=0.1), 0.1)

    assert handler is signal.getsignal(signal.SIGALRM)
    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)
    assert not rings


def test_solo_refuses_limits_that_it_cannot_keep(make_pool: MakePool, rings: list[int]) -> None:
    """Before anything runs, with the reason in one line; a coroutine has a loop of its own for that."""
    ran: list[int] = []
    pool = make_pool("solo")
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        with pytest.raises(pm.UsageError, match="an alarm of yours is set") as caught:
            pool.map(ran.append, range(3), time_limit=1)
        assert "\n" not in str(caught.value)
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    errors: list[BaseException] = []

    def in_a_thread() -> None:
        try:
            pool.map(ran.append, range(3), soft_time_limit=1)
        except pm.UsageError as error:
            errors.append(error)
        check(pool.map(sleep_at_2_async, range(4), on_error="return", time_limit=0.1), 0.1)
        errors.append(KeyError("all went well"))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join(30)

    assert ["UsageError", "KeyError"] == [type(error).__name__ for error in errors]
    assert "the main thread only" in str(errors[0])
    assert not ran


def test_solo_tries_again_what_may_be_tried_again(make_pool: MakePool) -> None:
    """As often as it may; the item's last error is its failure."""
    tries: list[int] = []

    def task(x: int) -> int:
        tries.append(x)
        if x == 1 and tries.count(1) < 3:
            raise OSError(tries.count(1))
        if x == 2:
            raise ConnectionError(tries.count(2))
        if x == 3:
            raise ValueError(x)
        return x

    options: Any = {"retries": 2, "retry_on": OSError, "retry_backoff": 0.001, "on_error": "return"}
    results = make_pool("solo").map(task, range(5), **options)

    assert [0, 1, 4] == [value for value in results if not isinstance(value, pm.Failure)]
    assert [0, 1, 1, 1, 2, 2, 2, 3, 4] == tries
    assert (3,) == results[2].exception.args
    assert isinstance(results[3].exception, ValueError)
    tries.clear()
    assert 1 == make_pool("solo", retries=2, retry_backoff=0.001).submit(task, 1).result()


def test_solo_keeps_a_rate(make_pool: MakePool) -> None:
    """No item starts sooner than so long after the one before it."""
    began: list[float] = []
    make_pool("solo").map(lambda x: began.append(time.monotonic()), range(6), rate_limit=50)

    gaps = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert 0.099 <= sum(gaps) < 10
    assert all(gap > 0.0 for gap in gaps)


@pytest.mark.parametrize("options", [{"rate_limit": "1/h"}, {"retries": 3, "retry_backoff": 3600}])
def test_a_solo_run_that_waits_can_be_cancelled(make_pool: MakePool, options: Any) -> None:
    """It ends in the middle of the wait, with what was done before."""
    waits = threading.Event()

    def task(x: int) -> int:
        waits.set()
        if "retries" in options and x == 1:
            raise OSError
        return x

    results = make_pool("solo").imap(task, range(5), **options)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(results))
    thread.start()
    assert waits.wait(30)
    results.close()
    thread.join(30)

    assert not thread.is_alive()
    assert got in ([0], [])
