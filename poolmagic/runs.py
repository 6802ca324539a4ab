"""Runs: the handle of one map, what it has so far, and how it ends.

Threads. A run's outcomes are written by its asking thread alone (the one blocked in `map`, or a thread of the run's
own); any thread may read them, ask for the result or cancel.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final

from poolmagic.asking import Asking, Engine
from poolmagic.background import adopt, next_number
from poolmagic.core.events import Verdict
from poolmagic.driving import TICK, OpenDisplay, drive
from poolmagic.errors import InternalError, RunCancelled, UsageError, annotate
from poolmagic.failure import Failure
from poolmagic.feed import Feed
from poolmagic.groups import gather, note_others
from poolmagic.inbox import Work
from poolmagic.inline import InlineAsking
from poolmagic.interrupts import hold
from poolmagic.logbook import note
from poolmagic.origin import Origin
from poolmagic.outcomes import MISSING, Outcomes
from poolmagic.outputs import Outputs
from poolmagic.report import Reported

__all__ = ["OpenDisplay", "Run"]

GRACE: Final = 0.1
"""Seconds that running items have to end by themselves after the wait for the run was cancelled."""
LATE: Final = 2.0
"""Seconds that a run that is resumed waits for the end of what it left running when it was interrupted."""


class Run(Reported):
    """One map: usable while it goes on, and after. Made by `Pool.start` and inside of `Pool.map`.

    Attributes:
        id: Number of the run in this kernel.
        name: Name of its function.
        origin: The cell that started it.
        outputs: What its items printed, by their index; see `poolmagic.outputs.Outputs`.
        seed: What the random numbers of its items come from; see `poolmagic.rng`.
    """

    def __init__(self, pool: Any, engine: Engine | None, work: Work, feed: Feed, name: str) -> None:
        self.id = next_number()
        self.name = name
        self.origin = Origin.here()
        self.outputs = Outputs()
        self.seed = work.numbers.seed
        # The run keeps its pool alive while it goes on, but not for ever after: pools know their last run.
        self._busy_pool: Any = pool
        self._pool_ref = weakref.ref(pool)
        self._make_pool: Callable[[], Any] = pool._twin
        self._kind = pool.config.kind.name
        self._engine = engine
        self._work = work
        self._feed = feed
        self._total = feed.total
        self._guard = hold()
        self._changed = threading.Condition()
        self._outcomes = Outcomes(name, feed.total, work.options, self._changed)
        self._asking: Asking | InlineAsking | None = self._new_asking()
        self._late: Asking | InlineAsking | None = None
        self._finished = 0
        self._earlier = 0
        self._state = "running"
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        """Where that was raised; each time that it is raised again adds the lines of who asked."""
        self._started = time.monotonic()
        self._elapsed: float | None = None
        self._callbacks: list[Callable[[], None]] = []
        adopt(self)
        self._entry = note(self, pool.name)

    # For everybody -------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Any:
        """The pool that runs it; after the end of a run whose pool was dropped, a new one with equal settings."""
        return self._busy_pool or self._pool_ref() or self._make_pool()

    def result(self, timeout: float | None = None) -> list[Any]:
        """Return the results in the order of the items; blocks until the run is over.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: The run goes on; nothing is lost.
            RunCancelled: The run was cancelled.
            WorkerLostError: No worker can be started.
            Exception: The first failed item's own exception, if `on_error` is ``"raise"``, or that of the input.
            FailedItems: Items failed, if `on_error` is ``"collect"``.
        """
        __tracebackhide__ = True
        self.wait(timeout)
        if self._error is not None:
            raise self._error.with_traceback(self._trace)
        if self._outcomes.done == len(self._outcomes.values):
            return self._outcomes.values.copy()
        return [value for value in self._outcomes.values if value is not MISSING]

    def wait(self, timeout: float | None = None) -> None:
        """Block until the run is over, however it ended.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: The run goes on; nothing is lost.
        """
        self._check_place()
        with self._changed:
            if not self._changed.wait_for(self.done, timeout):
                raise TimeoutError(f"the run is not over after {timeout} s; it goes on")

    def _check_place(self) -> None:
        """Refuse to wait in a process that was forked off the one that drives the run: nobody would wake it."""
        if self._engine is not None and not self._engine.is_here and not self.done():
            raise UsageError("the run belongs to the process that started it, and will never be over in this one")

    @property
    def results(self) -> dict[int, Any]:
        """What is finished so far: results by the index of their item. Does not block."""
        return {
            index: value
            for index, value in enumerate(self._outcomes.values)
            if value is not MISSING and index not in self._outcomes.failures
        }

    @property
    def failures(self) -> list[Failure]:
        """The items that failed so far, by index. Does not block."""
        return [self._outcomes.failures[index] for index in sorted(self._outcomes.failures)]

    @property
    def attempts(self) -> dict[int, tuple[BaseException, ...]]:
        """What earlier attempts of items ended with that were tried again, by index. Does not block."""
        return {index: tuple(errors) for index, errors in sorted(self._outcomes.attempts.copy().items())}

    @property
    def is_inline(self) -> bool:
        """Whether the thread that asks for it runs its tasks."""
        return self._engine is None

    def resume(self, f: Callable[..., Any] | None = None, *, progress: bool | None = None) -> list[Any]:
        """Run what has no result yet, failed items included, and return the whole list; blocks as `Pool.map` does.

        Finished items are not run again. Resuming a run that is complete returns its results.

        Args:
            f: A repaired function to go on with; None goes on with the same.
            progress: As in `Pool.map`.

        Raises:
            UsageError: The run goes on, or its pool is closed.
            Exception: As `result`.
        """
        __tracebackhide__ = True
        if not self.done():
            raise UsageError("the run goes on: wait for it or cancel it before you resume it")
        pool = self.pool
        display = pool._open_display(progress)
        try:
            with self._guard:
                self._take_late()
                with self._guard.open():  # the user's pickling
                    again = pool._work_again(self._work, f)
                self._begin_again(pool, *again)
                self.drive(display)
        except KeyboardInterrupt as stop:
            stop.run = self  # type: ignore[attr-defined]
            raise
        return self.result()

    def _take_late(self) -> None:
        """Take what came after an interrupt, or was not unpacked any more; what was finished is not run again."""
        if self._late is not None:
            self._late.finish(LATE)
            self._late = None

    def _begin_again(self, pool: Any, engine: Engine | None, work: Work) -> None:
        adopt(self)
        self._engine, self._work, self._busy_pool = engine, work, pool
        self.origin = Origin.here()
        self._earlier = self._finished = self._outcomes.done
        self._outcomes.timings.earlier = self._outcomes.timings.worked
        final = [] if self._work.options.fail_fast else [(failure.index, failure.item) for failure in self.failures]
        for index in self._outcomes.failures:
            self._outcomes.values[index : index + 1] = [MISSING]
        self._feed = self._feed.rest(final)
        self._asking = self._new_asking()
        self._outcomes.failures.clear()
        self._error = None
        self._elapsed = None
        self._started = time.monotonic()
        self._state = "running"

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the results in order, as they come; blocks for each. Ends with the error of `result`."""
        __tracebackhide__ = True
        index = 0
        while True:
            self._check_place()
            with self._changed:
                self._changed.wait_for(partial(self._is_decided, index))
            if self._has(index):
                yield self._outcomes.values[index]
            elif self.done() and not self._is_passed_over(index):
                if self._error is not None:
                    raise self._error.with_traceback(self._trace)
                if index >= len(self._outcomes.values):
                    return
            index += 1

    def _is_decided(self, index: int) -> bool:
        return self.done() or self._has(index) or self._is_passed_over(index)

    def _is_passed_over(self, index: int) -> bool:
        return index in self._outcomes.failures and not self._work.options.fail_fast

    def _has(self, index: int) -> bool:
        return index < len(self._outcomes.values) and self._outcomes.values[index] is not MISSING

    def __await__(self) -> Generator[Any, None, list[Any]]:
        """Wait in an event loop, without blocking it, and return `result`. Cancelling the wait cancels the run."""
        return self._awaited().__await__()

    async def _awaited(self) -> list[Any]:
        __tracebackhide__ = True
        self._check_place()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(over.set)

        with self._changed:
            self._callbacks.append(wake)
            if self.done():
                over.set()
        waiter = loop.create_task(over.wait())
        try:
            while not over.is_set():
                # Woken regularly: an interrupt of the kernel is noticed only by a loop that turns.
                await asyncio.wait([waiter], timeout=TICK)
        except asyncio.CancelledError:
            await self._give_up(waiter)
            raise
        finally:
            waiter.cancel()
            with self._changed:
                self._callbacks = [callback for callback in self._callbacks if callback is not wake]
        return self.result()

    async def _give_up(self, waiter: asyncio.Task[Any]) -> None:
        """Give what runs a moment, then stop it; who cancels the wait again stops it at once."""
        asking = self._asking
        try:
            if asking is not None:
                asking.halt(Verdict.CANCELLED, kill=False)
                await asyncio.wait([waiter], timeout=GRACE)
        finally:
            self.cancel()

    # For the asking thread -----------------------------------------------------------------------------------------

    def _new_asking(self) -> Asking | InlineAsking:
        """Return the link to the books. It leads back to the run, so it is dropped when the run is over."""
        if self._engine is None:
            return InlineAsking(self._work, self._feed, self._outcomes, self._guard, ahead=True)
        return Asking(self._engine, self._work, self._feed, self._outcomes, self._guard, self.outputs)

    def begin(self) -> None:
        """Make the run known to the books, so that it can be cancelled; its items are read by who drives it."""
        assert self._asking is not None
        self._asking.announce()

    def drive(self, open_display: OpenDisplay | None, *, begun: bool = False) -> None:
        """Be the asking thread until the run is over; raises interrupts, and nothing of the run's own."""
        __tracebackhide__ = True
        assert self._asking is not None
        drive(self, self._asking, open_display, began=self._started, begun=begun)

    def conclude(self, asking: Asking | InlineAsking) -> None:
        """Name the state that the verdict means, and the error that `result` raises."""
        if asking.verdict is Verdict.CANCELLED:
            self.end("cancelled", asking.error or RunCancelled("the run was cancelled"))
        elif self._outcomes.failures and self._work.options.fail_fast:
            self.end("failed", self._first_failure())
        elif asking.verdict is Verdict.DONE:
            error = self._feed.error or self._collected()
            self.end("failed" if error else "done", error)
        else:
            self.end("failed", asking.error or InternalError("the run failed without an error; please report it"))

    def _first_failure(self) -> BaseException:
        first, *others = self.failures
        error, done = first.exception, self._outcomes.done
        note_others(error, others)
        left = "the rest" if self._total is None else f"the rest, {self._total - done:,}"
        annotate(
            error, f"done so far: {done:,} items, see .results of the run, pool.last_run; its .resume() does {left}"
        )
        return error

    def _collected(self) -> BaseException | None:
        if not self._outcomes.failures or self._work.options.on_error != "collect":
            return None
        return gather(self.failures, len(self._outcomes.values), self)

    def end(self, state: str, error: BaseException | None) -> None:
        """Take the end, wake whoever waits for it, and let go of what the run needs no more."""
        self._elapsed = time.monotonic() - self._started
        if error is not None:
            with suppress(Exception):  # a class that does not let itself be changed; pool.last_run leads here, too
                error.run = self  # type: ignore[attr-defined]
        if error is not None or (self._asking is not None and self._asking.has_hidden_output):
            self.pool.last_run = self
        asking, self._asking, self._busy_pool = self._asking, None, None
        if asking is not None:  # else an interrupt struck here the first time
            self._late = asking if asking.has_more else None
        with self._changed:
            self._state, self._error = state, error
            self._trace = None if error is None else error.__traceback__
            self._changed.notify_all()
            for callback in self._callbacks:  # under the lock: who no longer waits takes his back under it
                callback()
        self._entry.close()
