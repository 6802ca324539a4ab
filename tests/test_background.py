"""Background work has a pool, a number and an end of its own; the logbook tells what runs and what ran."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import background, logbook, progress
from poolmagic.background import Background
from poolmagic.current import cell_pool
from poolmagic.errors import RunCancelled, UsageError
from poolmagic.origin import Origin
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, gated, square


def begin(body: Callable[[], Any], pool: pm.Pool, name: str = "work") -> Background:
    """Run a body in the background, written down in the logbook."""
    work = Background(name, pool)
    entry = logbook.note(work, pool.name, is_cell=True)
    work.start(body, Origin.here(), entry.close)
    return work


@pytest.fixture
def meeting() -> Iterator[threading.Event]:
    """Lets a body on; it is let on when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def entry_of(number: int) -> logbook.LogEntry:
    """The entry of that number."""
    return logbook.find(number)


# Background work -----------------------------------------------------------------------------------------------------


def test_the_current_pool_is_its_own(make_pool: MakePool, meeting: threading.Event) -> None:
    """While a cell has another one, and chooses more; and what it chooses itself, no cell sees."""
    outer, own, chosen = (make_pool("solo") for _ in range(3))
    begun = threading.Event()

    def body() -> list[pm.Pool]:
        begun.set()
        meeting.wait(30)
        seen = [pm.Pool.current()]
        with cell_pool(chosen):
            seen.append(pm.Pool.current())
        return [*seen, pm.Pool.current()]

    work = begin(body, own)
    assert begun.wait(30)
    with cell_pool(outer):
        meeting.set()
        assert [own, chosen, own] == work.result(30)
        assert pm.Pool.current() is outer


def test_its_end_is_waited_for(make_pool: MakePool, meeting: threading.Event) -> None:
    """A wait has a timeout; then there is the value."""
    work = begin(lambda: meeting.wait(30), make_pool("solo"))
    assert not work.done()
    with pytest.raises(TimeoutError):
        work.wait(0.01)
    meeting.set()
    assert work.result(30) is True
    assert ("done", True) == (work.snapshot().state, work.done())


def test_its_error_is_kept(make_pool: MakePool) -> None:
    """Whoever asks for the result gets it."""
    work = begin(lambda: int("price"), make_pool("solo"))
    work.wait(30)
    assert "failed" == work.snapshot().state
    with pytest.raises(ValueError, match="price"):
        work.result()


@pytest.mark.parametrize("way", ["map", "start", "imap", "submit"])
def test_cancelling_ends_what_it_maps(make_pool: MakePool, gate: Gate, way: str) -> None:
    """In all ways to map."""
    pool = make_pool("prefork", 1)
    task = gated("prefork", gate.port)
    ways: dict[str, Callable[[], Any]] = {
        "map": lambda: pool.map(task, [1, 2]),
        "start": lambda: pool.start(task, [1, 2]).result(),
        "imap": lambda: list(pool.imap(task, [1, 2])),
        "submit": lambda: pool.submit(task, 1).result(),
    }
    work = begin(ways[way], pool)
    gate.wait_for(1)
    work.cancel()
    work.wait(30)
    error = work.error
    assert "CancelledError" == type(error).__name__ if way == "submit" else isinstance(error, RunCancelled)


def test_once_cancelled_it_begins_nothing_more(make_pool: MakePool, meeting: threading.Event) -> None:
    """In no way to map; and by that it is a cancelled one, not a failed one."""
    pool = make_pool("threads", 1)
    refused: list[str] = []

    def body() -> None:
        meeting.wait(30)
        for begin_map in (pool.map, pool.start, pool.imap, pool.submit):
            try:
                begin_map(square, [1])
            except RunCancelled as error:
                refused.append(str(error))
        pool.map(square, [1])

    work = begin(body, pool)
    work.cancel()
    work.cancel()
    meeting.set()
    work.wait(30)
    assert [f"background cell {work.id} was cancelled: it starts nothing more"] * 4 == refused
    assert "cancelled" == work.snapshot().state
    assert [1] == pool.map(square, [1])


def test_it_tells_how_far_its_latest_map_is(make_pool: MakePool, gate: Gate) -> None:
    """Whatever it mapped before."""
    pool = make_pool("threads", 2)

    def body() -> None:
        pool.map(square, range(5))
        pool.map(lambda item: item if item < 3 else gated("threads", gate.port)(item), range(4))

    work = begin(body, pool)
    gate.wait_for(1)
    wait_until(lambda: work.snapshot().done == 3, "three of four are done")
    assert 4 == work.snapshot().total
    gate.open()
    work.result(30)
    assert (4, 4) == (work.snapshot().done, work.snapshot().total)


def test_quiet_is_for_the_one_that_asked(
    make_pool: MakePool, meeting: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No progress in the background, and progress in the foreground; and the other way round."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("POOLMAGIC_NONINTERACTIVE", "")
    begun = threading.Event()

    def body(is_quiet: bool) -> bool:
        with ExitStack() as stack:
            if is_quiet:
                stack.enter_context(background.quiet())
            begun.set()
            meeting.wait(30)
            return progress.wants_progress(None)

    work = begin(lambda: body(is_quiet=True), make_pool("solo"))
    assert begun.wait(30)
    assert progress.wants_progress(None)
    meeting.set()
    assert not work.result(30)
    with background.quiet():
        assert begin(lambda: body(is_quiet=False), make_pool("solo")).result(30)


def test_it_keeps_nothing_alive_when_it_is_over(make_pool: MakePool) -> None:
    """Its pool and its value may go, whatever its maps have left behind."""
    pool = pm.Pool("threads", 2)
    work = begin(partial(pool.map, square, range(3)), pool)
    assert [0, 1, 4] == work.result(30)
    gone = weakref.ref(work), weakref.ref(pool)
    del work, pool
    wait_until(lambda: gc.collect() >= 0 and [None, None] == [ref() for ref in gone], "both are gone")


def test_only_its_own_thread_works_for_it(make_pool: MakePool) -> None:
    """Before, beside and after it there is no background work."""
    assert background.here() is None
    work = begin(background.here, make_pool("solo"))
    assert work.result(30) is work
    assert background.here() is None


# The logbook ---------------------------------------------------------------------------------------------------------


def test_runs_and_background_work_share_their_numbers(make_pool: MakePool) -> None:
    """Each number means one thing, and a run of background work says so."""
    pool = make_pool("threads", 2, name="mine")
    work = begin(lambda: pool.map(square, range(3)), pool, "squares")
    assert [0, 1, 4] == work.result(30)
    pool.map(abs, [-1])
    cell, inner, outer = pm.list_runs()[-3:]
    assert [work.id, work.id + 1, work.id + 2] == [cell.number, inner.number, outer.number]
    assert ["squares", "square", "abs"] == [cell.name, inner.name, outer.name]
    assert [None, work.id, None] == [cell.cell, inner.cell, outer.cell]
    assert [True, False, False] == [cell.is_cell, inner.is_cell, outer.is_cell]
    assert ["mine"] * 3 == [cell.pool, inner.pool, outer.pool]
    assert f"<background cell {work.id}: squares on mine, done>" == repr(cell)
    assert f"<run {outer.number}: abs on mine, done>" == repr(outer)


def test_a_listed_run_does_not_keep_its_results(make_pool: MakePool) -> None:
    """There is its last picture; the memory is free."""

    class Large:
        pass

    pool = make_pool("solo")
    results = pool.map(lambda item: Large(), [1])
    gone = weakref.ref(results[0])
    entry = pm.list_runs()[-1]
    del results
    gc.collect()
    assert gone() is None
    assert entry.work is None
    assert entry.is_over
    assert ("done", 1, 1) == (entry.snapshot.state, entry.snapshot.done, entry.snapshot.total)
    entry.wait(0)
    entry.cancel()


def test_the_last_twenty_that_are_over_are_listed(make_pool: MakePool, gate: Gate) -> None:
    """And all that go on, however old they are."""
    pool, other = make_pool("threads", 1), make_pool("threads", 1)
    old = other.start(gated("threads", gate.port), [1])
    gate.wait_for(1)
    for _ in range(30):
        pool.map(abs, [-1])
    listed = pm.list_runs()
    assert old.id in [entry.number for entry in listed]
    assert 20 <= sum(entry.is_over for entry in listed) <= 21
    gate.open()
    old.result(30)


def test_a_run_is_cancelled_and_waited_for_by_its_number(make_pool: MakePool, gate: Gate) -> None:
    """As by its handle."""
    run = make_pool("prefork", 1).start(gated("prefork", gate.port), [1])
    gate.wait_for(1)
    entry = entry_of(run.id)
    assert entry.work is run
    assert not entry.is_over
    with pytest.raises(TimeoutError):
        entry.wait(0.01)
    entry.cancel()
    entry.wait(30)
    assert "cancelled" == entry.snapshot.state


def test_a_number_that_nothing_has_is_refused() -> None:
    """The refusal says where the numbers are."""
    with pytest.raises(UsageError, match=r"999999.*%pool runs"):
        logbook.find(999999)


def test_nobody_waits_for_his_own_end(make_pool: MakePool) -> None:
    """It would never come."""
    pool = make_pool("solo")
    work = Background("work", pool)
    entry = logbook.note(work, pool.name, is_cell=True)
    work.start(entry.wait, Origin.here(), entry.close)
    with pytest.raises(UsageError, match="own end"):
        work.result(30)


def test_a_run_that_is_cancelled_before_it_begins_does_not_begin(make_pool: MakePool) -> None:
    """The books learn of the run after they were told to end it."""
    pool = make_pool("threads", 1)
    results = pool.imap(square, range(3))
    results.cancel()
    with pytest.raises(RunCancelled):
        next(results)
