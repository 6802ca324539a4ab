"""Solo: the calling thread runs the items itself, one after the other. No worker, no books; a debugger works in it.

Everything belongs to the calling thread, but `halt`, which another thread may call to end the run between two items.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from poolmagic.core.events import Verdict
from poolmagic.errors import PoolMagicError, TaskCancelled, annotate
from poolmagic.feed import Feed
from poolmagic.interrupts import Interrupts, hold
from poolmagic.payload import Direct
from poolmagic.randomness import Place, Task, at
from poolmagic.snapshot import RunView
from poolmagic.solo import Call, Halted, choose_wait
from poolmagic.timings import pack, peak_memory

if TYPE_CHECKING:
    from poolmagic.asking import Sink
    from poolmagic.inbox import Work

__all__ = ["InlineAsking", "PlainFuture", "run_at_once"]

STEP: Final = 0.01
"""Seconds of work between two looks at whether the run was cancelled, and at the progress bar."""
GROWTH: Final = 4
"""Times that a step may be longer, in items, than the one before it."""
PARTS: Final = 4
"""And of so many parts, of which each has its time taken: an item that takes longer than that has its own."""
_WHO: Final = "the kernel (solo)"


class InlineAsking:
    """What `asking.Asking` is for a run on workers, for one without.

    Args:
        work: The function.
        feed: The items.
        sink: Where outcomes go.
        interrupts: Those of the run; None makes some.
        ahead: Whether more items may be run in one step than somebody waits for.

    Raises:
        UsageError: The run has time limits that cannot be kept here.
    """

    def __init__(
        self, work: Work, feed: Feed, sink: Sink, interrupts: Interrupts | None = None, *, ahead: bool
    ) -> None:
        self.verdict: Verdict | None = None
        self.error: PoolMagicError | None = None
        self._wake = threading.Event()
        self._call = Call(work, self._wake)
        self._work = work
        self._tries = (-1, 0)
        self._feed = feed
        self._sink = sink
        self._worked: list[float] = []
        self._halted: Verdict | None = None
        self._ahead = ahead
        self._size = 1
        self.interrupts = interrupts or hold()  # nobody waits: they strike in the user's code, which runs right here

    def start(self) -> None:
        """Do nothing: each step runs items."""

    def announce(self) -> None:
        """Do nothing: there are no books."""

    def serve(self) -> None:
        """Do nothing: nobody orders items."""

    @property
    def has_more(self) -> bool:
        """Whether there is something left for `finish`: never."""
        return False

    def wind_up(self, seconds: float) -> None:
        """Take the end at once: nothing runs."""
        self.verdict = self._halted

    def unpack(self, seconds: float) -> None:
        """Do nothing: nothing was packed."""

    def finish(self, seconds: float) -> None:
        """Do nothing: nothing is left."""

    @property
    def has_hidden_output(self) -> bool:
        """Whether more was printed than has been shown: never, tasks print into the cell themselves."""
        return False

    def show_output(self) -> None:
        """Do nothing: tasks print into the cell themselves."""

    def look(self) -> RunView:
        """Return that the one slot runs something, and that nothing waits to be reported."""
        return RunView(busy=1, slots=1)

    def halt(self, verdict: Verdict, kill: bool) -> None:
        """End the run after the present step."""
        self._halted = verdict
        self._wake.set()

    def step(self, timeout: float | None) -> bool:
        """Run the next item, or as many quick ones as take `STEP` seconds; blocks for them, whatever the timeout."""
        if self._halted is not None:
            self.verdict = self._halted
            return True
        if self._sink.room() == 0:
            return False
        with self.interrupts.open():
            pulled = self._feed.pull(self._size)
        if pulled.span is not None:
            began = time.perf_counter()
            position, stop = pulled.span
            try:
                while position < stop and self.verdict is None and self._halted is None:
                    position = self._run(position, min(stop, position + max(1, self._size // PARTS)))
            finally:
                worked, self._worked = self._worked, []
                self._sink.timed(pack(peak_memory(), worked), _WHO, self._feed)
            if self._ahead:
                pace = max((time.perf_counter() - began) / self._size, 1e-9)
                self._size = max(1, min(int(STEP / pace), GROWTH * self._size))
        if (pulled.span is None or pulled.last) and self.verdict is None and self._halted is None:
            self.verdict = Verdict.DONE
        return True

    def _run(self, position: int, stop: int) -> int:
        """Run items up to one that fails; return the position of the next."""
        items = self._feed.items(position, stop)
        values: list[Any] = []
        failure: BaseException | None = None

        def now() -> Task:
            reached = position + len(values)
            return Task((reached, self._tries), self._work.numbers.seed, self._feed.index(reached))

        began, rested = time.perf_counter(), self._call.rested
        try:
            with self.interrupts.open(), self._call, at(Place(now)):
                call = self._call.bare
                for item in items:  # not `map`: for that a task's StopIteration would be the end
                    values.append(call(item))  # noqa: PERF401 - what was done before an error is kept
        except Halted:  # while an item waited for its turn
            failure = None
        except (KeyboardInterrupt, TaskCancelled):  # they are for the run, and the item is run again when it is resumed
            raise
        except BaseException as error:  # a task's SystemExit is its failure, not the kernel's end
            failure = error
        finally:
            end = position + len(values)
            if tried := len(values) + (failure is not None):
                # An item that waits for its turn does not run yet.
                began += self._call.rested - rested
                self._worked += (position, position + tried, began, time.perf_counter())
            if values:
                self._sink.succeeded(self._feed.indices((position, end)), values)
                self._feed.resolve((position, end))
        if failure is None or self._rests(end, failure):
            return end
        self._fail(end, items[len(values)], failure)
        return end + 1

    def _rests(self, position: int, error: BaseException) -> bool:
        """Wait before the next attempt of an item that failed; False if it has none."""
        before, tries = self._tries
        self._tries = (position, tries + 1 if before == position else 1)
        seconds = choose_wait(self._work, error, self._tries[1])
        if seconds is None:
            return False
        self._sink.failed_for_now(self._feed.index(position), Direct().pack_error(error), _WHO)
        with suppress(Halted), self.interrupts.open():
            self._call.wait(seconds)
        return True

    def _fail(self, position: int, item: Any, error: BaseException) -> None:
        record = Direct().pack_error(error)
        if self._sink.failed(self._feed.index(position), item, record, _WHO):
            self._feed.resolve((position, position + 1))
        if self._work.options.fail_fast:
            self.verdict = Verdict.FAILED


class PlainFuture(Future[Any]):
    """A standard future whose error shows the lines of its task, and none of the standard library's own."""

    _raised: tuple[TracebackType | None] | None = None
    """Where the error was raised, once somebody asked; each time that it is raised again adds the lines of who did."""

    def result(self, timeout: float | None = None) -> Any:
        """Return the task's value, or raise its exception; blocks at most `timeout` seconds."""
        __tracebackhide__ = True
        error = self.exception(timeout)
        if error is None:
            return super().result()
        self._raised = self._raised or (error.__traceback__,)
        try:
            raise error.with_traceback(self._raised[0])
        finally:
            del error, self  # this frame is in the traceback: it would be a cycle


def run_at_once(work: Work, call: tuple[tuple[Any, ...], dict[str, Any]], index: int) -> Future[Any]:
    """Run a task of a solo pool and return its finished future; `index` is for its random numbers."""
    future = PlainFuture()
    tries = 0
    caller = Call(work, threading.Event())
    place = Place(lambda: Task(tries, work.numbers.seed, index))
    future.set_running_or_notify_cancel()
    while not future.done():
        tries += 1
        try:
            with caller, at(place):
                future.set_result(caller(call))
        except (KeyboardInterrupt, TaskCancelled):
            raise
        except BaseException as error:  # a task's SystemExit is its failure, not the kernel's end
            seconds = choose_wait(work, error, tries)
            if seconds is None:
                record = Direct().pack_error(error)
                annotate(record, f"the task failed on {_WHO}")
                future.set_exception(record)
            else:
                caller.wait(seconds)
    return future
