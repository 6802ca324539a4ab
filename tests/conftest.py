"""Fixtures of all tests: kinds, pools that are always ended, and a look at what is left behind."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import poolmagic as pm
from tests.tasks import KINDS, PROCESS_KINDS, WORKING_KINDS, Gate

MakePool = Callable[..., pm.Pool]

# Shells let what they start in the background ignore it, and so would every kernel and worker that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with an argument `kind` on every kind, with `working_kind` on those that run beside the caller."""
    for name, kinds in (("kind", KINDS), ("working_kind", WORKING_KINDS), ("process_kind", PROCESS_KINDS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, kinds)


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Make pools for a test. Idle ones are just dropped after it, so that their warm workers serve the next test."""
    pools: list[pm.Pool] = []

    def make(*args: Any, **kwargs: Any) -> pm.Pool:
        pools.append(pm.Pool(*args, **kwargs))
        return pools[-1]

    yield make
    for pool in pools:
        if pool.is_closed or pool.snapshot().runs:
            pool.terminate()
            pool.join(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate, which is open when the test ends."""
    with Gate() as gate:
        yield gate


def open_once_struck(pool: pm.Pool, gate: Gate) -> None:
    """Let threads on that wait at the gate in C code, where no cancel stops them; each was told of its own before.

    The supervisor answers in the order in which it is asked, so it has thrown what it was to throw when it answers.
    An exception that struck elsewhere in the task, while it closes its connection say, would leave that open.
    """
    pool.snapshot()
    gate.open()


def children() -> set[int]:
    """The process ids of this process's descendants that are alive."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    }


def descriptors() -> int:
    """How many descriptors this process has open."""
    gc.collect()
    return psutil.Process().num_fds()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Block until a condition holds that nobody tells of, looking again and again."""
    event = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")
