"""Pools in tasks, and pools that tasks share: they work, within bounds, and never wait for themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import poolmagic as pm
from poolmagic.config import PoolConfig, usable_cpus
from poolmagic.nesting import fit, marks
from tests.conftest import MakePool, wait_until
from tests.tasks import for_kind, square

pytestmark = pytest.mark.faults

WAYS: dict[str, Callable[[pm.Pool, int], list[int]]] = {
    "map": lambda pool, x: pool.map(square, range(x)),
    "starmap": lambda pool, x: pool.starmap(square, [(y,) for y in range(x)]),
    "imap": lambda pool, x: list(pool.imap(square, range(x))),
    "imap_unordered": lambda pool, x: sorted(pool.imap_unordered(square, range(x))),
    "submit": lambda pool, x: [pool.submit(square, y).result(30) for y in range(x)],
    "start": lambda pool, x: pool.start(square, range(x)).result(30),
}


@pytest.mark.parametrize("way", WAYS)
def test_tasks_of_a_threads_pool_may_use_that_very_pool(way: str, make_pool: MakePool) -> None:
    """Even if all of its slots run such tasks: what they ask for is done in their own slots."""
    pool = make_pool("threads", 2)

    results = pool.start(lambda x: WAYS[way](pool, x), range(6), chunksize=1).result(60)

    assert [[y * y for y in range(x)] for x in range(6)] == results


def test_a_failed_run_in_a_task_can_be_resumed_there(make_pool: MakePool) -> None:
    """As anywhere."""
    pool = make_pool("threads", 1)

    def task(_: int) -> list[int]:
        try:
            return pool.map(lambda x: 1 // (x - 2), range(5))
        except ZeroDivisionError as error:
            results: list[int] = error.run.resume(square)  # type: ignore[attr-defined]
            return results

    assert [[-1, -1, 4, 9, 16]] == pool.start(task, [0]).result(60)


def test_a_helper_thread_of_a_task_knows_where_it_belongs(make_pool: MakePool) -> None:
    """What asyncio.to_thread starts has the task's context."""
    pool = make_pool("threads", 1)

    def task(x: int) -> list[int]:
        return asyncio.run(asyncio.to_thread(pool.map, square, range(x)))

    assert [[0, 1, 4]] == pool.start(task, [3]).result(60)


def test_another_threads_pool_has_slots_of_its_own(make_pool: MakePool) -> None:
    """What a task asks of it is not done in the task's slot."""
    outer, inner = make_pool("threads", 1), make_pool("threads", 1)

    def threads(_: int) -> tuple[int, int]:
        return threading.get_ident(), inner.map(lambda _: threading.get_ident(), [0])[0]

    [(mine, other)] = outer.start(threads, [0]).result(60)
    assert mine != other


def test_cancelling_stops_what_runs_in_a_task(make_pool: MakePool) -> None:
    """The inner map ends with the task that asked for it."""
    pool = make_pool("threads", 1)
    started, ended = threading.Event(), threading.Event()

    def spin(_: int) -> None:
        started.set()
        while True:
            pass

    def task(_: int) -> None:
        try:
            pool.map(spin, range(3))
        finally:
            ended.set()

    run = pool.start(task, [0])
    assert started.wait(30)
    run.cancel()
    with pytest.raises(pm.RunCancelled):
        run.result(30)
    assert ended.wait(30)
    assert [1, 4] == pool.map(square, [1, 2])


def opens_a_pool(kind: str, inner: str, concurrency: int | None) -> Callable[[int], Any]:
    """Return a task that maps on a pool of its own."""

    def task(x: int) -> tuple[str, int, list[int], int]:
        with pm.Pool(inner, concurrency) as pool:
            run = for_kind(inner if pool.config.kind.name != "solo" else "solo", lambda y: (y * y, os.getpid()))
            pairs = pool.map(run, range(x))
        pids = {pid for _, pid in pairs} - {os.getpid()}
        return pool.config.kind.name, pool.config.concurrency, [value for value, _ in pairs], len(pids)

    return for_kind(kind, task)


@pytest.mark.parametrize("inner", ["prefork", "threads", "gevent", "asyncio"])
def test_a_pool_in_a_task_gets_its_share(process_kind: str, inner: str, make_pool: MakePool) -> None:
    """With all CPUs taken by the outer pool's tasks that is one, and processes would be of no use."""
    pool = make_pool(process_kind, usable_cpus() if process_kind == "prefork" else 200)

    found = pool.map(opens_a_pool(process_kind, inner, None), [3, 4])

    alone = "threads" if inner == "threads" else "solo"
    assert [(alone, 1, [0, 1, 4], 0), (alone, 1, [0, 1, 4, 9], 0)] == found


@pytest.mark.parametrize("inner", ["prefork", "threads", "gevent", "asyncio"])
def test_a_pool_in_a_task_gets_what_it_asks_for(process_kind: str, inner: str, make_pool: MakePool) -> None:
    """Processes of processes, which end with it."""
    found = make_pool(process_kind, 2).map(opens_a_pool(process_kind, inner, 2), [3, 4])

    assert [(inner, 2, [0, 1, 4]), (inner, 2, [0, 1, 4, 9])] == [tuple(one[:3]) for one in found]
    assert all((pids == 0) == (inner == "threads") for *_, pids in found)


def test_the_current_pool_of_a_task_is_its_own(process_kind: str, make_pool: MakePool) -> None:
    """The stand-in works everywhere."""
    pool = make_pool(process_kind, 2)

    assert [[1], [2]] == pool.map(for_kind(process_kind, lambda x: pm.pool.map(abs, [-x])), [1, 2])


def test_a_pool_cannot_be_sent_to_a_process(process_kind: str, make_pool: MakePool) -> None:
    """The error says so in one line, and what to do instead."""
    pool = make_pool(process_kind, 2, name="mine")
    with pytest.raises(pm.PayloadError, match="the pool mine cannot be sent to a worker") as caught:
        pool.map(for_kind(process_kind, lambda x: pool.map(abs, [x])), range(3))

    assert "\n" not in str(caught.value)


def test_depth_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level gets its part of the CPUs of the one above, down to one; there are two levels of processes."""
    assert ("prefork", None, {}) == fit("prefork", None, {})
    monkeypatch.setenv("POOLMAGIC_LEVEL", "1")
    monkeypatch.setenv("POOLMAGIC_SHARE", "6")
    assert ("prefork", 6, {}) == fit("prefork", None, {})
    assert ("prefork", 9, {}) == fit("prefork", 9, {})
    assert ("solo", None, {}) == fit("solo", None, {})
    assert {"POOLMAGIC_LEVEL": "2", "POOLMAGIC_SHARE": "3"} == marks(PoolConfig.make("prefork", 2))
    assert {"POOLMAGIC_LEVEL": "2", "POOLMAGIC_SHARE": "1"} == marks(PoolConfig.make("prefork", 20))
    monkeypatch.setenv("POOLMAGIC_SHARE", "1")
    assert ("solo", None, {}) == fit("gevent", None, {"inner_threads": 1})
    assert ("threads", 1, {}) == fit("threads", None, {})
    monkeypatch.setenv("POOLMAGIC_LEVEL", "2")
    monkeypatch.setenv("POOLMAGIC_SHARE", "4")
    assert ("solo", None, {}) == fit("prefork", None, {})
    assert ("threads", 8, {}) == fit("threads", 8, {})
    with pytest.raises(pm.UsageError, match="end at 2 levels"):
        fit("prefork", 2, {})


SCRIPT = """
import asyncio, os, psutil, signal, sys, time
import poolmagic as pm

kind, victim, ready = sys.argv[1:]

def slow(x):
    time.sleep(60)

def begin():
    pool = pm.Pool("prefork", 2)
    pool.start(slow, range(4))
    while pool.snapshot().busy < 2:
        time.sleep(0.01)
    open(ready, "w").close()
    return pool

def task(x):
    pool = begin()
    time.sleep(60)

async def task_async(x):
    pool = begin()
    await asyncio.sleep(60)

pool = pm.Pool(kind, 1)
run = pool.start(task_async if kind == "asyncio" else task, [0])
while not os.path.exists(ready):
    time.sleep(0.01)
worker = pool.snapshot().workers[0].pid
inner = psutil.Process(worker).children(recursive=True)
print(*(one.pid for one in inner), flush=True)
os.kill(os.getpid() if victim == "kernel" else worker, signal.SIGKILL)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("victim", ["kernel", "worker"])
def test_processes_of_tasks_end_with_who_made_them(process_kind: str, victim: str, tmp_path: Path) -> None:
    """With the worker whose task it was, and with the kernel, however these die."""
    command = [sys.executable, "-c", SCRIPT, process_kind, victim, str(tmp_path / "ready")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        for pid in pids:
            wait_until(lambda pid=pid: not psutil.pid_exists(pid), f"process {pid} has ended", seconds=2)  # type: ignore[misc]
