"""Slots: the places in a worker where tasks run. Here those of plain threads; green ones and coroutines are elsewhere.

A runner owns its slots. Its methods may be called from the control thread at any time; `serve` belongs to the
worker's main thread.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from poolmagic.errors import TaskCancelled

if TYPE_CHECKING:
    from poolmagic.worker.tasks import Task, Worker

__all__ = ["InlineSlots", "SlotRunner", "ThreadSlots"]


class SlotRunner(Protocol):
    """Runs tasks in slots."""

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        ...

    def wake(self, count: int) -> None:
        """Say that `count` more tasks wait."""
        ...

    def defer(self, flush: Callable[[], None]) -> None:
        """Call `flush` soon, once for all that finish by then."""
        ...

    def cancel(self, run: int) -> None:
        """Throw `TaskCancelled` into the running tasks of a run."""
        ...

    def resize(self, slots: int) -> None:
        """Have this many slots from now on; tasks that run go on."""
        ...

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        ...


class InlineSlots:
    """One slot: the main thread of the process. Its running task can be stopped only together with the process."""

    def __init__(self) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        while True:
            task = worker.next()
            if task is not None:
                worker.run(task, 0)
                continue
            worker.idle(0)
            if worker.stopping:
                return
            self._wake.get()

    def wake(self, count: int) -> None:
        """Say that more tasks wait."""
        self._wake.put(None)

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush at once: there is nothing to wait for."""
        flush()

    def cancel(self, run: int) -> None:
        """Do nothing: the supervisor replaces the worker."""

    def resize(self, slots: int) -> None:
        """Do nothing: a process has one slot."""

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        self._wake.put(None)


class ThreadSlots:
    """Threads of this process, started as they are needed. Running tasks are stopped by an asynchronous exception."""

    def __init__(self, slots: int, name: str) -> None:
        self._slots = slots
        self._name = name
        self._work = threading.Condition()
        self._alive: set[int] = set()
        self._running: dict[int, _Running] = {}
        self._due: Callable[[], None] | None = None
        self._worker: Worker | None = None

    def serve(self, worker: Worker) -> None:
        """Take the worker to serve; unlike the other runners' this does not block: the slots have threads."""
        self._worker = worker

    def wake(self, count: int) -> None:
        """Wake idle threads for new tasks, and start those that are missing."""
        with self._work:
            idle = len(self._alive) - len(self._running)
            missing = [slot for slot in range(self._slots) if slot not in self._alive][: max(0, count - idle)]
            self._alive.update(missing)
            self._work.notify(count)
        for slot in missing:
            threading.Thread(target=self._serve, args=(slot,), name=f"{self._name}-{slot}", daemon=True).start()

    def _serve(self, slot: int) -> None:
        """Run tasks in one thread until the slot or the worker ends."""
        worker = self._worker
        assert worker is not None
        while (task := self._next(worker, slot)) is not None:
            try:
                with self._work:
                    self._running[slot] = _Running(threading.get_ident(), task.run)
                worker.run(task, slot)
                self._leave(slot)
            except TaskCancelled as error:  # it came just before or just after the user's own code
                self._leave(slot)
                worker.fail(task, error)
            self._flush_if_due()

    def _next(self, worker: Worker, slot: int) -> Task | None:
        """Wait for the next task; None if the thread is to end."""
        task = worker.next() if slot < self._slots else None
        if task is None:
            worker.idle(slot)
            self._flush_if_due()
            with self._work:
                while slot < self._slots and (task := worker.next()) is None and not worker.stopping:
                    self._work.wait()
                if task is None:
                    self._alive.discard(slot)
        return task

    def _leave(self, slot: int) -> None:
        """Say that the slot's task is over; a cancel that has not struck by now is withdrawn."""
        with self._work:
            running = self._running.pop(slot, None)
            if running is not None and running.cancelled:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(running.thread), None)

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush once this thread is out of its task: a cancel that strikes in the middle of a flush would lose it."""
        self._due = flush

    def _flush_if_due(self) -> None:
        # Two threads may both see the same request, or one the other's: a flush takes all that is finished by then.
        due, self._due = self._due, None
        if due is not None:
            due()

    def cancel(self, run: int | None) -> None:
        """Throw `TaskCancelled` into the threads that run tasks of a run (None: any). It acts in Python code only."""
        with self._work:
            for running in self._running.values():
                if run in (None, running.run) and not running.cancelled:
                    running.cancelled = True
                    thread = ctypes.c_ulong(running.thread)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TaskCancelled))

    def resize(self, slots: int) -> None:
        """Have this many slots; threads above it end after their task."""
        with self._work:
            self._slots = slots
            self._work.notify_all()
        self.wake(slots)

    def stop(self) -> None:
        """End the threads once they find nothing to do."""
        with self._work:
            self._work.notify_all()


@dataclass
class _Running:
    """A task in a thread."""

    thread: int
    run: int
    cancelled: bool = False
