"""Processes of this interpreter: what they take over from the kernel, how they start and how their ends are heard.

Threads. Everything belongs to the supervisor's loop thread, but for the *keeper* of each process that is started here:
a thread that starts it, waits for its end and reports it. (Not just a detail: on Linux a process can be made to die
with the thread that started it, so that thread must live as long as the process.) It is the loop thread that reaps,
and kills: a number that it signals cannot be another process's by then.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

from poolmagic.board import Board
from poolmagic.channel import Channel
from poolmagic.errors import note_once
from poolmagic.inner_threads import VARIABLES
from poolmagic.lifelines import LOOK_SECONDS, MAXRSS_UNIT, Child, end_group
from poolmagic.messages import Message
from poolmagic.tapes import Tape

__all__ = ["Loop", "ProcessLink", "Reap", "Reports", "Surroundings", "explain_trouble", "start_process"]

LINE_SECONDS: Final = 0.25
"""How long a process that has closed its end of the line is given to end by itself, which tells more."""

Reap: TypeAlias = Callable[[], tuple[int | None, int]]
"""Lets go of a process that has ended; returns its exit code and its peak memory, as `lifelines.Child.reap`."""

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

    def ended(self, worker: int, exitcode: int | None, peak: int) -> None:
        """A worker has ended, and all that it sent has been received. The exit code may not be known.

        `peak` is the most resident bytes that it ever had, 0 if that is not known.
        """
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the kernel, as it was when the pool started. Pools share workers if it is equal."""

    path: tuple[str, ...]
    folder: str
    environment: tuple[tuple[str, str], ...]
    filters: tuple[tuple[Any, ...], ...]

    @classmethod
    def now(cls, marks: Mapping[str, str]) -> Surroundings:
        """Return those of this moment, with more variables in the environment."""
        environment, folder = {**os.environ, **marks}, str(Path.cwd())
        # Jupyter's inline plots need a kernel, and others a screen; in a worker they would fail.
        if environment.setdefault("MPLBACKEND", "Agg").startswith("module://"):
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
    """A worker process behind a socket pair.

    Attributes:
        pid: Its process id, while it has one.
        board: Its board.
        tapes: What it writes to its stdout and stderr beside Python's streams; it takes that itself while it lives.
        spare: Records on the board beyond those of its slots.
        trouble: Why it could not be started, in words; else empty.
        is_cut: Whether it was ended because it had closed its end of the line, or had become another program.
    """

    spare = 0

    def __init__(self, worker: int, loop: Loop, reports: Reports) -> None:
        self.pid: int | None = None
        self.trouble = ""
        self.is_cut = False
        self._worker = worker
        self._loop = loop
        self._reports = reports
        self._channel: Channel | None = None
        self._killed = False
        self._over = False
        self.tapes: dict[str, Tape] = {}
        try:
            self._open()
        except OSError as error:
            self.board = Board()
            self.fail(error)

    def _open(self) -> None:
        self.board, self.board_descriptor = Board.create()
        try:
            for stream in ("stdout", "stderr"):
                self.tapes[stream] = Tape.create()
            ours, self.theirs = socket.socketpair()
        except OSError:
            os.close(self.board_descriptor)
            self.board.close()
            self._close_tapes()
            raise
        self._channel = Channel(ours)
        self._loop.watch(self._channel, self._read)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that the worker gets: its end of the line, its board, and what is to be its stdout and its stderr."""
        return self.theirs.fileno(), self.board_descriptor, *(tape.descriptor for tape in self.tapes.values())

    def leftover(self) -> list[tuple[str, str]]:
        """Return what the process, which has ended, wrote beside Python's streams at last: streams and texts."""
        return [(stream, text) for stream, tape in self.tapes.items() if (text := tape.rest())]

    def _close_tapes(self) -> None:
        for tape in self.tapes.values():
            tape.close()
        self.tapes.clear()

    def release(self) -> None:
        """Close what the worker has its own copy of by now."""
        if self._channel is not None and self.theirs.fileno() >= 0:
            self.theirs.close()
            os.close(self.board_descriptor)

    def send(self, message: Message) -> None:
        """Send a message; never blocks."""
        if self._channel is not None and not self._over:
            self._channel.send(message)

    def started(self, pid: int) -> None:
        """Take the process id."""
        self.pid = pid
        if self._killed:
            self.kill()

    def fail(self, error: OSError) -> None:
        """Report that the process cannot be started; never blocks."""
        self.trouble = explain_trouble(error)
        note_once(f"cannot start a worker: {self.trouble}")
        self._loop.call(self.over, None, 0)

    def kill(self) -> None:
        """End the process and all in its group, now or as soon as its id is known; its end is reported."""
        self._killed = True
        if self.pid is not None and not self._over:
            end_group(self.pid)

    def abandon(self, run: int, position: int) -> bool:
        """Return False: a task of a process that does not stop is ended with its process."""
        return False

    def _read(self) -> None:
        assert self._channel is not None
        messages, goes_on = self._channel.read()
        for message in messages:
            self._reports.received(self._worker, message)
        if not goes_on:
            self._loop.unwatch(self._channel)
            self._loop.call_at(time.monotonic() + LINE_SECONDS, self._cut)

    def _cut(self) -> None:
        """End a process that has closed its end of the line and lives on: nobody can reach it any more."""
        if not self._over:
            self.is_cut = not self._killed
            self.kill()

    def over(self, exitcode: int | None, peak: int) -> None:
        """Report the end of the process, after what it sent before; only the first call counts."""
        if self._over:
            return
        self.pid = None  # it is reaped: the number may belong to another process from now on
        self.is_cut = self.is_cut and exitcode == -signal.SIGKILL
        if self._channel is not None:
            if self._channel.fileno() >= 0:
                self._read()
            self._loop.unwatch(self._channel)
            self._channel.close()
        self._over = True
        self.release()
        self._reports.ended(self._worker, exitcode, peak)
        self.board.close()
        self._close_tapes()


def explain_trouble(error: OSError) -> str:
    """Return in words why the system does not give what a process needs, and what to do about it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit of open files (ulimit -n), or use fewer workers"
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return f"{error.strerror}; the limit of processes or of memory is reached, use fewer workers"
    return str(error)


def start_process(
    module: str,
    args: list[str],
    start: Mapping[str, Any],
    descriptors: tuple[int, ...],
    surroundings: Surroundings,
    variables: Mapping[str, str],
    started: Callable[[int], object],
    ended: Callable[[Reap | OSError], object],
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
        ended: Called in the keeper's thread with what must be called in the loop thread to reap the process, and tells
            how it ended; or, in any thread, with the reason why it cannot be started.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    boot = _BOOT.format(module=module)
    settings = json.dumps({"filters": surroundings.filters, "parent": os.getpid(), **start})
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
            ended(error)
            return
        _watch(process, started, ended)

    try:
        threading.Thread(target=keep, name="poolmagic-keeper", daemon=True).start()
    except RuntimeError as error:  # the system gives no more threads
        ended(OSError(errno.EAGAIN, str(error)))


def _watch(
    process: subprocess.Popen[bytes], started: Callable[[int], object], ended: Callable[[Reap | OSError], object]
) -> None:
    """Tell of the start of a process, wait for its end and tell of that; blocks."""
    # The system counts what the process was before it became another program: a part of this one.
    floor = _own_peak()
    started(process.pid)
    child = Child(process.pid)
    pause = threading.Event()
    # In a green worker, whose task has a pool, this is no thread of its own: to block here would block them all.
    may_block = threading.get_ident.__module__ == "_thread"
    while not child.has_ended(block=may_block and not child.is_stopped):
        if child.is_stopped or not may_block:
            pause.wait(LOOK_SECONDS)

    def reap() -> tuple[int | None, int]:
        exitcode, peak = child.reap()
        process.returncode = 0 if exitcode is None else exitcode
        return exitcode, peak if peak > floor else 0

    ended(reap)


def _own_peak() -> int:
    """Return the most bytes that this process ever had in memory."""
    import resource  # noqa: PLC0415 - Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
