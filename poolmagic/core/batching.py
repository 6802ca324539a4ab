"""How many items a batch has, and how many a worker may have in hand: sized by time, not by count.

Start with one item, never trust what has been seen of a run for more than `GROWTH` times as much, aim at `TARGET`
seconds, and share what remains towards the end, so that workers end together (guided self-scheduling: Polychronopoulos
and Kuck, 1987), but not in crumbs of less than `FLOOR` seconds. Only once batches are as long as they should be does a
worker get the next one in advance. What an estimate gets wrong, idle workers take back (see `scheduling`).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["FLOOR", "GROWTH", "SLOW", "TARGET", "Plan", "Sizer"]

TARGET: Final = 0.05
"""Seconds of work that a batch should be: long against the cost of a batch (about 0.001 s of CPU time for the kernel,
when all CPUs are busy), and short against patience."""
FLOOR: Final = 0.002
"""Seconds of work below which it does not pay to share: ten times the cost of a batch."""
SLOW: Final = 0.1
"""Seconds per item from which on a worker gets no batch in advance: the wait for it is half a per cent at most."""
GROWTH: Final = 4
"""After n items without a slow one, few are expected among the next 4n. Of many workers none sees much itself, but all
of them get a batch at once, far ahead in the input: what they saw together counts by the root of their number."""
MEMORY: Final = 1.0
"""Seconds of work after which a measurement counts for a third: long enough to even out the bursts of green workers."""


class Plan(NamedTuple):
    """What one worker may be given of one run.

    Attributes:
        limit: Items that it may have in hand.
        size: Items of a batch.
        least: Items that there must be room for to be worth an order.
    """

    limit: int
    size: int
    least: int


class Sizer:
    """The batch sizes of one run. `learn` from finished items, then `plan`."""

    __slots__ = ("_count", "_pace", "_seconds", "_seen", "chunksize")

    def __init__(self, chunksize: int | None = None) -> None:
        self.chunksize = chunksize
        self._count = 0.0
        self._seconds = 0.0
        self._seen = 0
        self._pace = math.inf

    def learn(self, count: int, seconds: float, slots: int) -> None:
        """Take in that a worker with so many slots finished `count` items within `seconds`."""
        fade = math.exp(-seconds / MEMORY)
        self._seen += count
        self._count = self._count * fade + count
        self._seconds = self._seconds * fade + max(seconds, 1e-9)
        self._pace = self._seconds / self._count
        if slots == 1:
            # A rise is believed at once: a batch that is too small costs less than one that is too big.
            self._pace = max(self._pace, seconds / count)

    def plan(self, slots: int, remaining: int | None, workers: int) -> Plan:
        """Return what a worker with so many slots may be given.

        Args:
            slots: A batch fills them all at least, if there are enough items.
            remaining: Items not handed out yet; None if the input's length is not known.
            workers: Workers that share them.
        """
        wanted, share = int(TARGET / self._pace), slots
        if remaining is not None and workers > 1:
            share = max(int(FLOOR / self._pace), -(-remaining // (2 * workers)))
            wanted = min(wanted, share)
        trusted = GROWTH * self._seen // math.isqrt(workers)
        batch = max(1, min(wanted, trusted))
        ahead = batch if wanted <= trusted and self._pace < SLOW else 0
        if slots > 1 and self._seen:
            # The slots of one worker end at different times, and each of them wants its next item there and then.
            ahead = max(ahead, min(slots, share))
        limit = max(slots, batch) + ahead
        if self.chunksize is not None:
            return Plan(limit, self.chunksize, 1)
        return Plan(limit, max(min(slots, share), batch), max(1, (ahead or batch) // 2))

    def share(self, count: int, takers: int) -> int:
        """Return how many of so many items that were taken back one taker gets: not all, for he may be held up too."""
        half = -(-count // 2)
        return min(half, max(-(-count // max(1, takers)), int(FLOOR / self._pace)))
