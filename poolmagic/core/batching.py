"""How many items a batch has: sized by time, not by count.

Start with one item, aim at `TARGET` seconds, never grow beyond four times what was measured in one go, and shrink
towards the end of the run (guided self-scheduling: Polychronopoulos and Kuck, 1987), so that workers end together.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Sizer"]

TARGET: Final = 0.05
"""Seconds of work that a batch should be: long against the cost of a batch (about 0.0002 s), short against patience."""
SLOW: Final = 0.02
"""Seconds per item from which on a worker gets no second batch in advance: the wait for it is under one per cent."""
GROWTH: Final = 4


MEMORY: Final = 1.0
"""Seconds of work after which a measurement counts for a third: long enough to even out the bursts of green workers."""


class Sizer:
    """The batch size of one run. `learn` from finished items, then ask `size` and `limit`."""

    __slots__ = ("_chunksize", "_count", "_pace", "_seconds", "_size")

    def __init__(self, chunksize: int | None = None) -> None:
        self._chunksize = chunksize
        self._size = chunksize or 1
        self._pace: float | None = None
        self._count = 0.0
        self._seconds = 0.0

    def learn(self, count: int, seconds: float, slots: int) -> None:
        """Take in that a worker with so many slots finished `count` items within `seconds`."""
        fade = math.exp(-seconds / MEMORY)
        self._count = self._count * fade + count
        self._seconds = self._seconds * fade + max(seconds, 1e-9)
        self._pace = self._seconds / self._count
        if slots == 1:
            # A rise is believed at once: a batch that is too small costs less than one that is too big.
            self._pace = max(self._pace, seconds / count)
        if self._chunksize is None:
            self._size = min(max(1, int(TARGET / self._pace)), max(self._size, GROWTH * count))

    def size(self, slots: int, remaining: int | None, workers: int) -> int:
        """Return the number of items for the next batch of a worker with so many slots.

        Args:
            slots: A batch fills them all at least.
            remaining: Items not handed out yet; None if the input's length is not known.
            workers: Workers that share them.
        """
        if self._chunksize is not None:
            return self._chunksize
        size = max(slots, self._size)
        if remaining is not None:
            size = min(size, max(1, math.ceil(remaining / (2 * workers))))
        return size

    def limit(self, slots: int) -> int:
        """Return how many items a worker with so many slots may have in hand."""
        first = max(slots, self._size)
        if self._pace is None or self._pace >= SLOW:
            return first
        return first + self._size
