"""What is done to the pools of the storm while they work: signals to their processes, and other sizes."""

from __future__ import annotations

import heapq
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

import psutil

import poolmagic as pm
from tests.chaos.books import Books

__all__ = ["Injector"]

LEAST_WAIT: Final = 0.3
MOST_WAIT: Final = 2.7
"""Seconds between two faults of one pool: most of its workers come to work before they die."""
ZYGOTE: Final = "poolmagic.worker.zygote"


class Injector:
    """Does harm to pools until it is told to stop, in a thread of its own. Only to processes of these pools.

    Args:
        pools: Returns those there are at the moment.
        books: Where the faults are counted.
        random: Chooses.
        until: The time, of `time.monotonic`, after which there is calm: what was begun can end.
    """

    def __init__(self, pools: Callable[[], list[pm.Pool]], books: Books, random: Random, until: float) -> None:
        self._pools = pools
        self._books = books
        self._random = random
        self._until = until
        self._stopped: list[tuple[float, int, psutil.Process, int]] = []
        self._count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storm-faults", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do no more harm; blocks until what was stopped goes on."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._random.uniform(LEAST_WAIT, MOST_WAIT) / max(1, len(self._pools()))):
            now = time.monotonic()
            self._wake_up(now)
            if now < self._until:
                with suppress(psutil.Error, pm.UsageError):  # it has ended, or its pool has been closed
                    self._do_harm()
        self._wake_up(float("inf"))

    def _do_harm(self) -> None:
        pools = self._pools()
        if not pools:
            return
        pool = self._random.choice(pools)
        match self._random.choices(range(6), (8, 4, 1, 1, 3, 1))[0]:
            case 0:
                self._signal(self._worker_of(pool), self._random.choice((signal.SIGKILL, signal.SIGSEGV)), "worker")
            case 1:
                self._halt(self._worker_of(pool), "worker")
            case 2:
                self._signal(self._zygote(), signal.SIGKILL, "zygote")
            case 3:
                self._halt(self._zygote(), "zygote")
            case 4:
                self._resize(pool)
            case _:
                pool.restart()
                self._books.fault("restart")

    def _worker_of(self, pool: pm.Pool) -> psutil.Process | None:
        pids = {worker.pid or 0 for worker in pool.snapshot().workers} - {0, os.getpid()}
        if not pids:
            return None
        process = psutil.Process(self._random.choice(sorted(pids)))
        return process if psutil.Process() in process.parents() else None  # another one may have its number by now

    def _zygote(self) -> psutil.Process | None:
        found = [child for child in psutil.Process().children() if any(ZYGOTE in word for word in child.cmdline())]
        return self._random.choice(found) if found else None

    def _signal(self, process: psutil.Process | None, number: signal.Signals, whose: str) -> None:
        if process is not None:
            process.send_signal(number)
            self._books.fault(f"{number.name} of a {whose}")

    def _halt(self, process: psutil.Process | None, whose: str) -> None:
        """Stop a process; it goes on, or is killed, a while later."""
        if process is None:
            return
        process.send_signal(signal.SIGSTOP)
        self._books.fault(f"SIGSTOP of a {whose}")
        self._count += 1
        number = self._random.choice((signal.SIGCONT, signal.SIGCONT, signal.SIGKILL))
        heapq.heappush(self._stopped, (time.monotonic() + self._random.uniform(0.1, 1.5), self._count, process, number))

    def _wake_up(self, now: float) -> None:
        while self._stopped and self._stopped[0][0] <= now:
            _, _, process, number = heapq.heappop(self._stopped)
            with suppress(psutil.Error):
                process.send_signal(number)

    def _resize(self, pool: pm.Pool) -> None:
        if self._random.random() < 0.5:
            pool.grow(self._random.randint(1, 2))
            self._books.fault("grow")
        else:
            pool.shrink(self._random.randint(1, 2))
            self._books.fault("shrink")
