"""What a `Run` promises, on every kind."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

import poolmagic as pm
from tests.conftest import MakePool, open_once_struck, wait_until
from tests.tasks import Gate, for_kind, gated, square


def test_a_run_can_be_watched_while_it_goes_on(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """`start` returns at once; `done`, `snapshot` and `result` with a timeout tell how it stands."""
    run = make_pool(working_kind, 2).start(gated(working_kind, gate.port), range(5))
    gate.wait_for(2)

    assert not run.done()
    snapshot = run.snapshot()
    assert ("running", 0, 0, 5, 2) == (snapshot.state, snapshot.done, snapshot.failed, snapshot.total, snapshot.busy)
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    gate.open()
    assert list(range(5)) == run.result(30)
    assert run.done()
    assert ("done", 5, 5) == (run.snapshot().state, run.snapshot().done, run.snapshot().total)


def test_iterating_over_a_run_gives_the_results_as_they_come(kind: str, make_pool: MakePool) -> None:
    """In the order of the items."""
    run = make_pool(kind).start(for_kind(kind, square), range(300))

    assert [x * x for x in range(300)] == list(run)
    assert [x * x for x in range(300)] == list(run)


def test_iterating_ends_with_the_runs_error(kind: str, make_pool: MakePool) -> None:
    """After what came before it."""
    run = make_pool(kind, None if kind == "solo" else 1).start(
        for_kind(kind, lambda x: 1 // (x - 2)), range(5), chunksize=1
    )
    results = iter(run)

    assert [-1, -1] == [next(results), next(results)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_run_can_be_awaited(kind: str, make_pool: MakePool) -> None:
    """In any event loop, without blocking it."""
    pool = make_pool(kind)

    async def main() -> list[int]:
        results: list[int] = await pool.start(for_kind(kind, square), range(50))
        return results

    assert [x * x for x in range(50)] == asyncio.run(main())


def test_cancelling_the_wait_cancels_the_run(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """As with any awaitable."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(5))
    gate.wait_for(2)

    async def main() -> None:
        waiting = asyncio.ensure_future(run)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    if working_kind == "threads":
        open_once_struck(pool, gate)
    with pytest.raises(pm.RunCancelled):
        run.result(30)


def test_cancel_stops_what_runs_and_the_pool_goes_on(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """The run ends as cancelled; the next map on the pool is right."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(100))
    gate.wait_for(2)

    run.cancel()
    if working_kind == "threads":
        open_once_struck(pool, gate)
    with pytest.raises(pm.RunCancelled):
        run.result(30)
    assert "cancelled" == run.snapshot().state
    assert [x * x for x in range(50)] == pool.map(for_kind(working_kind, square), range(50))
    run.cancel()


def test_resume_with_a_repaired_function_runs_no_finished_item_again(kind: str, make_pool: MakePool) -> None:
    """The list is completed with what was missing."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    def broken(x: int) -> tuple[str, int]:
        if x == 37:
            raise ZeroDivisionError
        return ("broken", x)

    run = pool.start(for_kind(kind, broken), range(100))
    with pytest.raises(ZeroDivisionError):
        run.result(30)
    finished = run.results

    results = run.resume(for_kind(kind, lambda x: ("fixed", x)))

    assert [finished.get(x, ("fixed", x)) for x in range(100)] == results
    assert ("fixed", 37) == results[37]
    assert results == run.result()
    assert not run.failures
    assert "done" == run.snapshot().state


def test_a_failed_map_leaves_its_run_with_the_error_and_the_pool(kind: str, make_pool: MakePool) -> None:
    """So that it can be resumed."""
    pool = make_pool(kind)
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(for_kind(kind, lambda x: 1 // (x - 3)), iter(range(10)))

    run: pm.Run = caught.value.run  # type: ignore[attr-defined]
    assert run is pool.last_run
    assert [0] * 10 == run.resume(for_kind(kind, lambda x: 0))[3:4] * 10
    assert 10 == len(run.result())


def test_resume_goes_on_where_a_generator_was_left(kind: str, make_pool: MakePool) -> None:
    """Each of its items is used exactly once."""
    pool, fixed = make_pool(kind), for_kind(kind, square)

    def items() -> Iterator[int]:
        yield from range(200)

    run = pool.start(for_kind(kind, lambda x: x * x if x != 20 else 1 // 0), items())
    with pytest.raises(ZeroDivisionError):
        run.result(30)

    assert [x * x for x in range(200)] == run.resume(fixed)


def test_resume_can_fail_and_be_resumed_again(kind: str, make_pool: MakePool) -> None:
    """Indices stay those of the user's input."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    def fails_at(bad: int) -> object:
        return for_kind(kind, lambda x: x if x < bad else 1 // 0)

    run = pool.start(fails_at(10), range(60), chunksize=3)  # type: ignore[arg-type]
    for bad in (25, 40):
        with pytest.raises(ZeroDivisionError):
            run.resume(fails_at(bad)) if run.done() else run.result(30)  # type: ignore[arg-type]
        assert all(index == value for index, value in run.results.items())

    with pytest.raises(ZeroDivisionError):
        run.resume(fails_at(50))  # type: ignore[arg-type]
    assert list(range(60)) == run.resume(fails_at(60))  # type: ignore[arg-type]


def test_resume_runs_items_again_whose_failures_were_returned(kind: str, make_pool: MakePool) -> None:
    """Their results take the failures' places."""
    run = make_pool(kind).start(for_kind(kind, lambda x: 1 // (x - 3)), range(6), on_error="return")
    run.result(30)
    assert [3] == [failure.index for failure in run.failures]

    assert [-1, -1, -1, "fixed", 1, 0] == run.resume(for_kind(kind, lambda x: "fixed"))


def test_an_interrupt_keeps_what_is_finished(kind: str, make_pool: MakePool, gate: Gate) -> None:
    """`KeyboardInterrupt` carries the run, which can be resumed on the same pool."""
    pool = make_pool(kind, None if kind == "solo" else 2)
    port = gate.port

    if kind == "asyncio":
        wait = gated(kind, port)

        async def task(x: int) -> int:
            return x if x < 3 else int(await wait(x))

    else:
        wait = gated(kind, port)

        def task(x: int) -> int:  # type: ignore[misc]
            return x if x < 3 else int(wait(x))

    def interrupt() -> None:
        gate.wait_for(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(task, range(20), chunksize=1)
    gate.open()

    run = caught.value.run  # type: ignore[attr-defined]
    assert "interrupted" == run.snapshot().state
    assert {0: 0, 1: 1, 2: 2}.items() <= run.results.items()
    wait_until(lambda: pool.snapshot().busy == 0, "what was interrupted has ended")
    assert list(range(20)) == run.resume()
    assert [x * x for x in range(50)] == pool.map(for_kind(kind, square), range(50))


def test_a_run_tells_how_it_stands(kind: str, make_pool: MakePool) -> None:
    """In one line of text."""
    run = make_pool(kind).start(for_kind(kind, square), range(10))
    run.result(30)

    assert f"square on {kind}: 10/10 in " in repr(run)


def test_resuming_a_run_that_goes_on_is_refused(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """It would run items twice."""
    run = make_pool(working_kind, 2).start(gated(working_kind, gate.port), range(3))
    gate.wait_for(2)

    with pytest.raises(pm.UsageError, match="goes on"):
        run.resume()
    gate.open()
    assert [0, 1, 2] == run.result(30)


def test_two_interrupts_carry_the_run_too(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """The second stops what runs at once; nothing finished is lost."""
    pool = make_pool(working_kind, 2)
    wait = gated(working_kind, gate.port)

    def interrupt() -> None:
        gate.wait_for(2)
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(wait, range(6), chunksize=1)
    gate.open()

    run: pm.Run = caught.value.run  # type: ignore[attr-defined]
    wait_until(lambda: pool.snapshot().busy == 0, "what was interrupted has ended")
    assert list(range(6)) == run.resume()


class SlowToPickle:
    """Takes its time, in Python code."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[type[SlowToPickle], tuple[int]]:
        if self.number == 3 and not SlowToPickle.interrupted:
            SlowToPickle.interrupted = True
            signal.raise_signal(signal.SIGINT)
        return SlowToPickle, (self.number,)

    interrupted = False


def test_an_interrupt_while_items_are_pickled_loses_none(make_pool: MakePool) -> None:
    """They are pickled again when the run is resumed."""
    pool = make_pool("prefork", 2)
    SlowToPickle.interrupted = False
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(lambda item: item.number, [SlowToPickle(number) for number in range(12)])

    run: pm.Run = caught.value.run  # type: ignore[attr-defined]
    assert list(range(12)) == run.resume()


def test_an_interrupt_inside_of_a_generator_is_not_taken_for_its_end(kind: str, make_pool: MakePool) -> None:
    """What it would have given is missing, and that is said."""

    def items() -> Iterator[int]:
        for number in range(30):
            if number == 10:
                signal.raise_signal(signal.SIGINT)
            yield number

    with pytest.raises(KeyboardInterrupt) as caught:
        make_pool(kind).map(for_kind(kind, square), items())

    run: pm.Run = caught.value.run  # type: ignore[attr-defined]
    with pytest.raises(pm.UsageError, match="interrupted while it made an item"):
        run.resume()
    assert {number: number * number for number in range(10)} == run.results


def test_restart_revives_a_pool_whose_workers_could_not_start(
    process_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the cause is gone; before that the map ends with a clear error instead of hanging."""
    pool = make_pool(process_kind, 1)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(pm.WorkerLostError, match="die as soon as they start"):
        pool.map(for_kind(process_kind, square), range(5))
    assert "broken" == pool.snapshot().state
    monkeypatch.delenv("PYTHONHOME")

    pool.restart()

    assert [4] == pool.map(for_kind(process_kind, square), [2])
