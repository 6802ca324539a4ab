"""Starting workers and learning of their ends: forked from a zygote, exec'ed, or as threads of the kernel.

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from poolmagic.board import Board
from poolmagic.channel import Channel
from poolmagic.config import PoolConfig
from poolmagic.errors import UsageError
from poolmagic.messages import Fork, Forked, Gone, Message

__all__ = ["Launcher", "Link", "Loop", "Reports", "Surroundings", "check_platform", "explain_exit", "process_launcher"]

_BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); from poolmagic.worker.{module} import main; main()"
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


def explain_exit(exitcode: int | None) -> str:
    """Return in words how a process ended."""
    if exitcode is None:
        return "ended, nobody knows how"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"was killed by signal {-exitcode}"


class Link(Protocol):
    """The supervisor's hold on one worker."""

    pid: int | None
    board: Board

    def send(self, message: Message) -> None:
        """Send a message; never blocks."""
        ...

    def kill(self) -> None:
        """End the worker at once; never blocks, its end is reported."""
        ...


class Launcher(Protocol):
    """Starts the workers of one pool, all in the same surroundings."""

    def start(self, worker: int, slots: int) -> Link:
        """Start a worker; never blocks. Its messages and its end are reported."""
        ...

    def close(self) -> None:
        """Let go of all that the launcher itself has, once its workers have ended."""
        ...


def process_launcher(config: PoolConfig, surroundings: Surroundings, loop: Loop, reports: Reports) -> Launcher:
    """Return the launcher for a kind of pool whose workers are processes; raises `UsageError` where there are none."""
    check_platform(config)
    if config.kind.start == "fork":
        return _ForkLauncher(surroundings, loop, reports)
    return _ExecLauncher(config.kind.name, surroundings, loop, reports)


def check_platform(config: PoolConfig, system: str = os.name) -> None:
    """Refuse what a system, as `os.name` calls it, cannot do; raises `UsageError`."""
    if system == "nt" and config.kind.start in ("fork", "exec"):
        raise UsageError(f"a {config.kind.name} pool needs the processes of Linux or macOS: use WSL, or 'threads'")


# Processes ---------------------------------------------------------------------------------------------------------


class _ProcessLink:
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


def _keep(command: list[str], pass_fds: tuple[int, ...], surroundings: Surroundings, started: Any, ended: Any) -> None:
    """Start a process in a thread of its own that waits for its end; does not block.

    Args:
        command: Program and arguments.
        pass_fds: Descriptors that the process inherits; all others are closed in it.
        surroundings: Its environment and working directory.
        started: Called in the keeper's thread with the process id.
        ended: Called in the keeper's thread with the exit code, or None if the process could not be started.
    """

    def keep() -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=pass_fds,
                cwd=surroundings.folder,
                env=dict(surroundings.environment),
                process_group=0,  # the kernel's Stop button signals the kernel's group
            )
        except OSError as error:
            print(f"poolmagic: cannot start a worker: {error}", file=sys.stderr)
            ended(None)
            return
        started(process.pid)
        ended(process.wait())

    threading.Thread(target=keep, name="poolmagic-keeper", daemon=True).start()


def _command(module: str, surroundings: Surroundings, *args: str) -> list[str]:
    start = json.dumps({"filters": surroundings.filters})
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    boot = _BOOT.format(module=module)
    return [sys.executable, *flags, "-P", "-c", boot, json.dumps(surroundings.path), *args, start]


class _ExecLauncher:
    """Each worker is a process of its own from the start: green kinds must be patched before anything else."""

    def __init__(self, kind: str, surroundings: Surroundings, loop: Loop, reports: Reports) -> None:
        self._kind = kind
        self._surroundings = surroundings
        self._loop = loop
        self._reports = reports

    def start(self, worker: int, slots: int) -> _ProcessLink:
        """Start a worker; never blocks. Its messages and its end are reported."""
        link = _ProcessLink(worker, self._loop, self._reports)
        descriptors = (link.theirs.fileno(), link.board_descriptor)

        def started(pid: int) -> None:
            self._loop.call(link.release)
            self._loop.call(link.started, pid)

        def ended(exitcode: int | None) -> None:
            self._loop.call(link.over, exitcode)

        command = _command("__main__", self._surroundings, self._kind, *map(str, descriptors), str(slots))
        _keep(command, descriptors, self._surroundings, started, ended)
        return link

    def close(self) -> None:
        """Do nothing: workers are all there is."""


class _ForkLauncher:
    """Workers are forked from a zygote, which is started with the first of them and again if it died."""

    def __init__(self, surroundings: Surroundings, loop: Loop, reports: Reports) -> None:
        self._surroundings = surroundings
        self._loop = loop
        self._reports = reports
        self._zygote: _ZygoteLink | None = None

    def start(self, worker: int, slots: int) -> _ProcessLink:
        """Start a worker; never blocks. Its messages and its end are reported."""
        if self._zygote is None or self._zygote.is_over:
            self._zygote = _ZygoteLink(self._surroundings, self._loop)
        link = _ProcessLink(worker, self._loop, self._reports)
        self._zygote.fork(worker, link, slots)
        return link

    def close(self) -> None:
        """End the zygote: it exits when its line is closed."""
        if self._zygote is not None:
            self._zygote.close()


class _ZygoteLink:
    """The supervisor's hold on a zygote."""

    def __init__(self, surroundings: Surroundings, loop: Loop) -> None:
        ours, theirs = socket.socketpair()
        self.is_over = False
        self._loop = loop
        self._channel = Channel(ours)
        self._links: dict[int, _ProcessLink] = {}
        loop.watch(self._channel, self._read)
        descriptor = theirs.fileno()

        def ended(_exitcode: int | None) -> None:
            theirs.close()
            loop.call(self._died)

        _keep(
            _command("zygote", surroundings, str(descriptor)),
            (descriptor,),
            surroundings,
            lambda pid: theirs.close(),
            ended,
        )

    def fork(self, worker: int, link: _ProcessLink, slots: int) -> None:
        """Ask for a worker; never blocks."""
        self._links[worker] = link
        self._channel.send(Fork(worker, slots), [link.theirs.fileno(), link.board_descriptor])

    def _read(self) -> None:
        messages, goes_on = self._channel.read()
        for message in messages:
            if isinstance(message, Forked) and message.worker in self._links:
                self._links[message.worker].release()
                self._links[message.worker].started(message.pid)
            elif isinstance(message, Gone) and message.worker in self._links:
                self._links.pop(message.worker).over(message.exitcode)
        if not goes_on:
            self._loop.unwatch(self._channel)

    def _died(self) -> None:
        """The zygote has ended; what it knew of its workers is lost, so they must end too."""
        if self.is_over:
            return
        self._read()
        self.is_over = True
        self.close()
        for link in list(self._links.values()):
            link.kill()
            link.over(None)
        self._links.clear()

    def close(self) -> None:
        """Close the line to the zygote, on which it exits."""
        self._loop.unwatch(self._channel)
        self._channel.close()
