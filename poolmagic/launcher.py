"""Starting workers and learning of their ends: forked from a zygote, exec'ed, or as threads of the kernel.

Everything belongs to the supervisor's loop thread.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from poolmagic.board import Board
from poolmagic.channel import Channel
from poolmagic.config import PoolConfig, usable_cpus
from poolmagic.errors import UsageError, note_once
from poolmagic.inner_threads import SINGLE, choose_variables
from poolmagic.installed import installed
from poolmagic.lifelines import end_group
from poolmagic.losses import explain_exit
from poolmagic.messages import Fork, Forked, Gone, Hello, Message, Preload, Preloaded
from poolmagic.processes import Loop, ProcessLink, Reap, Reports, Surroundings, start_process

__all__ = ["Launcher", "Link", "Loop", "Reports", "Surroundings", "check_platform", "explain_exit", "process_launcher"]

LATER: Final = 1.0
"""Seconds that a zygote with workers waits before it imports what a new run needs: the workers are about to import it
themselves, and should have the CPUs for it."""

_left_to_workers: set[str] = set()
"""Modules that a zygote cannot import and still fork: they start threads, or end the process."""


class Link(Protocol):
    """The supervisor's hold on one worker."""

    pid: int | None
    board: Board
    spare: int
    """Records on the board beyond those of its slots."""
    trouble: str
    """Why the worker could not be started, in words; else empty."""
    is_cut: bool
    """Whether it was ended because it had closed its end of the line, or had become another program."""

    def abandon(self, run: int, position: int) -> bool:
        """Have nothing more to do with a task that does not stop.

        True if it was left alone by itself; False if that cannot be, so that its worker must be killed.
        """
        ...

    def leftover(self) -> Sequence[tuple[str, str]]:
        """Return what the worker, which has ended, wrote at last and could not send: streams and texts."""
        ...

    def send(self, message: Message) -> None:
        """Send a message; never blocks."""
        ...

    def kill(self) -> None:
        """End the worker at once; never blocks, its end is reported."""
        ...


class Launcher(Protocol):
    """Starts the workers of one pool, all in the same surroundings."""

    def prepare(self, modules: Iterable[str]) -> None:
        """Get ready to start workers that will need these modules; never blocks."""
        ...

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
        return _ForkLauncher(config, surroundings, loop, reports)
    return _ExecLauncher(config, surroundings, loop, reports)


def check_platform(config: PoolConfig, system: str = os.name) -> None:
    """Refuse what a system, as `os.name` calls it, cannot do; raises `UsageError`."""
    if system == "nt" and config.kind.start in ("fork", "exec"):
        raise UsageError(f"a {config.kind.name} pool needs the processes of Linux or macOS: use WSL, or 'threads'")


class _ExecLauncher:
    """Each worker is a process of its own from the start: green kinds must be patched before anything else."""

    def __init__(self, config: PoolConfig, surroundings: Surroundings, loop: Loop, reports: Reports) -> None:
        self._config = config
        self._surroundings = surroundings
        self._variables = _inner_threads(config, surroundings)
        self._loop = loop
        self._reports = reports

    def prepare(self, modules: Iterable[str]) -> None:
        """Do nothing: workers import what they need."""

    def start(self, worker: int, slots: int) -> ProcessLink:
        """Start a worker; never blocks. Its messages and its end are reported."""
        link = ProcessLink(worker, self._loop, self._reports)
        if link.trouble:
            return link
        descriptors = link.descriptors

        def started(pid: int) -> None:
            self._loop.call(link.release)
            self._loop.call(link.started, pid)

        def ended(how: Reap | OSError) -> None:
            self._loop.call(lambda: link.fail(how) if isinstance(how, OSError) else link.over(*how()))

        start_process(
            "__main__",
            [self._config.kind.name, *map(str, descriptors), str(slots)],
            {"preload": self._config.preload or ()},
            descriptors,
            self._surroundings,
            self._variables,
            started,
            ended,
        )
        return link

    def close(self) -> None:
        """Do nothing: workers are all there is."""


def _inner_threads(config: PoolConfig, surroundings: Surroundings) -> dict[str, str]:
    return choose_variables(
        dict(surroundings.environment), config.inner_threads, max(1, usable_cpus() // config.concurrency)
    )


class _ForkLauncher:
    """Workers are forked from a zygote, which is started before the first of them and again if it died."""

    def __init__(self, config: PoolConfig, surroundings: Surroundings, loop: Loop, reports: Reports) -> None:
        self._surroundings = surroundings
        self._variables = _inner_threads(config, surroundings)
        self._loop = loop
        self._reports = reports
        self._named = config.preload
        # All workers need the modules that the warning filters refer to.
        self._modules = list(config.preload or ())
        if config.preload is None:
            self._modules += installed(module for _, _, module, *_ in surroundings.filters)
        self._zygote: _ZygoteLink | None = None
        self._closed = False

    def prepare(self, modules: Iterable[str]) -> None:
        """Start the zygote, and have it import modules so that workers start with them; never blocks.

        If the user has named modules himself, or none, it is those alone.
        """
        if self._closed:
            return
        new = [module for module in modules if self._named is None and module not in self._modules]
        self._modules += new
        zygote = self._zygote
        if zygote is None or zygote.is_over:
            with suppress(OSError):  # the next worker will say so
                self._hatch()
        elif zygote.has_workers and new:
            self._loop.call_at(time.monotonic() + LATER, lambda: zygote.preload(new))
        else:
            zygote.preload(new)

    def start(self, worker: int, slots: int) -> ProcessLink:
        """Start a worker; never blocks. Its messages and its end are reported."""
        link = ProcessLink(worker, self._loop, self._reports)
        if not link.trouble:
            self._fork(worker, link, slots)
        return link

    def _fork(self, worker: int, link: ProcessLink, slots: int) -> None:
        try:
            self._hatch().fork(worker, link, slots)
        except OSError as error:
            link.fail(error)

    def _hatch(self) -> _ZygoteLink:
        """Return the zygote; start one if there is none."""
        if self._zygote is None or self._zygote.is_over:
            self._zygote = _ZygoteLink(self, self._surroundings, self._variables, self._loop)
            self._zygote.preload(self._modules)
        return self._zygote

    def replace(self, zygote: _ZygoteLink, module: str) -> None:
        """Have another zygote, which leaves a module to the workers, for all whom this one has not forked yet."""
        _left_to_workers.add(module)
        if self._closed:
            return
        if self._zygote is zygote:
            self._zygote = None
        for worker, (link, slots) in zygote.retire().items():
            self._fork(worker, link, slots)
        self.prepare(())

    def tell(self, module: str, problem: str) -> None:
        """Tell the user what is wrong with a module, if he wanted it."""
        if module in (self._named or ()):
            note_once(f"preload={module!r}: {problem}; it is left to the workers")

    def close(self) -> None:
        """End the zygote."""
        self._closed = True
        if self._zygote is not None:
            self._zygote.close()


class _ZygoteLink:
    """The supervisor's hold on a zygote."""

    def __init__(self, owner: _ForkLauncher, surroundings: Surroundings, variables: dict[str, str], loop: Loop) -> None:
        ours, theirs = socket.socketpair()
        self.is_over = False
        self._owner = owner
        self._loop = loop
        self._channel = Channel(ours)
        self._pid: int | None = None
        self._is_up = False
        self._is_retired = False
        self._asked: deque[str] = deque()
        self._unborn: dict[int, tuple[ProcessLink, int]] = {}
        self._links: dict[int, ProcessLink] = {}
        loop.watch(self._channel, self._read)
        descriptor = theirs.fileno()

        def started(pid: int) -> None:
            theirs.close()
            loop.call(self._started, pid)

        def ended(how: Reap | OSError) -> None:
            theirs.close()
            loop.call(lambda: self._failed(how) if isinstance(how, OSError) else self._died(how()[0]))

        start_process(
            "zygote",
            [str(descriptor)],
            # Those of the workers, who get back what was the kernel's own.
            {"variables": {name: value for name, value in surroundings.environment if name in SINGLE} | variables},
            (descriptor,),
            surroundings,
            SINGLE,
            started,
            ended,
        )

    @property
    def has_workers(self) -> bool:
        """Whether workers run, or are about to."""
        return bool(self._links or self._unborn)

    def preload(self, modules: Iterable[str]) -> None:
        """Have modules imported; never blocks."""
        for module in modules:
            if module not in _left_to_workers and not self._is_retired:
                self._asked.append(module)
                self._channel.send(Preload(module))

    def fork(self, worker: int, link: ProcessLink, slots: int) -> None:
        """Ask for a worker; never blocks."""
        self._unborn[worker] = link, slots
        self._channel.send(Fork(worker, slots), list(link.descriptors))

    def _started(self, pid: int) -> None:
        if not self.is_over:
            self._pid = pid
            self._close_if_done()

    def retire(self) -> dict[int, tuple[ProcessLink, int]]:
        """Ask for nothing any more; return the workers, by number, that another zygote must fork, with their slots."""
        unborn, self._unborn = self._unborn, {}
        self._asked.clear()
        self._is_retired = True
        self._close_if_done()
        return unborn

    def _close_if_done(self) -> None:
        if self._is_retired and not self._links:
            self.close()

    def _read(self) -> None:
        messages, goes_on = self._channel.read()
        for message in messages:
            self._hear(message)
        if not goes_on:
            self._loop.unwatch(self._channel)

    def _hear(self, message: Message) -> None:
        match message:
            case Hello():
                self._is_up = True
            case Preloaded(module, threads, error) if module in self._asked:
                self._asked.remove(module)
                if threads:
                    self._owner.tell(module, "it starts threads when it is imported, and what has threads cannot fork")
                    self._owner.replace(self, module)
                elif error:
                    self._owner.tell(module, f"it cannot be imported in advance, {error}")
            case Forked(worker, pid) if worker in self._unborn:
                link, _ = self._unborn.pop(worker)
                self._links[worker] = link
                link.release()
                link.started(pid)
            case Gone(worker, exitcode, peak) if worker in self._links:
                self._links.pop(worker).over(exitcode, peak)
                self._close_if_done()
            case Gone(worker, exitcode, peak) if worker in self._unborn:
                self._unborn.pop(worker)[0].over(exitcode, peak)

    def _failed(self, error: OSError) -> None:
        """The zygote cannot be started."""
        for link, _ in self._unborn.values():
            link.fail(error)
        self._unborn = {}
        self._died(None)

    def _died(self, exitcode: int | None) -> None:
        """The zygote has ended; what it knew of its workers is lost, so they must end too."""
        if self._channel.fileno() >= 0:
            self._read()
        self.is_over = True
        self._pid = None  # the number may belong to another process from now on
        if self._is_up and self._asked:
            module = self._asked[0]
            self._owner.tell(module, f"the process that imported it in advance {explain_exit(exitcode)}")
            self._owner.replace(self, module)
        self.close()
        lost = [*self._links.values(), *(link for link, _ in self._unborn.values())]
        self._links, self._unborn = {}, {}
        for link in lost:
            link.kill()
            link.over(None, 0)

    def close(self) -> None:
        """End the zygote, which has no workers any more; it may be in the middle of an import."""
        self._is_retired = True
        self._asked.clear()
        self._loop.unwatch(self._channel)
        self._channel.close()
        if self._pid is not None:
            end_group(self._pid)  # a module may have started processes
