"""Workloads that wait: a thousand things at once, in green threads, threads and coroutines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from tests.benchmarks.computing import time_squares
from tests.benchmarks.server import BODY, Server
from tests.benchmarks.workload import Figure, Job, Workload

__all__ = ["WORKLOADS"]

SECONDS: Final = Figure("seconds", "", "s", scales=True)
SLEEP: Final = 0.1
"""Seconds."""


def _warm(job: Job) -> None:
    """Start the pool, and see to it that every slot has been used."""
    job.adapter.start()
    job.adapter.map(_wait_of(job), [0.02] * job.concurrency)


def _wait_of(job: Job) -> Callable[[float], Any]:
    wait: Callable[[float], Any] = job.cell.wait_async if job.adapter.coroutines else job.cell.wait
    return wait


def _time_sleeps(job: Job) -> dict[str, float]:
    _warm(job)
    items = [SLEEP] * job.items
    began = time.perf_counter()
    results = job.adapter.map(_wait_of(job), items)
    seconds = time.perf_counter() - began
    assert results == items, "wrong results"
    return {"seconds": seconds}


def _time_downloads(job: Job) -> dict[str, float]:
    with Server() as server:
        _warm(job)
        job.adapter.map(job.cell.fetch, [server.url] * 10)
        began = time.perf_counter()
        results = job.adapter.map(job.cell.fetch, [server.url] * job.items)
        seconds = time.perf_counter() - began
    assert results == [len(BODY)] * job.items, "wrong results"
    return {"seconds": seconds}


WORKLOADS: Final = (
    Workload(
        name="sleeps",
        title="1,000 sleeps of 0.1 s at once",
        what="1,000 slots, warm; 0.1 s at best. Each kind of pool stands beside what a script would do by hand.",
        target="within 1.15 of a script of one's own",
        figures=(SECONDS,),
        items=1000,
        peers=(
            "poolmagic-gevent",
            "gevent",
            "poolmagic-eventlet",
            "eventlet",
            "poolmagic-threads",
            "threads",
            "poolmagic-asyncio",
            "asyncio",
        ),
        measure=_time_sleeps,
        cell="waits",
        concurrency=1000,
    ),
    Workload(
        name="downloads",
        title="2,000 downloads at 1,000 at once",
        what="`urlopen` on a server of this machine that keeps each answer back for 50 ms; 1,000 slots, warm; "
        "`-w 2` shares them between two processes.",
        target="within 1.15 of a script of one's own, and with `-w 2` faster",
        figures=(SECONDS,),
        items=2000,
        peers=(
            "poolmagic-gevent",
            "poolmagic-gevent-2",
            "gevent",
            "poolmagic-eventlet",
            "eventlet",
            "poolmagic-threads",
            "threads",
        ),
        measure=_time_downloads,
        cell="waits",
        concurrency=1000,
    ),
    Workload(
        name="green-squares",
        title="500,000 times x*x in green threads",
        what="A task that takes no time on 100 green threads, warm, beside `gevent.pool.Pool(100).imap` and "
        "`eventlet.GreenPool(100).imap`.",
        target="ten times faster than a script of one's own",
        figures=(SECONDS,),
        items=500_000,
        peers=("poolmagic-gevent", "gevent", "poolmagic-eventlet", "eventlet"),
        measure=time_squares,
        concurrency=100,
        reduced={"gevent": 200_000, "eventlet": 200_000},
        rounds=2,
    ),
)
