"""The asking thread's side of a run: it pulls and packs items when the books want them, and unpacks what comes back.

    loop thread --inbox--> Asking.step() in the asking thread --post()--> loop thread

Threads. The methods of `crew.Client` belong to the loop thread and only put into the inbox; all the others belong to
one asking thread at a time: the one blocked in `map`, the consumer of an `imap`, or a run's own thread. All of the
user's code but the tasks themselves runs there: his iterator, his pickling, what he prints to.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from poolmagic.config import RunOptions
from poolmagic.core import events as ev
from poolmagic.crew import Client
from poolmagic.errors import PayloadError, PoolMagicError
from poolmagic.feed import Feed
from poolmagic.interrupts import Interrupts
from poolmagic.messages import Done, Output, Span
from poolmagic.payload import Codec

__all__ = ["Asking", "Engine", "Sink", "Work", "next_number", "print_output"]

_numbers = itertools.count()


def next_number() -> int:
    """Return a number for a run in the books, never given before in this process."""
    return next(_numbers)


class Engine(Protocol):
    """What a run needs of its pool; methods may be called from any thread."""

    codec: Codec
    capacity: tuple[int, int]
    """Workers, and slots of one."""

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Start a run."""
        ...

    def post(self, event: ev.Event) -> None:
        """Hand an event to the books."""
        ...

    def busy(self, run: int) -> tuple[int, int, int]:
        """Return how many slots run something, how many there are, and how many items of a run are not reported yet."""
        ...


class Sink(Protocol):
    """Where outcomes go; called in the asking thread."""

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Take the values of items."""
        ...

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Take the error of an item; True if that is its final outcome, False if it may be run again."""
        ...

    def room(self) -> int | None:
        """Return how many more items may be read ahead; None if there is no bound."""
        ...


@dataclass(frozen=True)
class Work:
    """A function on its way: its payload, and how items become its arguments (see `messages.Function`)."""

    payload: Any
    stars: int
    options: RunOptions


class Asking:
    """One run on one crew, as the asking thread sees it."""

    def __init__(self, engine: Engine, work: Work, feed: Feed, sink: Sink) -> None:
        self.id = next_number()
        self.verdict: ev.Verdict | None = None
        self.error: PoolMagicError | None = None
        self._engine = engine
        self._work = work
        self._feed = feed
        self._sink = sink
        self._inbox: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._next: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        self._orders: deque[int] = deque()
        self.interrupts = Interrupts(lambda: self._inbox.put((_nothing, ())))

    # Loop thread ---------------------------------------------------------------------------------------------------

    def function(self) -> tuple[int, Any]:
        """Return how items become arguments, and the function's payload."""
        return self._work.stars, self._work.payload

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the batch that holds an item."""
        return self._feed.payload(position)

    def ask(self, size: int) -> None:
        """Take the order for the next items."""
        self._orders.append(size)
        self._inbox.put((_nothing, ()))

    def accept(self, message: Done, spans: tuple[Span, ...], failed: tuple[int, ...], worker: str) -> None:
        """Take what a worker finished."""
        self._inbox.put((self._take_outcomes, (message, spans, failed, worker)))

    def lose(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take the loss of an item."""
        self._inbox.put((self._take_failure, (position, error, worker)))

    def output(self, message: Output) -> None:
        """Take what a task printed."""
        self._inbox.put((print_output, (message,)))

    def settle(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        """Take the end of the run."""
        self._inbox.put((self._take_end, (verdict, error)))

    # Asking thread -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the run on its way with its first batches packed; blocks as long as the user's iterator does."""
        workers, slots = self._engine.capacity
        size = self._work.options.chunksize or slots
        if self._feed.total is not None:
            size = max(1, min(size, math.ceil(self._feed.total / workers)))
        filled: list[Span] = []
        broken: dict[int, BaseException] = {}
        while len(filled) < workers and not self._feed.exhausted and (room := self._room(size)):
            with self.interrupts.open():
                pulled = self._feed.pull(room)
            broken |= pulled.broken
            if pulled.span is not None:
                filled.append(pulled.span)
        self.announce(tuple(filled), tuple(broken))
        self._take_broken(broken)

    def announce(self, filled: tuple[Span, ...] = (), broken: tuple[int, ...] = ()) -> None:
        """Make the run known to the books, with the batches that are packed; does not block."""
        options, feed = self._work.options, self._feed
        self._engine.add(
            self,
            ev.RunAdded(self.id, filled, broken, feed.exhausted, feed.total, options.fail_fast, options.chunksize),
        )

    def step(self, timeout: float | None) -> bool:
        """Do the next thing there is to do; blocks at most `timeout` seconds for it. False if none came."""
        __tracebackhide__ = True
        if self._next is None:
            try:
                self._next = self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait()
            except Empty:
                return False
        self.serve()  # first of all: a worker waits for that, and nobody but us for results
        (action, arguments), self._next = self._next, None
        action(*arguments)
        self.serve()
        return True

    def serve(self) -> None:
        """Answer orders for items, as far as there is room for reading ahead."""
        while self._orders and self.verdict is None:
            room = self._room(self._orders[0])
            if not room:
                return
            self._fill(self._orders.popleft(), room)

    def busy(self) -> tuple[int, int, int]:
        """Return how many slots run something, how many there are, and how many items are not reported yet."""
        return self._engine.busy(self.id)

    def halt(self, verdict: ev.Verdict, kill: bool) -> None:
        """End the run early; does not block. With `kill`, what runs is stopped too."""
        self._engine.post(ev.Halt(self.id, verdict, kill))

    def _room(self, size: int) -> int:
        room = self._sink.room()
        return self._feed.limit(size) if room is None else min(self._feed.limit(size), room)

    def _fill(self, asked: int, size: int) -> None:
        try:
            with self.interrupts.open():
                pulled = self._feed.pull(size)
        except BaseException:  # an interrupt: it is for us, not about the iterator
            self._orders.appendleft(asked)
            raise
        self._engine.post(ev.Filled(self.id, asked, pulled.span, tuple(pulled.broken), pulled.last))
        self._take_broken(pulled.broken)

    def _take_broken(self, broken: dict[int, BaseException]) -> None:
        for position, error in broken.items():
            self._take_failure(position, error, "")

    def _take_outcomes(self, message: Done, spans: tuple[Span, ...], failed: tuple[int, ...], worker: str) -> None:
        """Unpack a report. What the books did not accept of it is left out."""
        codec = self._engine.codec
        values, load, records = codec.open_values(message.payload)
        offset = 0
        for start, stop in message.spans:
            part = values[offset : offset + stop - start]
            offset += stop - start
            for first, end in [(start, stop)] if message.spans == spans else _common(spans, (start, stop)):
                self._take_values(first, part[first - start : end - start], load, worker)
        accepted = set(failed)
        for position, record in zip(message.failed, records, strict=True):
            if position in accepted:
                self._take_failure(position, codec.load_error(record), worker)

    def _take_values(self, start: int, values: Sequence[Any], load: Callable[[Any], Any] | None, worker: str) -> None:
        """Keep the values of a span; one that cannot be loaded here fails alone."""
        if load is None:
            self._put(start, values)
            return
        loaded: list[Any] = []
        for position, value in enumerate(values, start):
            try:
                loaded.append(load(value))
            except Exception as error:
                self._put(position - len(loaded), loaded)
                loaded = []
                broken = PayloadError(f"the result cannot be unpickled here: {type(error).__name__}: {error}")
                self._take_failure(position, broken, worker)
                if self._work.options.fail_fast:
                    self.halt(ev.Verdict.FAILED, kill=False)
        self._put(start + len(values) - len(loaded), loaded)

    def _put(self, start: int, values: Sequence[Any]) -> None:
        if values:
            span = (start, start + len(values))
            self._sink.succeeded(self._feed.indices(span), values)
            self._feed.resolve(span)

    def _take_failure(self, position: int, error: BaseException, worker: str) -> None:
        if self._sink.failed(self._feed.index(position), self._feed.item(position), error, worker):
            self._feed.resolve((position, position + 1))

    def _take_end(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        self.verdict, self.error = verdict, error


def _common(spans: tuple[Span, ...], span: Span) -> list[Span]:
    """Return the parts of `spans` that lie within `span`."""
    parts = [(max(start, span[0]), min(stop, span[1])) for start, stop in spans]
    return [part for part in parts if part[0] < part[1]]


def _nothing() -> None:
    """Do nothing, but let `step` return."""


def print_output(message: Output) -> None:
    """Print what a task printed: in the asking thread, whose output belongs to the cell that started the run."""
    stream = sys.stdout if message.stream == "stdout" else sys.stderr
    try:
        stream.write(message.text)
    except UnicodeEncodeError:  # half of a surrogate pair, or a terminal of few letters
        stream.write(message.text.encode("ascii", "backslashreplace").decode())
