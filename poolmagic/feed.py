"""The items of a run: pulled from the user's iterator, packed into batches, and kept until they have their outcome.

Threads. `pull`, `resolve` and `rest` belong to the asking thread, which alone may touch the user's iterator; `payload`
is called by the supervisor's loop thread. The list of batches is shared under a lock, taken once a batch.

Positions and indices. Workers and books count *positions* from 0 without gaps. The user counts *indices*. They are the
same until a run is resumed: then the first positions are what was left over, wherever in the input that was.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from poolmagic.core.spans import SpanSet
from poolmagic.errors import UsageError
from poolmagic.messages import Span, index_of
from poolmagic.payload import Broken, Codec, weigh

__all__ = ["Feed", "Pulled"]

HEAVIEST: Final = 64 << 20
"""Bytes that a batch should have at most: two of them for each worker are on their way, in memory that is not free."""


@dataclass(slots=True)
class _Chunk:
    """A batch as it was packed; `open` are its positions without an outcome."""

    start: int
    items: Sequence[Any]
    payload: Any
    open: SpanSet


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: a span (None if no item was left), the positions in it that could not be packed, the end."""

    span: Span | None
    broken: Broken
    last: bool


class Feed:
    """Items on their way out.

    Attributes:
        total: The number of items; None if that is not known.
        pulled: How many of them have been pulled.
        exhausted: There are no more.
        error: What the user's iterator raised.
        leftover: The indices of the first positions, as far as they are not the next ones.
        first_index: The index of the position after these.

    Args:
        items: The user's iterator; a range is not iterated over but cut.
        total: Its length where that is known.
        codec: How items are packed.
        leftover: Items with their indices that come before those of `items`.
        index: The index of the first of `items`.
    """

    def __init__(
        self,
        items: Iterator[Any] | range,
        total: int | None,
        codec: Codec,
        leftover: list[tuple[int, Any]] | None = None,
        index: int = 0,
    ) -> None:
        self._items = items
        self._codec = codec
        self._leftover = leftover or []
        self.leftover = tuple(number for number, _ in self._leftover)
        self.first_index = index
        self.total = None if total is None else total + len(self._leftover)
        self._lock = threading.Lock()
        self._chunks: dict[int, _Chunk] = {}
        self._starts: list[int] = []
        self.pulled = 0
        self._kept: list[Any] = []
        self._weight = 0.0
        self._interrupted = False
        self.error: Exception | None = None
        self.exhausted = False

    def pull(self, size: int) -> Pulled:
        """Take the next items off the user's iterator and pack them; blocks as long as the iterator does.

        An exception of the iterator ends the input: it is kept in `error`, for when all that came before it is done.

        Raises:
            KeyboardInterrupt: And its like; nothing that the iterator gave is lost.
        """
        start = self.pulled
        items: Sequence[Any] = [item for _, item in self._leftover[start : start + size]]
        # The length that the input claims may be wrong; one item more is the only way to know without a round trip.
        taken = self._take(size - len(items) + (start + size == self.total))
        items = [*items, *taken] if items else taken
        if self.total is not None and start + len(items) > self.total:
            self.total = None
        if len(items) > size:
            self._kept = [*items[size:], *self._kept]
            items = items[:size]
        stop = self.pulled = start + len(items)
        if not items:
            return Pulled(None, {}, self.exhausted)
        try:
            payload, broken = self._codec.pack_values(items)
        except BaseException:  # an interrupt in the user's pickling code
            self.pulled, self.exhausted = start, False
            self._kept = [*items[max(0, len(self._leftover) - start) :], *self._kept]
            raise
        self._weight = weigh(payload) / len(items)
        positions = SpanSet()
        positions.add((start, stop))
        with self._lock:
            self._starts.append(start)
            self._chunks[start] = _Chunk(start, items, payload, positions)
        return Pulled((start, stop), {start + offset: error for offset, error in broken.items()}, self.exhausted)

    def limit(self, size: int) -> int:
        """Return how many of `size` items make a batch that is not too heavy, as far as the last one tells."""
        return max(1, min(size, int(HEAVIEST / self._weight))) if self._weight else size

    def _take(self, size: int) -> Sequence[Any]:
        """Take at most so many items off the iterator, and note its end."""
        taken, self._kept = self._kept[:size], self._kept[size:]
        kept = len(taken)
        if len(taken) >= size:
            return taken
        if self.error is not None:  # from before the run was resumed
            self.exhausted = True
            return taken
        if isinstance(self._items, range) and not taken:
            piece, self._items = self._items[:size], self._items[size:]
            self.exhausted = len(piece) < size
            return piece
        try:
            self._items = iter(self._items)
            taken.extend(islice(self._items, size - len(taken)))
        except Exception as error:
            self.error = error
            self.exhausted = True
        except BaseException:
            self._kept = taken + self._kept
            self._interrupted = True
            raise
        else:
            self.exhausted = len(taken) < size
            if self.exhausted and len(taken) == kept and self._interrupted:
                # A generator in which an interrupt struck is at its end, though its items are not.
                what = "the input was interrupted while it made an item, and ended: what should come after is missing"
                self.error = UsageError(what)
            self._interrupted = False
        return taken

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the start and the payload of the batch that holds a position. Any thread; does not block."""
        chunk = self._chunk(position)
        return chunk.start, chunk.payload

    def item(self, position: int) -> Any:
        """Return an item that has no outcome yet."""
        chunk = self._chunk(position)
        return chunk.items[position - chunk.start]

    def kept(self, index: int) -> list[Any]:
        """Return the item of an index, in a list of its own; an empty one if it is not, or no longer, here. Any thread.

        Items are kept until all of their batch have their final outcome.
        """
        with self._lock:
            chunks = list(self._chunks.values())
        found = [
            item
            for chunk in chunks
            for position, item in enumerate(chunk.items, chunk.start)
            if self.index(position) == index
        ]
        return found or [item for place, item in self._leftover[self.pulled :] if place == index]

    def items(self, start: int, stop: int) -> Sequence[Any]:
        """Return items of one batch that have no outcome yet."""
        chunk = self._chunk(start)
        return chunk.items[start - chunk.start : stop - chunk.start]

    def _chunk(self, position: int) -> _Chunk:
        with self._lock:
            return self._chunks[self._starts[bisect_right(self._starts, position) - 1]]

    def index(self, position: int) -> int:
        """Return the index, in the user's input, of a position."""
        return index_of(position, self.leftover, self.first_index)

    def indices(self, span: Span) -> list[int] | range:
        """Return the indices of a span."""
        start, stop = span
        if start >= len(self._leftover):
            return range(self.index(start), self.index(start) + stop - start)
        return [self.index(position) for position in range(start, stop)]

    def resolve(self, span: Span) -> None:
        """Say that positions have their final outcome; a batch without any others is dropped."""
        start, stop = span
        while start < stop:
            chunk = self._chunk(start)
            end = min(stop, chunk.start + len(chunk.items))
            chunk.open.remove((start, end))
            if not chunk.open.count:
                with self._lock:
                    self._starts.remove(chunk.start)
                    del self._chunks[chunk.start]
            start = end

    def rest(self, failed: list[tuple[int, Any]]) -> Feed:
        """Return a feed of `failed` and what else has no outcome: kept items first, then what was never pulled."""
        leftover = failed + [
            (self.index(position), item)
            for chunk in sorted(self._chunks.values(), key=lambda one: one.start)
            for start, stop in chunk.open
            for position, item in zip(range(start, stop), chunk.items[start - chunk.start :], strict=False)
        ]
        leftover += self._leftover[self.pulled :]
        pulled_of_items = max(0, self.pulled - len(self._leftover))
        left = None if self.total is None else max(0, self.total - max(self.pulled, len(self._leftover)))
        index = self.first_index + pulled_of_items
        rest = Feed(self._items, left, self._codec, sorted(leftover, key=lambda one: one[0]), index)
        rest._kept, rest.error, rest._interrupted = self._kept, self.error, self._interrupted
        return rest
