"""Workloads that wait for one answer: of a warm pool, of a new one, of a worker in the place of a dead one."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Any, Final

from tests.benchmarks.computing import PROCESS_PEERS
from tests.benchmarks.workload import Figure, Job, Workload

__all__ = ["WORKLOADS"]

MICROSECONDS: Final = Figure("median", "", "µs")


def _time_map(job: Job) -> dict[str, float]:
    """Map over one item, again and again."""
    job.adapter.start()
    square = job.cell.square
    for _ in range(5):
        job.adapter.map(square, [1])
    times = []
    for index in range(job.items):
        began = time.perf_counter()
        results = job.adapter.map(square, [index])
        times.append(time.perf_counter() - began)
        assert results == [index * index], "wrong results"
    return {"median": statistics.median(times) * 1e6}


def _time_submit(job: Job) -> dict[str, float]:
    """Submit one task and wait for it, again and again."""
    job.adapter.start()
    square = job.cell.square
    for _ in range(5):
        job.adapter.call(square, 1)
    times = []
    for index in range(job.items):
        began = time.perf_counter()
        result = job.adapter.call(square, index)
        times.append(time.perf_counter() - began)
        assert result == index * index, "a wrong result"
    return {"median": statistics.median(times) * 1e6}


def _time_first(job: Job) -> dict[str, float]:
    """Make a pool and map over two items."""
    job.cell.frame_sum(0)  # pandas loads parts of itself when they are first used
    began = time.perf_counter()
    job.adapter.start()
    results = job.adapter.map(job.cell.frame_sum, [1, 2])
    seconds = time.perf_counter() - began
    assert results == [6.0, 6.0], "wrong results"
    return {"seconds": seconds}


def _time_replacement(job: Job) -> dict[str, float]:
    """Kill a worker, again and again, and wait until the new one has done a task that uses pandas."""
    pool = job.adapter.start_ours()
    if pool is None:
        return _time_interpreter(job)
    times = []
    for _ in range(job.items):
        pool.map(job.cell.whoami, [0.01] * 20, chunksize=1, progress=False)
        old = {worker.pid for worker in pool.snapshot().workers}
        victim = next(pid for pid in old if pid is not None)
        killed = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        times.append(_wait_for_other(pool, job.cell.whoami, old, killed) - killed)
    return {"milliseconds": statistics.median(times) * 1000}


def _wait_for_other(pool: Any, whoami: Any, old: set[int | None], since: float) -> float:
    """Return when a process that is not among the `old` ones first finished a task."""
    while time.perf_counter() - since < 20:
        # The items pause, so that there are some left for the new worker, whenever it comes.
        results = pool.map(whoami, [0.001] * 30, chunksize=1, on_error="skip", progress=False)
        done: list[float] = [when for pid, when in results if pid not in old]
        if done:
            return min(done)
    raise TimeoutError("no new worker within 20 s")


def _time_interpreter(job: Job) -> dict[str, float]:
    job.adapter.start()
    times = []
    for _ in range(job.items):
        began = time.perf_counter()
        job.adapter.call(str, "numpy, pandas")
        times.append(time.perf_counter() - began)
    return {"milliseconds": statistics.median(times) * 1000}


WORKLOADS: Final = (
    Workload(
        name="one-map",
        title="map over one item",
        what="`pool.map(f, [x])` on a warm pool of 2 processes, the median of 300.",
        target="faster than multiprocessing.Pool",
        figures=(MICROSECONDS,),
        items=300,
        peers=PROCESS_PEERS,
        measure=_time_map,
    ),
    Workload(
        name="one-submit",
        title="submit one task",
        what="`pool.submit(f, x).result()` on a warm pool of 2 processes, the median of 300.",
        target="faster than multiprocessing.Pool",
        figures=(MICROSECONDS,),
        items=300,
        peers=tuple(peer for peer in PROCESS_PEERS if peer != "joblib"),
        cannot=("joblib",),
        measure=_time_submit,
    ),
    Workload(
        name="first-result",
        title="first result of a new pool, with pandas",
        what="From making the pool to the end of a map over 2 items with a function that uses pandas, which the "
        "notebook has imported already.",
        target="half the time of joblib",
        figures=(Figure("seconds", "", "s"),),
        items=2,
        peers=PROCESS_PEERS,
        measure=_time_first,
        cell="frames",
    ),
    Workload(
        name="replaced-worker",
        title="a killed worker is replaced, with pandas",
        what="From the death of a worker to the end of its successor's first task, which uses numpy and pandas, the "
        "median of 5; beside it an interpreter that imports both and ends.",
        target="20 ms",
        figures=(Figure("milliseconds", "", "ms"),),
        items=5,
        peers=("poolmagic", "spawn"),
        measure=_time_replacement,
        cell="frames",
    ),
)
