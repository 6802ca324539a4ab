"""Items that are tried again, and workers that are replaced: every kind does what was asked, or says why it cannot."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated, square

SOON: Any = {"retry_backoff": 0.001}
"""A short wait before the next attempt."""


def flaky(kind: str, folder: Path, times: int, error: type[Exception] = OSError) -> Callable[[int], Any]:
    """Return a task of which every third item fails so many times; it leaves a file for each attempt."""

    def task(x: int) -> int:
        attempt = len(list(folder.glob(f"{x}.*")))
        (folder / f"{x}.{attempt}").touch()
        if x % 3 == 0 and attempt < times:
            raise error(f"attempt {attempt}")
        return x * x

    return for_kind(kind, task)


def attempts(folder: Path, x: int) -> int:
    """Return how often an item was tried."""
    return len(list(folder.glob(f"{x}.*")))


# Retries -----------------------------------------------------------------------------------------------------------


def test_a_failure_that_goes_away_is_no_failure(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """The results are complete, and the run knows what the earlier attempts ended with."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    run = pool.start(flaky(kind, tmp_path, 2), range(10), retries=2, **SOON)

    assert [x * x for x in range(10)] == run.result(30)
    assert [3 if x % 3 == 0 else 1 for x in range(10)] == [attempts(tmp_path, x) for x in range(10)]
    assert [0, 3, 6, 9] == list(run.attempts)
    assert [["attempt 0", "attempt 1"]] * 4 == [list(map(str, errors)) for errors in run.attempts.values()]


def test_after_the_last_retry_a_failure_counts(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """The item's error is that of its last attempt."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    results = pool.map(flaky(kind, tmp_path, 9), range(4), retries=1, on_error="return", **SOON)

    assert [1, 4] == results[1:3]
    assert ["attempt 1"] * 2 == [str(results[x].exception) for x in (0, 3)]
    assert [2, 1, 1, 2] == [attempts(tmp_path, x) for x in range(4)]


def test_only_what_was_named_is_tried_again(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Subclasses are meant, too."""
    pool = make_pool(kind, None if kind == "solo" else 2)
    options: Any = {"retries": 3, "retry_on": (LookupError, TimeoutError), "on_error": "return", **SOON}

    results = pool.map(flaky(kind, tmp_path, 1, ValueError), range(3), **options)
    assert isinstance(results[0].exception, ValueError)
    assert 1 == attempts(tmp_path, 0)

    (tmp_path / "more").mkdir()
    assert [0, 1, 4] == pool.map(flaky(kind, tmp_path / "more", 1, KeyError), range(3), **options)


def test_a_pool_may_say_it_for_all_of_its_runs(working_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """`submit` included, which takes no options."""
    pool = make_pool(working_kind, 2, retries=2, **SOON)

    assert 9 == pool.submit(flaky(working_kind, tmp_path, 2), 3).result(30)
    assert 3 == attempts(tmp_path, 3)
    assert [0, 1] == list(pool.imap(flaky(working_kind, tmp_path, 1), range(2)))


def test_a_run_ends_at_once_if_it_is_cancelled_while_an_item_rests(
    working_kind: str, make_pool: MakePool, tmp_path: Path
) -> None:
    """Nobody waits for the next attempt."""
    pool = make_pool(working_kind, 2)
    run = pool.start(flaky(working_kind, tmp_path, 9), range(4), retries=5, retry_backoff=600)
    wait_until(lambda: len(run.attempts) == 2, "two items have failed")

    run.cancel()

    with pytest.raises(pm.RunCancelled):
        run.result(10)
    assert [1, 4] == pool.map(for_kind(working_kind, square), [1, 2])


# Rates -------------------------------------------------------------------------------------------------------------


def test_no_more_items_start_than_the_rate_allows(kind: str, make_pool: MakePool) -> None:
    """But for a twentieth of a second's worth, or one, in a burst."""
    pool = make_pool(kind, None if kind == "solo" else 4)

    starts = sorted(pool.map(for_kind(kind, lambda _: time.perf_counter()), range(30), rate_limit=100))

    for number, start in enumerate(starts):
        assert start - starts[0] > (number - 6) / 100 - 0.005, f"item {number} started too early"


# Workers that are replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3])
def test_a_worker_runs_just_so_many_tasks(process_kind: str, most: int, make_pool: MakePool) -> None:
    """Not one more, and none is lost."""
    pool = make_pool(process_kind, 2, max_tasks_per_child=most)

    pids = pool.map(for_kind(process_kind, lambda _: os.getpid()), range(8))

    counts = Counter(pids).values()
    assert most >= max(counts)
    assert len(counts) >= 8 / most


@pytest.mark.parametrize("kernel_kind", ["solo", "threads"])
@pytest.mark.parametrize(
    "setting", [{"max_tasks_per_child": 3}, {"max_memory_per_child": "1GB"}, {"memory_limit": "1GB"}]
)
def test_what_the_kernel_itself_runs_cannot_be_replaced(kernel_kind: str, setting: dict[str, Any]) -> None:
    """It is refused at once, with the reason."""
    with pytest.raises(pm.UsageError, match=f"a {kernel_kind} pool runs in the kernel, "):
        pm.Pool(kernel_kind, **setting)


def test_a_worker_that_has_grown_is_replaced_between_tasks(make_pool: MakePool) -> None:
    """What it ran is finished, and nothing fails."""

    def hoard(x: int) -> tuple[int, int]:
        block = bytearray(40 << 20)
        block[:: 1 << 12] = b"x" * (len(block) >> 12)
        globals().setdefault("_hoard", []).append(block)
        threading.Event().wait(0.4)  # until somebody has looked
        return x, os.getpid()

    pool = make_pool("prefork", 1, max_memory_per_child="150MB")

    found = pool.map(hoard, range(8))

    assert list(range(8)) == [x for x, _ in found]
    assert len({pid for _, pid in found}) > 1


def test_an_item_that_takes_far_too_much_memory_is_ended(make_pool: MakePool, gate: Gate) -> None:
    """It alone."""
    port, wait = gate.port, gated("prefork", gate.port)

    def swell(x: int) -> int:
        if x == 2:
            block = bytearray(400 << 20)
            block[:: 1 << 12] = b"x" * (len(block) >> 12)
            wait(port)
        return x

    pool = make_pool("prefork", 2, max_memory_per_child="200MB")

    results = pool.map(swell, range(5), on_error="return", crash_retries=0)

    error = results[2].exception
    assert [0, 1, 3, 4] == [*results[:2], *results[3:]]
    assert isinstance(error, pm.MemoryLimitExceeded)
    assert 200 << 20 == error.limit
    assert error.peak_memory > error.limit


def test_idle_workers_end_and_the_next_map_has_new_ones(process_kind: str, make_pool: MakePool) -> None:
    """Nobody notices but the machine."""
    pool = make_pool(process_kind, 2, idle_timeout=0.2)
    pool.map(for_kind(process_kind, square), range(4))

    wait_until(lambda: not pool.snapshot().workers, "the workers have ended")

    assert [0, 1, 4] == pool.map(for_kind(process_kind, square), range(3))


def test_a_pool_grows_with_its_work(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """From the fewest tasks at once to the most."""
    pool = make_pool(working_kind, autoscale=(3, 1))
    assert [4] == pool.map(for_kind(working_kind, square), [2])
    assert 1 == pool.snapshot().slots

    run = pool.start(gated(working_kind, gate.port), range(6))
    gate.wait_for(3)

    assert 3 == pool.snapshot().slots
    assert 3 == len(gate.arrived)
    gate.open()
    assert list(range(6)) == run.result(30)


# Workers that are killed -------------------------------------------------------------------------------------------


def test_an_item_that_kills_its_worker_runs_twice(process_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Then it is given up."""

    def kill(x: int) -> int:
        if x == 1:
            (tmp_path / f"{x}.{len(list(tmp_path.glob('1.*')))}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = make_pool(process_kind, 1).map(for_kind(process_kind, kill), range(3), on_error="return")

    assert [0, 2] == [results[0], results[2]]
    assert isinstance(results[1].exception, pm.WorkerLostError)
    assert 2 == attempts(tmp_path, 1)


def test_an_item_is_not_given_up_for_what_others_do_to_its_worker(make_pool: MakePool, gate: Gate) -> None:
    """Who kills workers at random may hit one and the same item twice."""
    pool = make_pool("prefork", 1)
    run = pool.start(gated("prefork", gate.port), [0])
    for times in range(1, 4):
        gate.wait_for(times)
        os.kill(pool.snapshot().workers[0].pid or 0, signal.SIGKILL)
    gate.wait_for(4)
    gate.open()

    assert [0] == run.result(30)
    assert 3 == len(run.attempts[0])
    assert all(isinstance(error, pm.WorkerLostError) for error in run.attempts[0])
