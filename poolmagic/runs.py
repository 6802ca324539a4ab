"""Runs: the handle of one map, what it has so far, and how it ends.

Threads. A run's outcomes are written by its asking thread alone (the one blocked in `map`, or a thread of the run's
own); any thread may read them, ask for the result or cancel.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from poolmagic.asking import Asking, Engine, Work
from poolmagic.core.events import Verdict
from poolmagic.describe import describe_value
from poolmagic.errors import InternalError, RunCancelled, UsageError, annotate
from poolmagic.failure import Failure
from poolmagic.feed import Feed
from poolmagic.inline import InlineAsking
from poolmagic.snapshot import RunSnapshot, run_line

__all__ = ["Display", "Run"]

TICK: Final = 0.1
"""Seconds between two looks at a run that is shown or awaited: ten times a second looks live and costs nothing."""
SHOW_AFTER: Final = 0.5
"""Seconds after which a blocking run shows progress."""
GRACE: Final = 0.2
"""Seconds that running items have to end by themselves after an interrupt; then they are stopped."""

_MISSING: Final = object()
_numbers = itertools.count(1)


class Display(Protocol):
    """Shows a run to a person; see `progress`."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show this."""
        ...

    def close(self, snapshot: RunSnapshot) -> None:
        """Show this for good."""
        ...


class Run:
    """One map: usable while it goes on, and after. Made by `Pool.start` and inside of `Pool.map`.

    Attributes:
        id: Number of the run in this kernel.
        name: Name of its function.
    """

    def __init__(self, pool: Any, engine: Engine | None, work: Work, feed: Feed, name: str) -> None:
        self.id = next(_numbers)
        self.name = name
        # The run keeps its pool alive while it goes on, but not for ever after: pools know their last run.
        self._busy_pool: Any = pool
        self._pool_ref = weakref.ref(pool)
        self._make_pool: Callable[[], Any] = pool._twin
        self._kind = pool.config.kind.name
        self._engine = engine
        self._work = work
        self._feed = feed
        self._total = feed.total
        self._asking: Asking | InlineAsking | None = self._new_asking()
        self._values: list[Any] = [] if feed.total is None else [_MISSING] * feed.total
        self._failures: dict[int, Failure] = {}
        self._done = 0
        self._finished = 0
        self._earlier = 0
        self._state = "running"
        self._error: BaseException | None = None
        self._started = time.monotonic()
        self._elapsed: float | None = None
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[], None]] = []

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
        """
        __tracebackhide__ = True
        self._wait(timeout)
        if self._error is not None:
            raise self._error
        if self._done == len(self._values):
            return self._values.copy()
        return [value for value in self._values if value is not _MISSING]

    def _wait(self, timeout: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(self.done, timeout):
                raise TimeoutError(f"the run is not over after {timeout} s; it goes on")

    @property
    def results(self) -> dict[int, Any]:
        """What is finished so far: results by the index of their item. Does not block."""
        return {
            index: value
            for index, value in enumerate(self._values)
            if value is not _MISSING and index not in self._failures
        }

    @property
    def failures(self) -> list[Failure]:
        """The items that failed so far, by index. Does not block."""
        return [self._failures[index] for index in sorted(self._failures)]

    def done(self) -> bool:
        """Return whether the run is over, however it ended. Does not block."""
        return self._state != "running"

    def cancel(self) -> None:
        """End the run: nothing more is dispatched and what runs is stopped. Does not block; twice equals once.

        A running item of a prefork pool is stopped by replacing its worker, one of a green pool by killing its green
        thread, one of a threads pool by an exception that strikes when it is in Python code.
        """
        asking = self._asking
        if asking is not None:
            asking.halt(Verdict.CANCELLED, kill=True)

    def snapshot(self) -> RunSnapshot:
        """Return a picture of this moment. Blocks for well under a millisecond."""
        busy, slots, unreported = 0, 0, 0
        asking = self._asking
        if asking is not None and not self.done():
            busy, slots, unreported = asking.busy()
        elapsed = time.monotonic() - self._started if self._elapsed is None else self._elapsed
        total = len(self._values) if self._total is None and self._feed.exhausted else self._total
        # What is on its way from the books to here is in neither count for a moment; a bar must not go back for that.
        failed = len(self._failures)
        finished = max(self._finished, self._done + failed + unreported)
        self._finished = finished = finished if total is None else min(finished, total)
        done = finished - failed if self._state == "running" else self._done
        return RunSnapshot(
            self.id,
            self.name,
            self._kind,
            self._state,
            done,
            failed,
            total,
            elapsed,
            busy,
            slots,
            self._earlier,
        )

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
        self._engine, self._work = pool._work_again(self._work, f)
        self._busy_pool = pool
        self._earlier = self._finished = self._done
        final = [] if self._work.options.fail_fast else [(failure.index, failure.item) for failure in self.failures]
        for index in self._failures:
            self._values[index : index + 1] = [_MISSING]
        self._feed = self._feed.rest(final)
        self._asking = self._new_asking()
        self._failures.clear()
        self._error = None
        self._elapsed = None
        self._started = time.monotonic()
        self._state = "running"
        self._drive(pool._open_display(progress))
        return self.result()

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the results in order, as they come; blocks for each. Ends with the error of `result`."""
        index = 0
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._is_decided, index))
            if self._has(index):
                yield self._values[index]
            elif self.done() and self._error is not None:
                raise self._error
            elif self.done() and index >= len(self._values):
                return
            index += 1

    def _is_decided(self, index: int) -> bool:
        passed_over = index in self._failures and not self._work.options.fail_fast
        return self.done() or self._has(index) or passed_over

    def _has(self, index: int) -> bool:
        return index < len(self._values) and self._values[index] is not _MISSING

    def __await__(self) -> Generator[Any, None, list[Any]]:
        """Wait in an event loop, without blocking it, and return `result`. Cancelling the wait cancels the run."""
        return self._awaited().__await__()

    async def _awaited(self) -> list[Any]:
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
            self.cancel()
            raise
        finally:
            waiter.cancel()
            with self._changed:
                self._callbacks = [callback for callback in self._callbacks if callback is not wake]
        return self.result()

    def __repr__(self) -> str:
        return f"<Run {self.id}: {run_line(self.snapshot())}>"

    # For the asking thread -----------------------------------------------------------------------------------------

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Keep values."""
        self._make_room(indices[-1])
        if isinstance(indices, range):
            self._values[indices.start : indices.stop] = values
        else:
            for index, value in zip(indices, values, strict=True):
                self._values[index] = value
        with self._changed:
            self._done += len(values)
            self._changed.notify_all()

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Keep a failure; whether it is final depends on the option `on_error`."""
        if isinstance(error, RunCancelled) and error.struck:
            return False
        where = f" on {worker}" if worker else ""
        annotate(error, f"item {index} ({describe_value(item)}) of {self.name} failed{where}")
        failure = Failure(index, item, error, worker)
        options = self._work.options
        self._make_room(index)
        if options.return_exceptions:
            self._values[index] = error
        elif options.on_error == "return":
            self._values[index] = failure
        with self._changed:
            self._failures[index] = failure
            self._changed.notify_all()
        return not options.fail_fast

    def room(self) -> int | None:
        """Return None: all results are kept, so nothing is gained by waiting."""
        return None

    def _make_room(self, index: int) -> None:
        if index >= len(self._values):
            self._values.extend([_MISSING] * (index + 1 - len(self._values)))

    def _new_asking(self) -> Asking | InlineAsking:
        """Return the link to the books. It leads back to the run, so it is dropped when the run is over."""
        if self._engine is None:
            return InlineAsking(self._work, self._feed, self, ahead=True)
        return Asking(self._engine, self._work, self._feed, self)

    def begin(self) -> None:
        """Make the run known to the books, so that it can be cancelled; its items are read by who drives it."""
        assert self._asking is not None
        self._asking.announce()

    def _drive(self, open_display: Callable[[RunSnapshot], Display] | None, *, begun: bool = False) -> None:
        """Be the asking thread until the run is over; raises interrupts, and nothing of the run's own."""
        __tracebackhide__ = True
        asking = self._asking
        assert asking is not None
        display: Display | None = None
        try:
            with asking.interrupts:
                if not begun:
                    asking.start()
                shown_at = self._started + SHOW_AFTER
                while asking.verdict is None:
                    asking.interrupts.check()
                    asking.step(None if open_display is None else max(0.001, shown_at - time.monotonic()))
                    if open_display is not None and time.monotonic() >= shown_at and asking.verdict is None:
                        display = display or open_display(self.snapshot())
                        display.update(self.snapshot())
                        shown_at = time.monotonic() + TICK
                self._conclude(asking)
        except KeyboardInterrupt as stop:
            self._interrupt(asking, stop)
            raise
        except BaseException as error:  # a stream of the user's that is closed, say: nothing that a run may end with
            asking.halt(Verdict.FAILED, kill=False)
            self._end("failed", error)
        finally:
            if display is not None:
                display.close(self.snapshot())

    def _interrupt(self, asking: Asking | InlineAsking, stop: KeyboardInterrupt) -> None:
        """Stop dispatching, give what runs a moment, then stop it; a second interrupt stops it at once."""
        stop.run = self  # type: ignore[attr-defined]
        if self.done():  # it came when all was done
            return
        try:
            with asking.interrupts:
                asking.halt(Verdict.CANCELLED, kill=False)
                self._finish_by(asking, time.monotonic() + GRACE)
        except KeyboardInterrupt as again:
            again.run = self  # type: ignore[attr-defined]
            raise
        finally:
            try:
                self._stop_what_runs(asking)
            finally:
                self._end("interrupted", stop)

    def _stop_what_runs(self, asking: Asking | InlineAsking) -> None:
        if asking.verdict is None:
            asking.halt(Verdict.CANCELLED, kill=True)
            with asking.interrupts:
                self._finish_by(asking, time.monotonic() + GRACE / 4)

    def _finish_by(self, asking: Asking | InlineAsking, deadline: float) -> None:
        while asking.verdict is None and (left := deadline - time.monotonic()) > 0:
            asking.interrupts.check()
            asking.step(left)

    def _conclude(self, asking: Asking | InlineAsking) -> None:
        """Name the state that the verdict means, and the error that `result` raises."""
        if asking.verdict is Verdict.CANCELLED:
            self._end("cancelled", asking.error or RunCancelled("the run was cancelled"))
        elif self._failures and self._work.options.fail_fast:
            self._end("failed", self._first_failure())
        elif asking.verdict is Verdict.DONE:
            self._end("failed" if self._feed.error else "done", self._feed.error)
        else:
            self._end("failed", asking.error or InternalError("the run failed without an error; please report it"))

    def _first_failure(self) -> BaseException:
        error = self._failures[min(self._failures)].exception
        left = "the rest" if self._total is None else f"the rest, {self._total - self._done:,}"
        annotate(
            error,
            f"done so far: {self._done:,} items, see .results of the run, pool.last_run; its .resume() does {left}",
        )
        return error

    def _end(self, state: str, error: BaseException | None) -> None:
        self._elapsed = time.monotonic() - self._started
        if error is not None:
            with suppress(Exception):  # a class that does not let itself be changed; pool.last_run leads here, too
                error.run = self  # type: ignore[attr-defined]
            self.pool.last_run = self
        self._asking = self._busy_pool = None
        with self._changed:
            self._state, self._error = state, error
            self._changed.notify_all()
            for callback in self._callbacks:  # under the lock: who no longer waits takes his back under it
                callback()
