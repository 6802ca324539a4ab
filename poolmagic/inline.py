"""Solo: the calling thread runs the items itself, one after the other. No worker, no books; a debugger works in it.

Everything belongs to the calling thread, but `halt`, which another thread may call to end the run between two items.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from poolmagic.config import is_coroutine_function
from poolmagic.core.events import Verdict
from poolmagic.errors import PoolMagicError
from poolmagic.feed import Feed
from poolmagic.interrupts import Interrupts
from poolmagic.payload import Direct

if TYPE_CHECKING:
    from poolmagic.asking import Sink, Work

__all__ = ["InlineAsking", "make_callable", "run_at_once"]

STEP: Final = 0.01
"""Seconds of work between two looks at whether the run was cancelled, and at the progress bar."""
GROWTH: Final = 4
"""Times that a step may be longer, in items, than the one before it."""


def make_callable(function: Callable[..., Any], stars: int) -> Callable[[Any], Any]:
    """Return a function of an item; one for an ``async def`` runs it to its end in an event loop of its own."""
    call = function
    if is_coroutine_function(function):

        def call(*args: Any, **kwargs: Any) -> Any:
            return _run_coroutine(function(*args, **kwargs))

    if stars == 0:
        return call
    if stars == 1:
        return lambda item: call(*item)
    return lambda item: call(*item[0], **item[1])


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end: here, or in a thread if this one's event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, asyncio.run(coroutine)))
        except BaseException as error:  # it is raised in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="poolmagic-solo-loop", daemon=True)
    thread.start()
    thread.join()
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value


class InlineAsking:
    """What `asking.Asking` is for a run on workers, for one without.

    Args:
        work: The function.
        feed: The items.
        sink: Where outcomes go.
        ahead: Whether more items may be run in one step than somebody waits for.
    """

    def __init__(self, work: Work, feed: Feed, sink: Sink, *, ahead: bool) -> None:
        self.verdict: Verdict | None = None
        self.error: PoolMagicError | None = None
        self._call = make_callable(work.payload, work.stars)
        self._options = work.options
        self._feed = feed
        self._sink = sink
        self._halted: Verdict | None = None
        self._ahead = ahead
        self._size = 1
        self.interrupts = Interrupts(None)  # they are for the user's code, which runs right here

    def start(self) -> None:
        """Do nothing: each step runs items."""

    def announce(self) -> None:
        """Do nothing: there are no books."""

    def serve(self) -> None:
        """Do nothing: nobody orders items."""

    def busy(self) -> tuple[int, int, int]:
        """Return that the one slot runs something, and that nothing waits to be reported."""
        return 1, 1, 0

    def halt(self, verdict: Verdict, kill: bool) -> None:
        """End the run after the present step."""
        self._halted = verdict

    def step(self, timeout: float | None) -> bool:
        """Run the next item, or as many quick ones as take `STEP` seconds; blocks for them, whatever the timeout."""
        if self._halted is not None:
            self.verdict = self._halted
            return True
        if self._sink.room() == 0:
            return False
        pulled = self._feed.pull(self._size)
        if pulled.span is not None:
            began = time.perf_counter()
            position, stop = pulled.span
            while position < stop and self.verdict is None:
                position = self._run(position, stop)
            if self._ahead:
                pace = max((time.perf_counter() - began) / self._size, 1e-9)
                self._size = max(1, min(int(STEP / pace), GROWTH * self._size))
        if (pulled.span is None or pulled.last) and self.verdict is None:
            self.verdict = Verdict.DONE
        return True

    def _run(self, position: int, stop: int) -> int:
        """Run items up to one that fails; return the position of the next."""
        items = self._feed.items(position, stop)
        values: list[Any] = []
        failure: BaseException | None = None
        try:
            for item in items:
                values.append(self._call(item))  # noqa: PERF401 - what was done before an error is kept
        except KeyboardInterrupt:  # it is for the run, and the item is run again when that is resumed
            raise
        except BaseException as error:  # a task's SystemExit is its failure, not the kernel's end
            failure = error
        finally:
            end = position + len(values)
            if values:
                self._sink.succeeded(self._feed.indices((position, end)), values)
                self._feed.resolve((position, end))
        if failure is None:
            return end
        self._fail(end, items[len(values)], failure)
        return end + 1

    def _fail(self, position: int, item: Any, error: BaseException) -> None:
        record = Direct().pack_error(error)
        if self._sink.failed(self._feed.index(position), item, record, "the kernel (solo)"):
            self._feed.resolve((position, position + 1))
        if self._options.fail_fast:
            self.verdict = Verdict.FAILED


def run_at_once(work: Work, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Future[Any]:
    """Run a task of a solo pool and return its finished future."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    try:
        future.set_result(make_callable(work.payload, 2)(call))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a task's SystemExit is its failure, not the kernel's end
        future.set_exception(Direct().pack_error(error))
    return future
