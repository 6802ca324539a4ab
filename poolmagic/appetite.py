"""How much memory the workers of a pool take, looked at while they run something.

Everything belongs to the supervisor's loop thread. A look reads a few lines of `/proc` for each worker: some 10 us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import psutil

from poolmagic.deadlines import Alarm
from poolmagic.processes import Loop

__all__ = ["Appetite", "Limits", "Watched"]

LOOK_SECONDS: Final = 0.25
"""Between two looks: a task that fills memory as fast as it can writes about 1 GB meanwhile."""
TOO_MUCH: Final = 1.25
"""Times its limit that a worker may take while it ends the task that it runs."""
RELIEF: Final = 0.9
"""Part of the pool's limit below which it goes on again."""


@dataclass(frozen=True)
class Limits:
    """How much memory may be taken, in bytes; 0 for no limit.

    Attributes:
        worker: Resident bytes of one worker.
        pool: Bytes of all workers.
        machine: Bytes of the kernel and all workers: most of what the machine or the container has.
    """

    worker: int = 0
    pool: int = 0
    machine: int = 0


class Watched(Protocol):
    """What is told of it; see `crew.Crew`."""

    def pids(self) -> Mapping[int, int]:
        """Return the processes of the workers that have something in hand or wait for it, by worker."""
        ...

    def outgrown(self, worker: int, size: int) -> None:
        """A worker takes more than it may: replace it when it has ended what it runs."""
        ...

    def burst(self, worker: int, size: int) -> None:
        """A worker takes far more than it may: end it."""
        ...

    def hold(self, on: bool, size: int) -> None:
        """All workers take too much together, or do so no longer."""
        ...


class Appetite:
    """Looks at the memory of workers from `wake` on, for as long as `is_needed` says so.

    Args:
        loop: The supervisor.
        limits: What may be taken.
        watched: Who is told.
        is_needed: Whether something runs.
    """

    def __init__(self, loop: Loop, limits: Limits, watched: Watched, is_needed: Callable[[], bool]) -> None:
        self._limits = limits
        self._watched = watched
        self._is_needed = is_needed
        self._alarm = Alarm(loop, self._look)
        self._is_awake = False
        self._holds = False
        self._kernel = psutil.Process()

    def wake(self) -> None:
        """Look from now on."""
        if not self._is_awake and self._limits != Limits():
            self._is_awake = True
            self._alarm.set(time.monotonic() + LOOK_SECONDS)

    def _look(self) -> None:
        self._is_awake = False
        pids = self._watched.pids()
        sizes = {worker: size for worker, pid in pids.items() if (size := _resident(pid))}
        limit = self._limits.worker
        for worker, size in sizes.items():
            if limit and size > TOO_MUCH * limit:
                self._watched.burst(worker, size)
            elif limit and size > limit:
                self._watched.outgrown(worker, size)
        self._weigh_all(pids, sum(sizes.values()))
        if self._is_needed():
            self.wake()

    def _weigh_all(self, pids: Mapping[int, int], most: int) -> None:
        """Compare what all workers take. What they share is counted once, which takes longer: only if it matters."""
        own = _resident(self._kernel.pid) if self._limits.machine else 0
        limits = [(self._limits.pool, 0), (self._limits.machine, own)]
        if not self._holds and all(not limit or most + more <= limit for limit, more in limits):
            return
        size = sum(map(_proportional, pids.values()))
        part = RELIEF if self._holds else 1.0
        holds = any(limit and size + more > part * limit for limit, more in limits)
        if holds != self._holds:
            self._holds = holds
            self._watched.hold(holds, size)


def _resident(pid: int) -> int:
    with suppress(psutil.Error, OSError):  # it has ended, or there are no descriptors left to look
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _proportional(pid: int) -> int:
    """Return the bytes of a process, with its part of those that it shares where the system tells; else its own."""
    with suppress(psutil.Error, OSError):  # it has ended, or there are no descriptors left to look
        found = psutil.Process(pid).memory_full_info()
        return int(getattr(found, "pss", found.uss))
    return 0
