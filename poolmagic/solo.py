"""How a solo pool calls its function: in the calling thread, at a rate, within time limits, and again after a while.

The limits of a plain function are kept by the system's alarm clock, whose signal is handled in the main thread between
two instructions of the task; those of a coroutine by its event loop. Everything belongs to the calling thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from poolmagic.config import is_coroutine_function
from poolmagic.errors import SoftTimeLimitExceeded, TaskOverdue, UsageError
from poolmagic.randomness import keep_globals, seeding
from poolmagic.records import OWN_CODE
from poolmagic.worker.coroutines import drive
from poolmagic.worker.limits import AGAIN, exceeded, softly_exceeded
from poolmagic.worker.portions import of_one_item

if TYPE_CHECKING:
    from poolmagic.inbox import Work

__all__ = ["Call", "Halted", "choose_wait", "run_coroutine"]

_LOOP_CODE: Final = str(Path(asyncio.__file__).parent) + os.sep


class Halted(BaseException):
    """Raised where a run waits that is to end."""


def choose_wait(work: Work, error: BaseException, tries: int) -> float | None:
    """Return how many seconds to wait before an item is tried again that failed; None if it is not.

    Args:
        work: The function and the options of the run.
        error: What it raised.
        tries: How often it has been tried.
    """
    if tries > work.options.retries or not isinstance(error, work.options.retry_on):
        return None
    return random.uniform(0.0, work.policy.longest_wait(tries))  # noqa: S311 - no secret


class Call:
    """Calls a function on items. While items are called, it must be entered as a context.

    Args:
        work: The user's function, and the options of the run. A function that is an ``async def`` runs in an event loop
            of its own.
        halted: Ends waits.

    Raises:
        UsageError: The time limits cannot be kept here.
    """

    def __init__(self, work: Work, halted: threading.Event) -> None:
        function, stars, options = work.payload, work.stars, work.options
        self._halted = halted
        self._gap = 1.0 / options.rate_limit if options.rate_limit else 0.0
        self._next = 0.0
        self.rested = 0.0
        """Seconds that items have waited for their turn."""
        limits = (options.soft_time_limit or 0.0, options.time_limit or 0.0)
        self._alarm: _AlarmClock | None = None
        if is_coroutine_function(function):
            self._call = of_one_item(lambda *args, **kwargs: run_coroutine(function(*args, **kwargs), *limits), stars)
        else:
            self._call = of_one_item(function, stars)
            if any(limits):
                self._alarm = _AlarmClock(*limits)
        self._seeds_globals = work.numbers.seeds_globals
        self._globals = ExitStack()
        if self._seeds_globals:
            self._call = seeding(self._call)

    def __enter__(self) -> Self:
        if self._seeds_globals:
            self._globals.enter_context(keep_globals())
        if self._alarm is not None:
            self._alarm.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._globals.close()
        if self._alarm is not None:
            self._alarm.give_back()

    @property
    def bare(self) -> Callable[[Any], Any]:
        """What to call on an item: the user's own function, where that is all there is to it."""
        return self if self._gap or self._alarm is not None else self._call

    def __call__(self, item: Any) -> Any:
        """Call the function on an item; blocks as long as it takes, and before that until it is its turn."""
        if self._gap:
            now = time.monotonic()
            self.wait(self._next - now)
            self.rested += max(0.0, self._next - now)
            self._next = max(self._next, now) + self._gap
        return self._call(item) if self._alarm is None else self._alarm.call(self._call, item)

    def wait(self, seconds: float) -> None:
        """Block for so long.

        Raises:
            Halted: The run is to end.
        """
        if seconds > 0 and self._halted.wait(seconds):
            raise Halted


class _AlarmClock:
    """Raises errors in a function that takes too long: SIGALRM, which belongs to the user but for these moments.

    Args:
        soft: Seconds until `SoftTimeLimitExceeded`; 0 for never.
        hard: Seconds until the end; 0 for never.
    """

    def __init__(self, soft: float, hard: float) -> None:
        self._soft = soft
        self._hard = hard
        self._before: Any = None
        self._stages: list[tuple[float, BaseException]] = []
        self._is_running = False
        self._check()

    def _check(self) -> None:
        what = f"time_limit={self._hard:g}" if self._hard else f"soft_time_limit={self._soft:g}"
        if not hasattr(signal, "setitimer"):
            raise UsageError(f"{what}: this system has no alarm clock to keep it on a solo pool; use 'threads'")
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(f"{what}: a solo pool keeps it in the main thread only; use 'threads' or 'prefork' here")
        if signal.getitimer(signal.ITIMER_REAL)[0]:
            raise UsageError(f"{what}: a solo pool keeps it with SIGALRM, and an alarm of yours is set; use 'prefork'")

    def take(self) -> None:
        """Take the signal."""
        self._check()
        self._before = signal.signal(signal.SIGALRM, self._ring)

    def give_back(self) -> None:
        """Give the signal back."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if self._before is None else self._before)

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Call a function."""
        self._stages = [(self._soft, softly_exceeded(self._soft))] if self._soft else []
        overdue = TaskOverdue(self._hard)
        if self._hard:
            self._stages.append((self._hard - self._soft, overdue))
        self._is_running = True
        try:
            self._set()
            return function(item)
        except TaskOverdue as error:
            if error is not overdue:  # that of a task which uses this pool
                raise
            raise exceeded(error) from None
        finally:
            self._is_running = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._is_running or not self._stages:
            return
        _, error = self._stages.pop(0)
        self._set()
        raise error

    def _set(self) -> None:
        # It rings again and again: the first time may be just before the wait that it is to interrupt.
        seconds, again = (self._stages[0][0], AGAIN) if self._stages else (0.0, 0.0)
        signal.setitimer(signal.ITIMER_REAL, seconds, again)


def run_coroutine(coroutine: Coroutine[Any, Any, Any], soft: float = 0.0, hard: float = 0.0) -> Any:
    """Run a coroutine to its end, within time limits; 0 stands for none.

    It runs here, or in a thread if this one's event loop runs already, as in a notebook.
    """
    if soft or hard:
        coroutine = _within(coroutine, soft, hard)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(coroutine)
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, _run_here(coroutine)))
        except BaseException as error:  # it is raised in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=copy_context().run, args=(run,), name="poolmagic-solo-loop", daemon=True)
    thread.start()
    thread.join()
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value


def _run_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a loop of its own; an error does not show the loop's lines, but the coroutine's."""
    __tracebackhide__ = True
    try:
        return asyncio.run(coroutine)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith((OWN_CODE, _LOOP_CODE)):
            trace = trace.tb_next
        error.__traceback__ = trace or error.__traceback__
        raise


class _Strikes:
    """What the cancels of a coroutine stand for."""

    soft: SoftTimeLimitExceeded | None = None
    overdue: TaskOverdue | None = None


async def _within(coroutine: Coroutine[Any, Any, Any], soft: float, hard: float) -> Any:
    """Await a coroutine within time limits; 0 stands for none."""
    task, loop, strikes = asyncio.current_task(), asyncio.get_running_loop(), _Strikes()
    assert task is not None

    def soften() -> None:
        strikes.soft = softly_exceeded(soft)
        task.cancel()

    def end() -> None:
        strikes.soft, strikes.overdue = None, TaskOverdue(hard)
        task.cancel()

    alarms = [loop.call_later(seconds, ring) for seconds, ring in ((soft, soften), (hard, end)) if seconds]
    try:
        return await drive(coroutine, strikes, task)
    except asyncio.CancelledError as error:
        if strikes.overdue is None:
            raise
        task.uncancel()
        raise exceeded(strikes.overdue.with_traceback(error.__traceback__)) from None
    finally:
        for alarm in alarms:
            alarm.cancel()
