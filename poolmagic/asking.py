"""The asking thread's side of a run: it pulls and packs items when the books want them, and unpacks what comes back.

    loop thread --inbox--> Asking.step() in the asking thread --post()--> loop thread

Threads. Everything here belongs to one asking thread at a time: the one blocked in `map`, the consumer of an `imap`, or
a run's own thread. All of the user's code but the tasks themselves runs there: his iterator, his pickling.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Any, Protocol

from poolmagic.client import Client
from poolmagic.core import events as ev
from poolmagic.errors import InitializerError, PayloadError, PoolMagicError
from poolmagic.feed import Feed
from poolmagic.inbox import Action, Inbox, Work, nothing
from poolmagic.interrupts import Interrupts
from poolmagic.messages import Done, Span
from poolmagic.outputs import Outputs
from poolmagic.payload import Codec, Opened
from poolmagic.snapshot import RunView

__all__ = ["Asking", "Engine", "Sink", "open_report"]


class Engine(Protocol):
    """What a run needs of its pool; methods may be called from any thread."""

    codec: Codec
    capacity: tuple[int, int]
    """Workers, and slots of one."""

    @property
    def is_here(self) -> bool:
        """Whether this is the process that has the workers, and not one that was forked off it."""
        ...

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Start a run."""
        ...

    def post(self, event: ev.Event) -> None:
        """Hand an event to the books."""
        ...

    def look(self, run: int, index: Callable[[int], int]) -> RunView:
        """Return what is known of a run; `index` tells the index of a position."""
        ...


class Sink(Protocol):
    """Where outcomes go; called in the asking thread."""

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Take the values of items."""
        ...

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Take the error of an item; True if that is its final outcome, False if it may be run again."""
        ...

    def failed_for_now(self, index: int, error: BaseException, worker: str) -> None:
        """Take the error of an item that is run again."""
        ...

    def timed(self, timings: bytes, worker: str, feed: Feed) -> None:
        """Take when items ran, as `timings.pack` made it; the positions are those of `feed`."""
        ...

    def room(self) -> int | None:
        """Return how many more items may be read ahead; None if there is no bound."""
        ...


class Asking(Inbox):
    """One run on one crew, as the asking thread sees it."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        feed: Feed,
        sink: Sink,
        interrupts: Interrupts | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__(work, feed, outputs)
        self.verdict: ev.Verdict | None = None
        self.error: PoolMagicError | None = None
        self._engine = engine
        self._sink = sink
        self._todo: deque[Action] = deque()
        self._is_announced = False
        self._halt: ev.Halt | None = None
        self._is_refused = False  # a worker could not be prepared
        self._is_slow = False  # an interrupt struck while something was unpacked
        self.interrupts = interrupts or Interrupts(None)
        self.interrupts.wake = partial(self._inbox.put, (nothing, ()))

    # Asking thread -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the run on its way with its first batches packed; blocks as long as the user's iterator does."""
        self.echo.come_here()
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
        self._is_announced = True
        self._engine.add(
            self,
            ev.RunAdded(
                self.id,
                filled,
                broken,
                feed.exhausted,
                feed.total,
                options.fail_fast,
                options.chunksize,
                self._work.policy,
            ),
        )
        if self._halt is not None:  # the books did not know of the run yet
            self._engine.post(self._halt)

    def step(self, timeout: float | None) -> bool:
        """Do the next thing there is to do; blocks at most `timeout` seconds for it. False if none came."""
        __tracebackhide__ = True
        if not self._todo:
            try:
                self._todo.append(self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait())
            except Empty:
                return False
        self.serve()  # first of all: a worker waits for that, and nobody but us for results
        self._work_off()
        self.serve()
        return True

    def _work_off(self) -> None:
        """Do what is to be done next; what an interrupt left of it stays to be done."""
        action, arguments = self._todo.popleft()
        action(*arguments)

    def wind_up(self, seconds: float) -> None:
        """Wait for the end of a run that was halted; blocks for so long. What comes is left to `unpack`."""
        if not self._is_announced:
            self.verdict = ev.Verdict.CANCELLED
        deadline = time.monotonic() + seconds
        while self.verdict is None and (left := deadline - time.monotonic()) > 0:
            self.interrupts.check()
            with suppress(Empty):
                action, arguments = self._inbox.get(timeout=left)
                if action == self._take_end:  # nothing comes after it
                    self._take_end(*arguments)
                else:
                    self._todo.append((action, arguments))

    def unpack(self, seconds: float) -> None:
        """Take what has come, which runs the user's code; the rest of it is left to `finish` when the time is over."""
        deadline = time.monotonic() + seconds
        while self._todo and time.monotonic() < deadline and not self._is_slow:
            self.interrupts.check()
            self._work_off()

    def finish(self, seconds: float) -> None:
        """Take all that is left after `wind_up`, before the run is resumed; waits at most so long for the end of it."""
        self._is_slow = False
        self.wind_up(seconds)
        self.unpack(math.inf)

    @property
    def has_more(self) -> bool:
        """Whether there is something left for `finish`."""
        return self.verdict is None or bool(self._todo)

    def serve(self) -> None:
        """Answer orders for items, as far as there is room for reading ahead."""
        while self._orders and self.verdict is None:
            room = self._room(self._orders[0])
            if not room:
                return
            self._fill(self._orders.popleft(), room)

    def look(self) -> RunView:
        """Return what is known of the run; blocks for well under a millisecond."""
        return self._engine.look(self.id, self._feed.index)

    def pause(self, on: bool) -> None:
        """Start nothing more, or go on; does not block."""
        self._engine.post(ev.Pause(self.id, on))

    def halt(self, verdict: ev.Verdict, kill: bool) -> None:
        """End the run early; does not block. With `kill`, what runs is stopped too."""
        self._halt = ev.Halt(self.id, verdict, kill)
        self._engine.post(self._halt)

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

    def _take_outcomes(self, message: Done, part: ev.Accept, worker: str) -> None:
        """Unpack a report. What the books did not accept of it is left out."""
        codec, spans = self._engine.codec, part.spans
        self._sink.timed(message.timings, worker, self._feed)
        try:
            values, load, records = open_report(codec, message)
        except PayloadError as error:
            for start, stop in (*spans, *((position, position + 1) for position in part.failed)):
                for position in range(start, stop):
                    self._take_failure(position, error, worker)
            if self._work.options.fail_fast:
                self.halt(ev.Verdict.FAILED, kill=False)
            return
        todo: list[Action] = []
        offset = 0
        for start, stop in message.spans:
            block = values[offset : offset + stop - start]
            offset += stop - start
            for first, end in [(start, stop)] if message.spans == spans else _common(spans, (start, stop)):
                todo.append((self._take_values, (first, block[first - start : end - start], load, worker)))
        for position, record in zip(message.failed, records, strict=True):
            if position in part.failed:
                todo.append((self._take_record, (self._take_failure, position, record, worker)))
            elif position in part.retried:
                todo.append((self._take_record, (self._take_attempt, position, record, worker)))
        self._todo.extendleft(reversed(todo))
        for _ in todo:
            self._work_off()

    def _take_record(self, take: Callable[..., None], position: int, record: Any, worker: str) -> None:
        error = self._engine.codec.load_error(record)
        if not isinstance(error, InitializerError) or not error.refuses:
            take(position, error, worker)
        elif not self._is_refused:  # what is no item's error ends the run, once
            self._is_refused = True
            raise error

    def _take_values(self, start: int, values: Sequence[Any], load: Callable[[Any], Any] | None, worker: str) -> None:
        """Keep the values of a span; one that cannot be loaded here fails alone."""
        if load is None:
            self._put(start, values)
            return
        while values:
            loaded, error = self._load(values, load)
            self._put(start, loaded)
            start, values = start + len(loaded), values[len(loaded) :]
            if error is None:
                return
            if not isinstance(error, PayloadError):  # an interrupt: what it struck is unpacked again, if ever
                self._is_slow = True
                self._todo.appendleft((self._take_values, (start, values, load, worker)))
                raise error
            self._take_failure(start, error, worker)
            start, values = start + 1, values[1:]
            if self._work.options.fail_fast:
                self.halt(ev.Verdict.FAILED, kill=False)

    def _load(self, values: Sequence[Any], load: Callable[[Any], Any]) -> tuple[list[Any], BaseException | None]:
        """Unpack values up to one that cannot be; runs the user's code, so interrupts are let through."""
        loaded: list[Any] = []
        try:
            with self.interrupts.open():
                loaded.extend(map(load, values))
        except BaseException as error:  # it is told by who knows which item it is
            return loaded, error
        return loaded, None

    def _put(self, start: int, values: Sequence[Any]) -> None:
        if values:
            span = (start, start + len(values))
            self._sink.succeeded(self._feed.indices(span), values)
            self._feed.resolve(span)

    def _take_failure(self, position: int, error: BaseException, worker: str) -> None:
        if self._sink.failed(self._feed.index(position), self._feed.item(position), error, worker):
            self._feed.resolve((position, position + 1))

    def _take_attempt(self, position: int, error: BaseException, worker: str) -> None:
        self._sink.failed_for_now(self._feed.index(position), error, worker)

    def _take_end(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        self.verdict, self.error = verdict, error
        self.show_output()

    @property
    def has_hidden_output(self) -> bool:
        """Whether more was printed than has been shown."""
        return self.echo.has_hidden

    def show_output(self) -> None:
        """Show all that has been printed so far; blocks until it is written. Raises what the user's stream does."""
        self.echo.flush()


def open_report(codec: Codec, message: Done) -> Opened:
    """Return what a report holds; raises `PayloadError` if it cannot be read, or is not about what it says."""
    try:
        values, load, records = codec.open_values(message.payload)
        count = sum(stop - start for start, stop in message.spans)
        if len(values) != count or len(records) != len(message.failed):
            raise ValueError(
                f"{len(values)} values and {len(records)} errors for {count} and {len(message.failed)} items"
            )
    except (Exception, SystemExit) as error:  # its pickle is the work of a worker, which may be broken
        raise PayloadError(f"the worker's report makes no sense: {type(error).__name__}: {error}") from error
    return values, load, records


def _common(spans: tuple[Span, ...], span: Span) -> list[Span]:
    """Return the parts of `spans` that lie within `span`."""
    parts = [(max(start, span[0]), min(stop, span[1])) for start, stop in spans]
    return [part for part in parts if part[0] < part[1]]
