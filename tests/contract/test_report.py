"""What a run knows of its items afterwards, on every kind: outcomes, attempts, times, workers, and many failures."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import poolmagic as pm
from poolmagic.report import report_html, report_text
from tests.conftest import MakePool
from tests.tasks import Gate, for_kind, gated, square


def concurrency(kind: str, wanted: int) -> int | None:
    """Solo has none."""
    return None if kind == "solo" else wanted


def test_the_table_has_the_outcome_of_each_item(kind: str, make_pool: MakePool) -> None:
    """And how often it was tried, where, and what its worker had in memory."""

    def task(x: int) -> int:
        if x in (3, 11):
            raise KeyError(x)
        if x == 5:
            raise OSError("always")
        return x

    run = make_pool(kind, concurrency(kind, 2)).start(
        for_kind(kind, task), range(20), on_error="return", retries=2, retry_on=OSError, retry_backoff=0.001
    )
    run.result(60)
    frame = run.to_frame()

    assert [x for x in range(20) if x not in (3, 5, 11)] == list(frame.index[frame.outcome == "done"])
    assert {3: "KeyError", 5: "OSError", 11: "KeyError"} == dict(frame.error.dropna())
    assert [1] * 5 + [3] + [1] * 14 == list(frame.attempts)
    assert frame.worker.str.contains("worker|kernel").all()
    assert frame.worker.nunique() <= 2
    assert (frame.peak_memory > 1 << 20).all()
    assert frame.seconds.between(0, 30).all()


def test_an_item_takes_as_long_as_it_is_held(kind: str, make_pool: MakePool) -> None:
    """Each has a time of its own, from when it began; what others do at the same time is not in it."""
    held = 0.1

    def task(x: int) -> int:
        time.sleep(held * (1 + x))
        return x

    async def coroutine(x: int) -> int:
        await asyncio.sleep(held * (1 + x))
        return x

    run = make_pool(kind, concurrency(kind, 3)).start(coroutine if kind == "asyncio" else task, range(3))
    run.result(60)
    frame = run.to_frame()

    for x in range(3):
        assert held * (1 + x) * 0.98 <= frame.seconds[x] < held * (1 + x) + 2
    assert frame.started.between(0, 60).all()
    if kind == "solo":
        assert frame.started[2] >= frame.started[1] + held * 2 * 0.98 >= frame.started[0] + held * 3 * 0.98
    assert held * 6 * 0.98 <= run._outcomes.timings.worked < held * 6 + 6


def test_items_of_microseconds_are_noted_together(kind: str, make_pool: MakePool) -> None:
    """Nothing is kept for each of them, and they add up to no more than the run took."""
    run = make_pool(kind, concurrency(kind, 1)).start(for_kind(kind, square), range(20_000))
    run.result(60)
    timings = run._outcomes.timings

    assert len(timings) < 4000
    counted = sum(one.stop - one.first for one in timings)
    assert 19_000 < counted <= 20_000  # a report may leave before the last millisecond of it is noted
    assert 0 < timings.worked <= run.snapshot().elapsed * 1.01


def test_a_slow_item_among_short_ones_is_found(kind: str, make_pool: MakePool) -> None:
    """It has the time to itself, or nearly so."""

    def task(x: int) -> int:
        if x == 1500:
            time.sleep(0.5)
        return x

    run = make_pool(kind, concurrency(kind, 1)).start(for_kind(kind, task), range(3000))
    run.result(60)
    slowest = max(run._outcomes.timings, key=lambda one: one.ended - one.began)

    assert slowest.first <= 1500 < slowest.stop
    assert 0.3 < slowest.ended - slowest.began
    if kind != "solo":  # which has no clock but between items
        assert slowest.stop - slowest.first <= 2
        assert "the slowest: item 1500 " in report_text(run)


def test_an_interrupted_and_resumed_run_knows_of_all_its_items(kind: str, make_pool: MakePool) -> None:
    """By the indices of the input, each with the time of the attempt that counts."""
    pool = make_pool(kind, concurrency(kind, 1))

    def task(x: int) -> int:
        time.sleep(0.02)
        if x == 6:
            raise KeyError(x)
        return x

    run = pool.start(for_kind(kind, task), range(12), chunksize=1)
    with pytest.raises(KeyError):
        run.result(60)
    before = run._outcomes.timings.worked
    done = len(run.results)
    assert before >= 0.02 * 0.98 * (done + 1)
    assert ["not run"] * (12 - 1 - done) == list(run.to_frame().outcome[lambda outcome: outcome == "not run"])

    def repaired(x: int) -> int:
        time.sleep(0.02)
        return x

    run.resume(for_kind(kind, repaired))
    frame = run.to_frame()

    assert {"done"} == set(frame.outcome)
    assert (frame.seconds >= 0.02 * 0.98).all()
    assert frame.started[6] > frame.started[:6].max()
    timings = run._outcomes.timings
    assert before == timings.earlier
    assert timings.worked >= 13 * 0.02 * 0.98
    assert timings.worked == pytest.approx(sum(one.ended - one.began for one in timings))
    assert f"{run.name}" in report_text(run)


def test_items_of_a_cancelled_run_are_called_so(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Those that were done are done."""
    run = make_pool(working_kind, 2).start(gated(working_kind, gate.port), range(6))
    gate.wait_for(2)
    run.cancel()
    gate.open()
    with pytest.raises(pm.RunCancelled):
        run.result(30)

    outcomes = list(run.to_frame().outcome)
    assert 6 == len(outcomes)
    assert {"cancelled"} <= set(outcomes) <= {"cancelled", "done"}
    assert len(run.results) == outcomes.count("done")
    assert "ended by" in report_text(run)


def test_a_run_shows_itself_while_it_goes_on(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """As far as it is known."""
    run = make_pool(working_kind, 2).start(gated(working_kind, gate.port), range(4))
    gate.wait_for(2)

    assert "0/4" in report_text(run)
    assert "0/4" in report_html(run)
    assert ["not run"] * 4 == list(run.to_frame().outcome)
    gate.open()
    assert list(range(4)) == run.result(30)
    assert "4/4" in report_html(run)
    assert repr(run.timeline()).count("#") >= 4 or "slots" in repr(run.timeline())


def test_an_item_that_took_its_worker_with_it_has_attempts_and_no_time(make_pool: MakePool) -> None:
    """The worker did not live to tell; the report counts it."""

    def fatal(x: int) -> int:
        if x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    run = make_pool("prefork", 2).start(fatal, range(5), on_error="return", chunksize=1)
    run.result(60)
    row = run.to_frame().loc[2]

    assert ("failed", 2, "WorkerLostError") == (row.outcome, row.attempts, row.error)
    assert row.seconds != row.seconds
    assert re.search(r"lost workers +2 \(pid \d+, \d+\)", report_text(run))


def test_two_workers_have_lanes_of_their_own(process_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """And their items are those that they ran, as the clock of the system has it."""
    more = {} if process_kind == "prefork" else {"workers": 2}
    pool = make_pool(process_kind, 2, **more)
    run = pool.start(gated(process_kind, gate.port), range(2), chunksize=1)
    gate.wait_for(2)
    before = time.perf_counter()
    threading.Event().wait(0.05)
    gate.open()
    run.result(30)
    frame = run.to_frame()

    assert 2 == frame.worker.nunique()
    start = run._outcomes.timings._start
    assert (frame.started + start < before).all()
    assert (frame.started + frame.seconds + start > before + 0.05).all()


# Many failures -----------------------------------------------------------------------------------------------------


def test_collect_runs_all_items_and_raises_one_exception(kind: str, make_pool: MakePool) -> None:
    """A group with a member for each kind of failure, which `except*` takes apart."""

    def task(x: int) -> int:
        if x % 10 == 3:
            return {"x": x}["price"]
        if x == 55:
            raise ValueError("no")
        return x

    pool = make_pool(kind, concurrency(kind, 2))
    seen: list[pm.FailedItems] = []
    try:
        pool.map(for_kind(kind, task), range(100), on_error="collect")
    except* KeyError as group:
        seen.append(group)  # type: ignore[arg-type]
    except* ValueError as group:
        seen.append(group)  # type: ignore[arg-type]

    assert [[3, 13, 23, 33, 43, 53, 63, 73, 83, 93], [55]] == [[one.index for one in group.failures] for group in seen]
    run: pm.Run = seen[0].run
    assert run is pool.last_run
    assert 89 == len(run.results)
    assert "failed" == run.snapshot().state
    with pytest.raises(
        pm.FailedItems, match=r"11 of 100 items failed: 10 x KeyError 'price' at test_report.py:\d+, e.g."
    ):
        run.result()
    assert list(range(100)) == run.resume(for_kind(kind, lambda x: x))


def test_collect_returns_the_list_if_nothing_failed(kind: str, make_pool: MakePool) -> None:
    """As a map does."""
    assert [x * x for x in range(50)] == make_pool(kind).map(for_kind(kind, square), range(50), on_error="collect")


def test_iterating_over_a_run_that_collects_gives_what_is_there_and_then_raises(kind: str, make_pool: MakePool) -> None:
    """Whether it goes on or is over."""
    run = make_pool(kind, concurrency(kind, 1)).start(
        for_kind(kind, lambda x: 6 // (x - 1)), range(4), on_error="collect"
    )
    for _ in range(2):
        results = iter(run)
        assert [-6, 6, 3] == [next(results) for _ in range(3)]
        with pytest.raises(pm.FailedItems):
            next(results)


def test_an_error_of_the_input_comes_before_collected_failures(kind: str, make_pool: MakePool) -> None:
    """It is about more than some items."""

    def items() -> Iterator[int]:
        yield from (1, 0, 2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        make_pool(kind).map(for_kind(kind, lambda x: 1 // x), items(), on_error="collect")


def test_an_iterator_refuses_to_collect(kind: str, make_pool: MakePool) -> None:
    """It may have no end."""
    lazy: list[Callable[..., Any]] = [make_pool(kind).imap, make_pool(kind).imap_unordered]
    for imap in lazy:
        with pytest.raises(pm.UsageError, match="use 'return', map or start"):
            imap(for_kind(kind, square), range(3), on_error="collect")


def test_the_first_error_tells_of_the_others_in_one_note(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Those that ran at the same time, in groups."""
    wait = gated(working_kind, gate.port)

    def task(x: int) -> int:
        wait(x)
        raise KeyError("price")

    async def coroutine(x: int) -> int:
        await wait(x)
        raise KeyError("price")

    run = make_pool(working_kind, 4).start(coroutine if working_kind == "asyncio" else task, range(4), chunksize=1)
    gate.wait_for(4)
    gate.open()
    with pytest.raises(KeyError) as caught:
        run.result(30)

    others = len(run.failures) - 1
    notes = [note for note in caught.value.__notes__ if "more item" in note]
    assert (1 if others else 0) == len(notes)
    if others:
        items = "item" if others == 1 else "items"
        assert notes[0].startswith(f"{others} more {items} failed: {others} x KeyError 'price' at test_report.py:")
