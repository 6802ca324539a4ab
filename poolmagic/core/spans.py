"""Sets of item positions kept as sorted, disjoint spans ``[start, stop)``, so that a million items are two numbers."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator

from poolmagic.messages import Span

__all__ = ["SpanSet", "split"]


class SpanSet:
    """A set of positions. Every operation costs a binary search and a move within a short list."""

    __slots__ = ("_starts", "_stops", "count")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.count = 0

    def __iter__(self) -> Iterator[Span]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, position: int) -> bool:
        place = bisect_right(self._starts, position) - 1
        return place >= 0 and position < self._stops[place]

    def add(self, span: Span) -> None:
        """Add a span; raises `ValueError` if part of it is in the set already, or if it is empty."""
        start, stop = span
        place = bisect_right(self._starts, start)
        before = place > 0 and self._stops[place - 1] > start
        after = place < len(self._starts) and self._starts[place] < stop
        if start >= stop or before or after:
            raise ValueError(f"span {span} is empty or overlaps the set")
        self._starts.insert(place, start)
        self._stops.insert(place, stop)
        self.count += stop - start

    def remove(self, span: Span) -> list[Span]:
        """Remove what of `span` is in the set, and return it."""
        start, stop = span
        removed: list[Span] = []
        place = max(0, bisect_right(self._starts, start) - 1)
        while place < len(self._starts) and self._starts[place] < stop:
            first, last = self._starts[place], self._stops[place]
            low, high = max(first, start), min(last, stop)
            if low >= high:
                place += 1
                continue
            rest = [(a, b) for a, b in ((first, low), (high, last)) if a < b]
            self._starts[place : place + 1] = [a for a, _ in rest]
            self._stops[place : place + 1] = [b for _, b in rest]
            removed.append((low, high))
            self.count -= high - low
            place += len(rest)
        return removed


def split(span: Span, parts: int) -> list[Span]:
    """Return a span as at most so many spans of nearly equal length."""
    start, stop = span
    cuts = sorted({start + (stop - start) * part // parts for part in range(parts + 1)})
    return list(itertools.pairwise(cuts))
