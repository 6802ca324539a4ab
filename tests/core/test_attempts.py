"""Items that are tried again: failures, crashes, limits that are overrun, and cancels that are not obeyed."""

from __future__ import annotations

import pytest

from poolmagic.core import events as ev
from poolmagic.core.attempts import cut, size_of
from poolmagic.core.ledger import CANCEL_GRACE
from poolmagic.core.state import PoolState
from poolmagic.testing import FakeCrew, FakeRun, FakeWorker
from tests.core.test_state import answer, crash, done, green, prefork, ready, started, up

LOST = ev.Policy(crash_retries=0)
TWICE = ev.Policy(retries=2, backoff=1.0, longest=1.5)


def hear(worker: FakeWorker) -> None:
    """Let a worker read all that it was sent."""
    while worker.inbox:
        worker.hear()


def begin(worker: FakeWorker) -> list[tuple[int, int]]:
    """Let a worker start all that its slots can take; return what it runs."""
    hear(worker)
    while worker.start():
        continue
    return list(worker.running)


def failed(
    worker: FakeWorker, run: FakeRun, *positions: int, retriable: tuple[int, ...] | None = None
) -> ev.WorkerDone:
    """Return the report that items failed that may be tried again, all of them unless told otherwise."""
    return ev.WorkerDone(worker.id, run.id, (), positions, 0.01, positions if retriable is None else retriable)


# Failures ----------------------------------------------------------------------------------------------------------


def test_a_failure_that_may_be_tried_again_is_no_outcome() -> None:
    """It is reported, but not counted, and does not end the run; the item waits, and then runs again."""
    crew = green(3)
    crew.pace = 0.0001
    run = started(crew, 3, fail_fast=True, policy=TWICE)
    (worker,) = crew.workers.values()
    assert [ev.Accept(1, run.id, (), (), (1,))] == answer(crew, failed(worker, run, 1))
    assert (0, 0) == (crew.state.done, crew.state.failed)
    assert {1} == crew.state.runs[run.id].resting
    assert [] == answer(crew, ev.Tick()), "it is too early"
    crew.tick()
    assert [ev.Dispatch(1, run.id, (1, 2))] == crew.commands[-1]
    assert crew.state.due is None
    crew.handle(done(worker, run, (0, 3)))
    assert ev.Verdict.DONE is run.verdict


def test_the_last_failure_is_an_outcome() -> None:
    """After so many tries the next failure counts, and ends the run that wants to fail fast."""
    crew = prefork()
    run = started(crew, 1, fail_fast=True, policy=TWICE)
    (worker,) = crew.workers.values()
    for _ in range(2):
        crew.handle(failed(worker, run, 0))
        crew.tick()
    assert [ev.Accept(1, run.id, (), (0,)), ev.Drop(1, run.id), ev.Settle(run.id, ev.Verdict.FAILED)] == answer(
        crew, failed(worker, run, 0)
    )
    assert 2 == run.retried[0]


def test_a_failure_of_another_type_is_an_outcome_at_once() -> None:
    """Only what the worker found worth another try is tried again, and only of what it really had."""
    crew = green(3)
    run = started(crew, 3, policy=TWICE)
    follows = answer(crew, failed(crew.workers[1], run, 0, 1, retriable=(1, 2, 7)))
    assert [ev.Accept(1, run.id, (), (0,), (1,))] == follows
    assert {1} == crew.state.runs[run.id].resting


def test_waits_are_random_and_the_same_again() -> None:
    """Each is below a bound that doubles up to the longest, and a replay of the log draws the same."""
    waits: list[float] = []
    for position in range(50):
        crew = FakeCrew(PoolState([1], "workers", "worker"), pace=0.0)
        run = FakeRun(0, position + 1, chunksize=1, policy=ev.Policy(retries=3, backoff=1.0, longest=3.0))
        crew.add(run, *[1] * (position + 1))
        (worker,) = up(crew)
        for one in range(position):
            crew.handle(done(worker, run, (one, one + 1)))
        for bound in (1.0, 2.0, 3.0):
            crew.handle(failed(worker, run, position))
            assert crew.state.due is not None
            waits.append((crew.state.due - crew.now) / bound)
            crew.tick()
        crew.replay(PoolState([1], "workers", "worker"))
    assert 140 < len(set(waits))
    assert 0.4 < sum(waits) / len(waits) < 0.6
    assert 0.0 <= min(waits) <= max(waits) <= 1.0


def test_a_wait_without_bounds_is_no_overflow() -> None:
    """After a thousand tries, too."""
    crew = prefork()
    run = started(crew, 1, policy=ev.Policy(retries=5000, backoff=1e-300, longest=1e300))
    for _ in range(1100):
        crew.handle(failed(crew.workers[1], run, 0))
    assert 1100 == run.retried[0]


def test_a_run_that_ends_early_gives_its_waiting_items_up() -> None:
    """Nothing is waited for, and nothing is due any more."""
    crew = prefork()
    run = started(crew, 1, policy=TWICE)
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(failed(crew.workers[1], run, 0))
    assert crew.state.due is not None
    assert ev.Settle(run.id, ev.Verdict.CANCELLED) in answer(crew, ev.Halt(run.id, ev.Verdict.CANCELLED, kill=False))
    assert crew.state.due is None


def test_nothing_is_tried_again_of_a_run_that_is_halted() -> None:
    """Its failures are outcomes."""
    crew = green(2)
    run = started(crew, 2, policy=TWICE)
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=False))
    assert ev.Accept(1, run.id, (), (0,)) in answer(crew, failed(crew.workers[1], run, 0))


# Crashes -----------------------------------------------------------------------------------------------------------


def test_an_item_whose_worker_died_runs_again_with_nothing_beside_it() -> None:
    """What had not started waits, though the worker has nothing else to do and there is room in its plan."""
    crew = prefork()
    run = started(crew, 4, 1, 1, 1, 1)
    assert [(run.id, 0)] == begin(crew.workers[1])
    assert [ev.Rerun(1, run.id, 0, blamed=True), ev.Spawn(2, 1)] == crash(crew, crew.workers[1])
    assert [ev.Introduce(2, run.id), ev.Dispatch(2, run.id, (0, 1))] == ready(crew, 2)
    assert [] == answer(crew, ev.Tick())
    assert ev.Dispatch(2, run.id, (1, 2)) in answer(crew, done(crew.workers[2], run, (0, 1)))


def test_an_item_that_kills_twice_is_given_up() -> None:
    """Only that one: its batch mates never ran beside it."""
    crew = prefork()
    run = started(crew, 3, 3, chunksize=3)
    begin(crew.workers[1])
    crash(crew, crew.workers[1])
    ready(crew, 2)
    assert [(run.id, 0)] == begin(crew.workers[2])
    assert [ev.Lose(2, run.id, 0), ev.Spawn(3, 1)] == crash(crew, crew.workers[2])
    ready(crew, 3)
    crew.handle(done(crew.workers[3], run, (1, 3)))
    assert {0: "lost", 1: "done", 2: "done"} == run.outcomes


@pytest.mark.parametrize("culprit", range(5))
def test_of_several_suspects_the_one_to_blame_is_found(culprit: int) -> None:
    """They run again in halves, and halves of these; all others have their values in the end."""
    crew = green(5)
    run = started(crew, 5)
    deaths = 0
    while crew.runs:
        (worker,) = up(crew)
        begin(worker)
        if (run.id, culprit) in worker.running:
            deaths += 1
            crash(crew, worker)
        else:
            while worker.running:
                worker.finish()
            worker.flush()
            crew.deliver(worker)
    assert {one: "lost" if one == culprit else "done" for one in range(5)} == run.outcomes
    assert deaths <= 1 + 3 + 1


def test_without_another_try_all_that_ran_is_lost() -> None:
    """Nobody knows which of them it was."""
    crew = green(3)
    run = started(crew, 4, 1, 1, 1, 1, policy=LOST)
    begin(crew.workers[1])
    crash(crew, crew.workers[1])
    assert {0: "lost", 1: "lost", 2: "lost"} == run.outcomes


def test_a_loss_that_ends_the_run_spares_no_other_suspect() -> None:
    """An item of a run that has ended is not run again."""
    crew = green(3)
    crew.add(FakeRun(0, 1, policy=LOST), 1)
    crew.add(FakeRun(1, 2, fail_fast=True), 2)
    (worker,) = up(crew)
    begin(worker)
    follows = crash(crew, worker)
    assert [ev.Lose(1, 0, 0), ev.Rerun(1, 1, 0, blamed=True), ev.Rerun(1, 1, 1, blamed=True)] == [
        one for one in follows if isinstance(one, (ev.Lose, ev.Rerun))
    ]


def test_nobody_is_blamed_for_a_worker_that_we_killed() -> None:
    """What it ran is told so, and queued like all the rest."""
    crew = green(2)
    run = started(crew, 3, 1, 1, 1)
    (worker,) = crew.workers.values()
    begin(worker)
    crew.handle(ev.WorkerDoomed(1))
    worker.is_killed = True
    follows = crash(crew, worker)
    assert [ev.Rerun(1, run.id, 0, blamed=False), ev.Rerun(1, run.id, 1, blamed=False), ev.Spawn(2, 2)] == follows
    assert [(0, 1), (1, 2), (2, 3)] == list(crew.state.runs[run.id].ready)


def test_suspects_are_served_though_there_is_always_other_work() -> None:
    """The next worker that is empty gets them; if none is about to be so, one is let run dry."""
    crew = green(2, 2)
    run = started(crew, 40, *[1] * 40)
    one, two = crew.workers.values()
    begin(one)
    begin(two)
    crash(crew, one)
    ready(crew, 3)
    assert crew.state.workers[3].alone
    assert crew.state.workers[2].dries, "the second suspect waits for a worker"
    assert ev.WithdrawItems(2, run.id) in [command for commands in crew.commands[-2:] for command in commands] or (
        crew.state.workers[2].load <= 2
    )
    while two.running:
        two.finish()
    two.flush()
    while two.outbox:
        crew.deliver(two)
    hear(two)
    while two.outbox:
        crew.deliver(two)
    assert [1, 1] == [book.load for book in crew.state.workers.values()]
    assert all(book.alone for book in crew.state.workers.values())


def test_a_worker_that_runs_dry_gets_nothing_and_holds_up_nobody() -> None:
    """Others with free slots are served meanwhile."""
    crew = green(2, 2, 2)
    run = started(crew, 40, *[1] * 40)
    one, two, three = crew.workers.values()
    for worker in (one, two, three):
        begin(worker)
    crash(crew, one)
    ready(crew, 4)
    [drying] = [book for book in crew.state.workers.values() if book.dries]
    [other] = {two.id, three.id} - {drying.id}
    before = len(crew.log)
    for number in (drying.id, other):
        (span, *_) = crew.state.workers[number].assigned[run.id]
        crew.handle(done(crew.workers[number], run, (span[0], span[0] + 1)))
    given = {one.worker for commands in crew.commands[before:] for one in commands if isinstance(one, ev.Dispatch)}
    assert {other} == given


def test_suspects_stay_alone_when_their_worker_is_killed_by_us() -> None:
    """What they are suspected of has not been cleared up."""
    crew = prefork()
    run = started(crew, 3, 1, 1, 1)
    begin(crew.workers[1])
    crash(crew, crew.workers[1])
    ready(crew, 2)
    begin(crew.workers[2])
    crew.handle(ev.WorkerDoomed(2))
    crew.workers[2].is_killed = True
    assert ev.Rerun(2, run.id, 0, blamed=False) in crash(crew, crew.workers[2])
    assert [((run.id, (0, 1)),)] == list(crew.state._attempts.groups)


def test_suspects_that_come_back_stay_together_and_alone() -> None:
    """A worker that is to be replaced gives them back; they go to the next in the same way."""
    crew = prefork(2)
    run = started(crew, 6, *[1] * 6)
    begin(crew.workers[1])
    begin(crew.workers[2])
    crash(crew, crew.workers[1])
    ready(crew, 3)
    assert crew.state.workers[3].alone
    assert [ev.WithdrawItems(3, run.id)] == answer(crew, ev.Recycle(3))
    hear(crew.workers[3])
    crew.deliver(crew.workers[3])
    assert [((run.id, (0, 1)),)] == list(crew.state._attempts.groups)
    ready(crew, 4)
    assert [(run.id, 0)] == begin(crew.workers[4])


def test_an_item_that_kills_its_worker_after_it_ran_is_found_too() -> None:
    """A value may kill the worker that packs it, when the board is empty; any item in its hands may be to blame."""
    crew = prefork()
    run = started(crew, 4, 4, chunksize=4)
    for _ in range(20):
        if not crew.runs:
            break
        if not crew.workers or all(worker.is_over for worker in crew.workers.values()):
            crew.tick()
        (worker,) = up(crew)
        items = begin(worker) + list(worker.waiting)
        if (run.id, 2) in items:
            worker.running.clear()
            crash(crew, worker)
        else:
            crew.handle(done(worker, run, *[(position, position + 1) for _, position in items]))
    assert {0: "done", 1: "done", 2: "lost", 3: "done"} == run.outcomes


def test_groups_are_cut_by_their_items() -> None:
    """Whatever spans they consist of."""
    group = ((1, (0, 3)), (2, (5, 6)))
    assert (((1, (0, 2)),), ((1, (2, 3)), (2, (5, 6)))) == cut(group, 2)
    assert [(0, 4), (1, 3), (3, 1), (4, 0)] == [tuple(map(size_of, cut(group, size))) for size in (0, 1, 3, 9)]


# Limits and cancels ------------------------------------------------------------------------------------------------


def test_an_item_that_overruns_its_limit_fails_and_is_stopped() -> None:
    """The run is told first, then the task is killed; a late report of it changes nothing."""
    crew = green(2)
    crew.abandons = True
    run = started(crew, 2)
    begin(crew.workers[1])
    assert [ev.Expire(1, run.id, 0), ev.KillTask(1, run.id, 0)] == answer(crew, ev.Overdue(1, run.id, 0))
    assert [] == answer(crew, ev.Overdue(1, run.id, 0))
    assert [] == answer(crew, done(crew.workers[1], run, (0, 1)))
    crew.handle(done(crew.workers[1], run, (1, 2)))
    assert {0: "expired", 1: "done"} == run.outcomes
    assert 1 == crew.state.failed


def test_an_item_that_can_only_be_stopped_with_its_worker_takes_nobody_along() -> None:
    """The others that ran on it run again, and a run that wants to fail fast fails."""
    crew = green(2)
    other = started(crew, 1)
    run = started(crew, 1, fail_fast=True)
    (worker,) = crew.workers.values()
    begin(worker)
    follows = answer(crew, ev.Overdue(1, run.id, 0))
    assert [ev.Expire(1, run.id, 0), ev.KillTask(1, run.id, 0)] == follows[:2]
    assert ev.Verdict.FAILED is run.verdict
    assert worker.is_killed
    assert ev.Rerun(1, other.id, 0, blamed=False) in crash(crew, worker)


@pytest.mark.parametrize("event", [ev.Overdue(1, 9, 0), ev.Overdue(9, 0, 0), ev.Overdue(1, 0, 7), ev.Recycle(9)])
def test_what_is_said_of_others_does_nothing(event: ev.Event) -> None:
    """The item may have been finished, and the worker have ended, while somebody looked."""
    crew = green(2)
    started(crew, 2)
    assert [] == answer(crew, event)


def test_a_cancel_that_is_not_obeyed_becomes_a_kill() -> None:
    """After a while; the run does not wait any longer than that."""
    crew = green(2)
    crew.pace = 0.01
    run = started(crew, 2)
    begin(crew.workers[1])
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    began = crew.now
    assert crew.state.due == pytest.approx(began + CANCEL_GRACE)
    crew.tick()
    follows = crew.commands[len(crew.commands) - 2]
    assert [ev.KillTask(1, run.id, 0), ev.KillTask(1, run.id, 1)] == follows[:2]
    assert [ev.Drop(1, run.id), ev.Settle(run.id, ev.Verdict.CANCELLED)] == follows[2:4]
    assert ev.Verdict.CANCELLED is run.verdict
    assert crew.workers[1].is_killed


def test_a_cancel_that_is_obeyed_is_the_end_of_it() -> None:
    """Nothing is due."""
    crew = green(1)
    run = started(crew, 1)
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    crew.handle(failed(crew.workers[1], run, 0, retriable=()))
    assert crew.state.due is None


def test_a_worker_that_does_not_answer_a_cancel_is_killed() -> None:
    """It may have been stopped, and will never say what it has not started."""
    crew = prefork()
    crew.pace = 0.01
    run = started(crew, 1)
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    assert [False] == [worker.is_killed for worker in crew.workers.values()]
    crew.tick()
    assert [True] == [worker.is_killed for worker in crew.workers.values()]
    crash(crew, crew.workers[1])
    assert ev.Verdict.CANCELLED is run.verdict
