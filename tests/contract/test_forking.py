"""A process that somebody forks off the kernel: pools are closed there, nothing hangs, and the kernel's own go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool
from tests.tasks import Gate, for_kind, gated, square

pytestmark = pytest.mark.faults

REFUSED = "belongs to the process"


def in_child(function: Callable[[], object]) -> str:
    """Return what a function does in a forked process: the text of what it returns, or its error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pytest must not see any of this end
        text = "nothing"
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # a hang ends, too
            text = repr(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return text


def end(how: Callable[[], None], pool: pm.Pool) -> str:
    """End a pool and wait for it."""
    how()
    pool.join()
    return "ended"


USES: dict[str, tuple[Callable[[pm.Pool, Any], object], str]] = {
    "map": (lambda pool, f: pool.map(f, [1]), REFUSED),
    "starmap": (lambda pool, f: pool.starmap(f, [(1,)]), REFUSED),
    "imap": (lambda pool, f: list(pool.imap(f, [1])), REFUSED),
    "submit": (lambda pool, f: pool.submit(f, 1).result(), REFUSED),
    "start": (lambda pool, f: pool.start(f, [1]), REFUSED),
    "grow": (lambda pool, _: pool.grow(), REFUSED),
    "close and join": (lambda pool, _: end(pool.close, pool), "ended"),
    "terminate and join": (lambda pool, _: end(pool.terminate, pool), "ended"),
    "with": (lambda pool, _: pool.__exit__(None, None, None), "None"),
    "restart": (lambda pool, _: pool.restart(), "None"),
    "snapshot": (lambda pool, _: pool.snapshot().state, "'closed'"),
    "repr": (lambda pool, _: repr(pool)[-9:], "', closed>'"),
    "live_pools": (lambda pool, _: pm.pools.live_pools(), "[]"),
}


@pytest.mark.parametrize("use", USES)
def test_a_child_sees_a_closed_pool(working_kind: str, use: str, make_pool: MakePool) -> None:
    """Work is refused with the reason, the rest does no harm; the kernel's pool goes on."""
    pool, task = make_pool(working_kind, 2), for_kind(working_kind, square)
    pool.map(task, range(3))
    call, expected = USES[use]

    assert expected in in_child(lambda: call(pool, task))

    assert [0, 1, 4] == pool.map(task, range(3))


def test_a_child_waits_for_nothing_that_never_comes(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Runs, futures and iterators of the kernel; there, they go on."""
    pool, wait = make_pool(working_kind, 6), gated(working_kind, gate.port)
    results = pool.imap(for_kind(working_kind, square), range(1000))
    assert 0 == next(results)
    run, future = pool.start(wait, range(2)), pool.submit(wait, 2)
    gate.wait_for(3)

    assert REFUSED in in_child(run.result)
    assert REFUSED in in_child(lambda: list(run))
    assert REFUSED in in_child(future.result)
    assert REFUSED in in_child(lambda: list(results))
    assert "running" in in_child(lambda: run.snapshot().state)
    assert "None" == in_child(run.cancel)
    assert "None" == in_child(results.close)
    assert "True" == in_child(future.cancel)

    gate.open()
    assert [0, 1] == run.result(30)
    assert 2 == future.result(30)
    assert [x * x for x in range(1, 1000)] == list(results)


def test_a_child_has_pools_of_its_own(working_kind: str, make_pool: MakePool) -> None:
    """Of any kind, and a current one."""
    pool, task = make_pool(working_kind, 2), for_kind(working_kind, square)
    pool.map(task, range(3))

    def work() -> list[int]:
        with pm.Pool(working_kind, 2) as own:
            return own.map(task, range(4))

    assert "[0, 1, 4, 9]" == in_child(work)
    assert [0, 1, 4] == pool.map(task, range(3))


def test_multiprocessing_may_fork_in_the_middle_of_a_run(working_kind: str, make_pool: MakePool) -> None:
    """In the iterator and in another thread; the run is right all the same."""
    pool, task = make_pool(working_kind, 2), for_kind(working_kind, square)
    context = multiprocessing.get_context("fork")
    codes: list[int | None] = []

    def fork() -> None:
        child = context.Process(target=square, args=(3,))
        child.start()
        child.join(30)
        codes.append(child.exitcode)

    def items() -> Iterator[int]:
        for number in range(300):
            if number in (10, 200):
                fork()
            yield number

    other = threading.Thread(target=fork)
    other.start()
    assert [x * x for x in range(300)] == pool.map(task, items())
    other.join(30)
    assert [0, 0, 0] == codes


def test_a_child_that_lives_on_does_not_keep_the_workers(process_kind: str) -> None:
    """They see the kernel let go of them though somebody has copies of its lines."""
    pool = pm.Pool(process_kind, 2)
    pool.map(for_kind(process_kind, square), range(3))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        pool.close()
        pool.join(30)
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(pid, 0)
