"""Solo: the calling thread runs the items itself, one after the other. No worker, no books; a debugger works in it.

Everything belongs to the calling thread, but `halt`, which another thread may call to end the run between two items.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from poolmagic.core.events import Verdict
from poolmagic.errors import PoolMagicError, TaskCancelled
from poolmagic.feed import Feed
from poolmagic.interrupts import Interrupts, hold
from poolmagic.payload import Direct
from poolmagic.solo import Call, Halted, choose_wait

if TYPE_CHECKING:
    from poolmagic.asking import Sink
    from poolmagic.inbox import Work

__all__ = ["InlineAsking", "run_at_once"]

STEP: Final = 0.01
"""Seconds of work between two looks at whether the run was cancelled, and at the progress bar."""
GROWTH: Final = 4
"""Times that a step may be longer, in items, than the one before it."""
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
        self._call = Call(work.payload, work.stars, work.options, self._wake)
        self._work = work
        self._tries = (-1, 0)
        self._feed = feed
        self._sink = sink
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

    def busy(self) -> tuple[int, int, int]:
        """Return that the one slot runs something, and that nothing waits to be reported."""
        return 1, 1, 0

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
            while position < stop and self.verdict is None and self._halted is None:
                position = self._run(position, stop)
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
        try:
            with self.interrupts.open(), self._call:
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


def run_at_once(work: Work, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Future[Any]:
    """Run a task of a solo pool and return its finished future."""
    future: Future[Any] = Future()
    tries = 0
    caller = Call(work.payload, 2, work.options, threading.Event())
    future.set_running_or_notify_cancel()
    while not future.done():
        tries += 1
        try:
            with caller:
                future.set_result(caller(call))
        except (KeyboardInterrupt, TaskCancelled):
            raise
        except BaseException as error:  # a task's SystemExit is its failure, not the kernel's end
            seconds = choose_wait(work, error, tries)
            if seconds is None:
                future.set_exception(Direct().pack_error(error))
            else:
                caller.wait(seconds)
    return future
