"""The finished items of a run that a worker has not handed back yet.

Slots put in, whoever flushes takes out, in different threads. Putting in is one append to a list, which is atomic; who
takes out holds the worker's lock.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Protocol, TypeAlias, TypeVar

from poolmagic.messages import Span

__all__ = ["Failed", "Outbox", "Row", "Stretch", "spans_of"]

Failed: TypeAlias = tuple[int, Any, bool]
"""The position of an item, its packed error, and whether it may be tried again."""

_T = TypeVar("_T")
_position = itemgetter(0)


class Stretch:
    """The values of consecutive items from position `first` on. While it is open its slot appends to `values`."""

    __slots__ = ("first", "is_open", "values")

    def __init__(self, first: int) -> None:
        self.first = first
        self.values: list[Any] = []
        self.is_open = True


class Loading(Protocol):
    """A function that is loaded by the first item that needs it."""

    loaded: float
    """When that was done."""


class Row:
    """What one of many slots finishes of a batch: a stretch for each run of items of which none went to another."""

    __slots__ = ("_done", "_expected", "_loading", "_note", "_out", "_stretch", "began")

    def __init__(self, out: Outbox, done: int = 0, began: float = 0.0, loading: Loading | None = None) -> None:
        self._out = out
        self._stretch: Stretch | None = None
        self._expected = -1
        self._done = done
        self._note = out.worked.extend
        self._loading = loading
        self.began = began
        """When the item after the last look began."""

    def look(self, position: int, done: int, since: float, now: float) -> None:
        """Note when items ran: the one at `position`, and before it those since the last look, which were short.

        Args:
            position: Of the item that has just ended; those before it followed each other in this slot.
            done: How many items the slot has finished in its life.
            since: When this item began.
            now: When it ended.
        """
        if done - self._done > 1:
            self.end(position - 1, done - 1, since)
        if self._loading is not None:  # no item is said to have taken as long as that
            since = min(max(since, self._loading.loaded), now)
            self._loading = None
        self._note((position, position + 1, since, now))
        self._done = done

    def end(self, position: int, done: int, now: float) -> None:
        """Note when the short items since the last look ran, of which the one at `position` is the last."""
        if done > self._done:
            self._note((position + 1 - done + self._done, position + 1, self.began, now))
        self._done, self.began = done, now

    def keep(self, position: int, value: Any) -> None:
        """Keep the value of one item."""
        if self._stretch is None or position != self._expected:  # those between went to other slots, or failed
            self._stretch = self._out.open(position, self._stretch)
        self._stretch.values.append(value)
        self._expected = position + 1

    def drop(self) -> None:
        """Forget what comes from now on: the items are somebody else's. What came before stays."""
        self._out = Outbox()
        self._note = self._out.worked.extend
        self.close()
        self._stretch = None

    def close(self) -> None:
        """Say that nothing more comes."""
        if self._stretch is not None:
            self._stretch.is_open = False


class Outbox:
    """What is finished: stretches of values, and packed errors; and when it ran, as entries (see `timings`)."""

    __slots__ = ("_stretches", "failed", "worked")

    def __init__(self) -> None:
        self._stretches: list[Stretch] = []
        self.failed: list[Failed] = []
        self.worked: list[float] = []

    def __bool__(self) -> bool:
        return bool(self.failed or any(stretch.values for stretch in list(self._stretches)))

    def open(self, first: int, before: Stretch | None = None) -> Stretch:
        """Open a stretch; the one `before` it is complete."""
        if before is not None:
            before.is_open = False
        stretch = Stretch(first)
        self._stretches.append(stretch)
        return stretch

    def take(self) -> tuple[list[Span], list[Any], list[Failed]]:
        """Take all: spans, their values in order, and failures. One thread at a time; slots may go on meanwhile."""
        stretches = list(self._stretches)
        still_open: list[Stretch] = []
        pieces: list[tuple[int, list[Any]]] = []
        for stretch in stretches:
            first, values = stretch.first, stretch.values
            if stretch.is_open:
                still_open.append(stretch)
                values = _take(values)
                stretch.first += len(values)
            if values:
                pieces.append((first, values))
        self._stretches[: len(stretches)] = still_open
        pieces.sort(key=_position)
        spans = _joined([(first, first + len(values)) for first, values in pieces])
        values = pieces[0][1] if len(pieces) == 1 else [value for _, part in pieces for value in part]
        return spans, values, _take(self.failed)

    def take_worked(self) -> list[float]:
        """Take what has been noted of when items ran; some of them may have been taken before, or come later."""
        return _take(self.worked)


def _take(entries: list[_T]) -> list[_T]:
    """Take what is in a list that a slot may append to at the same time."""
    count = len(entries)
    taken = entries[:count]
    del entries[:count]
    return taken


def spans_of(positions: list[int]) -> list[Span]:
    """Return sorted positions as spans."""
    if positions and positions[-1] - positions[0] + 1 == len(positions):
        return [(positions[0], positions[-1] + 1)]
    return _joined([(position, position + 1) for position in positions])


def _joined(spans: list[Span]) -> list[Span]:
    """Return sorted spans with those as one that follow each other."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
