"""A run that is paused: nothing more of it starts, others have the workers, and what becomes of it in the end."""

from __future__ import annotations

import pytest

from poolmagic.core import events as ev
from poolmagic.core.books import PoolPhase
from poolmagic.testing import FakeCrew, FakeRun
from tests.core.test_attempts import begin, hear
from tests.core.test_state import answer, crash, done, green, prefork, started


def dispatched(crew: FakeCrew, run: FakeRun, since: int) -> list[ev.Command]:
    """Return what was handed out of a run since an event."""
    return [
        one
        for commands in crew.commands[since:]
        for one in commands
        if isinstance(one, ev.Dispatch) and one.run == run.id
    ]


def work_off(crew: FakeCrew) -> None:
    """Let the workers do all that they have, and answer all orders, until nothing happens any more."""
    events = -1
    while events < len(crew.log):
        events = len(crew.log)
        for worker in list(crew.workers.values()):
            while begin(worker):
                while worker.running:
                    worker.finish()
            worker.flush()
            while worker.outbox:
                crew.deliver(worker)
        for run in list(crew.runs.values()):
            while run.orders:
                crew.handle(run.fill())


def test_a_paused_run_gets_back_what_has_not_started() -> None:
    """What runs is finished, nothing else starts; when it goes on, all is done."""
    crew = green(2)
    run = started(crew, 10, 10, chunksize=10)
    worker = crew.workers[1]
    begin(worker)
    assert [ev.WithdrawItems(1, run.id)] == answer(crew, ev.Pause(run.id, on=True))
    since = len(crew.log)
    work_off(crew)
    assert [0, 1] == sorted(run.outcomes)
    assert [] == dispatched(crew, run, since)
    crew.handle(ev.Pause(run.id, on=False))
    work_off(crew)
    assert ev.Verdict.DONE is run.verdict


def test_the_workers_of_a_paused_run_are_free_for_others() -> None:
    """Also those that wait for items of it, which are on order."""
    crew = prefork(2)
    paused = started(crew, 50, 1, chunksize=1)
    crew.handle(ev.Pause(paused.id, on=True))
    assert paused.orders
    other = started(crew, 20, 4, chunksize=1)
    work_off(crew)
    assert ev.Verdict.DONE is other.verdict
    assert paused.verdict is None


def test_what_was_on_order_goes_to_whoever_is_free_when_the_run_goes_on() -> None:
    """The worker that it was meant for may have had its fill since, and have ordered anew."""
    crew = prefork(2)
    run = started(crew, 50, 1, chunksize=1)
    before = len(run.orders)
    crew.handle(ev.Pause(run.id, on=True))
    crew.handle(ev.Pause(run.id, on=False))
    assert len(run.orders) > before
    work_off(crew)
    assert ev.Verdict.DONE is run.verdict


def test_a_paused_run_ends_when_its_last_item_does() -> None:
    """There is nothing left that it could wait for."""
    crew = prefork(1)
    run = started(crew, 1)
    begin(crew.workers[1])
    crew.handle(ev.Pause(run.id, on=True))
    work_off(crew)
    assert ev.Verdict.DONE is run.verdict


@pytest.mark.parametrize("kill", [False, True])
def test_a_paused_run_can_be_halted(kill: bool) -> None:
    """Its end waits for what runs, and for nothing else."""
    crew = green(1)
    run = started(crew, 5, 5, chunksize=5)
    begin(crew.workers[1])
    crew.handle(ev.Pause(run.id, on=True))
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill))
    work_off(crew)
    assert ev.Verdict.CANCELLED is run.verdict
    crew.handle(ev.Pause(run.id, on=False))


def test_a_pool_that_closes_finishes_its_paused_runs() -> None:
    """Nobody could tell it to let them go on, and whoever joins it would wait for ever."""
    crew = prefork(1)
    run = started(crew, 5, 5, chunksize=1)
    crew.handle(ev.Pause(run.id, on=True))
    crew.handle(ev.Close())
    crew.handle(ev.Pause(run.id, on=True))
    work_off(crew)
    assert ev.Verdict.DONE is run.verdict
    crew.workers[1].exit()
    crew.deliver(crew.workers[1])
    assert PoolPhase.CLOSED is crew.state.phase


def test_suspects_of_a_paused_run_wait_for_it() -> None:
    """And those of others that ran beside them do not."""
    crew = green(2)
    first, second = (started(crew, 1, 1, chunksize=1) for _ in range(2))
    worker = crew.workers[1]
    hear(worker)
    assert {first.id, second.id} == {worker.start()[0], worker.start()[0]}  # type: ignore[index]
    crew.handle(ev.Pause(first.id, on=True))
    crash(crew, worker)
    since = len(crew.log)
    crew.workers[2].hello()
    work_off(crew)
    assert ev.Verdict.DONE is second.verdict
    assert [] == dispatched(crew, first, since)
    crew.handle(ev.Pause(first.id, on=False))
    work_off(crew)
    assert ev.Verdict.DONE is first.verdict


def test_an_item_that_rests_is_not_tried_again_before_its_run_goes_on() -> None:
    """Though its time has come."""
    crew = prefork(1)
    run = started(crew, 1, policy=ev.Policy(retries=1, backoff=500.0))
    crew.handle(ev.WorkerDone(1, run.id, (), (0,), 0.01, (0,)))
    crew.handle(ev.Pause(run.id, on=True))
    crew.tick()
    work_off(crew)
    assert run.verdict is None
    crew.handle(ev.Pause(run.id, on=False))
    assert ev.Dispatch(1, run.id, (0, 1)) in crew.commands[-1]


def test_pausing_twice_equals_once() -> None:
    """So does letting a run go on that goes on, and what is said of a run that is over."""
    crew = prefork(1)
    run = started(crew, 3, 3, chunksize=1)
    assert [] == answer(crew, ev.Pause(run.id, on=False))
    crew.handle(ev.Pause(run.id, on=True))
    crew.handle(ev.Pause(run.id, on=True))
    crew.handle(ev.Pause(run.id, on=False))
    work_off(crew)
    assert ev.Verdict.DONE is run.verdict
    assert [] == answer(crew, ev.Pause(run.id, on=True))
    assert [] == answer(crew, done(crew.workers[1], run, (0, 1)))
