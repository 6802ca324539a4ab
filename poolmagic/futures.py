"""What `submit` and `imap` return: a standard future, and an iterator of results.

Threads. A `TaskFuture` is completed by the supervisor's loop thread, which leaves the result packed; whoever asks for
it unpacks it in his own thread. Callbacks run in a thread of their own, never in the loop thread. A `ResultIterator`
belongs to the thread that consumes it.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from poolmagic.asking import Asking, Engine, open_report
from poolmagic.background import adopt
from poolmagic.callbacks import call_back
from poolmagic.core import events as ev
from poolmagic.describe import describe_value
from poolmagic.echo import Echo
from poolmagic.errors import PayloadError, PoolMagicError, RunCancelled, UnconsumedWarning, UsageError, annotate
from poolmagic.failure import Failure
from poolmagic.feed import Feed
from poolmagic.inbox import Work
from poolmagic.inline import InlineAsking, PlainFuture
from poolmagic.messages import Done, Function, Output
from poolmagic.pages import NOBODY

__all__ = ["ResultIterator", "TaskFuture"]

LOOK_SECONDS: Final = 0.005
"""A consumer that has results in hand looks this often whether the workers want more items."""


class TaskFuture(PlainFuture):
    """The future of one task; as in `concurrent.futures`, but `cancel` stops a running task, too."""

    def __init__(self, number: int, engine: Engine, work: Work, feed: Feed, pool: Any) -> None:
        super().__init__()
        self.id = number
        self._engine = engine
        self._work = work
        self._feed = feed
        self._pool = pool  # a pool with a task is not dropped
        self._echo = Echo(number, is_named=False, is_kept=False)
        self._dispatched = False
        self._open: Callable[[], None] | None = None
        self._opening = threading.RLock()  # a callback may ask for the future, or cancel it
        adopt(self)

    # For everybody -------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the task, whether it waits or runs; does not block. False if it has finished."""
        with self._opening:
            before = self.cancelled()
            cancelled = super().cancel()
            if cancelled and not before:
                self.set_running_or_notify_cancel()  # which tells `wait` and `as_completed`
        if cancelled:
            self._engine.post(ev.Halt(self.id, ev.Verdict.CANCELLED, kill=True))
        return cancelled

    def running(self) -> bool:
        """Return whether a worker has the task."""
        return self._dispatched and not self.done()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, None if it returned; blocks at most `timeout` seconds."""
        __tracebackhide__ = True
        if not self.done() and not self._engine.is_here:
            raise UsageError("the task belongs to the process that submitted it, and will never be done in this one")
        super().exception(timeout)
        self._echo.flush()
        with self._opening:
            if self._open is not None:
                self._open()
                self._open = None
        return self._exception

    # Loop thread ---------------------------------------------------------------------------------------------------

    def function(self) -> Function:
        """Return what makes the function known to a worker."""
        self._dispatched = True
        return self._work.message(self.id, self._feed)

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the packed arguments."""
        return self._feed.payload(position)

    def index(self, position: int) -> None:
        """Return None: there is no input that the task has a place in."""

    def ask(self, size: int) -> None:
        """Say that there is only this one item."""
        self._engine.post(ev.Filled(self.id, size, None, (), True))

    @property
    def time_limit(self) -> float:
        """Seconds that the task may take; 0 for any number."""
        return self._work.options.time_limit or 0.0

    def accept(self, message: Done, part: ev.Accept, worker: str) -> None:
        """Take the outcome, packed; an attempt after which there will be another one is none."""
        if part.retried:
            return

        def unpack() -> None:
            codec = self._engine.codec
            try:
                values, load, records = open_report(codec, message)
                if part.failed:
                    self._exception = self._noted(codec.load_error(records[message.failed.index(0)]), worker)
                    return
                self._result = values[0] if load is None else load(values[0])
            except PayloadError as error:
                self._exception = self._noted(error, worker)

        self._finish(unpack, succeeded=not part.failed)

    def lose(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take the loss of the task."""
        self._fail(self._noted(error, worker))

    def rerun(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take note of the end of an attempt: the task is run again, and the outcome of that counts."""

    def tell(self, line: str) -> None:
        """Take a line for the user."""
        self._echo.say(line)

    def output(self, message: Output) -> None:
        """Take what the task printed."""
        self._echo.take(NOBODY, message.stream, message.text)

    def settle(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        """Take the end, which matters only if there was no outcome."""
        self._fail(error or RunCancelled("the task was cancelled"))

    def _fail(self, error: BaseException) -> None:
        def unpack() -> None:
            self._exception = error

        self._finish(unpack, succeeded=False)

    def _finish(self, unpack: Callable[[], None], succeeded: bool) -> None:
        """Wake whoever waits; the first call counts."""
        with self._condition:
            if self.done():
                return
            self._open = unpack
            self._state = "FINISHED"  # as the base class calls it
            for waiter in self._waiters:
                (waiter.add_result if succeeded else waiter.add_exception)(self)
            self._condition.notify_all()
            has_callbacks = bool(self._done_callbacks)  # type: ignore[attr-defined]
        self._echo.end()
        if has_callbacks:
            call_back(self._invoke_callbacks)  # type: ignore[attr-defined]

    def _noted(self, error: BaseException, worker: str) -> BaseException:
        annotate(error, f"the task failed on {worker}")
        return error


class ResultIterator(Iterator[Any]):
    """The results of `imap` and `imap_unordered`, one by one; blocks for each. Nothing runs before the first is wanted.

    Closing it, or throwing it away, stops the run. ``len()`` is the number of items, where the input has one.

    Attributes:
        seed: What the random numbers of its items come from; see `poolmagic.rng`.
    """

    def __init__(
        self, engine: Engine | None, work: Work, feed: Feed, *, ordered: bool, with_index: bool, pool: Any
    ) -> None:
        sink = _WeakSink(self)
        self._asking = (
            InlineAsking(work, feed, sink, ahead=False) if engine is None else Asking(engine, work, feed, sink)
        )
        self._engine = engine
        self._options = work.options
        self.seed = work.numbers.seed
        self._feed = feed
        self._ordered = ordered
        self._with_index = with_index
        self._pool = pool  # a pool with a run is not dropped
        self._capacity = 1 if engine is None else engine.capacity[0] * engine.capacity[1]
        # What came and was not given out yet, as it came: many values at once. The front is being given out.
        self._blocks: dict[int, Sequence[Any]] = {}
        self._front: deque[Any] = deque()
        self._next = 0
        self._received = 0
        self._yielded = 0
        self._largest = 1
        self._error: BaseException | None = None
        self._looked = 0.0
        adopt(self)
        self._state = "new"

    def __len__(self) -> int:
        if self._feed.total is None:
            raise TypeError("the input has no len(), so its results have none")
        return self._feed.total

    def __length_hint__(self) -> int:
        return 0 if self._feed.total is None else self._feed.total

    def __iter__(self) -> ResultIterator:
        return self

    def __next__(self) -> Any:
        """Return the next result; blocks until it is there.

        Raises:
            StopIteration: There is none.
            Exception: The item's own, if `on_error` is ``"raise"``; the iterator is at its end after that.
        """
        __tracebackhide__ = True
        try:
            while True:
                if not self._front and not self._advance() and not self._wait():
                    return self._end()
                if self._state == "running" and time.monotonic() - self._looked > LOOK_SECONDS:
                    self._look()
                value, index = self._front.popleft(), self._next
                self._next = index + 1
                self._yielded += 1
                if value is not _SKIPPED:
                    return (index, value) if self._with_index else value
        except BaseException:
            self.close()
            raise

    def _wait(self) -> bool:
        """Wait for the next result; False if there will be none."""
        if self._engine is not None and not self._engine.is_here:
            raise UsageError("the iterator belongs to the process that made it, and gives no more results in this one")
        with self._asking.interrupts:
            if self._state == "new":
                if self._error is not None:  # it was cancelled
                    return False
                self._state = "running"
                self._asking.start()
            while not self._advance():
                if self._state != "running" or self._asking.verdict is not None:
                    return False
                self._asking.interrupts.check()
                self._asking.serve()  # what was given out since has made room
                self._asking.step(None)
        return True

    def _look(self) -> None:
        """Answer what has come in the meantime."""
        while self._asking.verdict is None and not isinstance(self._asking, InlineAsking) and self._asking.step(0):
            continue
        self._asking.serve()
        self._looked = time.monotonic()

    def _advance(self) -> bool:
        """Bring the next results to the front; False if they are not there yet."""
        start = self._next if self._ordered else next(iter(self._blocks), -1)
        values = self._blocks.pop(start, None)
        if values is None:
            return False
        self._next = start
        self._front = deque(values)
        return True

    def _end(self) -> Any:
        __tracebackhide__ = True
        self._state = "over"
        error, self._error = self._error, None
        if error is None and self._asking.verdict is ev.Verdict.DONE:
            error, self._feed.error = self._feed.error, None
        elif error is None:
            error = self._asking.error
        if isinstance(error, StopIteration):
            # For a loop it would look like the end.
            raise RuntimeError("a task raised StopIteration") from error  # noqa: TRY004 - that type is PEP 479's
        if error is not None:
            raise error
        raise StopIteration

    def cancel(self) -> None:
        """Stop the run, from any thread; does not block. Its consumer gets `RunCancelled` for the next result."""
        self._error = self._error or RunCancelled("the run was cancelled")
        self._asking.halt(ev.Verdict.CANCELLED, kill=True)

    def close(self) -> None:
        """Stop the run, tasks that run included; does not block. Calling it twice equals once."""
        if self._state == "running":
            self._asking.halt(ev.Verdict.CANCELLED, kill=True)
        self._state = "over"
        self._blocks.clear()
        self._front.clear()

    def __del__(self) -> None:
        if getattr(self, "_state", "over") == "new":
            warnings.warn(
                "an imap iterator was never consumed: none of its tasks has run", UnconsumedWarning, stacklevel=2
            )
        elif getattr(self, "_state", "over") == "running":
            self.close()

    # For the asking side -------------------------------------------------------------------------------------------

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Take values."""
        self._blocks[indices[0]] = values  # the indices of an iterator follow one another
        self._received += len(values)
        self._largest = max(self._largest, len(values))

    def failed_for_now(self, index: int, error: BaseException, worker: str) -> None:
        """Take the error of an item that is run again: nobody is told of it but by its outcome."""

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Take a failure; it is final, as an iterator cannot be resumed."""
        where = f" on {worker}" if worker else ""
        annotate(error, f"item {index} ({describe_value(item)}) failed{where}")
        if self._options.fail_fast:
            self._error = self._error or error
            return True
        if self._options.on_error == "skip":
            self.succeeded([index], [_SKIPPED])
            return True
        self.succeeded([index], [error if self._options.return_exceptions else Failure(index, item, error, worker)])
        return True

    def room(self) -> int | None:
        """Return how many items may be read ahead of the consumer."""
        if self._options.buffersize is not None:
            return max(0, self._options.buffersize - (self._feed.pulled - self._yielded))
        # Without a bound of the user's: a few batches more than the workers have in hand.
        return 0 if self._received - self._yielded > max(2 * self._capacity, 4 * self._largest) else None


class _WeakSink:
    """Leads to an iterator for as long as its consumer has it: one that was thrown away must end, not live on."""

    def __init__(self, results: ResultIterator) -> None:
        self._results = weakref.ref(results)

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Hand values on."""
        if (results := self._results()) is not None:
            results.succeeded(indices, values)

    def failed_for_now(self, index: int, error: BaseException, worker: str) -> None:
        """Tell nobody, as the iterator does."""

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Hand a failure on."""
        results = self._results()
        return results is None or results.failed(index, item, error, worker)

    def timed(self, timings: bytes, worker: str, feed: Feed) -> None:
        """Drop when items ran: an iterator has no report, and may go on for ever."""

    def room(self) -> int | None:
        """Ask how many items may be read ahead: none for nobody."""
        results = self._results()
        return 0 if results is None else results.room()


_SKIPPED: Final = object()
