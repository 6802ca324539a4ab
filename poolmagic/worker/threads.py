"""The slots of a threads pool: threads of the kernel. Imported in the kernel alone."""

from __future__ import annotations

import ctypes
import heapq
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from poolmagic.board import DONE, POSITION, RUN, SINCE
from poolmagic.errors import SoftTimeLimitExceeded, TaskCancelled, note_once
from poolmagic.origin import origin_of
from poolmagic.timings import SHORT
from poolmagic.worker import taps
from poolmagic.worker.native import allocate_lock, perf_counter
from poolmagic.worker.outbox import Row
from poolmagic.worker.places import enter_slot
from poolmagic.worker.portions import Portion
from poolmagic.worker.preparing import prepare
from poolmagic.worker.slots import task_of
from poolmagic.worker.stacks import SlotStack, thread_frames
from poolmagic.worker.tasks import FLUSH_SECONDS, Worker, current, inside

__all__ = ["ThreadSlots"]


SOFTLY: Final = 1
FOR_GOOD: Final = 2
"""How a task was struck; it is struck once in each way, so that it can clean up."""


class _Abandoned(BaseException):
    """Ends a thread whose task was given up: another one has its slot."""


class _Slot:
    """A slot with a thread. Its record on the board is its thread's alone, which may outlive its place in the pool."""

    def __init__(self, number: int, place: int, record: memoryview, times: memoryview[float]) -> None:
        self.number = number
        self.place = place
        self.record = record
        self.record[POSITION] = -1
        self.times = times
        self.thread = 0
        self.struck = 0
        self.is_abandoned = False
        self.row: Row | None = None

    def has(self, run: int, position: int) -> bool:
        """Whether this task is in the slot."""
        return self.record[RUN] == run + 1 and self.record[POSITION] == position


def _raising(error: BaseException) -> type[BaseException]:
    """Return a class of which the instance is `error`: an asynchronous exception is a class."""
    return type(type(error).__name__, (type(error),), {"__new__": lambda *_: error})


class ThreadSlots:
    """Threads of this process, started as they are needed. Running tasks are stopped by an asynchronous exception.

    Such an exception may strike at any time after it was asked for, so it must be withdrawn before the thread goes on
    to the next task. Who strikes sets `struck` before he looks what the slot runs, and the thread says that it runs
    nothing before it looks at `struck`: so one of them sees the other. Then the thread waits until he is done.

    A thread in C code goes on for as long as that takes. If its task is given up it is left alone, with its record on
    the board: the thread that takes its slot has another one.
    """

    def __init__(self, slots: int, name: str) -> None:
        self._slots = slots
        self._name = name
        self._work = threading.Condition()
        self._idle = 0
        self._alive: dict[int, _Slot] = {}
        self._most = slots
        self._places: list[int] = []  # records on the board that are free again, a heap
        self.records = 0
        # Not the condition: its code is Python's, in which an exception may strike when the lock is just taken.
        self._striking = allocate_lock()
        self._worker: Worker | None = None

    def serve(self, worker: Worker) -> None:
        """Take the worker to serve; unlike the other runners' this does not block: the slots have threads."""
        self._worker = worker

    def wake(self, count: int) -> None:
        """Wake idle threads for new tasks, and start those that are missing."""
        worker = self._worker
        assert worker is not None
        with self._work:
            missing = [number for number in range(self._slots) if number not in self._alive]
            started = [self._new_slot(worker, number) for number in missing[: max(0, worker.waiting - self._idle)]]
            self._alive.update((slot.number, slot) for slot in started)
            self._work.notify(count)
        for slot in started:
            name = f"{self._name}-{slot.number}"
            threading.Thread(target=self._serve, args=(worker, slot), name=name, daemon=True).start()

    def _new_slot(self, worker: Worker, number: int) -> _Slot:
        if self._places:
            place = heapq.heappop(self._places)
        else:
            place = self.records
            self.records += 1
        return _Slot(number, place, *worker.board.record(place))

    def _serve(self, worker: Worker, slot: _Slot) -> None:
        """Be a thread of the pool."""
        slot.thread = threading.get_ident()
        taps.tap_displays()
        with suppress(_Abandoned, TaskCancelled):  # the cancel of an abandoned task may come late
            self._run_all(worker, slot)
        taps.release(slot)
        with self._work:
            heapq.heappush(self._places, slot.place)

    def _run_all(self, worker: Worker, slot: _Slot) -> None:
        """Run tasks in one thread until the slot or the worker ends."""
        while (portion := self._wait(worker, slot)) is not None:
            origin = origin_of(portion.run)
            try:
                if (
                    self._enter(worker, portion, slot)
                    if origin is None
                    else origin.run(self._enter, worker, portion, slot)
                ):
                    worker.drop(portion)
            except (TaskCancelled, SoftTimeLimitExceeded) as error:  # just before or after the user's code
                position = slot.record[POSITION]
                self._leave(slot)
                if position >= 0:
                    slot.record[DONE] += 1
                    worker.fail(portion, position, error)

    def _wait(self, worker: Worker, slot: _Slot) -> Portion | None:
        """Wait for the next batch; None if the thread is to end."""
        portion = worker.front()
        if portion is None or slot.number >= self._slots:
            slot.record[RUN] = 0
            worker.idle()
            taps.release(slot)
            with self._work:
                self._idle += 1
                while slot.number < self._slots and (portion := worker.front()) is None and not worker.stopping:
                    self._work.wait()
                self._idle -= 1
                if portion is None or slot.number >= self._slots:
                    del self._alive[slot.number]
                    return None
        taps.hold(slot)
        return portion

    def _enter(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Make this context, that of the cell which started the run, one of the slot's, and run tasks; see `_run`."""
        inside.set(worker)
        current.set(partial(task_of, slot.record))
        enter_slot(worker, slot.record)
        if portion.call.prepares:
            prepare(worker, portion, slot.record)
        return self._run(worker, portion, slot)

    def _run(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Run tasks of a batch in one slot; return True if there are no more, False if the slot was taken away."""
        record, times, calls = slot.record, slot.times, worker.printer.calls
        call = portion.limited(times) if portion.call.limited else portion.callable()
        done = record[DONE]
        is_empty = True
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = -1
        record[RUN] = portion.run + 1
        now = perf_counter()
        slot.row = row = Row(portion.out, done, now, portion.call)
        last, look_at = -1, now + SHORT
        for position, raw in portion.tasks:
            if position != last + 1:  # those between are another thread's
                row.end(last, done, now)
            times[SINCE] = since = now
            record[POSITION] = position
            try:
                value = call(raw)
            except BaseException as error:  # a task's SystemExit is its failure, not the thread's end
                if not slot.is_abandoned:
                    worker.fail(portion, position, error)
            else:
                row.keep(position, value)
            if calls:
                worker.printer.end((portion.run, position))
            record[POSITION] = -1
            if slot.struck:
                self._leave(slot)
            done += 1
            record[DONE] = done
            last, now = position, perf_counter()
            if now > look_at:
                row.look(position, done, since, now)
                if now - worker.since > FLUSH_SECONDS:
                    worker.flush()
                    now = perf_counter()
                row.began, look_at = now, now + SHORT
            if slot.number >= self._slots:
                is_empty = False
                break
        row.end(last, done, now)
        row.close()
        return is_empty

    def _leave(self, slot: _Slot) -> None:
        """Say that the slot's task is over; a strike that has not come by now is withdrawn."""
        slot.record[POSITION] = -1
        with self._striking:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(slot.thread), None)
            slot.struck = 0
        if slot.is_abandoned:
            raise _Abandoned

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush at once: no thread asks for it within a task, where a cancel may strike and lose what is flushed."""
        flush()

    def cancel(self, run: int | None) -> None:
        """Throw `TaskCancelled` into the threads that run tasks of a run (None: any). It acts in Python code only."""
        with self._striking:
            for slot in list(self._alive.values()):
                self._throw(slot, run, None, FOR_GOOD, TaskCancelled)

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Raise an error in the thread that runs a task. It acts in Python code only."""
        strength = FOR_GOOD if isinstance(error, TaskCancelled) else SOFTLY
        with self._striking:
            for slot in list(self._alive.values()):
                if slot.has(run, position):
                    self._throw(slot, run, position, strength, _raising(error))

    def insist(self) -> bool:
        """Return False: an asynchronous exception comes when it can, and nothing helps before."""
        return False

    def _throw(
        self, slot: _Slot, run: int | None, position: int | None, strength: int, error: type[BaseException]
    ) -> None:
        before = slot.struck
        if strength <= before:
            return
        slot.struck = strength
        now_run, now_position = slot.record[RUN] - 1, slot.record[POSITION]
        if run in (None, now_run) and (now_position >= 0 if position is None else position == now_position):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(slot.thread), ctypes.py_object(error))
        else:
            slot.struck = before

    def abandon(self, run: int, position: int) -> bool:
        """Give up a task that does not stop: its thread is left alone, and its slot is free. False if it has ended."""
        worker = self._worker
        assert worker is not None
        with self._work, self._striking:
            slot = next((one for one in self._alive.values() if one.has(run, position)), None)
            if slot is None or slot.row is None:
                return False
            before, slot.struck = slot.struck, FOR_GOOD
            if not slot.has(run, position):
                slot.struck = before
                return False
            slot.is_abandoned = True
            # The cancel may have come just before the task was on the board; and it runs nothing else from now on.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(slot.thread), ctypes.py_object(TaskCancelled))
            slot.row.drop()
            slot.record[RUN] = 0
            del self._alive[slot.number]
        note_once(
            f"thread {self._name}-{slot.number} does not stop at the time limit of its task: nothing stops C code in a "
            "thread; it is left alone until it ends, and another thread takes its place"
        )
        self.wake(0)
        return True

    @property
    def spare(self) -> int:
        """How many records of the board are used beyond as many as there have been slots."""
        return max(0, self.records - self._most)

    def stacks(self) -> Iterator[SlotStack]:
        """Yield the record of each slot, and what tells the frames of the task in it."""
        for slot in list(self._alive.values()):
            yield slot.record, slot.times, partial(thread_frames, slot.thread, ThreadSlots._run.__code__)

    def resize(self, slots: int) -> None:
        """Have this many slots; threads above it end after their task."""
        with self._work:
            self._slots = slots
            self._most = max(self._most, slots)
            self._work.notify_all()
        self.wake(slots)

    def stop(self) -> None:
        """End the threads once they find nothing to do."""
        with self._work:
            self._work.notify_all()
