"""What must happen at a certain time: an alarm that can be set again and again, and the time limits of running items.

Everything belongs to the supervisor's loop thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Final

from poolmagic.board import Mark
from poolmagic.processes import Loop

__all__ = ["GRACE", "Alarm", "Deadlines"]

GRACE: Final = 0.15
"""Seconds after its time limit that an item has to stop as its worker told it to; after that it is stopped by force."""


class Alarm:
    """Calls a function at a time that may be set earlier or later before it comes.

    Args:
        loop: The supervisor.
        ring: What to call.
    """

    def __init__(self, loop: Loop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due: float | None = None
        self._planned: float | None = None

    def set(self, due: float | None) -> None:
        """Ring at this time of `time.monotonic`, and not at the one set before; None turns the alarm off."""
        self._due = due
        if due is not None and (self._planned is None or due < self._planned):
            self._plan(due)

    def _plan(self, when: float) -> None:
        self._planned = when
        self._loop.call_at(when, lambda: self._wake(when))

    def _wake(self, when: float) -> None:
        if when != self._planned:  # an earlier one was planned since
            return
        self._planned = None
        if self._due is None:
            return
        if self._due > time.monotonic():
            self._plan(self._due)
            return
        self._due = None
        self._ring()


class Deadlines:
    """Finds items that go on beyond their run's time limit, though their worker has told them to stop.

    A look costs well under a millisecond, and there is one when the oldest item is due, but no more of them than one
    for each time limit where items are short.

    Args:
        loop: The supervisor.
        look: Returns what runs now, as (worker, mark on its board).
        overdue: Called for each item that is found, with its worker.
    """

    def __init__(
        self, loop: Loop, look: Callable[[], Iterator[tuple[int, Mark]]], overdue: Callable[[int, Mark], None]
    ) -> None:
        self._limits: dict[int, float] = {}
        self._look = look
        self._overdue = overdue
        self._alarm = Alarm(loop, self._check)

    def add(self, run: int, limit: float) -> None:
        """Watch the items of a run; `limit` in seconds from an item's own start."""
        self._limits[run] = limit
        self._plan(math.inf)

    def remove(self, run: int) -> None:
        """Watch a run no longer."""
        if self._limits.pop(run, None) is not None and not self._limits:
            self._alarm.set(None)

    def _check(self) -> None:
        now, next_due = time.perf_counter(), math.inf
        found: list[tuple[int, Mark]] = []
        for worker, mark in self._look():
            limit = self._limits.get(mark.run)
            if limit is None:
                continue
            left = mark.since + limit + GRACE - now
            if left > 0:
                next_due = min(next_due, left)
            else:
                found.append((worker, mark))
        for worker, mark in found:
            self._overdue(worker, mark)
        self._plan(next_due)

    def _plan(self, seconds: float) -> None:
        """Look again in so many seconds, or as soon as an item that begins now can be due."""
        if self._limits:
            self._alarm.set(time.monotonic() + min(seconds, min(self._limits.values()) + GRACE))
