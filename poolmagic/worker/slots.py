"""Slots: the places in a worker where tasks run. Here those of plain threads; green ones and coroutines are elsewhere.

A runner owns its slots. Its methods may be called from the control thread at any time; `serve` belongs to the
worker's main thread.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Final, Protocol

from poolmagic.board import DONE, LOOK, POSITION, RUN, SINCE
from poolmagic.errors import TaskCancelled
from poolmagic.worker.native import allocate_lock, perf_counter
from poolmagic.worker.outbox import Row
from poolmagic.worker.tasks import FLUSH_SECONDS, Portion, Worker, current

__all__ = ["InlineSlots", "SlotRunner", "ThreadSlots", "task_of"]

LOOK_SECONDS: Final = 0.002
"""About so long a slot may run short items without a look at the clock."""
REPORT_SECONDS: Final = 0.08
"""After so long a worker of one slot reports in the middle of a batch: before the 0.1 s in which a person sees a
stutter, and seldom, because it reports at the end of each batch anyway."""
WORTH_SECONDS: Final = 0.002
"""After so much work the end of a batch is worth a report, which costs about 0.0002 s."""
MOST_STEPS: Final = 128
"""And at most so many of them."""


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


def task_of(record: memoryview) -> tuple[int, int] | None:
    """Return the (run, position) of the task in the slot that has this record on the board; None if it is idle."""
    return (record[RUN] - 1, record[POSITION]) if record[RUN] else None


class InlineSlots:
    """One slot: the main thread of the process. Its running task can be stopped only together with the process.

    Items that take a microsecond are run in a loop that does for each what cannot be left out: put its position on the
    board, call the function, keep the value. All else is done at the *looks* at the clock, of which there is one for
    each item if they are slow, and one every so many if they are fast.
    """

    def __init__(self) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._step = 1
        self._done = 0

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        record, times = worker.board.record(0)
        current.set(partial(task_of, record))
        while True:
            portion = worker.front()
            if portion is not None:
                self._run(worker, portion, record, times)
                worker.drop(portion)
                if perf_counter() - worker.since > WORTH_SECONDS:
                    worker.flush()  # so that there is more to do before the batch after this one is done, too
                continue
            record[RUN] = 0
            worker.idle()
            if worker.stopping:
                return
            self._wake.get()

    def _run(self, worker: Worker, portion: Portion, record: memoryview, times: memoryview[float]) -> None:
        """Run what is left of a batch; its items come one after the other, because there is no other slot."""
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = -1
        nudges, done = worker.nudges, self._done - portion.first
        stretch = portion.out.open(portion.first)
        position = portion.first - 1
        now = perf_counter()
        while True:
            before = position
            record[LOOK] = position + 2
            record[DONE] = done + position + 1
            times[SINCE] = now
            record[RUN] = portion.run + 1
            call, values = portion.callable(), stretch.values
            try:
                for position, raw in islice(portion.tasks, self._step):
                    record[POSITION] = position
                    values.append(call(raw))
                    if nudges:
                        break
            except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
                stretch = worker.break_off(portion, stretch, position, error)
            else:
                if position == before:
                    break
            now = self._look(worker, (portion.run, position), position - before, now)
        record[RUN] = 0
        stretch.is_open = False
        self._done = done + position + 1

    def _look(self, worker: Worker, task: tuple[int, int], count: int, before: float) -> float:
        """See to what is not done for each item, after `count` of them; return the time."""
        worker.nudges.clear()
        if worker.unfinished:
            worker.send_unfinished(task)
        now = perf_counter()
        seconds = now - before
        if seconds > LOOK_SECONDS:
            self._step = max(1, int(count * LOOK_SECONDS / seconds))
        elif seconds < LOOK_SECONDS / 2:
            self._step = min(2 * self._step, MOST_STEPS)
        if now - worker.since > REPORT_SECONDS:
            worker.flush()
            now = perf_counter()
        return now

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


class _Slot:
    """A slot with a thread."""

    def __init__(self, number: int, record: memoryview, times: memoryview[float]) -> None:
        self.number = number
        self.record = record
        self.record[POSITION] = -1
        self.times = times
        self.thread = 0
        self.is_struck = False


class ThreadSlots:
    """Threads of this process, started as they are needed. Running tasks are stopped by an asynchronous exception.

    Such an exception may strike at any time after it was asked for, so it must be withdrawn before the thread goes on
    to the next task. Who cancels sets `is_struck` before he looks what the slot runs, and the thread says that it runs
    nothing before it looks at `is_struck`: so one of them sees the other. Then the thread waits until he is done.
    """

    def __init__(self, slots: int, name: str) -> None:
        self._slots = slots
        self._name = name
        self._work = threading.Condition()
        self._idle = 0
        self._alive: dict[int, _Slot] = {}
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
            started = [
                _Slot(number, *worker.board.record(number)) for number in missing[: max(0, worker.waiting - self._idle)]
            ]
            self._alive.update((slot.number, slot) for slot in started)
            self._work.notify(count)
        for slot in started:
            name = f"{self._name}-{slot.number}"
            threading.Thread(target=self._serve, args=(worker, slot), name=name, daemon=True).start()

    def _serve(self, worker: Worker, slot: _Slot) -> None:
        """Run tasks in one thread until the slot or the worker ends."""
        slot.thread = threading.get_ident()
        while (portion := self._wait(worker, slot)) is not None:
            try:
                if self._run(worker, portion, slot):
                    worker.drop(portion)
            except TaskCancelled as error:  # it came just before or just after the user's own code
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
            with self._work:
                self._idle += 1
                while slot.number < self._slots and (portion := worker.front()) is None and not worker.stopping:
                    self._work.wait()
                self._idle -= 1
                if portion is None or slot.number >= self._slots:
                    del self._alive[slot.number]
                    return None
        return portion

    def _run(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Run tasks of a batch in one slot; return True if there are no more, False if the slot was taken away."""
        record, times = slot.record, slot.times
        call, done = portion.callable(), record[DONE]
        row, is_empty = Row(portion.out), True
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = -1
        record[RUN] = portion.run + 1
        now = perf_counter()
        for position, raw in portion.tasks:
            times[SINCE] = now
            record[POSITION] = position
            try:
                value = call(raw)
            except BaseException as error:  # a task's SystemExit is its failure, not the thread's end
                worker.fail(portion, position, error)
            else:
                row.keep(position, value)
            record[POSITION] = -1
            if slot.is_struck:
                self._leave(slot)
            done += 1
            record[DONE] = done
            now = perf_counter()
            if now - worker.since > FLUSH_SECONDS:
                worker.flush()
            if slot.number >= self._slots:
                is_empty = False
                break
        row.close()
        return is_empty

    def _leave(self, slot: _Slot) -> None:
        """Say that the slot's task is over; a cancel that has not struck by now is withdrawn."""
        slot.record[POSITION] = -1
        with self._striking:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(slot.thread), None)
            slot.is_struck = False

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush at once: no thread asks for it within a task, where a cancel may strike and lose what is flushed."""
        flush()

    def cancel(self, run: int | None) -> None:
        """Throw `TaskCancelled` into the threads that run tasks of a run (None: any). It acts in Python code only."""
        with self._striking:
            for slot in list(self._alive.values()):
                if slot.is_struck:
                    continue
                slot.is_struck = True
                if slot.record[POSITION] >= 0 and run in (None, slot.record[RUN] - 1):
                    thread = ctypes.c_ulong(slot.thread)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TaskCancelled))
                else:
                    slot.is_struck = False

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
