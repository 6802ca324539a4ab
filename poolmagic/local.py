"""The worker of a threads pool: in the kernel itself, with the same messages as any other, and nothing pickled.

The link belongs to the supervisor's loop thread; the slots are threads of their own (see `worker.slots`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

from poolmagic.board import Board
from poolmagic.deadlines import Alarm
from poolmagic.launcher import Loop, Reports
from poolmagic.messages import Batch, Hello, Message, Stop
from poolmagic.payload import Direct
from poolmagic.worker.tasks import TICK, Worker
from poolmagic.worker.threads import ThreadSlots

__all__ = ["LocalLauncher"]


class LocalLauncher:
    """Starts the local worker of a pool."""

    def __init__(self, loop: Loop, reports: Reports) -> None:
        self._loop = loop
        self._reports = reports

    def prepare(self, modules: Iterable[str]) -> None:
        """Do nothing: what the kernel has imported is there."""

    def start(self, worker: int, slots: int) -> _LocalLink:
        """Start a worker; never blocks. Its messages and its end are reported."""
        return _LocalLink(worker, slots, self._loop, self._reports)

    def close(self) -> None:
        """Do nothing: threads end by themselves."""


class _LocalLink:
    """The supervisor's hold on the local worker."""

    trouble = ""
    is_cut = False

    def __init__(self, worker: int, slots: int, loop: Loop, reports: Reports) -> None:
        self.pid: int | None = os.getpid()
        self.board = Board()
        self.spare = 0
        self._worker = worker
        self._loop = loop
        self._reports = reports
        self._runner = ThreadSlots(slots, f"poolmagic-threads-{worker}")
        self._tasks = Worker(self._sent, Direct(), self.board, self._runner)
        self._tasks.crew = reports
        self._runner.serve(self._tasks)
        self._over = False
        self._ticks = False
        self._alarm = Alarm(loop, self._look)
        self._sent(Hello(os.getpid()))

    def _sent(self, message: Message) -> None:
        self._loop.call(self._reports.received, self._worker, message)

    def abandon(self, run: int, position: int) -> bool:
        """Leave the thread of a task that does not stop alone; if it has stopped after all, so much the better."""
        self._runner.abandon(run, position)
        self.spare = self._runner.spare
        return True

    def leftover(self) -> tuple[()]:
        """Return nothing: threads write to the kernel's own streams."""
        return ()

    def send(self, message: Message) -> None:
        """Send a message; never blocks."""
        self._tasks.receive(message)
        self.spare = self._runner.spare
        if isinstance(message, Batch):
            if not self._ticks:
                self._ticks = True
                self._tick()
            self._plan()
        if isinstance(message, Stop):  # which comes once nothing is in hand
            threading.Thread(target=self._finish, name="poolmagic-finalizer", daemon=True).start()

    def _finish(self) -> None:
        """In a thread of its own, because it runs the user's finalizer: the end."""
        self._tasks.preparation.finish()
        self._loop.call(self._end, 0)

    def _tick(self) -> None:
        """Hand back what is finished while longer tasks run, as the control thread of a process does."""
        self._tasks.printer.tick()
        self._tasks.flush()
        self._ticks = self._tasks.active and not self._over
        if self._ticks:
            self._loop.call_at(time.monotonic() + TICK, self._tick)

    def _plan(self) -> None:
        """Look at the tasks when one of them may have reached its time limit."""
        due = self._tasks.due
        if due is not None and not self._over:
            self._alarm.set(time.monotonic() + max(0.0, due - time.perf_counter()))

    def _look(self) -> None:
        self._tasks.tick()
        self._plan()

    def kill(self) -> None:
        """Stop what runs where Python lets us, and have nothing more to do with it."""
        self._tasks.receive(Stop())
        self._runner.cancel(None)
        self._end(None)

    def _end(self, exitcode: int | None) -> None:
        if not self._over:
            self._over = True
            self._loop.call(self._reports.ended, self._worker, exitcode, 0)
