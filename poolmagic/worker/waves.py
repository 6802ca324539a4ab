"""Slots of which many share one thread, and are started in waves: greenlets, or coroutines of an event loop.

Everything runs in that thread but `wake`, `cancel`, `strike`, `resize`, `stop` and `ask`, which the control thread
calls; they only have `_pump` called there, which does what they want.
"""

from __future__ import annotations

import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from poolmagic.board import POSITION, RUN
from poolmagic.errors import TaskCancelled
from poolmagic.worker.blocking import HubWatch
from poolmagic.worker.native import get_ident, perf_counter
from poolmagic.worker.outbox import Row
from poolmagic.worker.portions import LOAD
from poolmagic.worker.printing import Printer
from poolmagic.worker.signals import STRIKE, called_by, handled, ignore
from poolmagic.worker.slots import task_of
from poolmagic.worker.stacks import SlotStack, called_from
from poolmagic.worker.tasks import Worker

__all__ = ["TURN_SECONDS", "Slot", "WaveSlots"]

TURN_SECONDS: Final = 0.01
"""After so long without a switch a task's slot lets the others run: tasks that never wait would starve the rest."""
GAP: Final = 0.005
"""At least so long is between two reports, if some slots are busy still: each costs a fraction of a millisecond."""


class Slot:
    """A slot, and what runs tasks in it: a greenlet, or a coroutine."""

    def __init__(self, number: int, record: memoryview, times: memoryview[float]) -> None:
        self.number = number
        self.record = record
        self.times = times

    def has(self, run: int, position: int) -> bool:
        """Whether this task is in the slot."""
        return self.record[RUN] == run + 1 and self.record[POSITION] == position


_Slot = TypeVar("_Slot", bound=Slot)
_Strike: TypeAlias = tuple[int, int | None, BaseException | None]
"""Run, position and error; without them all tasks of the run, and a cancel."""
_PUTTING_AWAY: Final = frozenset(
    function.__code__ for function in (Worker.fail, Printer.end, Row.keep, Row.look, Row.end, Row.close)
)


class WaveSlots(ABC, Generic[_Slot]):
    """Slots that pull tasks: what runs in one lives as long as there is a next task for it, not for one task only."""

    def __init__(self, slots: int) -> None:
        self.records = slots
        self._slots = self._wanted = slots
        self._free = list(range(slots - 1, -1, -1))
        self._busy: dict[int, _Slot] = {}
        self._starting = 0
        self._wave = 0
        self._latest: _Slot | None = None
        self._strikes: list[_Strike] = []
        self._late: list[_Strike] = []
        self._thread = 0
        self._home = 0
        """The same if it is no main thread, to which no signal can be sent."""
        self._runs: CodeType | None = None
        self._between: frozenset[CodeType] = frozenset()
        self._flush_is_due = False
        self._worker: Worker | None = None
        self._asked = self._answered = 0

    # For the control thread ----------------------------------------------------------------------------------------

    def wake(self, count: int) -> None:
        """Say that more tasks wait."""
        self._notify()

    def cancel(self, run: int) -> None:
        """Throw `TaskCancelled` into the running tasks of a run, once their thread gets to it."""
        self._strikes.append((run, None, None))
        self._notify()

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Throw an error into one task, once its thread gets to it."""
        one = (run, position, error)
        self._late.append(one)
        self._strikes.append(one)
        self.ask()

    def insist(self) -> bool:
        """Strike by a signal if the thread of the slots does not turn to it: a task keeps it to itself."""
        if self._late and self._thread:
            signal.pthread_kill(self._thread, STRIKE)
        return bool(self._late)

    def stacks(self) -> Iterator[SlotStack]:
        """Yield the record of each slot, and what tells the frames of the task in it."""
        for slot in list(self._busy.values()):
            yield slot.record, slot.times, partial(self._frames, slot)

    def _frames(self, slot: _Slot) -> list[FrameType]:
        """Return the frames of the task in a slot, outermost first: those of the thread, or those that wait."""
        assert self._runs is not None
        frame = sys._current_frames().get(self._home)  # noqa: SLF001 - the only way to see another thread's stack
        runs, _ = called_by(self._runs, frame)
        if runs is not None and runs.f_locals.get("slot") is slot:
            return called_from(self._runs, frame)
        return self._waiting_frames(slot)

    def resize(self, slots: int) -> None:
        """Have this many slots from now on; tasks that run go on."""
        self._wanted = slots
        self.records = max(self.records, slots)
        self._notify()

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        self._notify()

    @property
    def is_busy(self) -> bool:
        """Whether there are tasks that have begun, or are about to."""
        return bool(self._busy) or (self._worker is not None and self._worker.waiting > 0)

    def ask(self) -> None:
        """Ask the thread of the slots for a sign of life."""
        self._asked += 1
        self._notify()

    @property
    def has_answered(self) -> bool:
        """Whether it came since `ask`."""
        return self._answered == self._asked

    # What the kinds of slots have each in its own way ----------------------------------------------------------------

    @abstractmethod
    def _notify(self) -> None:
        """Have `_pump` called in the thread of the slots; may be called from any thread."""

    @abstractmethod
    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Have a function called after some time."""

    @abstractmethod
    def _begin(self, worker: Worker, number: int) -> None:
        """Start what runs tasks in a slot."""

    @abstractmethod
    def _throw(self, slot: _Slot, run: int, position: int, error: BaseException) -> None:
        """Throw an error into a task, unless its slot has gone on to another by the time that this can be done."""

    @abstractmethod
    def _waiting_frames(self, slot: _Slot) -> list[FrameType]:
        """Return the frames of a task that waits, outermost first; for the control thread."""

    @abstractmethod
    def _end(self) -> None:
        """Let `serve` return."""

    # In the thread of the slots --------------------------------------------------------------------------------------

    @contextmanager
    def _serving(self, worker: Worker, runs: CodeType, *between: CodeType) -> Iterator[None]:
        """Serve a worker for a while; `runs` is the code of what runs tasks, `between` what it does beside that."""
        self._worker = worker
        self._runs = runs
        self._between = _PUTTING_AWAY.union(between)
        self._home = get_ident()
        worker.hub_watch = HubWatch(self, self._home, runs, LOAD, worker.send)
        # An interrupt would strike whatever runs just then.
        with handled({signal.SIGINT: ignore, STRIKE: self._struck}) as is_main_thread:
            self._thread = self._home if is_main_thread else 0
            yield

    def _struck(self, number: int, frame: FrameType | None) -> None:
        """Raise the error that is meant for the task which keeps the thread to itself, if that still runs."""
        assert self._runs is not None
        runs, called = called_by(self._runs, frame)
        if runs is None or called is None or called.f_code in self._between:
            return
        task = task_of(runs.f_locals["slot"].record)
        for one in list(self._late):
            if one[:2] == task and one[2] is not None:
                self._late.remove(one)
                self._strikes.remove(one)
                raise one[2]

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush once for all slots that are ready now or in a moment: a thousand may wake in one go."""
        assert self._worker is not None
        if not self._flush_is_due:
            self._flush_is_due = True
            self._later(max(0.0, self._worker.since + GAP - perf_counter()), self._flush_if_due, flush)

    def _flush_if_due(self, flush: Callable[[], None]) -> None:
        if self._flush_is_due:
            self._flush_is_due = False
            flush()

    def _pump(self) -> None:
        """Do what the control thread asked for: throw errors, change the number of slots, start tasks that wait."""
        worker = self._worker
        assert worker is not None
        self._answered = self._asked
        self._late.clear()
        if self._strikes:
            self._throw_all()
        if self._slots != self._wanted:
            self._slots, self._latest = self._wanted, None
            self._free = [number for number in range(self._slots - 1, -1, -1) if number not in self._busy]
        if not self._starting:
            self._wave = 0
            self._start_more(worker, worker.waiting)
        self._end_if_idle()
        worker.tidy()

    def _throw_all(self) -> None:
        strikes, self._strikes = self._strikes, []
        slots = {task: slot for slot in self._busy.values() if (task := task_of(slot.record)) is not None}
        for run, position, error in strikes:
            tasks = [task for task in slots if task[0] == run] if position is None else [(run, position)]
            for task in tasks:
                if task in slots and task[1] >= 0:
                    self._throw(slots[task], *task, TaskCancelled() if error is None else error)

    def _start_more(self, worker: Worker, waiting: int) -> None:
        """Start slots for waiting tasks: one, and once they have begun twice as many, and so on.

        So there are soon enough if tasks wait, and no hundred of them for a batch that the first one runs alone.
        """
        self._wave = self._wave * 2 or 1
        for _ in range(min(self._wave, len(self._free), waiting)):
            self._starting += 1
            self._begin(worker, self._free.pop())

    def _begun(self, worker: Worker) -> None:
        """Say that a slot that was started has begun."""
        self._starting -= 1
        if not self._starting:
            self._start_more(worker, worker.waiting - 1)

    def _release(self, worker: Worker, slot: _Slot) -> None:
        """Free a slot that found nothing more to do, or was taken away."""
        slot.record[RUN] = 0
        del self._busy[slot.number]
        if slot.number < self._slots:
            self._free.append(slot.number)
        worker.idle()
        if not self._busy:  # there is nothing to wait for
            self._flush_if_due(worker.flush)

    def _end_if_idle(self) -> None:
        worker = self._worker
        if worker is not None and worker.stopping and not self._busy and not worker.waiting:
            worker.flush()
            self._end()
