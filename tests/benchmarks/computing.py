"""Workloads that compute: how much of two processors is left for the tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from tests.benchmarks.workload import Figure, Job, Workload

__all__ = ["WORKLOADS", "time_squares"]

PROCESS_PEERS: Final = (
    "poolmagic",
    "multiprocessing",
    "futures",
    "joblib",
    "loky",
    "mpire",
    "pathos",
    "ipyparallel",
    "dask",
    "ray",
)
"""All that map over processes, in the order of the tables."""

SECONDS: Final = Figure("seconds", "", "s", scales=True)
EFFICIENCY: Final = Figure("efficiency", "efficiency", "%", is_smaller_better=False)


def time_squares(job: Job) -> dict[str, float]:
    """Map a task that takes no time."""
    job.adapter.start()
    job.adapter.map(job.cell.square, range(8))
    began = time.perf_counter()
    results = job.adapter.map(job.cell.square, range(job.items))
    seconds = time.perf_counter() - began
    assert results == [x * x for x in range(job.items)], "wrong results"
    return {"seconds": seconds}


def _time_busy(job: Job, work: Sequence[float]) -> dict[str, float]:
    """Map the busy task over lengths of time; the efficiency is the part of the processes' time that was work."""
    job.adapter.start()
    job.adapter.map(job.cell.busy, [0.001] * 8)
    began = time.perf_counter()
    results: list[Any] = job.adapter.map(job.cell.busy, work)
    seconds = time.perf_counter() - began
    assert results == list(work), "wrong results"
    return {"seconds": seconds, "efficiency": 100 * sum(work) / (job.concurrency * seconds)}


def _time_short(job: Job) -> dict[str, float]:
    return _time_busy(job, [100e-6] * job.items)


def _time_rising(job: Job) -> dict[str, float]:
    first, last = 0.2e-3, 60e-3
    step = (last - first) / max(1, job.items - 1)
    return _time_busy(job, [first + step * index for index in range(job.items)])


WORKLOADS: Final = (
    Workload(
        name="squares",
        title="500,000 times x*x",
        what="A task that takes no time, on warm pools of 2 processes; nobody is told how to batch, but loky, which "
        "is given batches of 10,000.",
        target="no slower than multiprocessing.Pool",
        figures=(SECONDS,),
        items=500_000,
        peers=PROCESS_PEERS,
        measure=time_squares,
        chunk=10_000,
        reduced={"futures": 10_000, "ipyparallel": 500, "dask": 1_000},
    ),
    Workload(
        name="short",
        title="20,000 tasks of 100 µs",
        what="A short task, which keeps a CPU busy, on warm pools of 2 processes: 2 s of work, so 1 s at best.",
        target="an efficiency of 97 % or more",
        figures=(SECONDS, EFFICIENCY),
        items=20_000,
        peers=PROCESS_PEERS,
        measure=_time_short,
        cell="busy",
        chunk=200,
        reduced={"futures": 5_000, "ipyparallel": 500, "dask": 1_000},
    ),
    Workload(
        name="rising",
        title="400 tasks of 0.2 to 60 ms",
        what="Tasks that get longer and longer, on warm pools of 2 processes: 12 s of work, so 6 s at best. Whoever "
        "deals out equal shares ends with one process at work.",
        target="an efficiency of 99 % or more",
        figures=(SECONDS, EFFICIENCY),
        items=400,
        peers=PROCESS_PEERS,
        measure=_time_rising,
        cell="busy",
        chunk=4,
        rounds=2,
    ),
)
