"""A worker, whatever its slots are: batches in, tasks run, outcomes out.

Threads. `receive` and `tick` belong to the control thread (for a local worker: the supervisor's loop thread); what
stands below `Slots` belongs to the slots. They share the batches without a lock on the way of an item: a batch is a C
iterator, so taking one item from it and taking all the rest are both atomic under the GIL, and whoever comes second
finds it empty. Finished items are appended to a list; `flush` takes what is there.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from poolmagic.board import Board
from poolmagic.errors import InitializerError, PayloadError, RunCancelled, TaskCancelled, TaskOverdue
from poolmagic.messages import (
    Batch,
    Cancel,
    Done,
    Dump,
    Dumped,
    Forget,
    Function,
    Message,
    Resize,
    Returned,
    Span,
    Stop,
    Withdraw,
)
from poolmagic.payload import Codec
from poolmagic.preparation import Preparation
from poolmagic.timings import pack, peak_memory
from poolmagic.worker.limits import Limits, exceeded
from poolmagic.worker.native import allocate_lock, get_ident, perf_counter
from poolmagic.worker.outbox import Failed, Outbox, Stretch, spans_of
from poolmagic.worker.portions import Call, Portion
from poolmagic.worker.printing import Printer
from poolmagic.worker.stacks import dump

if TYPE_CHECKING:
    from poolmagic.worker.blocking import HubWatch
    from poolmagic.worker.slots import SlotRunner

__all__ = ["FLUSH_SECONDS", "TICK", "Worker", "current", "inside"]

CLOCK: Final = "the clock"
"""A reason to look up: it is time to report."""
FLUSH_SECONDS: Final = 0.02
"""After so long a busy worker of many slots hands back what is finished: it has no more than an item for each slot to
go on with."""

TICK: Final = 0.1
"""Seconds after which finished items are handed back even if the task after them goes on."""

current: ContextVar[Callable[[], tuple[int, int] | None] | None] = ContextVar("poolmagic_current", default=None)
"""Tells the (run, position) of the task in the slot that this thread, green thread or coroutine belongs to.

It is set once for a slot: setting it for each item would cost more than running a short one. A green thread or
coroutine that a task starts belongs to the slot, too; one that outlives its task is taken for a part of the next.
"""


inside: ContextVar[Worker | None] = ContextVar("poolmagic_inside", default=None)
"""The worker that this thread of the kernel, or what a task of it started in its context, belongs to."""


class Worker:
    """The batches of one worker.

    Args:
        send: Hands a message to the supervisor; called from any thread of the worker, one at a time.
        codec: How payloads are opened and made.
        board: Where slots say what they run.
        runner: The slots.
    """

    def __init__(self, send: Callable[[Message], None], codec: Codec, board: Board, runner: SlotRunner) -> None:
        self.board = board
        self.crew: object = None
        """Whose worker it is, if it is in the kernel."""
        self._send = send
        self._codec = codec
        self._runner = runner
        self._lock = allocate_lock()
        self._holder = 0
        self.calls: dict[int, Call] = {}
        """The functions of the runs that it works on."""
        self._outboxes: dict[int, Outbox] = {}
        self._portions: deque[Portion] = deque()
        self.since = perf_counter()
        """When finished items were handed back last."""
        self.stopping = False
        self._is_littered = False
        self.nudges: set[str] = set()
        """Why a slot that runs one item after the other should look up after the present one; empty as a rule."""
        self.ticked = 0.0
        """When the clock did that the first time since then."""
        self.limits = Limits(board, runner)
        self.printer = Printer(self.send, self._is_sending, board, runner, self.limits, self.nudges)
        self.preparation = Preparation()
        self.hub_watch: HubWatch | None = None
        """Looks out for tasks that keep a hub or a loop to themselves; the slots that have one set it."""

    # Control thread ------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tasks have not started."""
        return sum(portion.waiting for portion in list(self._portions))

    @property
    def active(self) -> bool:
        """Whether there is something to flush, or may be before long."""
        return bool(self._portions) or any(list(self._outboxes.values()))

    def patience(self) -> float:
        """Return after how many seconds `tick` wants to be called; infinity if nothing is to be expected."""
        patience, due = TICK if self.active else math.inf, self.due
        return patience if due is None else min(patience, max(0.0, due - perf_counter()))

    @property
    def due(self) -> float | None:
        """When tasks are to be looked at, in seconds of the system's steady clock; None if there is no need to."""
        due = self.limits.due
        if self.hub_watch is not None and self.hub_watch.due is not None:
            return self.hub_watch.due if due is None else min(due, self.hub_watch.due)
        return due

    def tick(self) -> None:
        """Hand back what has waited for long enough, for slots that have been too busy to do it; look at the tasks."""
        now = perf_counter()
        self.printer.tick()
        if self.active and now - self.since > TICK:
            if CLOCK not in self.nudges:
                self.ticked = now
            self.nudges.add(CLOCK)
            self.flush()
        if self.limits.due is not None and self.limits.due <= now:
            self.limits.look(now, {portion.run for portion in list(self._portions)})
        if self.hub_watch is not None:
            self.hub_watch.look(now)

    def receive(self, message: Message) -> None:
        """Take one message of the supervisor; does not run the user's code and does not block."""
        match message:
            case Batch():
                if not self._portions:
                    self.since = perf_counter()
                self._portions.append(
                    Portion(message, self._codec, self.calls[message.run], self._outboxes[message.run])
                )
                self.printer.expect(message.run)
                self._expect(message.run)
                self._runner.wake(message.stop - message.first)
            case Function():
                self.calls[message.run] = Call(self._codec, message)
                self._outboxes[message.run] = Outbox()
                self.limits.add(message)
            case Forget():
                call = self.calls.pop(message.run, None)
                self._outboxes.pop(message.run, None)
                self.limits.forget(message.run)
                self.printer.forget(message.run)
                if call is not None and call.is_large:
                    self._is_littered = True
                    self._runner.wake(0)
            case Withdraw():
                self._give_back(message.run)
            case Cancel():
                self._give_back(message.run)
                self._runner.cancel(message.run)
            case Resize():
                self._runner.resize(message.slots)
            case Dump(request):
                self.send(Dumped(request, dump(self._runner.stacks())))
            case Stop():
                self.stopping = True
                self._runner.stop()
            case _:
                raise PayloadError(f"a worker cannot do anything with a {type(message).__name__}")

    def _expect(self, run: int) -> None:
        if self.calls[run].limited:
            self.limits.expect(run, perf_counter())
        if self.hub_watch is not None:
            self.hub_watch.expect(perf_counter())

    def _give_back(self, run: int) -> None:
        rest: list[int] = []
        for portion in list(self._portions):
            if portion.run == run:
                rest += portion.take_rest()
                self.drop(portion)
        self.flush()  # or what is finished would look like something that was begun
        self.send(Returned(run, tuple(spans_of(sorted(rest)))))  # even if it is nothing: somebody waits for the answer

    def send(self, message: Message) -> None:
        """Send one message; blocks only while another thread of this worker sends."""
        with self._lock:
            self._holder = get_ident()
            self._send(message)

    def _is_sending(self) -> bool:
        """Whether the present thread sends, or is about to: a finalizer that prints may run at any time."""
        return self._holder == get_ident() and self._lock.locked()

    # Slots ---------------------------------------------------------------------------------------------------------

    def front(self) -> Portion | None:
        """Return the first batch that may have tasks left; None if there is none. Who finds it empty drops it."""
        try:
            return self._portions[0]
        except IndexError:
            return None

    def drop(self, portion: Portion) -> None:
        """Drop a batch that was found empty, unless another slot did so already."""
        if portion in self._portions:
            with suppress(ValueError):  # a thread did, right now
                self._portions.remove(portion)

    def fail(self, portion: Portion, position: int, error: BaseException) -> None:
        """Keep the error of a task. Reporting one twice does no harm: the first report counts."""
        self.printer.end((portion.run, position))
        if isinstance(error, TaskOverdue):
            error = exceeded(error)
        elif isinstance(error, TaskCancelled):
            error = RunCancelled("the task was cancelled while it ran", struck=True)
            portion.out.failed.append((position, self._pack_error(error), False))
            return
        elif isinstance(error, InitializerError):  # that of a pool which the task uses
            error.refuses = False
        is_retriable = isinstance(error, portion.call.retry_on)
        portion.out.failed.append((position, self._pack_error(error), is_retriable))

    def refuse(self, portion: Portion, error: InitializerError) -> int:
        """Let nothing more of a batch start, for which the worker could not be prepared; return how many items."""
        rest, packed = portion.take_rest(), self._pack_error(error)
        portion.out.failed += [(position, packed, False) for position in rest]
        return len(rest)

    def break_off(self, portion: Portion, stretch: Stretch, position: int, error: BaseException) -> Stretch:
        """Keep the error that ended a stretch, and return the one that goes on after it.

        An interrupt that came when the item at `position` had its value already is nobody's failure.
        """
        with self._lock:  # or a flush may have changed one half of it
            self._holder = get_ident()
            is_kept = stretch.first + len(stretch.values) > position
        if not is_kept:
            self.fail(portion, position, error)
        return portion.out.open(position + 1, stretch)

    def _pack_error(self, error: BaseException) -> Any:
        try:
            return self._codec.pack_error(error)
        except Exception as second:  # the user's exception class broke even its own record
            text = f"the task raised {type(error).__qualname__}, and telling of it raised {type(second).__qualname__}"
            return self._codec.pack_error(PayloadError(text))

    def idle(self) -> None:
        """Say that a slot found nothing to do: hand back what is finished."""
        self._runner.defer(self.flush)
        self.printer.deliver()
        self.tidy()

    def tidy(self) -> None:
        """Let go of what a function had captured that is large; in a slot's thread, because it runs finalizers.

        A function that knows itself by a global name is a cycle, and an idle worker collects no garbage by itself.
        """
        if self._is_littered and not self._portions:
            self._is_littered = False
            gc.collect()

    def flush(self) -> None:
        """Hand back all that is finished; runs the user's pickling code."""
        with self._lock:
            self._holder = get_ident()
            taken = [(run, *out.take(), out.take_worked()) for run, out in list(self._outboxes.items()) if out]
            if not taken:  # and whatever runs began before now
                return
            now = perf_counter()
            seconds, self.since = now - self.since, now
        self.printer.deliver()  # what an item printed comes before its outcome
        peak = peak_memory()
        for run, spans, values, failed, worked in taken:
            self.send(self._outcomes(run, spans, values, failed, seconds, pack(peak, worked)))

    def _outcomes(
        self, run: int, spans: list[Span], values: list[Any], failed: list[Failed], seconds: float, timings: bytes
    ) -> Done:
        payload, broken = self._codec.pack_values(values, [record for _, record, _ in failed])
        if broken:
            positions = [position for start, stop in spans for position in range(start, stop)]
            failed += [(positions[offset], self._pack_error(error), False) for offset, error in broken.items()]
            spans = spans_of([position for offset, position in enumerate(positions) if offset not in broken])
            values = [value for offset, value in enumerate(values) if offset not in broken]
            payload, _ = self._codec.pack_values(values, [record for _, record, _ in failed])
        positions_of = tuple(position for position, _, _ in failed)
        retriable = tuple(position for position, _, is_retriable in failed if is_retriable)
        return Done(run, tuple(spans), positions_of, retriable, seconds, timings, payload)
