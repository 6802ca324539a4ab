"""Slots of an asyncio loop: tasks are coroutines. Imported in workers of this kind alone; the only one with asyncio.

Everything runs in the loop's thread but `wake`, `cancel`, `resize` and `stop`, which hand over to it.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from poolmagic.board import DONE, POSITION, RUN, SINCE
from poolmagic.errors import TaskCancelled
from poolmagic.worker.native import perf_counter
from poolmagic.worker.outbox import Row
from poolmagic.worker.slots import task_of
from poolmagic.worker.tasks import FLUSH_SECONDS, Portion, Worker, current

__all__ = ["CoroutineSlots"]

TURN_SECONDS: Final = 0.01
"""After so long without a switch a coroutine lets the others run: tasks that never wait would starve the rest."""
GAP: Final = 0.005
"""At least so long is between two reports, if some slots are busy still: each costs a fraction of a millisecond."""


class _Slot:
    """A slot with a coroutine."""

    def __init__(self, number: int, record: memoryview, times: memoryview[float]) -> None:
        self.number = number
        self.record = record
        self.times = times
        self.coroutine: asyncio.Task[None] | None = None
        self.has_started = False
        self.is_struck = False


class CoroutineSlots:
    """Coroutines that pull tasks: one lives as long as there is a next task for it, not for one task only."""

    def __init__(self, slots: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._busy: dict[int, _Slot] = {}
        self._starting = 0
        self._wave = 0
        self._latest: _Slot | None = None
        self._flush_is_due = False
        self._worker: Worker | None = None
        self._bug: BaseException | None = None

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        asyncio.set_event_loop(self._loop)
        self._worker = worker
        self._loop.call_soon(self._pump)
        self._loop.run_forever()
        if self._bug is not None:
            raise self._bug

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
        """Flush once for all coroutines that are ready now or in a moment: a thousand may wake in one go."""
        assert self._worker is not None
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_later(max(0.0, self._worker.since + GAP - perf_counter()), self._flush_if_due, flush)

    def _flush_if_due(self, flush: Callable[[], None]) -> None:
        if self._flush_is_due:
            self._flush_is_due = False
            flush()

    def _cancel(self, run: int) -> None:
        for slot in self._busy.values():
            # It strikes where the coroutine waits now, and that is in the task that is on the board.
            if slot.record[RUN] == run + 1 and slot.record[POSITION] >= 0 and slot.coroutine is not None:
                slot.is_struck = True
                slot.coroutine.cancel()

    def _resize(self, slots: int) -> None:
        self._slots, self._latest = slots, None
        self._free = [number for number in range(slots - 1, -1, -1) if number not in self._busy]
        self._pump()

    def _pump(self) -> None:
        """Start coroutines for waiting tasks; end the loop when it is time."""
        worker = self._worker
        assert worker is not None
        if not self._starting:
            self._wave = 0
            self._start_more(worker, worker.waiting)
        if worker.stopping and not self._busy and not worker.waiting:
            worker.flush()
            self._loop.stop()
        worker.tidy()

    def _start_more(self, worker: Worker, waiting: int) -> None:
        """Start coroutines for waiting tasks: one, and once they have begun twice as many, and so on.

        So there are soon enough if tasks wait, and no hundred of them for a batch that the first one runs alone.
        """
        self._wave = self._wave * 2 or 1
        for _ in range(min(self._wave, len(self._free), waiting)):
            number = self._free.pop()
            slot = self._busy[number] = _Slot(number, *worker.board.record(number))
            self._starting += 1
            slot.coroutine = self._loop.create_task(self._serve(worker, slot))
            slot.coroutine.add_done_callback(partial(self._over, worker, slot))

    async def _serve(self, worker: Worker, slot: _Slot) -> None:
        """Run tasks in one slot until there is none."""
        slot.has_started = True
        self._starting -= 1
        if not self._starting:
            self._start_more(worker, worker.waiting - 1)
        current.set(partial(task_of, slot.record))
        while slot.number < self._slots and (portion := worker.front()) is not None:
            if await self._run(worker, portion, slot):
                worker.drop(portion)

    def _over(self, worker: Worker, slot: _Slot, coroutine: asyncio.Task[None]) -> None:
        """Free a slot."""
        if not slot.has_started:  # a task of the user's cancels all coroutines that it finds
            self._starting -= 1
        if not coroutine.cancelled() and coroutine.exception() is not None:
            self._bug = coroutine.exception()
            self._loop.stop()
        slot.record[RUN] = 0
        del self._busy[slot.number]
        if slot.number < self._slots:
            self._free.append(slot.number)
        worker.idle()
        if not self._busy:  # there is nothing to wait for
            self._flush_if_due(worker.flush)
        self._pump()

    async def _run(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Run tasks of a batch in one slot; return True if there are no more, False if the slot was taken away."""
        record, times, unfinished, coroutine = slot.record, slot.times, worker.unfinished, slot.coroutine
        assert coroutine is not None
        call, done = portion.callable(), record[DONE]
        row, is_empty = Row(portion.out), True
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = -1
        record[RUN] = portion.run + 1
        now = perf_counter()
        turn_ends = now + TURN_SECONDS
        for position, raw in portion.tasks:
            record[POSITION] = position
            times[SINCE] = now
            self._latest = slot
            try:
                value = await call(raw)
            except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
                worker.fail(portion, position, _explained(error, by_us=slot.is_struck))
            else:
                row.keep(position, value)
            if unfinished:
                worker.send_unfinished((portion.run, position))
            done += 1
            record[DONE] = done
            now = perf_counter()
            if slot.is_struck or coroutine.cancelling():
                await self._recover(slot, coroutine)
            if self._latest is not slot or now > turn_ends:
                now = await self._pause(worker, slot, now)
                turn_ends = now + TURN_SECONDS
                if slot.number >= self._slots:
                    is_empty = False
                    break
        row.close()
        return is_empty

    async def _recover(self, slot: _Slot, coroutine: asyncio.Task[Any]) -> None:
        """Forget the cancels of a task that is over: none may strike the next one."""
        slot.record[POSITION] = -1
        slot.is_struck = False
        while coroutine.cancelling():
            coroutine.uncancel()
        with suppress(asyncio.CancelledError):  # one that was asked for, and had not struck when the task ended
            await _turn()

    async def _pause(self, worker: Worker, slot: _Slot, now: float) -> float:
        """Hand back what is due, and let other coroutines run if none did since the slot's task began."""
        if now - worker.since > FLUSH_SECONDS:
            self.defer(worker.flush)
        if self._latest is slot:
            slot.record[POSITION] = -1
            self._flush_if_due(worker.flush)  # who waits for its turn behind a hundred others may wait for long
            with suppress(asyncio.CancelledError):  # the user's code found this coroutine between two tasks
                await _turn()
        return perf_counter()


def _explained(error: BaseException, *, by_us: bool) -> BaseException:
    """Return what a task raised; a cancel that is not ours is a failure like any other."""
    return TaskCancelled() if by_us and isinstance(error, asyncio.CancelledError) else error


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let other coroutines run once."""
    yield
