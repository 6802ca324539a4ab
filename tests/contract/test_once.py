"""`once`: an object that each worker makes for itself when a task first wants it, and keeps for all that come later."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import perworker
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, pass_gate, square


def many(kind: str, n: int = 4) -> int | None:
    """Return how many tasks at once a pool of this kind is to have."""
    return None if kind == "solo" else n


class Client:
    """What cannot be sent, and leaves a line in a file when it is made and when it is closed."""

    def __init__(self, log: Path, name: str = "") -> None:
        self.lock = threading.Lock()
        self.log = log
        self.name = name
        self._leave("made")

    def _leave(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {what} {self.name}\n")

    def get(self, x: int) -> tuple[int, int, int]:
        """Answer with who answers."""
        return x, os.getpid(), id(self)

    def close(self) -> None:
        """Take note of it."""
        self._leave("closed")


def lines(log: Path, what: str) -> list[str]:
    """Return the lines about something."""
    return [line for line in log.read_text().splitlines() if what in line] if log.exists() else []


def asks(kind: str, client: pm.Once[Client]) -> Callable[[int], Any]:
    """Return a task that uses the client."""
    return for_kind(kind, lambda x: client().get(x))


def test_all_tasks_of_a_worker_have_one_object_in_all_runs(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """It is made there, and once; with the arguments that the handle was given."""
    log = tmp_path / "log"
    client = pm.once(Client, log, name="this one")
    pool = make_pool(kind, many(kind))

    found = pool.map(asks(kind, client), range(50)) + pool.map(asks(kind, client), range(50))

    assert [*range(50), *range(50)] == [x for x, _, _ in found]
    objects = {(pid, number) for _, pid, number in found}
    assert len(objects) == len({pid for pid, _ in objects})
    assert sorted(f"{pid} made this one" for pid, _ in objects) == sorted(lines(log, "made"))


def test_a_handle_may_come_with_an_item(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """It is the same one there; one that comes back is the one that went."""
    client = pm.once(Client, tmp_path / "log")
    pool = make_pool(kind, many(kind, 1))

    def task(pair: tuple[pm.Once[Client], int]) -> pm.Once[Client]:
        assert pair[0]() is client()
        return pair[0]

    assert client is pool.map(for_kind(kind, task), [(client, 1)])[0]
    assert 1 == len(lines(tmp_path / "log", "made"))


def test_nothing_is_made_before_it_is_wanted(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """A task that has the handle and does not call it makes nothing."""
    client = pm.once(Client, tmp_path / "log")
    pool = make_pool(kind, many(kind, 2))
    assert ["Once"] * 4 == pool.map(for_kind(kind, lambda _: type(client).__name__), range(4))
    assert [] == lines(tmp_path / "log", "made")


@pytest.mark.parametrize("shared_kind", ["gevent", "eventlet", "threads"])
def test_whoever_comes_while_it_is_made_waits_for_it(
    shared_kind: str, make_pool: MakePool, gate: Gate, tmp_path: Path
) -> None:
    """And lets the others run: a factory that waits itself blocks no hub."""
    log, port = tmp_path / "log", gate.port

    def make() -> Client:
        pass_gate(port, "factory")
        return Client(log)

    client = pm.once(make)

    def task(x: int) -> object:
        return x if x % 2 else client().get(x)[0]

    pool = make_pool(shared_kind, 8)
    run = pool.start(task, range(8), chunksize=1)
    gate.wait_for(1)
    wait_until(lambda: {1, 3, 5, 7} <= set(run.results), "those that do not want it are done")
    assert not run.done()
    gate.open()
    assert list(range(8)) == run.result(30)
    assert 1 == len(lines(log, "made"))
    assert ["factory"] == gate.arrived


def test_a_factory_that_fails_is_tried_again(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Its error is that of the item that wanted the object."""
    ready = tmp_path / "ready"

    def make() -> Client:
        if not ready.exists():
            raise ConnectionError("not yet")
        return Client(tmp_path / "log")

    client = pm.once(make)
    pool = make_pool(kind, many(kind, 1))
    failures = pool.map(asks(kind, client), range(3), on_error="return")
    assert ["not yet"] * 3 == [str(failure.exception) for failure in failures]
    ready.touch()
    assert [0, 1, 2] == [x for x, _, _ in pool.map(asks(kind, client), range(3))]


def test_another_handle_is_another_object(process_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """A cell that is run again makes a new one, and workers let go of what the old one made."""
    pool = make_pool(process_kind, 1)

    def kept(_: int) -> int:
        return len(perworker._kept)

    for number in range(3):
        client = pm.once(Client, tmp_path / "log", str(number))
        pool.map(asks(process_kind, client), [0])
        assert number + 1 == len(lines(tmp_path / "log", "made"))
        del client
        gc.collect()
    assert 1 == pool.map(for_kind(process_kind, kept), [0])[0]


def test_a_worker_that_ends_well_closes_what_it_made(process_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """After the finalizer, which may want to use it; what has no `close` is just dropped."""
    log = tmp_path / "log"
    client, number = pm.once(Client, log), pm.once(int)

    def finalize() -> None:
        client()._leave("finalizer")

    def task(x: int) -> int:
        return client().get(x)[0] + number()

    with make_pool(process_kind, 1, finalizer=finalize) as pool:
        pool.map(for_kind(process_kind, task), range(3))
        [pid] = [worker.pid for worker in pool.snapshot().workers]
        assert [] == lines(log, "closed")
    assert [f"{pid} made ", f"{pid} finalizer ", f"{pid} closed "] == lines(log, "")


def test_a_coroutine_that_closes_it_is_awaited(make_pool: MakePool, tmp_path: Path) -> None:
    """Clients of asyncio are made in the loop, and closed there."""
    log = tmp_path / "log"

    def make() -> Any:
        import asyncio

        class AsyncClient:
            def __init__(self) -> None:
                self.loop = asyncio.get_running_loop()

            async def close(self) -> None:
                await asyncio.sleep(0)
                log.write_text(f"closed in its loop: {asyncio.get_running_loop() is self.loop}")

        return AsyncClient()

    client = pm.once(make)

    async def task(x: int) -> bool:
        import asyncio

        return client().loop is asyncio.get_running_loop()

    with make_pool("asyncio", 4) as pool:
        assert [True] * 8 == pool.map(task, range(8))
    assert "closed in its loop: True" == log.read_text()


def test_the_kernel_has_one_of_its_own(tmp_path: Path) -> None:
    """For threads, solo and whoever calls it there; also from many threads at once."""
    client = pm.once(Client, tmp_path / "log")
    found: list[Client] = []
    threads = [threading.Thread(target=lambda: found.append(client())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [client()] * 8 == found
    assert client is pickle.loads(pickle.dumps(client)) is copy.copy(client) is copy.deepcopy(client)
    assert 1 == len(lines(tmp_path / "log", "made"))


def test_a_handle_is_not_the_object() -> None:
    """Whoever takes it for that is told what to do; looking at it makes nothing."""
    handle = pm.once(square, 3)
    assert "<Once square, not made in this process>" == repr(handle)
    with pytest.raises(AttributeError, match=r"has no attribute 'get'; call it .*: handle\(\)\.get"):
        _ = handle.get
    assert not hasattr(handle, "__wrapped__")
    assert 9 == handle()
    assert "<Once square, made in this process>" == repr(handle)
    assert "<Once partial, not made in this process>" == repr(pm.once(partial(square, 3)))


async def _make() -> None: ...


def test_what_makes_no_object_is_refused() -> None:
    """At the call."""
    with pytest.raises(pm.UsageError, match="cannot call 3"):
        pm.once(3)  # type: ignore[arg-type]
    with pytest.raises(pm.UsageError, match="_make is an async function: use a plain one"):
        pm.once(_make)


def test_a_factory_that_wants_its_own_object_fails(tmp_path: Path) -> None:
    """It does not wait for itself for ever."""
    handles: list[pm.Once[Any]] = []

    def make() -> Any:
        return handles[0]()

    handles.append(pm.once(make))
    with pytest.raises(RecursionError):
        handles[0]()
