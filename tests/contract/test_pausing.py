"""A run that is paused: what becomes of its items, of others, and of whoever waits for it; on every kind."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

import poolmagic
import poolmagic as pm
from tests.conftest import MakePool, open_once_struck, wait_until
from tests.tasks import Gate, for_kind, gated, square


def test_a_paused_run_finishes_what_runs_and_starts_nothing_more(
    working_kind: str, make_pool: MakePool, gate: Gate
) -> None:
    """Until it is told to go on; then all is done, and nothing was run twice."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(60))
    gate.wait_for(2)

    run.pause()
    wait_until(lambda: run.snapshot().paused, "the run is paused")
    # Served behind all that was said before, so what had not started has come back when this is done.
    others = pool.start(for_kind(working_kind, square), range(30))
    gate.open()
    assert [x * x for x in range(30)] == others.result(30)
    wait_until(lambda: pool.snapshot().busy == 0, "what ran is done")
    started = len(gate.arrived)
    assert started < 60
    assert not run.done()
    assert "paused" in repr(run)
    assert run.snapshot().eta is None

    run.unpause()
    assert list(range(60)) == run.result(30)
    assert 60 == len(gate.arrived)
    assert not run.snapshot().paused


def test_a_paused_run_can_be_cancelled_and_resumed(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Nothing waits for a word that nobody says."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(20))
    gate.wait_for(2)
    run.pause()

    run.cancel()
    if working_kind == "threads":
        open_once_struck(pool, gate)
    with pytest.raises(pm.RunCancelled):
        run.result(30)
    gate.open()
    assert list(range(20)) == run.resume()


def test_a_paused_map_can_be_interrupted(
    working_kind: str, make_pool: MakePool, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for what is not going to start."""
    pool = make_pool(working_kind, 2)
    shown: list[pm.Run] = []

    class Pausing:
        """A display that pauses what it shows; then somebody presses Stop."""

        def __init__(self, run: pm.Run) -> None:
            shown.append(run)
            run.pause()

        def update(self, snapshot: Any) -> None:
            if snapshot.paused:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        def close(self, snapshot: Any) -> None:
            assert "interrupted" == snapshot.state

    with monkeypatch.context() as patch:
        patch.setattr(poolmagic, "find_display", lambda progress, background=False: Pausing)
        with pytest.raises(KeyboardInterrupt):
            pool.map(gated(working_kind, gate.port), range(20), chunksize=1)
    gate.open()
    assert list(range(20)) == shown[0].resume(progress=False)


@pytest.mark.parametrize("ends", ["close", "with"])
def test_a_pool_that_is_closed_finishes_a_paused_run(
    working_kind: str, ends: str, make_pool: MakePool, gate: Gate
) -> None:
    """As it finishes all that it has; whoever joins it would wait for ever otherwise."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(20))
    gate.wait_for(2)
    run.pause()

    if ends == "with":
        gate.open()
        with pool:
            pass
    else:
        pool.close()
        with pytest.raises(pm.UsageError, match="closed"):
            run.pause()
        gate.open()
    assert list(range(20)) == run.result(30)


def test_pausing_what_is_over_does_nothing(kind: str, make_pool: MakePool) -> None:
    """Nor does letting it go on."""
    run = make_pool(kind).start(for_kind(kind, square), range(5))
    run.result(30)

    run.pause()
    run.unpause()
    assert "done" == run.snapshot().state
    assert not run.snapshot().paused


def test_a_solo_run_says_that_it_cannot_be_paused(make_pool: MakePool) -> None:
    """Its items run in the thread that would have to pause."""
    pool = make_pool("solo")
    shown: list[str] = []

    class Refused:
        def __init__(self, run: pm.Run) -> None:
            with pytest.raises(pm.UsageError, match="solo run cannot be paused"):
                run.pause()
            run.unpause()
            shown.append("refused")

        def update(self, snapshot: Any) -> None: ...

        def close(self, snapshot: Any) -> None: ...

    event = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poolmagic, "find_display", lambda progress, background=False: Refused)
        pool.map(lambda x: event.wait(0.1), range(8))
    assert ["refused"] == shown


def test_a_picture_of_a_run_tells_what_runs(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """By the indices of the user's items, with the worker and the seconds, also in a run that was resumed."""
    pool = make_pool(working_kind, 2)
    run = pool.start(for_kind(working_kind, lambda x: 1 // (x - 3)), range(6), on_error="raise", chunksize=1)
    with pytest.raises(ZeroDivisionError):
        run.result(30)
    missing = sorted(set(range(6)) - run.results.keys())

    thread = threading.Thread(target=lambda: run.resume(gated(working_kind, gate.port), progress=False))
    thread.start()
    names = gate.wait_for(min(2, len(missing)))
    snapshot = run.snapshot()
    assert {int(name) for name in names} == {item.index for item in snapshot.running}
    assert all(item.seconds >= 0 and item.worker >= 1 for item in snapshot.running)
    assert snapshot.slowest in snapshot.running
    gate.open()
    thread.join(30)
    assert run.done()
    assert () == run.snapshot().running
    assert run.snapshot().slowest is None
