"""A worker, whatever its slots are: batches in, tasks run, outcomes out.

Threads. `receive` and `tick` belong to the control thread (for a local worker: the supervisor's loop thread); what
stands below `Slots` belongs to the slots. They share the batches without a lock on the way of an item: a batch is a C
iterator, so taking one item from it and taking all the rest are both atomic under the GIL, and whoever comes second
finds it empty. Finished items are appended to a list; `flush` takes what is there.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

from poolmagic.board import Board
from poolmagic.errors import PayloadError, RunCancelled, TaskCancelled
from poolmagic.memory import Payload
from poolmagic.messages import (
    Batch,
    Cancel,
    Done,
    Forget,
    Function,
    Message,
    Output,
    Resize,
    Returned,
    Span,
    Stop,
    Withdraw,
)
from poolmagic.payload import Codec
from poolmagic.worker.native import allocate_lock, perf_counter
from poolmagic.worker.outbox import Outbox, Stretch, spans_of

if TYPE_CHECKING:
    from poolmagic.worker.slots import SlotRunner

__all__ = ["FLUSH_SECONDS", "TICK", "Portion", "Worker", "current"]

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


class _Call:
    """The function of a run, loaded by the first task that needs it: loading runs the user's code."""

    def __init__(self, codec: Codec, message: Function) -> None:
        self._codec = codec
        self._payload = message.payload
        self.is_large = isinstance(message.payload, Payload)
        self._stars = message.stars
        self._function: Callable[[Any], Any] | None = None
        self._error: BaseException | None = None

    def direct(self) -> Callable[[Any], Any]:
        """Return the function of an item; before it is loaded, one that loads it when it is called."""
        return self._load_and_call if self._function is None else self._function

    def _load_and_call(self, item: Any) -> Any:
        return self._load()(item)

    def _load(self) -> Callable[[Any], Any]:
        # No lock: a green thread that waits inside the user's import would hold it against all others. Two loads at
        # once do no harm, and the first one stays.
        if self._error is not None:
            raise self._error
        if self._function is not None:
            return self._function
        try:
            loaded = self._codec.load_function(self._payload)
        except Exception as error:
            self._error = PayloadError(f"the worker cannot load the function: {type(error).__name__}: {error}")
            raise self._error from error
        if self._function is None:
            self._function = _of_one_item(loaded, self._stars)
        return self._function


def _of_one_item(function: Callable[..., Any], stars: int) -> Callable[[Any], Any]:
    """Return a function of an item, which becomes arguments as `messages.Function` says."""
    if stars == 0:
        return function
    if stars == 1:
        return lambda item: function(*item)
    return lambda item: function(*item[0], **item[1])


class Portion:
    """A batch in a worker: `tasks` yields (position, packed item) and is shared by all slots that take from it.

    It is made of C iterators alone, so taking one item and taking all the rest are atomic, and whoever comes second
    does not get what the first one has.
    """

    __slots__ = ("_positions", "call", "first", "load", "out", "run", "tasks")

    def __init__(self, message: Batch, codec: Codec, call: _Call, out: Outbox) -> None:
        items, self.load, _ = codec.open_values(message.payload)
        self.run = message.run
        self.first = message.first
        wanted = items[message.first - message.start : message.stop - message.start]
        self._positions = iter(range(message.first, message.stop))
        self.tasks: Iterator[tuple[int, Any]] = zip(self._positions, wanted, strict=False)
        self.call = call
        self.out = out

    @property
    def waiting(self) -> int:
        """How many tasks are left."""
        return length_hint(self._positions)

    def take_rest(self) -> list[int]:
        """Take all that is left; return the positions."""
        # Not `list(self.tasks)`: making a tuple for each may start the garbage collector in the middle of it, which may
        # run Python code, which may let a slot have one of the next items.
        return list(self._positions)

    def callable(self) -> Callable[[Any], Any]:
        """Return what to call on a packed item: the user's own function as soon as that can be."""
        function, load = self.call.direct(), self.load
        return function if load is None else lambda raw: function(load(raw))


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
        self._send = send
        self._codec = codec
        self._runner = runner
        self._lock = allocate_lock()
        self._calls: dict[int, _Call] = {}
        self._outboxes: dict[int, Outbox] = {}
        self._portions: deque[Portion] = deque()
        self.since = perf_counter()
        """When finished items were handed back last."""
        self.stopping = False
        self._is_littered = False
        self.unfinished: dict[tuple[tuple[int, int], str], str] = {}
        """What tasks printed since their last line ended, by (run, position) and stream."""
        self.nudges: set[str] = set()
        """Why a slot that runs one item after the other should look up after the present one; empty as a rule."""

    # Control thread ------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tasks have not started."""
        return sum(portion.waiting for portion in list(self._portions))

    @property
    def active(self) -> bool:
        """Whether there is something to flush, or may be before long."""
        return bool(self._portions) or any(list(self._outboxes.values()))

    def tick(self) -> None:
        """Hand back what has waited for long enough, for slots that have been too busy to do it."""
        if self.active and perf_counter() - self.since > TICK:
            self.nudges.add("the clock")
            self.flush()

    def receive(self, message: Message) -> None:
        """Take one message of the supervisor; does not run the user's code and does not block."""
        match message:
            case Batch():
                if not self._portions:
                    self.since = perf_counter()
                self._portions.append(
                    Portion(message, self._codec, self._calls[message.run], self._outboxes[message.run])
                )
                self._runner.wake(message.stop - message.first)
            case Function():
                self._calls[message.run] = _Call(self._codec, message)
                self._outboxes[message.run] = Outbox()
            case Forget():
                call = self._calls.pop(message.run, None)
                self._outboxes.pop(message.run, None)
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
            case Stop():
                self.stopping = True
                self._runner.stop()
            case _:
                raise PayloadError(f"a worker cannot do anything with a {type(message).__name__}")

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
            self._send(message)

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
        if self.unfinished:
            self.send_unfinished((portion.run, position))
        if isinstance(error, TaskCancelled):
            error = RunCancelled("the task was cancelled while it ran", struck=True)
        portion.out.failed.append((position, self._pack_error(error)))

    def break_off(self, portion: Portion, stretch: Stretch, position: int, error: BaseException) -> Stretch:
        """Keep the error that ended a stretch, and return the one that goes on after it.

        An interrupt that came when the item at `position` had its value already is nobody's failure.
        """
        with self._lock:  # or a flush may have changed one half of it
            is_kept = stretch.first + len(stretch.values) > position
        if not is_kept:
            self.fail(portion, position, error)
        return portion.out.open(position + 1, stretch)

    def send_unfinished(self, task: tuple[int, int]) -> None:
        """Send what a task printed without ending the line."""
        for stream in ("stdout", "stderr"):
            text = self.unfinished.pop((task, stream), "")
            if text:
                self.send(Output(*task, stream, text))

    def _pack_error(self, error: BaseException) -> Any:
        try:
            return self._codec.pack_error(error)
        except Exception as second:  # the user's exception class broke even its own record
            text = f"the task raised {type(error).__qualname__}, and telling of it raised {type(second).__qualname__}"
            return self._codec.pack_error(PayloadError(text))

    def idle(self) -> None:
        """Say that a slot found nothing to do: hand back what is finished."""
        self._runner.defer(self.flush)
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
            taken = [(run, *out.take()) for run, out in list(self._outboxes.items()) if out]
            if not taken:  # and whatever runs began before now
                return
            now = perf_counter()
            seconds, self.since = now - self.since, now
        for run, spans, values, failed in taken:
            self.send(self._outcomes(run, spans, values, failed, seconds))

    def _outcomes(
        self, run: int, spans: list[Span], values: list[Any], failed: list[tuple[int, Any]], seconds: float
    ) -> Done:
        payload, broken = self._codec.pack_values(values, [record for _, record in failed])
        if broken:
            positions = [position for start, stop in spans for position in range(start, stop)]
            failed += [(positions[offset], self._pack_error(error)) for offset, error in broken.items()]
            spans = spans_of([position for offset, position in enumerate(positions) if offset not in broken])
            values = [value for offset, value in enumerate(values) if offset not in broken]
            payload, _ = self._codec.pack_values(values, [record for _, record in failed])
        return Done(run, tuple(spans), tuple(position for position, _ in failed), seconds, payload)
