"""Slots: the places in a worker where tasks run. Here the only one of a prefork worker; the others are elsewhere.

A runner owns its slots. Its methods may be called from the control thread at any time; `serve` belongs to the
worker's main thread.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from queue import SimpleQueue
from types import FrameType
from typing import Final, Protocol

from poolmagic.board import DONE, LOOK, POSITION, RUN, SINCE
from poolmagic.perworker import closers
from poolmagic.timings import SHORT
from poolmagic.worker.native import get_ident, perf_counter
from poolmagic.worker.places import enter_slot
from poolmagic.worker.portions import RUN_LIMITED, Portion
from poolmagic.worker.preparing import prepare
from poolmagic.worker.signals import STRIKE, called_by, handled
from poolmagic.worker.stacks import SlotStack, thread_frames
from poolmagic.worker.tasks import Worker, current

__all__ = ["InlineSlots", "SlotRunner", "task_of"]

LOOK_SECONDS: Final = 0.002
"""About so long a slot may run short items without a look at the clock."""
REPORT_SECONDS: Final = 0.08
"""After so long a worker of one slot reports in the middle of a batch: before the 0.1 s in which a person sees a
stutter, and seldom, because it reports at the end of each batch anyway."""
WORTH_SECONDS: Final = 0.002
"""After so much work the end of a batch is worth a report, which costs about 0.0002 s."""
MOST_STEPS: Final = 128
"""And at most so many of them."""
SLOW_SECONDS: Final = 0.01
"""An item that goes on for so long after a tick of the clock is not a short one."""


class SlotRunner(Protocol):
    """Runs tasks in slots."""

    @property
    def records(self) -> int:
        """How many records of the board the slots use, from the first one on."""
        ...

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

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Raise an error in one task, as soon as that can be; never in another, if it has ended by then."""
        ...

    def insist(self) -> bool:
        """Try again what was struck and shows no sign of it; False if there is nothing such."""
        ...

    def stacks(self) -> Iterator[SlotStack]:
        """Yield for each slot that may be busy what `stacks.dump` takes; the tasks are not disturbed."""
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
    """One slot: the main thread of the process. A cancel ends it with the process; a strike is a signal.

    Items that take a microsecond are run in a loop that does for each what cannot be left out: put its position on the
    board, call the function, keep the value. All else is done at the *looks* at the clock, of which there is one for
    each item if they are slow, and one every so many if they are fast. Items with a time limit have one each, because
    it must be known when each of them began.
    """

    records = 1

    def __init__(self) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._step = 1
        self._done = 0
        self._thread = 0
        self._first = 0
        self._since = 0.0
        self._record: memoryview | None = None
        self._times: memoryview[float] | None = None
        self._strikes: deque[tuple[int, int, BaseException]] = deque()

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        with handled({STRIKE: self._struck, signal.SIGINT: self._interrupted}):
            self._thread = get_ident()
            self._serve(worker)

    def _serve(self, worker: Worker) -> None:
        record, times = worker.board.record(0)
        self._record, self._times = record, times
        current.set(partial(task_of, record))
        enter_slot(worker, record)
        while True:
            portion = worker.front()
            if portion is not None:
                if portion.call.prepares:
                    self._done += prepare(worker, portion, record)
                self._run(worker, portion, record, times)
                worker.drop(portion)
                if perf_counter() - worker.since > WORTH_SECONDS:
                    worker.flush()  # so that there is more to do before the batch after this one is done, too
                continue
            record[RUN] = 0
            worker.idle()
            if worker.stopping:
                worker.preparation.finish(*closers())
                return
            self._wake.get()

    def _run(self, worker: Worker, portion: Portion, record: memoryview, times: memoryview[float]) -> None:
        """Run what is left of a batch; its items come one after the other, because there is no other slot."""
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = -1
        nudges, done = worker.nudges, self._done - portion.first
        stretch = portion.out.open(portion.first)
        position = portion.first - 1
        limited = portion.call.limited
        now = self._since = perf_counter()
        self._first = portion.first
        while True:
            before = position
            record[LOOK] = position + 2
            record[DONE] = done + position + 1
            times[SINCE] = now
            record[RUN] = portion.run + 1
            call = portion.limited(times) if limited else portion.callable()
            values = stretch.values
            try:
                for position, raw in islice(portion.tasks, 1 if limited else self._step):
                    record[POSITION] = position
                    values.append(call(raw))
                    if nudges:
                        break
            except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
                stretch = worker.break_off(portion, stretch, position, error)
            else:
                if position == before:
                    break
            now = self._look(worker, portion, position, position - before, now)
        record[RUN] = 0
        self._note_up_to(portion, position, now)
        stretch.is_open = False
        self._done = done + position + 1

    def _look(self, worker: Worker, portion: Portion, position: int, count: int, before: float) -> float:
        """See to what is not done for each item, after `count` of them; return the time."""
        now = perf_counter()
        if now - self._since > SHORT:
            self._note(worker, portion, position, count, before, now)
        worker.nudges.clear()
        worker.printer.end((portion.run, position))
        now = perf_counter()
        seconds = now - before
        if seconds > LOOK_SECONDS:
            self._step = max(1, int(count * LOOK_SECONDS / seconds))
        elif seconds < LOOK_SECONDS / 2:
            self._step = min(2 * self._step, MOST_STEPS)
        if now - worker.since > REPORT_SECONDS:
            self._note_up_to(portion, position, now)
            worker.flush()
            self._since = now = perf_counter()
        return now

    def _note(self, worker: Worker, portion: Portion, position: int, count: int, before: float, now: float) -> None:
        """Note when items ran, up to this position; the last `count` of them since `before`."""
        if now - before > SHORT:
            self._note_up_to(portion, position - count, before)
        if count > 1 and before < worker.ticked < now - SLOW_SECONDS:
            # All were expected to be short. But the last one ran when the clock ticked and has held up the answer: it
            # is what took so long, and those before it were as fast as expected.
            slow = min(before + (count - 1) * LOOK_SECONDS / self._step, worker.ticked)
            self._note_up_to(portion, position - 1, slow)
        self._note_up_to(portion, position, now)

    def _note_up_to(self, portion: Portion, position: int, now: float) -> None:
        """Note that the items which are not noted yet, up to this position, ran until now."""
        if self._first <= position:
            began = min(max(self._since, portion.call.loaded), now)
            portion.out.worked += (self._first, position + 1, began, now)
            self._first = position + 1
        self._since = now

    def wake(self, count: int) -> None:
        """Say that more tasks wait."""
        self._wake.put(None)

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush at once: there is nothing to wait for."""
        flush()

    def cancel(self, run: int) -> None:
        """Do nothing: the supervisor replaces the worker."""

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Have the main thread raise an error in its task; sleeps and waits are interrupted."""
        self._strikes.append((run, position, error))
        signal.pthread_kill(self._thread, STRIKE)

    def insist(self) -> bool:
        """Send the signal again if it was not handled: it came just before the wait that it was to interrupt."""
        if self._strikes:
            signal.pthread_kill(self._thread, STRIKE)
        return bool(self._strikes)

    def _struck(self, number: int, frame: FrameType | None) -> None:
        """Raise the error that is meant for the task that runs; called between two instructions of the main thread."""
        runs, _ = called_by(RUN_LIMITED, frame)
        task = None if runs is None or self._record is None else task_of(self._record)
        found: BaseException | None = None
        while self._strikes:
            run, position, error = self._strikes.popleft()
            if task == (run, position):
                found = error
        if found is not None:
            raise found

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt` in the task that runs. Between two tasks it belongs to nobody."""
        _, called = called_by(InlineSlots._run.__code__, frame)
        if called is not None and called.f_code not in _BETWEEN:
            signal.default_int_handler(number, frame)

    def stacks(self) -> Iterator[SlotStack]:
        """Yield the record of the slot, and what tells the frames of the task in it."""
        if self._record is not None and self._times is not None:
            yield self._record, self._times, partial(thread_frames, self._thread, InlineSlots._run.__code__)

    def resize(self, slots: int) -> None:
        """Do nothing: a process has one slot."""

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        self._wake.put(None)


_BETWEEN: Final = frozenset(
    function.__code__
    for function in (
        InlineSlots._look,  # noqa: SLF001 - of the class above
        InlineSlots._note_up_to,  # noqa: SLF001 - likewise
        Worker.break_off,
        Portion.callable,
        Portion.limited,
    )
)
"""What the loop calls beside tasks."""
