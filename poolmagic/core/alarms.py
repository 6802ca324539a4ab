"""The alarms of a pool: what is to be looked at, and when. They ring when time is told, and never by themselves."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

__all__ = ["Alarm", "Alarms"]


class Alarm(NamedTuple):
    """What an alarm is about.

    Attributes:
        what: ``"retry"`` an item, ``"rate"`` or ``"kill"`` of a run, ``"seat"``, ``"spare"`` seats, ``"idle"`` pool.
        number: The run, or the seat.
        position: The item.
    """

    what: str
    number: int = 0
    position: int = 0


class Alarms:
    """Alarms by their time. Setting and ringing one costs a binary search.

    Attributes:
        next: When the next one is due; infinity if there is none.
    """

    __slots__ = ("_heap", "_times", "next")

    def __init__(self) -> None:
        self._times: dict[Alarm, float] = {}
        self._heap: list[tuple[float, Alarm]] = []
        self.next = math.inf

    def __contains__(self, alarm: Alarm) -> bool:
        return alarm in self._times

    def set(self, alarm: Alarm, when: float) -> None:
        """Set an alarm, if it would not ring before that anyway."""
        if self._times.get(alarm, math.inf) <= when:
            return
        self._times[alarm] = when
        heapq.heappush(self._heap, (when, alarm))
        self.next = min(self.next, when)

    def drop(self, alarm: Alarm) -> None:
        """Have an alarm not ring."""
        if self._times.pop(alarm, None) is None:
            return
        if len(self._heap) > 2 * len(self._times) + 100:
            self._heap = sorted((when, alarm) for alarm, when in self._times.items())
        self._look()

    def ring(self, now: float) -> list[Alarm]:
        """Return the alarms that are due, in the order of their times; they are no longer set."""
        rung: list[Alarm] = []
        while self._heap and self.next <= now:
            _, alarm = heapq.heappop(self._heap)
            del self._times[alarm]
            rung.append(alarm)
            self._look()
        return rung

    def clear(self) -> None:
        """Have nothing ring any more."""
        self._times.clear()
        self._heap.clear()
        self.next = math.inf

    def _look(self) -> None:
        """Find what is next, and throw away what was dropped or set to another time."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        self.next = self._heap[0][0] if self._heap else math.inf
