"""The state machine of a pool: its tables, and each rule of what it decides in the smallest case that shows it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from poolmagic.core import events as ev
from poolmagic.core import ledger
from poolmagic.core import state as module
from poolmagic.core.books import PoolPhase, RunPhase, WorkerPhase
from poolmagic.core.state import POOL_TRANSITIONS, RUN_TRANSITIONS, WORKER_TRANSITIONS, PoolState
from poolmagic.messages import Span
from poolmagic.testing import FakeCrew, FakeRun, FakeWorker
from tests.core.test_random_walk import SHAPES, STEPS, Walk

TABLES: dict[str, tuple[Any, type[Enum], Enum, Enum]] = {
    "POOL_TRANSITIONS": (POOL_TRANSITIONS, PoolPhase, PoolPhase.RUNNING, PoolPhase.CLOSED),
    "RUN_TRANSITIONS": (RUN_TRANSITIONS, RunPhase, RunPhase.ACTIVE, RunPhase.SETTLED),
    "WORKER_TRANSITIONS": (WORKER_TRANSITIONS, WorkerPhase, WorkerPhase.STARTING, WorkerPhase.EXITED),
}
"""Each table with its phases, the first and the last of them."""


def prefork(workers: int = 1) -> FakeCrew:
    """Return a pool of processes of one slot."""
    return FakeCrew(PoolState([1] * workers, "workers", "worker"))


def green(*slots: int) -> FakeCrew:
    """Return a pool of processes of so many slots each."""
    return FakeCrew(PoolState(list(slots), "slots", "slot"))


def up(crew: FakeCrew) -> list[FakeWorker]:
    """Let all workers say hello, and return them."""
    for worker in crew.workers.values():
        if not worker.is_up:
            worker.hello()
            crew.deliver(worker)
    return list(crew.workers.values())


def ready(crew: FakeCrew, worker: int) -> list[ev.Command]:
    """Let one worker say hello; return what follows."""
    crew.workers[worker].hello()
    crew.deliver(crew.workers[worker])
    return crew.commands[-1]


def started(crew: FakeCrew, length: int, *sizes: int, **settings: Any) -> FakeRun:
    """Start a run, with all its items in one batch unless told otherwise, let the workers come up and hear of it."""
    run = FakeRun(len(crew.log), length, **settings)
    crew.add(run, *(sizes or (length,)))
    for worker in up(crew):
        while worker.inbox:
            worker.hear()
    return run


def crash(crew: FakeCrew, worker: FakeWorker) -> list[ev.Command]:
    """Let a worker die; return what follows."""
    worker.exit()
    while worker.id in crew.workers:
        crew.deliver(worker)
    return crew.commands[-1]


def stillborn(crew: FakeCrew) -> None:
    """Let the next worker die as soon as it is there."""
    if not crew.workers:
        crew.tick()
    crash(crew, next(iter(crew.workers.values())))


def answer(crew: FakeCrew, event: ev.Event) -> list[ev.Command]:
    """Return what follows from an event."""
    before = len(crew.log)
    crew.handle(event)
    return crew.commands[before]


def done(
    worker: FakeWorker, run: FakeRun, *spans: Span, failed: tuple[int, ...] = (), seconds: float = 0.01
) -> ev.Event:
    return ev.WorkerDone(worker.id, run.id, spans, failed, seconds)


# The tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_only_the_last_phase_cannot_be_left(name: str) -> None:
    """What is closed, settled or exited stays so, and every other phase has a way out."""
    table, phases, _, last = TABLES[name]
    assert set(phases) - {last} == {phase for phase, _ in table}


@pytest.mark.parametrize("name", TABLES)
def test_every_phase_can_be_reached(name: str) -> None:
    """From the first phase there is a way to each."""
    table, phases, first, _ = TABLES[name]
    reached = {first}
    for _ in phases:
        reached |= {after for (before, _), after in table.items() if before in reached}
    assert set(phases) == reached


@pytest.mark.parametrize("name", TABLES)
def test_every_cause_is_an_event_or_a_command(name: str) -> None:
    """A phase changes because of something that came in or goes out, and then it does change."""
    for (before, cause), after in TABLES[name][0].items():
        assert cause in ev.Event.__args__ + ev.Command.__args__
        assert before is not after


def test_a_phase_changes_by_its_table_and_in_no_other_way() -> None:
    """Every assignment to a phase in the core takes its value from a table; only the first one of a pool is given."""
    values = [
        ast.unparse(node.value)
        for path in Path(module.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "phase"
    ]
    assert ["PoolPhase.RUNNING"] == [value for value in values if not value.startswith(tuple(TABLES))]
    assert len(values) > 5


class _Watched(dict[Any, Any]):
    """A table that notes which of its entries are used."""

    def __init__(self, table: dict[Any, Any]) -> None:
        super().__init__(table)
        self.used: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            self.used.add(key)
        return super().get(key, default)


def test_every_entry_of_the_tables_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On random walks every pair of phase and cause occurs, so no entry is dead; one that lacked would be an error."""
    watched = {name: _Watched(TABLES[name][0]) for name in TABLES}
    for name, table in watched.items():
        monkeypatch.setattr(module, name, table)
    monkeypatch.setattr(ledger, "RUN_TRANSITIONS", watched["RUN_TRANSITIONS"])
    for seed in range(60):
        for shape in SHAPES:
            walk = Walk(shape, seed)
            for _ in range(STEPS):
                walk.step()
            walk.go_on()
            walk.drain()
            walk.halt_all()
            walk.restart() if seed % 3 else None
            walk.crew.handle(ev.Terminate() if seed % 2 else ev.Close())
            walk.drain()
    assert [] == [(name, entry) for name, table in watched.items() for entry in table.keys() - table.used]


def test_the_core_knows_every_event() -> None:
    """There is a handler for each event, and for nothing else."""
    assert set(ev.Event.__args__) == set(module._HANDLERS)


# A run -------------------------------------------------------------------------------------------------------------


def test_a_run_without_items_is_done_at_once() -> None:
    """No worker is waited for."""
    crew = prefork()
    run = FakeRun(0, 0)
    assert [ev.Settle(0, ev.Verdict.DONE), ev.Spawn(1, 1)] == answer_to_added(crew, run)


def answer_to_added(crew: FakeCrew, run: FakeRun, *sizes: int) -> list[ev.Command]:
    crew.add(run, *sizes)
    return crew.commands[-1]


def test_items_go_to_workers_that_are_ready() -> None:
    """A worker gets the function before its first batch, and nothing before it said hello."""
    crew = prefork()
    assert [ev.Spawn(1, 1)] == answer_to_added(crew, FakeRun(0, 1), 1)
    assert [ev.Introduce(1, 0), ev.Dispatch(1, 0, (0, 1))] == ready(crew, 1)


def test_a_function_is_sent_once_to_a_worker() -> None:
    """The second batch of a run comes without it."""
    crew = green(2)
    run = started(crew, 2, 1, 1)
    assert 1 == sum(isinstance(command, ev.Introduce) for commands in crew.commands for command in commands)
    assert [(0, 1), (1, 2)] == list(crew.state.workers[1].assigned[run.id])


def test_what_is_done_is_accepted_and_the_last_item_settles_the_run() -> None:
    """The function is dropped then, and the run leaves the books."""
    crew = prefork()
    run = started(crew, 2)
    (worker,) = crew.workers.values()
    assert [ev.Accept(1, run.id, ((0, 1),), ())] == answer(crew, done(worker, run, (0, 1)))
    assert [
        ev.Accept(1, run.id, (), (1,)),
        ev.Drop(1, run.id),
        ev.Settle(run.id, ev.Verdict.DONE),
    ] == answer(crew, done(worker, run, failed=(1,)))
    assert {} == crew.state.runs
    assert (1, 1) == (crew.state.done, crew.state.failed)


@pytest.mark.parametrize(
    "event",
    [
        ev.WorkerDone(1, 0, ((0, 1),), (), 1.0),  # twice
        ev.WorkerDone(1, 0, ((7, 9),), (12,), 1.0),  # never handed in
        ev.WorkerDone(9, 0, ((1, 2),), (), 1.0),  # of nobody
        ev.WorkerDone(2, 0, ((1, 2),), (), 1.0),  # somebody else's
        ev.WorkerDone(1, 9, ((1, 2),), (), 1.0),  # of no run
        ev.WorkerDone(1, 0, ((2, 1), (1, 1)), (), 1.0),  # no spans
        ev.WorkerReturned(1, 0, ((0, 1), (7, 9))),
        ev.WorkerReturned(2, 0, ((1, 2),)),
        ev.WorkerReady(1),
        ev.WorkerReady(9),
        ev.WorkerExited(9, ((0, 1),)),
        ev.WorkerDoomed(9),
        ev.Halt(9, ev.Verdict.CANCELLED, kill=True),
        ev.Filled(9, 1, (0, 1), (), last=True),
    ],
)
def test_what_is_late_double_or_foreign_does_nothing(event: ev.Event) -> None:
    """A report counts only for what its worker has in hand."""
    crew = green(2, 2)
    run = started(crew, 4, 2, 2)
    crew.handle(done(crew.workers[1], run, (0, 1)))
    assert [] == answer(crew, event)
    assert [[(1, 2)], [(2, 4)]] == [list(book.assigned[run.id]) for book in crew.state.workers.values()]


def test_a_report_that_is_partly_double_counts_for_the_rest() -> None:
    """`Accept` names the part that counts, each position once even if the report names it twice."""
    crew = green(4)
    run = started(crew, 4)
    (worker,) = crew.workers.values()
    crew.handle(done(worker, run, (1, 2)))
    accepted = answer(crew, ev.WorkerDone(worker.id, run.id, ((0, 3), (2, 3)), (2, 3, 3), 0.1))[0]
    assert ev.Accept(worker.id, run.id, ((0, 1), (2, 3)), (3,)) == accepted


def test_bad_items_fail_without_a_worker() -> None:
    """Positions that could not be packed are never dispatched."""
    crew = green(4)
    run = started(crew, 4, bad=frozenset({1, 2}))
    (worker,) = crew.workers.values()
    assert [(run.id, 0), (run.id, 3)] == list(worker.waiting)
    assert 2 == crew.state.failed


def test_items_are_asked_for_as_workers_have_room() -> None:
    """An endless input is read no further ahead than the workers can hold."""
    crew = prefork(2)
    run = started(crew, 10**9, 1, 1, knows_total=False)
    assert [] == list(run.orders)
    (worker, _) = crew.workers.values()
    crew.handle(done(worker, run, (0, 1), seconds=1.0))
    assert [1] == list(run.orders)
    crew.handle(run.fill())
    assert 2 == sum(book.load for book in crew.state.workers.values())
    assert [] == list(run.orders)


def test_an_input_that_is_longer_than_it_said_is_read_to_its_end() -> None:
    """The word that there is no more comes from the input, not from its length."""
    crew = prefork()
    crew.runs[0] = run = FakeRun(0, 1)
    crew.handle(ev.RunAdded(0, ((0, 1),), (), False, 1, False, None))
    run.filled = 1
    up(crew)
    assert ev.Ask(0, 1) in answer(crew, ev.WorkerDone(1, 0, ((0, 1),), (), 1.0))
    assert ev.Settle(0, ev.Verdict.DONE) in answer(crew, ev.Filled(0, 1, None, (), True))


# The ends of a run -------------------------------------------------------------------------------------------------


def test_the_first_failure_takes_back_what_has_not_started() -> None:
    """With `fail_fast` nothing more is dispatched, what runs is finished, and the run ends as failed."""
    crew = prefork(2)
    run = started(crew, 3, 1, 1, 1, chunksize=1, fail_fast=True)
    one, two = crew.workers.values()
    one.start()
    two.start()
    one.finish(fails=True)
    one.flush()
    crew.deliver(one)
    assert RunPhase.HALTING is crew.state.runs[run.id].phase
    assert {ev.WithdrawItems} == {type(command) for command in crew.commands[-1][1:]}
    for worker in (one, two):
        while worker.inbox:
            worker.hear()
        if worker.running:
            worker.finish()
        worker.flush()
        while worker.outbox:
            crew.deliver(worker)
    assert ev.Verdict.FAILED is run.verdict
    assert {0: "failed", 1: "done"} == run.outcomes


def test_without_fail_fast_a_failure_is_an_outcome_like_any_other() -> None:
    """The run goes on."""
    crew = prefork()
    run = started(crew, 2)
    (worker,) = crew.workers.values()
    crew.handle(done(worker, run, failed=(0,)))
    assert RunPhase.ACTIVE is crew.state.runs[run.id].phase


def test_a_cancel_stops_a_slot_where_a_slot_can_be_stopped() -> None:
    """Green workers are told to stop the tasks of the run, and live on."""
    crew = green(2)
    run = started(crew, 2)
    assert [ev.CancelItems(1, run.id)] == answer(crew, ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))


def test_a_cancel_replaces_the_worker_where_only_a_worker_can_be_stopped() -> None:
    """A process that runs an item of the run is killed; nobody is blamed, and another takes its seat."""
    crew = prefork()
    run = started(crew, 1)
    (worker,) = crew.workers.values()
    worker.start()
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    assert worker.is_killed
    follows = crash(crew, worker)
    assert [ev.Settle(run.id, ev.Verdict.CANCELLED), ev.Spawn(2, 1)] == follows
    assert {} == run.outcomes


def test_a_cancel_spares_a_worker_that_runs_nothing_of_the_run() -> None:
    """Its items are taken back instead."""
    crew = prefork()
    run = started(crew, 1)
    (worker,) = crew.workers.values()
    run.halts.add(ev.Verdict.CANCELLED)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    assert not worker.is_killed
    worker.hear()
    crew.deliver(worker)
    assert ev.Verdict.CANCELLED is run.verdict


def test_a_second_halt_may_add_the_kill_and_keeps_the_first_verdict() -> None:
    """An interrupt lets running items end by themselves first, and stops them if they do not."""
    crew = green(1)
    run = started(crew, 1)
    assert [ev.WithdrawItems(1, run.id)] == answer(crew, ev.Halt(run.id, ev.Verdict.FAILED, kill=False))
    assert [] == answer(crew, ev.Halt(run.id, ev.Verdict.CANCELLED, kill=False))
    assert [ev.CancelItems(1, run.id)] == answer(crew, ev.Halt(run.id, ev.Verdict.CANCELLED, kill=True))
    run.halts.add(ev.Verdict.FAILED)
    crew.handle(done(crew.workers[1], run, failed=(0,)))
    assert ev.Verdict.FAILED is run.verdict


def test_a_batch_that_arrives_after_the_halt_is_given_up() -> None:
    """An answer may be on its way when a run is halted."""
    crew = green(2)
    run = started(crew, 9, 1, knows_total=False)
    crew.handle(ev.Halt(run.id, ev.Verdict.CANCELLED, kill=False))
    run.halts.add(ev.Verdict.CANCELLED)
    assert [] == answer(crew, run.fill())
    crew.handle(done(crew.workers[1], run, (0, 1)))
    assert ev.Verdict.CANCELLED is run.verdict


# Workers -----------------------------------------------------------------------------------------------------------


def test_only_what_ran_is_lost_with_a_worker() -> None:
    """A crash costs the item that ran; what had not started goes to the worker that takes the seat."""
    crew = prefork()
    run = started(crew, 3, 3, chunksize=3, policy=ev.Policy(crash_retries=0))
    (worker,) = crew.workers.values()
    worker.start()
    worker.finish()
    worker.flush()
    worker.start()
    follows = crash(crew, worker)
    assert [ev.Lose(1, run.id, 1), ev.Spawn(2, 1)] == follows
    assert [ev.Introduce(2, run.id), ev.Dispatch(2, run.id, (2, 3))] == ready(crew, 2)
    assert {0: "done", 1: "lost"} == run.outcomes


def test_items_that_come_back_are_first_in_the_queue() -> None:
    """They are dispatched before the ones that came after them."""
    crew = green(2)
    run = started(crew, 4, 1, 1, 1, 1)
    (worker,) = crew.workers.values()
    assert [(run.id, 0), (run.id, 1)] == list(worker.waiting)
    crew.handle(ev.WorkerDoomed(worker.id))
    worker.is_killed = True
    crash(crew, worker)
    assert [(0, 1), (1, 2), (2, 3), (3, 4)] == list(crew.state.runs[run.id].ready)


def test_an_idle_worker_gets_what_another_has_not_started() -> None:
    """Once the input is dry: one long item must not hold up those that were sent along with it."""
    crew = prefork(2)
    run = FakeRun(0, 4, chunksize=4)
    crew.add(run, 4)
    ready(crew, 1)
    assert [(0, 4)] == list(crew.state.workers[1].assigned[0])
    assert [ev.WithdrawItems(1, 0)] == ready(crew, 2)
    assert ev.Dispatch(2, 0, (1, 2)) in answer(crew, ev.WorkerReturned(1, 0, ((1, 4),)))
    assert 0 in crew.state.workers[1].assigned[0]


def test_nobody_is_robbed_twice_before_something_is_finished() -> None:
    """Else two workers that have not begun could take the same items from each other for ever."""
    crew = green(5, 4)
    run = FakeRun(0, 7)
    crew.add(run, 7)
    workers = up(crew)
    for _ in range(20):
        for worker in workers:
            while worker.inbox:
                worker.hear()
            while worker.outbox:
                crew.deliver(worker)
    withdrawals = [one for commands in crew.commands for one in commands if isinstance(one, ev.WithdrawItems)]
    assert 1 <= len(withdrawals) <= 2


def test_what_came_after_a_robbery_may_be_taken_back_too() -> None:
    """Though nothing was finished in between: with all tasks waiting for each other, nothing would ever be."""
    crew = prefork(1)
    first = started(crew, 2)
    [busy] = crew.workers.values()
    busy.start()
    answer(crew, ev.Grow(1))
    assert [ev.WithdrawItems(busy.id, first.id)] == ready(crew, 2)
    while busy.inbox:
        busy.hear()
    crew.deliver(busy)
    crew.workers[2].start()

    later = started(crew, 1)  # in advance, to the one that was robbed
    answer(crew, ev.Grow(1))

    assert [ev.WithdrawItems(busy.id, later.id)] == ready(crew, 3)


def test_items_that_come_back_go_first_to_those_that_are_idle() -> None:
    """Half of them; the rest goes back to where they came from, which will soon be free, too."""
    crew = prefork(2)
    run = FakeRun(0, 101, chunksize=101)
    crew.add(run, 101)
    ready(crew, 1)
    assert [ev.WithdrawItems(1, 0)] == ready(crew, 2)
    follows = answer(crew, ev.WorkerReturned(1, 0, ((1, 101),)))
    assert [ev.Introduce(2, 0), ev.Dispatch(2, 0, (1, 51))] == follows[:2]


def test_a_pool_whose_workers_die_at_their_start_gives_up() -> None:
    """After three of them its runs end as broken, and so does every later one; no more is spawned."""
    crew = prefork()
    run = FakeRun(0, 5)
    crew.add(run, 5)
    for _ in range(3):
        stillborn(crew)
    assert PoolPhase.BROKEN is crew.state.phase
    assert ev.Verdict.BROKEN is run.verdict
    assert {} == crew.workers
    assert [ev.Settle(1, ev.Verdict.BROKEN)] == answer_to_added(crew, FakeRun(1, 5), 5)
    assert [ev.Finish()] == answer(crew, ev.Close())


def test_a_closing_pool_whose_workers_die_at_their_start_gives_up_too() -> None:
    """Else its last runs would have workers spawned for them for ever, and `join` would never return."""
    crew = prefork()
    run = FakeRun(0, 5)
    crew.add(run, 5)
    crew.handle(ev.Close())
    for _ in range(3):
        stillborn(crew)
    assert ev.Verdict.BROKEN is run.verdict
    assert PoolPhase.CLOSED is crew.state.phase
    assert crew.is_finished


def test_workers_that_get_something_done_between_may_die() -> None:
    """Only fruitless starts in a row count."""
    crew = prefork()
    run = started(crew, 9, 9, chunksize=1)
    for _ in range(4):
        for worker in up(crew):
            while worker.inbox:
                worker.hear()
            worker.start()
            worker.finish()
            worker.flush()
            crash(crew, worker)
        stillborn(crew)
        crew.tick()
    assert PoolPhase.RUNNING is crew.state.phase
    assert [0, 1, 2, 3] == sorted(run.outcomes)


def test_a_restart_replaces_workers_without_losing_what_they_have() -> None:
    """The old ones finish and stop, the new ones take the seats at once."""
    crew = prefork()
    run = started(crew, 1)
    (old,) = crew.workers.values()
    old.start()
    assert [ev.Spawn(2, 1)] == answer(crew, ev.Restart())
    old.finish()
    old.flush()
    crew.deliver(old)
    assert ev.Verdict.DONE is run.verdict
    assert ev.StopWorker(1) == crew.commands[-1][-1]


def test_processes_are_spawned_and_drained() -> None:
    """Growing spawns at once, shrinking drains the last seats, and at least one stays."""
    crew = prefork()
    started(crew, 0)
    assert [ev.Spawn(2, 1), ev.Spawn(3, 1)] == answer(crew, ev.Grow(2))
    up(crew)
    assert [ev.StopWorker(2), ev.StopWorker(3)] == answer(crew, ev.Shrink(5))
    assert [1] == crew.state.seats


def test_slots_are_shared_out_evenly() -> None:
    """Growing and shrinking keeps the workers alike, and leaves each at least one slot."""
    crew = green(2, 1)
    started(crew, 0)
    assert [ev.ResizeWorker(1, 3), ev.ResizeWorker(2, 3)] == answer(crew, ev.Grow(3))
    assert [ev.ResizeWorker(1, 1), ev.ResizeWorker(2, 1)] == answer(crew, ev.Shrink(99))


def test_a_replacement_has_the_slots_of_its_seat() -> None:
    """Also when the pool was resized in between."""
    crew = green(2)
    started(crew, 0)
    crew.handle(ev.Grow(3))
    crash(crew, crew.workers[1])
    crew.tick()
    assert [ev.Spawn(2, 5)] == crew.commands[-1]


# The pool ----------------------------------------------------------------------------------------------------------


def test_closing_finishes_what_is_there() -> None:
    """Runs go on to their end, new ones are refused, then the workers stop, then the pool is over."""
    crew = prefork()
    run = started(crew, 1)
    assert [] == answer(crew, ev.Close())
    late = FakeRun(9, 1)
    late.halts.add(ev.Verdict.CANCELLED)
    assert [ev.Settle(9, ev.Verdict.CANCELLED)] == answer_to_added(crew, late, 1)
    (worker,) = crew.workers.values()
    assert [
        ev.Accept(1, run.id, ((0, 1),), ()),
        ev.Drop(1, run.id),
        ev.Settle(run.id, ev.Verdict.DONE),
        ev.StopWorker(1),
    ] == answer(crew, done(worker, run, (0, 1)))
    assert [ev.Finish()] == crash(crew, worker)


def test_a_crash_while_closing_is_made_good() -> None:
    """There is still work to do."""
    crew = prefork()
    run = started(crew, 1)
    crew.handle(ev.Close())
    crew.workers[1].start()
    assert [ev.Rerun(1, run.id, 0, blamed=True), ev.Spawn(2, 1)] == crash(crew, crew.workers[1])


def test_terminating_kills_everything() -> None:
    """Runs are cancelled, nobody is blamed, nothing is spawned; doing it twice does no harm."""
    crew = prefork()
    run = started(crew, 2)
    run.halts.add(ev.Verdict.CANCELLED)
    (worker,) = crew.workers.values()
    worker.start()
    assert [ev.WithdrawItems(1, run.id), ev.KillWorker(1)] == answer(crew, ev.Terminate())
    crew.handle(ev.Terminate())
    assert [ev.Settle(run.id, ev.Verdict.CANCELLED), ev.Finish()] == crash(crew, worker)
    assert {} == run.outcomes


def test_a_pool_that_was_never_used_closes_at_once() -> None:
    """There is nothing to wait for, and nothing is spawned."""
    assert [ev.Finish()] == answer(prefork(), ev.Close())
    assert [ev.Finish()] == answer(prefork(), ev.Terminate())


def test_runs_take_turns() -> None:
    """A short run need not wait until a long one before it is over."""
    crew = prefork()
    long = started(crew, 1000, 1, knows_total=False)
    short = started(crew, 1)
    (worker,) = crew.workers.values()
    crew.handle(long.fill()) if long.orders else None
    crew.handle(done(worker, long, (0, 1), seconds=1.0))
    assert short.id in crew.state.workers[worker.id].assigned


# The books ---------------------------------------------------------------------------------------------------------


def _twice(state: PoolState) -> None:
    state.runs[0].ready.append((0, 1))


def _nowhere(state: PoolState) -> None:
    state.workers[1].assigned[0].remove((0, 1))


def _too_many(state: PoolState) -> None:
    state.runs[0].resolved += 1


def _unknown(state: PoolState) -> None:
    del state.runs[0]


def _settled(state: PoolState) -> None:
    state.runs[0].phase = RunPhase.SETTLED


def _shared_seat(state: PoolState) -> None:
    state.workers[2].seat = state.workers[1].seat


def _asked_less(state: PoolState) -> None:
    state.runs[0].asked = -1


def _lighter(state: PoolState) -> None:
    state.workers[1].load -= 1


def _resting(state: PoolState) -> None:
    state.runs[0].resting.add(0)


def _grouped(state: PoolState) -> None:
    state._attempts.groups.append(((0, (1, 2)),))


def _spent(state: PoolState) -> None:
    state.workers[1].budget = -1


def _promised(state: PoolState) -> None:
    state.workers[2].promised[0] = 1


@pytest.mark.parametrize(
    "spoil",
    [
        _twice,
        _nowhere,
        _too_many,
        _unknown,
        _settled,
        _shared_seat,
        _asked_less,
        _lighter,
        _resting,
        _grouped,
        _spent,
        _promised,
    ],
)
def test_validate_finds_books_that_are_wrong(spoil: Callable[[PoolState], None]) -> None:
    """The invariants that all these tests rely on can be broken, and that is noticed."""
    state = PoolState([1, 1], "workers", "worker")
    for event in (ev.RunAdded(0, ((0, 3),), (), True, 3, False, None), ev.WorkerReady(1), ev.WorkerReady(2)):
        state.handle(event, 0.0)
    state.validate()
    spoil(state)
    with pytest.raises((AssertionError, ValueError)):
        state.validate()


def test_a_batch_that_leaves_a_gap_is_refused() -> None:
    """A run hands in its positions one after the other."""
    state = PoolState([1], "workers", "worker")
    state.handle(ev.RunAdded(0, ((0, 1),), (), False, None, False, None), 0.0)
    with pytest.raises(AssertionError, match="does not follow position 1"):
        state.handle(ev.Filled(0, 1, (2, 3), (), False), 0.0)
