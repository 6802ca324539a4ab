"""Tasks that the tests send to workers, and the gate at which they wait. Workers import this: it imports little."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

KINDS = ("prefork", "solo", "gevent", "eventlet", "threads", "asyncio")
WORKING_KINDS = tuple(kind for kind in KINDS if kind != "solo")
"""The kinds whose tasks run beside the caller."""
PROCESS_KINDS = ("prefork", "gevent", "eventlet", "asyncio")


def for_kind(kind: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """Return `f` as tasks of this kind are written: an ``async def`` for asyncio."""
    if kind != "asyncio":
        return f

    @functools.wraps(f)
    async def task(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return task


def square(x: int) -> int:
    """Return the square."""
    return x * x


def add(x: int, y: int = 100) -> int:
    """Return the sum."""
    return x + y


class TwoArguments(Exception):
    """Can be pickled, but not loaded again: its constructor wants more than its message."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Untravelled(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no")


class Unloadable:
    """Can be pickled, but not loaded again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("this cannot be loaded")


class Gate:
    """A server on loopback at which tasks of any kind wait until they are let through.

    A task calls ``pass_gate(port, name)``; the test waits until the tasks it wants have arrived.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._server.getsockname()[1]
        self._changed = threading.Condition()
        self._waiting: dict[str, socket.socket] = {}
        self.arrived: list[str] = []
        self._is_open = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
                name = line.makefile().readline().strip()
            except OSError:
                return
            with self._changed:
                self.arrived.append(name)
                if name in self._waiting:  # it comes again: its worker was killed
                    self._waiting.pop(name).close()
                self._waiting[name] = line
                if self._is_open:
                    self._release(name)
                self._changed.notify_all()

    def _release(self, name: str) -> None:
        with self._waiting.pop(name) as line:
            try:
                line.sendall(b"!")
            except OSError:
                return  # the task was cancelled in the meantime

    def wait_for(self, count: int) -> list[str]:
        """Block until `count` tasks have arrived in all; return their names in the order in which they came."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.arrived) >= count, timeout=30), self.arrived
            return list(self.arrived)

    def open(self) -> None:
        """Let all tasks through from now on."""
        with self._changed:
            self._is_open = True
            for name in list(self._waiting):
                self._release(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open()
        self._server.close()


def pass_gate(port: int, name: object) -> Any:
    """Wait at the gate; return `name`."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(f"{name}\n".encode())
        line.recv(1)
    return name


async def pass_gate_async(port: int, name: object) -> Any:
    """Wait at the gate in a coroutine; return `name`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{name}\n".encode())
    try:
        await reader.read(1)
    finally:
        writer.close()
    return name


def gated(kind: str, port: int) -> Callable[[object], Any]:
    """Return a task that waits at the gate."""
    return functools.partial(pass_gate_async if kind == "asyncio" else pass_gate, port)
