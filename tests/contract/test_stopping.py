"""After a run was stopped, however: nothing of it runs on, and the pool does the next map."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import for_kind, square

# A cancel may strike a thread while it closes its line, which then is left to the collector.
pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


class Pulse:
    """A server on loopback that hears which tasks run: each keeps sending until it is stopped."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._server.getsockname()[1]
        self._changed = threading.Condition()
        self.begun = 0
        self.ended = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._listen, args=(line,), daemon=True).start()

    def _listen(self, line: socket.socket) -> None:
        has_begun = False
        with line, suppress(OSError):  # a killed process may leave it in any state
            while line.recv(4096):
                if (
                    not has_begun
                ):  # an exception that struck before, in the task's own connecting, would leave that open
                    has_begun = True
                    self._count(begun=1)
        self._count(ended=has_begun)

    def _count(self, begun: int = 0, ended: int = 0) -> None:
        with self._changed:
            self.begun += begun
            self.ended += ended
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Block until so many tasks have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= count, timeout=30)

    def wait_for_silence(self) -> None:
        """Block until all that have begun have ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun == self.ended, timeout=30), (self.begun, self.ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    """A server that hears which tasks run."""
    with Pulse() as pulse:
        yield pulse


def beat(port: int, item: object) -> None:
    """Send for ever."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        while True:
            line.sendall(b".")
            time.sleep(0.005)


async def beat_async(port: int, item: object) -> None:
    """Send for ever, in a coroutine."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(b".")
            await asyncio.sleep(0.005)
    finally:
        writer.close()


def beats(kind: str, port: int) -> Callable[[object], Any]:
    """Return a task that is heard for as long as it runs."""
    return functools.partial(beat_async if kind == "asyncio" else beat, port)


def ready(pool: pm.Pool, kind: str, pulse: Pulse) -> None:
    """Check that nothing runs, and that the pool does what is next."""
    wait_until(lambda: pool.snapshot().runs == 0, "the run has left the books")
    pulse.wait_for_silence()
    assert [x * x for x in range(100)] == pool.map(for_kind(kind, square), range(100))
    wait_until(lambda: pool.snapshot().busy == 0, "no slot runs anything")
    pulse.wait_for_silence()
    wait_until(lambda: len(pool.snapshot().workers) == pool.config.workers, "all workers are there")


def test_cancelling_a_run(working_kind: str, make_pool: MakePool, pulse: Pulse) -> None:
    """Its tasks are stopped."""
    pool = make_pool(working_kind, 2)
    run = pool.start(beats(working_kind, pulse.port), range(50))
    pulse.wait_for(2)

    run.cancel()

    with pytest.raises(pm.RunCancelled):
        run.result(30)
    ready(pool, working_kind, pulse)


def test_cancelling_a_future(working_kind: str, make_pool: MakePool, pulse: Pulse) -> None:
    """One task is stopped, the other goes on."""
    pool = make_pool(working_kind, 2)
    first, second = (pool.submit(beats(working_kind, pulse.port), x) for x in range(2))
    pulse.wait_for(2)

    assert first.cancel()
    wait_until(lambda: pulse.ended == 1, "the cancelled task has ended")
    assert not second.done()
    assert second.cancel()

    ready(pool, working_kind, pulse)


@pytest.mark.parametrize("ending", ["close", "drop", "break"])
def test_leaving_an_iterator(working_kind: str, ending: str, make_pool: MakePool, pulse: Pulse) -> None:
    """Closing it, throwing it away, and a loop that ends early."""
    pool = make_pool(working_kind, 2)
    port = pulse.port

    def first_is_quick(item: int) -> int:
        if item:
            beat(port, item)
        return item

    async def first_is_quick_async(item: int) -> int:
        if item:
            await beat_async(port, item)
        return item

    results = pool.imap(first_is_quick_async if working_kind == "asyncio" else first_is_quick, range(50), chunksize=1)
    if ending == "break":
        for _ in results:
            break
        del _
    else:
        assert 0 == next(results)
    pulse.wait_for(1)
    if ending == "close":
        results.close()
    del results

    ready(pool, working_kind, pulse)


def test_a_failure_elsewhere_leaves_nothing_running_after_terminate(
    working_kind: str, make_pool: MakePool, pulse: Pulse
) -> None:
    """The end of a pool is the end of its tasks."""
    pool = make_pool(working_kind, 2)
    pool.start(beats(working_kind, pulse.port), range(50))
    pulse.wait_for(2)

    pool.terminate()
    pool.join(30)

    pulse.wait_for_silence()
