"""What a pool's workers are limited to: tasks in a life, memory, starts in a second, and how many there are, when."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from poolmagic.core import events as ev
from poolmagic.core.alarms import Alarm, Alarms
from poolmagic.core.books import PoolLimits, PoolPhase
from poolmagic.core.seats import FIRST_WAIT, KEEPALIVE, LONGEST_WAIT
from poolmagic.core.state import PoolState
from poolmagic.core.throttle import Throttle
from poolmagic.testing import FakeCrew, FakeRun, FakeWorker
from tests.core.test_attempts import begin, hear
from tests.core.test_state import answer, crash, done, green, prefork, ready, started, up


def limited(seats: list[int], scales: str = "workers", **limits: object) -> FakeCrew:
    """Return a pool with limits, whose time stands still between events."""
    cancels = "worker" if scales == "workers" else "slot"
    return FakeCrew(PoolState(seats, scales, cancels, PoolLimits(**limits)), pace=0.0)  # type: ignore[arg-type]


def work(crew: FakeCrew, worker: FakeWorker) -> int:
    """Let a worker do all that it has; return how much that was."""
    count = 0
    while begin(worker) or worker.outbox:
        while worker.running:
            worker.finish()
            count += 1
        worker.flush()
        while worker.outbox:
            crew.deliver(worker)
    return count


def told(crew: FakeCrew, kind: type[ev.Command], since: int = 0) -> list[ev.Command]:
    """Return the commands of a kind."""
    return [one for commands in crew.commands[since:] for one in commands if isinstance(one, kind)]


# Alarms ------------------------------------------------------------------------------------------------------------


def test_alarms_ring_in_order_and_once() -> None:
    """An earlier time replaces a later one, and what was dropped does not ring."""
    alarms = Alarms()
    for number in range(300):
        alarms.set(Alarm("retry", number), 1000.0 - number)
    alarms.set(Alarm("retry", 7), 5.0)
    alarms.set(Alarm("retry", 7), 9000.0)
    for number in range(8, 300):
        alarms.drop(Alarm("retry", number))
        alarms.drop(Alarm("retry", number))
    assert 5.0 == alarms.next
    assert [] == alarms.ring(4.9)
    assert [7, 6, 5] == [one.number for one in alarms.ring(995.0)]
    assert [4, 3, 2, 1, 0] == [one.number for one in alarms.ring(math.inf)]
    assert (math.inf, 0) == (alarms.next, len(alarms.ring(math.inf)))


# Tasks in a life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 7])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("chunksize", [None, 5])
def test_a_worker_runs_no_more_tasks_than_it_may(most: int, slots: int, chunksize: int | None) -> None:
    """Batches are cut for it, and each worker but the last has its fill before the next one comes."""
    crew = limited([slots], "slots", max_tasks=most)
    run = FakeRun(0, 40, chunksize=chunksize)
    crew.add(run, 5)
    done_by: Counter[int] = Counter()
    for _ in range(1000):
        for worker in up(crew):
            done_by[worker.id] += work(crew, worker)
            if worker.may_exit:
                crash(crew, worker)
        while run.orders:
            crew.handle(run.fill())
        if run.verdict:
            break
    assert ev.Verdict.DONE is run.verdict
    assert 40 == sum(done_by.values())
    assert {most} == {count for worker, count in done_by.items() if worker != max(done_by)}


def test_a_worker_that_has_done_what_it_may_is_replaced_when_it_is_told_to_stop() -> None:
    """Not before, so there are never more that run something than seats."""
    crew = limited([2], "slots", max_tasks=2)
    run = started(crew, 4, 1, 1, 1, 1)
    (worker,) = crew.workers.values()
    assert [ev.Accept(1, run.id, ((0, 1),), ())] == answer(crew, done(worker, run, (0, 1)))
    follows = answer(crew, done(worker, run, (1, 2)))
    assert [ev.Accept(1, run.id, ((1, 2),), ()), ev.StopWorker(1), ev.Spawn(2, 2)] == follows


def test_what_a_worker_gives_back_was_no_task_of_it() -> None:
    """It may have as much again."""
    crew = limited([1], "slots", max_tasks=3)
    run = started(crew, 9, 3, 3, 3, chunksize=3)
    assert [0, 3] == [crew.state.workers[1].budget, crew.state.workers[1].load]
    crew.handle(ev.WorkerReturned(1, run.id, ((1, 3),)))
    assert [2, 1] == [crew.state.workers[1].budget, crew.state.workers[1].load]


# Memory ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_recycled_ends_what_it_runs() -> None:
    """It gives back the rest and keeps its seat until it has nothing in hand."""
    crew = prefork()
    run = started(crew, 3, 3, chunksize=3)
    (worker,) = crew.workers.values()
    begin(worker)
    assert [ev.WithdrawItems(1, run.id)] == answer(crew, ev.Recycle(1))
    assert [] == answer(crew, ev.Recycle(1))
    hear(worker)
    crew.deliver(worker)
    assert [] == crew.commands[-1]
    follows = answer(crew, done(worker, run, (0, 1)))
    assert [ev.Accept(1, run.id, ((0, 1),), ()), ev.StopWorker(1), ev.Spawn(2, 1)] == follows
    assert ev.Dispatch(2, run.id, (1, 2)) in ready(crew, 2)


def test_an_idle_worker_is_recycled_at_once() -> None:
    """There is nothing to wait for."""
    crew = prefork()
    started(crew, 0)
    assert [ev.StopWorker(1), ev.Spawn(2, 1)] == answer(crew, ev.Recycle(1))


def test_a_pool_that_holds_goes_on_with_one_worker() -> None:
    """Nothing is handed out while anybody has something; then one worker gets a batch, and the others are stopped."""
    crew = prefork(3)
    run = started(crew, 9, *[1] * 9)
    workers = list(crew.workers.values())
    for worker in workers[:2]:
        begin(worker)
    assert [ev.StopWorker(3)] == [
        one
        for one in [*answer(crew, ev.Hold(on=True)), *answer(crew, done(workers[2], run, (2, 3)))]
        if isinstance(one, ev.StopWorker)
    ]
    crew.handle(done(workers[0], run, (0, 1)))
    assert [] == told(crew, ev.Dispatch, len(crew.log) - 2)
    crew.handle(done(workers[1], run, (1, 2)))
    for position in range(3, 9):
        loads = [book.load for book in crew.state.workers.values()]
        assert 1 == sum(loads), f"at item {position}"
        (busy,) = [book.id for book in crew.state.workers.values() if book.load]
        crew.handle(done(crew.workers[busy], run, (position, position + 1)))
    assert ev.Verdict.DONE is run.verdict
    assert [] == told(crew, ev.Spawn, len(crew.log) - 6)
    assert 2 == len([one for one in answer(crew, ev.Hold(on=False)) if isinstance(one, ev.Spawn)])


def test_a_pool_that_holds_gets_back_what_has_not_started() -> None:
    """It would start, or lie in the memory of a worker."""
    crew = green(2)
    run = started(crew, 4, 4, chunksize=4)
    assert [ev.WithdrawItems(1, run.id)] == answer(crew, ev.Hold(on=True))


def test_a_pool_that_holds_replaces_its_last_worker() -> None:
    """Or it would never go on."""
    crew = prefork(2)
    run = started(crew, 2, 1, 1)
    crew.handle(ev.Hold(on=True))
    for number in (1, 2):
        begin(crew.workers[number])
    crash(crew, crew.workers[1])
    assert [] == told(crew, ev.Spawn, len(crew.log) - 1)
    assert [ev.Spawn(3, 1)] == told_last(crash(crew, crew.workers[2]), ev.Spawn)
    ready(crew, 3)
    assert 1 == crew.state.workers[3].load
    assert run.verdict is None


def told_last(commands: list[ev.Command], kind: type[ev.Command]) -> list[ev.Command]:
    return [one for one in commands if isinstance(one, kind)]


# Starts in a second ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 10.0, 39.0, 500.0, 20_000.0])
@pytest.mark.parametrize("slots", [1, 8])
def test_items_start_as_fast_as_they_may(rate: float, slots: int) -> None:
    """Never more than that, but for a small burst; and no less, though a clock rings a little late."""
    crew = limited([slots] * 2, "slots")
    number = min(2000, max(10, int(2 * rate)))
    run = FakeRun(0, number, policy=ev.Policy(rate=rate))
    crew.add(run, slots, slots)
    up(crew)
    began, started_by = crew.now, 0
    burst = max(1, int(rate * 0.05))
    while run.verdict is None:
        for worker in list(crew.workers.values()):
            started_by += work(crew, worker)
            assert started_by <= burst + 1 + rate * (crew.now - began)
        while run.orders:
            crew.handle(run.fill())
        if crew.state.due is not None and not any(one.inbox for one in crew.workers.values()):
            crew.tick()
            crew.now += 0.002  # the next event comes late
    ideal = (number - burst) / rate
    assert ideal * 0.98 <= crew.now - began <= ideal * 1.03 + 0.01


def test_a_run_with_a_rate_does_not_hold_up_the_others() -> None:
    """Nor do they hold up that one: each has its turn."""
    crew = limited([1])
    slow = FakeRun(0, 20, policy=ev.Policy(rate=10.0))
    fast = FakeRun(1, 4000)
    crew.add(slow, 1)
    crew.add(fast, 1)
    (worker,) = up(crew)
    began = crew.now
    while slow.verdict is None:
        work_one(crew, worker, 0.001)
        for run in (slow, fast):
            while run.orders and run.verdict is None:
                crew.handle(run.fill())
        if crew.state.due is not None and crew.state.due <= crew.now:
            crew.handle(ev.Tick())
    assert 1.8 <= crew.now - began <= 2.2
    assert 1000 < len(fast.outcomes)


def work_one(crew: FakeCrew, worker: FakeWorker, seconds: float) -> None:
    """Let a worker do one item in so many seconds."""
    hear(worker)
    crew.now += seconds
    if worker.start():
        worker.finish()
        worker.flush(seconds)
        crew.deliver(worker)


def test_an_endless_input_is_not_read_far_ahead_of_the_rate() -> None:
    """What may not start yet is not asked for: a batch for each worker at most."""
    crew = limited([4] * 2, "slots")
    run = FakeRun(0, 10**9, knows_total=False, policy=ev.Policy(rate=5.0))
    crew.add(run, 1)
    for _ in range(200):
        for worker in up(crew):
            work(crew, worker)
        while run.orders:
            crew.handle(run.fill())
        crew.tick()
    assert run.filled <= len(run.outcomes) + 2 * 8


def test_what_did_not_start_may_start_elsewhere_at_once() -> None:
    """A start that is given back has not been used."""
    throttle = Throttle(100.0, 0.0)
    throttle.take(5, 0.0)
    assert 0 == throttle.allowance(0.0)
    throttle.give_back(3, 0.0)
    assert 3 == throttle.allowance(0.0)
    assert 5 == throttle.allowance(100.0)


# Seats -------------------------------------------------------------------------------------------------------------


def test_a_seat_stays_empty_for_longer_each_time() -> None:
    """As long as no worker achieves anything; twice as long each time, up to a bound."""
    crew = limited([1])
    started(crew, 0)
    waits = []
    for _ in range(9):
        crash(crew, next(iter(crew.workers.values())))
        assert crew.state.due is not None
        waits.append(crew.state.due - crew.now)
        crew.tick()
        up(crew)
    assert [min(LONGEST_WAIT, FIRST_WAIT * 2**n) for n in range(9)] == pytest.approx(waits)
    assert PoolPhase.RUNNING is crew.state.phase
    run = FakeRun(1, 2)
    crew.add(run, 1, 1)
    (worker,) = crew.workers.values()
    begin(worker)
    crew.handle(done(worker, run, (0, 1)))
    hear(worker)
    crash(crew, worker)
    up(crew)
    crash(crew, next(iter(crew.workers.values())))
    assert crew.state.due == pytest.approx(crew.now + FIRST_WAIT)


def test_a_restart_fills_all_seats_at_once() -> None:
    """Who restarts a pool has mended what was wrong with it."""
    crew = limited([1])
    started(crew, 0)
    crash(crew, crew.workers[1])
    assert [ev.Spawn(2, 1)] == answer(crew, ev.Restart())


def test_an_autoscaled_pool_starts_small_and_grows_with_what_waits() -> None:
    """At once, as far as there is work for it, and no further than it may."""
    crew = limited([1] * 6, autoscale=(6, 2))
    assert [ev.Spawn(1, 1), ev.Spawn(2, 1)] == answer(crew, ev.Tick())
    up(crew)
    crew.add(FakeRun(0, 4), 1, 1, 1, 1)
    assert 4 == len(crew.workers)
    crew.add(FakeRun(1, 100), 1)
    assert 6 == len(crew.workers)
    assert [1] * 6 == crew.state.seats == crew.state.wanted


def test_an_autoscaled_pool_of_slots_gives_its_workers_more() -> None:
    """Evenly."""
    crew = limited([5, 5], "slots", autoscale=(10, 2))
    crew.handle(ev.Tick())
    assert [1, 1] == crew.state.wanted == [worker.slots for worker in up(crew)]
    crew.add(FakeRun(0, 7), 7)
    assert [4, 3] == crew.state.wanted
    assert [ev.ResizeWorker(1, 4), ev.ResizeWorker(2, 3)] == told(crew, ev.ResizeWorker)


def test_an_input_of_unknown_length_lets_a_pool_grow_while_its_workers_are_busy() -> None:
    """One by one: whether there is one more item for it shows when it is asked for."""
    crew = limited([1] * 4, autoscale=(4, 1))
    run = FakeRun(0, 1000, knows_total=False)
    crew.add(run, 1)
    for _ in range(10):
        up(crew)
        while run.orders:
            crew.handle(run.fill())
    assert 4 == len(crew.workers)


def test_what_waits_for_its_rate_waits_for_no_worker() -> None:
    """More of them would change nothing."""
    crew = limited([1] * 4, autoscale=(4, 1))
    crew.add(FakeRun(0, 1000, policy=ev.Policy(rate=1.0)), 1)
    assert 1 == len(crew.workers)


def test_an_autoscaled_pool_shrinks_when_it_has_been_idle() -> None:
    """To its least; who has worked in between stays for as long as the others."""
    crew = limited([1] * 4, autoscale=(4, 1))
    run = FakeRun(0, 4)
    crew.add(run, 1, 1, 1, 1)
    for worker in up(crew):
        work(crew, worker)
    assert ev.Verdict.DONE is run.verdict
    crew.now += KEEPALIVE / 2
    again = FakeRun(1, 2)
    crew.add(again, 1, 1)
    for worker in up(crew):
        work(crew, worker)
    crew.tick()
    assert 2 == len(crew.state.wanted)
    crew.tick()
    assert [1] == crew.state.wanted
    assert 3 == len(told(crew, ev.StopWorker))
    assert crew.state.due is None
    assert [1] * 4 == crew.state.seats


def test_slots_that_were_not_needed_for_long_are_taken_away() -> None:
    """Those that were stay."""
    crew = limited([8], "slots", autoscale=(8, 2))
    run = FakeRun(0, 8)
    crew.add(run, 8)
    for worker in up(crew):
        hear(worker)
        work(crew, worker)
    crew.add(FakeRun(1, 3), 3)
    crew.tick()
    assert [8] == crew.state.wanted, "all eight were in use a moment ago"
    crew.tick()
    assert [3] == crew.state.wanted
    work(crew, crew.workers[1])
    crew.tick()
    crew.tick()
    assert [2] == crew.state.wanted
    assert crew.state.due is None


def test_a_pool_without_runs_sleeps_and_wakes_up() -> None:
    """Its workers are stopped after a while, and come back with the next run."""
    crew = limited([1, 1], idle_timeout=300.0)
    run = started(crew, 1)
    crew.now += 1000.0
    crew.handle(ev.Tick())
    assert 2 == len(crew.workers), "there is a run"
    crew.handle(done(crew.workers[1], run, (0, 1)))
    assert crew.state.due == crew.now + 300.0
    crew.now += 200.0
    later = FakeRun(7, 0)
    crew.add(later)
    crew.tick()
    assert [] == crew.commands[-1], "there has been a run since"
    crew.tick()
    assert [ev.StopWorker(1), ev.StopWorker(2)] == crew.commands[-1]
    assert crew.state.is_asleep
    for worker in list(crew.workers.values()):
        crash(crew, worker)
    assert not crew.workers
    crew.add(FakeRun(8, 1), 1)
    assert [ev.Spawn(3, 1), ev.Spawn(4, 1)] == crew.commands[-1]


def test_workers_that_start_when_the_pool_falls_asleep_are_stopped_too() -> None:
    """They need not come up first."""
    crew = limited([1], idle_timeout=1.0)
    crew.handle(ev.Grow(0))
    crew.tick()
    assert [ev.StopWorker(1)] == crew.commands[-1]
