"""Slots of an asyncio loop: tasks are coroutines. Imported in workers of this kind, and by solo.

Everything runs in the loop's thread.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from poolmagic.board import DONE, POSITION, RUN, SINCE
from poolmagic.errors import SoftTimeLimitExceeded, TaskCancelled
from poolmagic.perworker import closers
from poolmagic.timings import SHORT
from poolmagic.worker.native import perf_counter
from poolmagic.worker.outbox import Row
from poolmagic.worker.places import enter_slot
from poolmagic.worker.portions import Portion
from poolmagic.worker.preparing import prepare_async
from poolmagic.worker.slots import task_of
from poolmagic.worker.tasks import FLUSH_SECONDS, Worker, current
from poolmagic.worker.waves import TURN_SECONDS, Slot, WaveSlots

__all__ = ["CoroutineSlots", "Softened", "drive"]


class _Slot(Slot):
    """A slot with a coroutine."""

    coroutine: asyncio.Task[None] | None = None
    has_started = False
    struck: TaskCancelled | None = None
    """What a cancel of ours stands for, if there is one."""
    soft: SoftTimeLimitExceeded | None = None
    """What the next cancel is turned into, inside of the task."""


class CoroutineSlots(WaveSlots[_Slot]):
    """Slots with coroutines."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._loop = asyncio.new_event_loop()
        self._lock = asyncio.Lock()
        self._has_ended = False
        self._bug: BaseException | None = None

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        asyncio.set_event_loop(self._loop)
        pauses = (CoroutineSlots._pause.__code__, CoroutineSlots._recover.__code__)
        with self._serving(worker, CoroutineSlots._run.__code__, *pauses):
            self._loop.call_soon(self._pump)
            self._loop.run_forever()
        if self._bug is not None:
            raise self._bug
        self._loop.run_until_complete(worker.preparation.finish_async(*closers()))

    def _notify(self) -> None:
        self._loop.call_soon_threadsafe(self._pump)

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(seconds, function, *args)

    def _end(self) -> None:
        if not self._has_ended:  # once: the loop has the finalizer to run after that
            self._has_ended = True
            self._loop.stop()

    def _begin(self, worker: Worker, number: int) -> None:
        slot = self._busy[number] = _Slot(number, *worker.board.record(number))
        slot.coroutine = self._loop.create_task(self._serve(worker, slot))
        slot.coroutine.add_done_callback(partial(self._over, worker, slot))

    def _throw(self, slot: _Slot, run: int, position: int, error: BaseException) -> None:
        # It strikes where the coroutine waits now, and that is in the task that is on the board.
        if slot.coroutine is None:
            return
        if isinstance(error, SoftTimeLimitExceeded):
            slot.soft = error
        elif isinstance(error, TaskCancelled):
            slot.struck, slot.soft = error, None
        slot.coroutine.cancel()

    def _waiting_frames(self, slot: _Slot) -> list[types.FrameType]:
        """Return the frames of a task that waits, outermost first; for the control thread."""
        return [] if slot.coroutine is None else list(_awaiting(slot.coroutine))

    async def _serve(self, worker: Worker, slot: _Slot) -> None:
        """Run tasks in one slot until there is none."""
        slot.has_started = True
        self._begun(worker)
        current.set(partial(task_of, slot.record))
        enter_slot(worker, slot.record)
        while slot.number < self._slots and (portion := worker.front()) is not None:
            if portion.call.prepares:
                await prepare_async(worker, portion, slot.record, self._lock)
            if await self._run(worker, portion, slot):
                worker.drop(portion)

    def _over(self, worker: Worker, slot: _Slot, coroutine: asyncio.Task[None]) -> None:
        """Free a slot."""
        if not slot.has_started:  # a task of the user's cancels all coroutines that it finds
            self._starting -= 1
        if not coroutine.cancelled() and coroutine.exception() is not None:
            self._bug = coroutine.exception()
            self._loop.stop()
        self._release(worker, slot)
        self._pump()

    async def _run(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Run tasks of a batch in one slot; return True if there are no more, False if the slot was taken away."""
        record, times, calls, coroutine = slot.record, slot.times, worker.printer.calls, slot.coroutine
        assert coroutine is not None
        call = portion.limited(times) if portion.call.limited else portion.callable()
        done = record[DONE]
        if portion.call.softly_limited:
            call = _softened(call, slot, coroutine)
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = position = -1
        record[RUN] = portion.run + 1
        now = perf_counter()
        row, is_empty = Row(portion.out, done, now, portion.call), True
        look_at, turn_ends = now + SHORT, now + TURN_SECONDS
        for position, raw in portion.tasks:
            # First: the task before may look younger, but this one must not look older than it is.
            times[SINCE] = since = now
            record[POSITION] = position
            self._latest = slot
            try:
                value = await call(raw)
            except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
                worker.fail(portion, position, _explained(error, slot.struck))
            else:
                row.keep(position, value)
            if calls:
                worker.printer.end((portion.run, position))
            done += 1
            record[DONE] = done
            now = perf_counter()
            if slot.struck is not None or coroutine.cancelling():
                await self._recover(slot, coroutine)
            if self._latest is not slot or now > look_at:
                row.look(position, done, since, now)
                if self._latest is not slot or now > turn_ends:
                    now = await self._pause(worker, slot, now)
                    turn_ends = now + TURN_SECONDS
                row.began, look_at = now, now + SHORT
                if slot.number >= self._slots:
                    is_empty = False
                    break
        row.end(position, done, now)
        row.close()
        return is_empty

    async def _recover(self, slot: _Slot, coroutine: asyncio.Task[Any]) -> None:
        """Forget the cancels of a task that is over: none may strike the next one."""
        slot.record[POSITION] = -1
        slot.struck = slot.soft = None
        while coroutine.cancelling():
            coroutine.uncancel()
        with suppress(asyncio.CancelledError):  # one that was asked for, and had not struck when the task ended
            await _turn()

    async def _pause(self, worker: Worker, slot: _Slot, now: float) -> float:
        """Hand back what is due, and let other coroutines run if none did since the slot's task began."""
        worker.printer.look()
        if now - worker.since > FLUSH_SECONDS:
            self.defer(worker.flush)
        if self._latest is slot:
            slot.record[POSITION] = -1
            self._flush_if_due(worker.flush)  # who waits for its turn behind a hundred others may wait for long
            with suppress(asyncio.CancelledError):  # the user's code found this coroutine between two tasks
                await _turn()
        return perf_counter()


def _explained(error: BaseException, struck: TaskCancelled | None) -> BaseException:
    """Return what a task raised; a cancel that is not ours is a failure like any other."""
    if struck is None or not isinstance(error, asyncio.CancelledError):
        return error
    return struck.with_traceback(error.__traceback__)


def _softened(call: Callable[[Any], Any], slot: _Slot, task: asyncio.Task[Any]) -> Callable[[Any], Awaitable[Any]]:
    """Return the same function for tasks with a soft limit."""
    return lambda raw: drive(call(raw), slot, task)


class Softened(Protocol):
    """Who turns a cancel into something softer."""

    soft: SoftTimeLimitExceeded | None


@types.coroutine
def drive(coroutine: Awaitable[Any], softened: Softened, task: asyncio.Task[Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine, and throw what is `soft` into it where a cancel of its task would strike.

    The task may catch it where it waits, as any error, and goes on as if it had never been cancelled.
    """
    awaited = coroutine.__await__()
    step = partial(next, awaited)
    while True:
        try:
            waits_for = step()
        except StopIteration as end:
            return end.value
        try:
            value = yield waits_for
        except GeneratorExit:
            awaited.close()
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and softened.soft is not None:
                error, softened.soft = softened.soft, None
                task.uncancel()
            step = partial(awaited.throw, error)
        else:
            step = partial(awaited.send, value)


_LINKS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""Where coroutines, generators and asynchronous ones have their frame, and what they wait for."""


def _awaiting(task: asyncio.Future[Any] | None) -> Iterator[types.FrameType]:
    """Yield the frames of a coroutine that waits, and of what it waits for, and so on."""
    while isinstance(task, asyncio.Task):
        waits: Any = task.get_coro()
        while (link := next((link for link in _LINKS if hasattr(waits, link[0])), None)) is not None:
            frame = getattr(waits, link[0])
            if frame is None:  # it has just ended
                break
            yield frame
            # `drive` does by hand what `await` does, which leaves no link.
            waits = frame.f_locals["coroutine"] if frame.f_code is drive.__code__ else getattr(waits, link[1])
        task = getattr(task, "_fut_waiter", None)  # what awaits a future does not tell which


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let other coroutines run once."""
    yield
