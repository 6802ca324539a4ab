"""Processes of this interpreter: what they take over from the kernel, how they start and how their ends are heard.

Threads. Everything belongs to the supervisor's loop thread, but for the *keeper* of each process that is started here:
a thread that starts it, waits for its end and reports it. (Not just a detail: on Linux a process can be made to die
with the thread that started it, so that thread must live as long as the process.)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from poolmagic.board import Board
from poolmagic.channel import Channel
from poolmagic.inner_threads import VARIABLES
from poolmagic.messages import Message

__all__ = ["Loop", "ProcessLink", "Reports", "Surroundings", "start_process"]

_BOOT: Final = (
    # A collection while modules are imported finds nothing; whoever is booted turns it on again when it is due.
    "import gc; gc.disable(); import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from poolmagic.worker.{module} import main; main()"
)


class Loop(Protocol):
    """What a launcher needs of the supervisor."""

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called in the loop thread; may be called from any thread."""
        ...

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call a function at a time of `time.monotonic`; only from the loop thread."""
        ...

    def watch(self, channel: Channel, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the channel can be read; write what is backed up by itself."""
        ...

    def unwatch(self, channel: Channel) -> None:
        """Undo `watch`."""
        ...


class Reports(Protocol):
    """Who is told of the workers; all of it in the loop thread."""

    def received(self, worker: int, message: Message) -> None:
        """A worker sent a message."""
        ...

    def ended(self, worker: int, exitcode: int | None) -> None:
        """A worker has ended, and all that it sent has been received. The exit code may not be known."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the kernel, as it was when the pool started. Pools share workers if it is equal."""

    path: tuple[str, ...]
    folder: str
    environment: tuple[tuple[str, str], ...]
    filters: tuple[tuple[Any, ...], ...]

    @classmethod
    def now(cls) -> Surroundings:
        """Return those of this moment."""
        environment, folder = dict(os.environ), str(Path.cwd())
        # Jupyter's inline plots need a kernel; in a worker they would fail.
        if environment.get("MPLBACKEND", "").startswith("module://"):
            environment["MPLBACKEND"] = "Agg"
        return cls(
            # Only text counts for imports, though people put paths of other types in.
            tuple(entry or folder for entry in cast("list[object]", sys.path) if isinstance(entry, str)),
            folder,
            tuple(sorted(environment.items())),
            tuple(
                (action, _text(message), category.__module__, category.__qualname__, _text(module), line)
                for action, message, category, module, line in cast("list[Any]", warnings.filters)
            ),
        )

    def __repr__(self) -> str:
        return f"Surroundings(folder={self.folder!r})"  # the environment may hold secrets


def _text(pattern: Any) -> str | None:
    return None if pattern is None else getattr(pattern, "pattern", pattern)


class ProcessLink:
    """A worker process behind a socket pair."""

    def __init__(self, worker: int, loop: Loop, reports: Reports) -> None:
        ours, self.theirs = socket.socketpair()
        self.board, self.board_descriptor = Board.create()
        self.pid: int | None = None
        self._worker = worker
        self._loop = loop
        self._reports = reports
        self._channel = Channel(ours)
        self._killed = False
        self._over = False
        loop.watch(self._channel, self._read)

    def release(self) -> None:
        """Close what the worker has its own copy of by now."""
        if self.theirs.fileno() >= 0:
            self.theirs.close()
            os.close(self.board_descriptor)

    def send(self, message: Message) -> None:
        """Send a message; never blocks."""
        if not self._over:
            self._channel.send(message)

    def started(self, pid: int) -> None:
        """Take the process id."""
        self.pid = pid
        if self._killed:
            self.kill()

    def kill(self) -> None:
        """End the process at once, now or as soon as its id is known; its end is reported."""
        self._killed = True
        if self.pid is not None and not self._over:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _read(self) -> None:
        messages, goes_on = self._channel.read()
        for message in messages:
            self._reports.received(self._worker, message)
        if not goes_on:
            # The process may have closed its end and live on; nobody could reach it any more.
            self._loop.unwatch(self._channel)
            self.kill()

    def over(self, exitcode: int | None) -> None:
        """Report the end of the process, after what it sent before; only the first call counts."""
        if self._over:
            return
        self.pid = None  # it is reaped: the number may belong to another process from now on
        if self._channel.fileno() >= 0:
            self._read()
        self._over = True
        self._loop.unwatch(self._channel)
        self._channel.close()
        self.release()
        self._reports.ended(self._worker, exitcode)
        self.board.close()


def start_process(
    module: str,
    args: list[str],
    start: Mapping[str, Any],
    descriptors: tuple[int, ...],
    surroundings: Surroundings,
    variables: Mapping[str, str],
    started: Callable[[int], object],
    ended: Callable[[int | None], object],
) -> None:
    """Start an interpreter in a thread of its own, which waits for its end; does not block.

    Args:
        module: The module of `poolmagic.worker` that it runs.
        args: Its first arguments.
        start: What it takes over; goes as JSON.
        descriptors: Those that it inherits; all others are closed in it.
        surroundings: Its environment, path and working directory.
        variables: Those of `inner_threads.VARIABLES` that it has.
        started: Called in the keeper's thread with the process id.
        ended: Called in the keeper's thread with the exit code, or None if the process could not be started.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    boot = _BOOT.format(module=module)
    settings = json.dumps({"filters": surroundings.filters, **start})
    command = [sys.executable, *flags, "-P", "-c", boot, json.dumps(surroundings.path), *args, settings]
    environment = {name: value for name, value in surroundings.environment if name not in VARIABLES}

    def keep() -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                cwd=surroundings.folder,
                env={**environment, **variables},
                process_group=0,  # the kernel's Stop button signals the kernel's group
            )
        except OSError as error:
            print(f"poolmagic: cannot start a worker: {error}", file=sys.stderr)
            ended(None)
            return
        started(process.pid)
        ended(process.wait())

    threading.Thread(target=keep, name="poolmagic-keeper", daemon=True).start()
