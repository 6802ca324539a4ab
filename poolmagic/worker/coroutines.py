"""Slots of an asyncio loop: tasks are coroutines. Imported in workers of this kind alone; the only one with asyncio.

Everything runs in the loop's thread but `wake`, `cancel`, `resize` and `stop`, which hand over to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from poolmagic.errors import TaskCancelled

if TYPE_CHECKING:
    from poolmagic.worker.tasks import Task, Worker

__all__ = ["CoroutineSlots"]


class CoroutineSlots:
    """Up to so many coroutines at once, each pulling tasks until there is none."""

    def __init__(self, slots: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._running: dict[int, tuple[asyncio.Task[None], int]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._flush_is_due = False
        self._worker: Worker | None = None

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        asyncio.set_event_loop(self._loop)
        self._worker = worker
        self._loop.call_soon(self._pump)
        self._loop.run_forever()

    def wake(self, count: int) -> None:
        """Say that more tasks wait."""
        self._loop.call_soon_threadsafe(self._pump)

    def cancel(self, run: int) -> None:
        """Cancel the running coroutines of a run, as `asyncio.Task.cancel` does."""
        self._loop.call_soon_threadsafe(self._cancel, run)

    def resize(self, slots: int) -> None:
        """Have this many slots from now on; tasks that run go on."""
        self._loop.call_soon_threadsafe(self._resize, slots)

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        self._loop.call_soon_threadsafe(self._pump)

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush once for all coroutines that are ready now."""
        if self._flush_is_due:
            return
        self._flush_is_due = True

        def call() -> None:
            self._flush_is_due = False
            flush()

        self._loop.call_soon(call)

    def _cancel(self, run: int) -> None:
        for coroutine, running in self._running.values():
            if running == run:
                self._cancelled.add(coroutine)
                coroutine.cancel()

    def _resize(self, slots: int) -> None:
        self._slots = slots
        self._free = [slot for slot in range(slots - 1, -1, -1) if slot not in self._running]
        self._pump()

    def _pump(self) -> None:
        """Start coroutines for waiting tasks; end the loop when it is time."""
        assert self._worker is not None
        while self._free and self._worker.has_batches:
            slot = self._free.pop()
            task = self._worker.next()
            if task is None:
                self._free.append(slot)
                self.defer(self._worker.flush)  # nothing more is coming: what is finished should not wait
                break
            # One coroutine object for each task: a cancel can then never strike the task that comes after it.
            coroutine = self._loop.create_task(self._run(slot, task))
            coroutine.add_done_callback(partial(self._over, slot, task))
            self._running[slot] = (coroutine, task.run)
        if self._worker.stopping and not self._running and not self._worker.has_batches:
            self._worker.flush()
            self._loop.stop()

    async def _run(self, slot: int, task: Task) -> None:
        """Run one task in a slot."""
        worker = self._worker
        assert worker is not None
        try:
            worker.begin(task, slot)
            value = await task.start()
        except asyncio.CancelledError as error:
            # By us, or by the task's own doing: then it is a failure like any other.
            worker.fail(task, TaskCancelled() if asyncio.current_task() in self._cancelled else error)
        except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
            worker.fail(task, error)
        else:
            worker.finish(task, value)

    def _over(self, slot: int, task: Task, coroutine: asyncio.Task[None]) -> None:
        """Free the slot and look for the next task."""
        assert self._worker is not None
        if coroutine.cancelled():  # before it began
            self._worker.fail(task, TaskCancelled())
        self._cancelled.discard(coroutine)
        del self._running[slot]
        if slot < self._slots:
            self._free.append(slot)
        self._worker.idle(slot)
        self._pump()
