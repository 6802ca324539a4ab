"""A worker, whatever its slots are: batches in, tasks run, outcomes out.

Threads. `receive` and `tick` belong to the control thread (for a local worker: the supervisor's loop thread); `next`,
`run` and `idle` belong to the slots. They share the batches without a lock on the way of an item: a batch is a C
iterator, so taking one item from it and taking all the rest are both atomic under the GIL, and whoever comes second
finds it empty. Finished items are appended to a list; `flush` takes what is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from poolmagic.board import Board
from poolmagic.errors import PayloadError, RunCancelled, TaskCancelled
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
from poolmagic.payload import Codec, Load
from poolmagic.worker.native import allocate_lock, perf_counter
from poolmagic.worker.slots import SlotRunner

__all__ = ["TICK", "Task", "Worker", "current"]

FLUSH_SECONDS: Final = 0.02
"""After so long a busy worker hands back what is finished: well below the 0.1 s in which a person sees a stutter."""

TICK: Final = 0.1
"""Seconds after which finished items are handed back even if the task after them goes on."""

current: ContextVar[tuple[int, int] | None] = ContextVar("poolmagic_current", default=None)
"""The (run, position) of the task that this thread, green thread or coroutine runs."""


class _Call:
    """The function of a run, loaded by the first task that needs it: loading runs the user's code."""

    def __init__(self, codec: Codec, message: Function) -> None:
        self._codec = codec
        self._message = message
        self._function: Callable[..., Any] | None = None
        self._error: BaseException | None = None

    def __call__(self, item: Any) -> Any:
        function = self._function or self._load()
        if self._message.stars == 0:
            return function(item)
        if self._message.stars == 1:
            return function(*item)
        args, kwargs = item
        return function(*args, **kwargs)

    def _load(self) -> Callable[..., Any]:
        # No lock: a green thread that waits inside the user's import would hold it against all others. Two loads at
        # once do no harm, and the first one stays.
        if self._error is not None:
            raise self._error
        try:
            loaded = self._codec.load_function(self._message.payload)
        except Exception as error:
            self._error = PayloadError(f"the worker cannot load the function: {type(error).__name__}: {error}")
            raise self._error from error
        self._function = self._function or loaded
        return self._function


class _Outbox:
    """The finished items of a run that have not been handed back."""

    __slots__ = ("done", "failed")

    def __init__(self) -> None:
        self.done: list[tuple[int, Any]] = []
        self.failed: list[tuple[int, Any]] = []


class _Batch:
    """A batch in a worker; `tasks` yields (position, packed item) and is shared by all who take from it."""

    __slots__ = ("call", "load", "out", "run", "tasks")

    def __init__(self, message: Batch, codec: Codec, call: _Call, out: _Outbox) -> None:
        items, self.load, _ = codec.open_values(message.payload)
        wanted = items[message.first - message.start : message.stop - message.start]
        self.run = message.run
        self.tasks: Iterator[tuple[int, Any]] = zip(range(message.first, message.stop), wanted, strict=False)
        self.call = call
        self.out = out


class Task:
    """One task on its way through a slot."""

    __slots__ = ("batch", "position", "raw")

    def __init__(self, batch: _Batch, position: int, raw: Any) -> None:
        self.batch = batch
        self.position = position
        self.raw = raw

    @property
    def run(self) -> int:
        """The id of the task's run."""
        return self.batch.run

    def start(self) -> Any:
        """Call the function; for an ``async def`` this gives the coroutine. Raises whatever the user's code raises."""
        load: Load | None = self.batch.load
        return self.batch.call(self.raw if load is None else load(self.raw))


class Worker:
    """The batches of one worker.

    Args:
        send: Hands a message to the supervisor; called from any thread of the worker, one at a time.
        codec: How payloads are opened and made.
        board: Where slots say what they run.
        runner: The slots.
    """

    def __init__(self, send: Callable[[Message], None], codec: Codec, board: Board, runner: SlotRunner) -> None:
        self._send = send
        self._codec = codec
        self._board = board
        self._runner = runner
        self._lock = allocate_lock()
        self._calls: dict[int, _Call] = {}
        self._outboxes: dict[int, _Outbox] = {}
        self._batches: deque[_Batch] = deque()
        self._since = perf_counter()
        self.stopping = False
        self.unfinished: dict[tuple[tuple[int, int], str], str] = {}
        """What tasks printed since their last line ended, by (run, position) and stream."""

    # Control thread ------------------------------------------------------------------------------------------------

    @property
    def has_batches(self) -> bool:
        """Whether there may be tasks that have not started."""
        return bool(self._batches)

    @property
    def active(self) -> bool:
        """Whether there is something to flush, or may be before long."""
        return bool(self._batches) or any(out.done or out.failed for out in list(self._outboxes.values()))

    @property
    def is_due(self) -> bool:
        """Whether finished items have waited for long enough."""
        return self.active and perf_counter() - self._since > TICK

    def receive(self, message: Message) -> None:
        """Take one message of the supervisor; does not run the user's code and does not block."""
        match message:
            case Batch():
                if not self._batches:
                    self._since = perf_counter()
                self._batches.append(
                    _Batch(message, self._codec, self._calls[message.run], self._outboxes[message.run])
                )
                self._runner.wake(message.stop - message.first)
            case Function():
                self._calls[message.run] = _Call(self._codec, message)
                self._outboxes[message.run] = _Outbox()
            case Forget():
                self._calls.pop(message.run, None)
                self._outboxes.pop(message.run, None)
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
        self.flush()  # or what is finished would look like something that was begun
        positions = [position for batch in list(self._batches) if batch.run == run for position, _ in list(batch.tasks)]
        self.send(Returned(run, _spans(sorted(positions))))  # even if it is nothing: somebody waits for the answer

    def send(self, message: Message) -> None:
        """Send one message; blocks only while another thread of this worker sends."""
        with self._lock:
            self._send(message)

    # Slots ---------------------------------------------------------------------------------------------------------

    def next(self) -> Task | None:
        """Take the next task; None if there is none. Does not block."""
        while True:
            try:
                batch = self._batches[0]
            except IndexError:
                return None
            for position, raw in batch.tasks:
                return Task(batch, position, raw)
            with suppress(ValueError):  # another slot found it empty, too
                self._batches.remove(batch)

    def run(self, task: Task, slot: int) -> None:
        """Run a task in a slot and keep its outcome; blocks as long as the task does, and raises nothing."""
        self.begin(task, slot)
        try:
            value = task.start()
        except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
            self.fail(task, error)
        else:
            self.finish(task, value)

    def begin(self, task: Task, slot: int) -> None:
        """Say that a slot now runs a task."""
        self._board.start(slot, task.run, task.position)
        current.set((task.run, task.position))

    def finish(self, task: Task, value: Any) -> None:
        """Keep the value of a task."""
        if self.unfinished:
            self.send_unfinished((task.run, task.position))
        task.batch.out.done.append((task.position, value))
        if perf_counter() - self._since > FLUSH_SECONDS:
            self._runner.defer(self.flush)

    def fail(self, task: Task, error: BaseException) -> None:
        """Keep the error of a task. Reporting one twice does no harm: the first report counts."""
        if self.unfinished:
            self.send_unfinished((task.run, task.position))
        if isinstance(error, TaskCancelled):
            error = RunCancelled("the task was cancelled while it ran", struck=True)
        task.batch.out.failed.append((task.position, self._pack_error(error)))

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

    def idle(self, slot: int) -> None:
        """Say that a slot found nothing to do: hand back what is finished."""
        self._board.clear(slot)
        current.set(None)
        self._runner.defer(self.flush)

    def flush(self) -> None:
        """Hand back all that is finished; runs the user's pickling code."""
        taken: list[tuple[int, list[tuple[int, Any]], list[tuple[int, Any]]]] = []
        with self._lock:
            now = perf_counter()
            seconds, self._since = now - self._since, now
            for run, out in list(self._outboxes.items()):
                done, failed = _take(out.done), _take(out.failed)
                if done or failed:
                    taken.append((run, done, failed))
        for run, done, failed in taken:
            self.send(self._outcomes(run, done, failed, seconds))

    def _outcomes(self, run: int, done: list[tuple[int, Any]], failed: list[tuple[int, Any]], seconds: float) -> Done:
        done.sort(key=_position)
        positions = [position for position, _ in done]
        payload, broken = self._codec.pack_values([value for _, value in done], [record for _, record in failed])
        if broken:
            failed += [(positions[offset], self._pack_error(error)) for offset, error in broken.items()]
            positions = [position for offset, position in enumerate(positions) if offset not in broken]
            payload, _ = self._codec.pack_values(
                [value for offset, (_, value) in enumerate(done) if offset not in broken],
                [record for _, record in failed],
            )
        return Done(run, _spans(positions), tuple(position for position, _ in failed), seconds, payload)


def _take(pairs: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Take what is in a list that other threads append to."""
    count = len(pairs)
    taken = pairs[:count]
    del pairs[:count]
    return taken


def _position(pair: tuple[int, Any]) -> int:
    return pair[0]


def _spans(positions: list[int]) -> tuple[Span, ...]:
    """Return sorted positions as spans."""
    if not positions:
        return ()
    first, last = positions[0], positions[-1]
    if last - first + 1 == len(positions):
        return ((first, last + 1),)
    spans: list[Span] = []
    start = before = first
    for position in positions[1:]:
        if position != before + 1:
            spans.append((start, before + 1))
            start = position
        before = position
    return (*spans, (start, before + 1))
