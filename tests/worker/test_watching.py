"""A snapshot shows live what runs and how far it is, read from the boards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poolmagic.board import DONE, POSITION, RUN, SINCE, Board
from poolmagic.core import events as ev
from poolmagic.core.state import PoolState
from poolmagic.crew import Crew
from poolmagic.messages import Done, Hello, Message
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, gated


class FakeLink:
    """A worker that does nothing by itself."""

    def __init__(self) -> None:
        self.pid: int | None = 4711
        self.board = Board()
        self.spare = 0
        self.trouble = ""
        self.is_cut = False

    def abandon(self, run: int, position: int) -> bool:
        """Do nothing."""
        return True

    def leftover(self) -> tuple[()]:
        """Return nothing."""
        return ()

    def send(self, message: Message) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""


class FakeLauncher:
    """Starts such workers."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []

    def prepare(self, modules: Any) -> None:
        """Do nothing."""

    def start(self, worker: int, slots: int) -> FakeLink:
        self.links.append(FakeLink())
        return self.links[-1]

    def close(self) -> None:
        """Do nothing."""


class FakeRun:
    """A run of which all items are there."""

    time_limit = 0.0

    def __init__(self, number: int) -> None:
        self.id = number

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: (0, None)


def crew_with_runs(*totals: int) -> tuple[Crew, FakeLink]:
    """Return a crew of one worker of two slots, which has a batch of so many items of each run."""
    launcher = FakeLauncher()
    crew = Crew(PoolState([2], "slots", "slot"), lambda loop, reports: launcher, None, "key")  # type: ignore[arg-type]
    for number, total in enumerate(totals):
        run: Any = FakeRun(number)
        crew.add(run, ev.RunAdded(number, ((0, total),), (), True, total, False, total))
    crew.received(1, Hello(4711))
    return crew, launcher.links[0]


def test_a_worker_shows_what_its_slots_run_and_for_how_long() -> None:
    """Each busy slot with run, position and seconds."""
    crew, link = crew_with_runs(100)
    link.board.start(1, 0, 17)
    link.board.record(1)[1][SINCE] -= 5

    [worker] = crew.state().workers

    [task] = worker.running
    assert (1, 0, 17) == (worker.busy, task.run, task.position)
    assert 5 <= task.seconds < 60


def test_what_is_over_and_not_reported_counts() -> None:
    """Once, before and after the report."""
    crew, link = crew_with_runs(100)
    for slot, done in enumerate((30, 12)):
        record, _ = link.board.record(slot)
        record[POSITION], record[DONE], record[RUN] = 50 + slot, done, 1

    state = crew.state()
    assert (42, 42, 42, {0: 42}) == (state.done, state.workers[0].done, state.workers[0].unreported, state.unreported)

    crew.received(1, Done(0, ((0, 30),), (30, 31), (), 0.1, b"", None))
    state = crew.state()
    assert (40, 2, 42, {0: 10}) == (state.done, state.failed, state.workers[0].done, state.unreported)


def test_what_is_not_reported_is_never_more_than_what_a_worker_has() -> None:
    """Whatever its board says."""
    crew, link = crew_with_runs(100)
    link.board.record(0)[0][DONE] = 1_000_000

    assert {0: 100} == crew.state().unreported


def test_with_several_runs_in_hand_nobody_says_whose_items_are_over() -> None:
    """The total is known all the same."""
    crew, link = crew_with_runs(50, 50)
    assert 2 == len(crew._state.workers[1].assigned)
    link.board.record(0)[0][DONE] = 10

    state = crew.state()
    assert (10, {}) == (state.done, state.unreported)


def test_a_pools_snapshot_shows_the_tasks_that_run(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """On every kind, from the moment at which they begin to their end."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(4), chunksize=1)
    gate.wait_for(2)

    running = [task for worker in pool.snapshot().workers for task in worker.running]
    assert [0, 1] == sorted(task.position for task in running)
    assert 1 == len({task.run for task in running})
    assert all(0 <= task.seconds < 30 for task in running)
    wait_until(
        lambda: all(task.seconds > 0.05 for worker in pool.snapshot().workers for task in worker.running),
        "they run for longer and longer",
    )
    gate.open()
    run.result(30)
    wait_until(lambda: not any(worker.running for worker in pool.snapshot().workers), "nothing runs")
    assert 4 == sum(worker.done for worker in pool.snapshot().workers) == pool.snapshot().done
