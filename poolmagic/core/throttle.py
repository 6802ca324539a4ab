"""How many items of a run may start by now, when so many a second may (a token bucket: Turner, 1986)."""

from __future__ import annotations

from typing import Final

__all__ = ["Throttle"]

BURST: Final = 0.05
"""Seconds of which the items may start all at once: so much that fast items need no message each."""
LATE: Final = 0.02
"""Seconds that a clock may tell the time late without a start being lost."""
ROUNDING: Final = 1e-6
"""Times are floats: a start that has accrued but for so little has accrued."""


class Throttle:
    """The starts that have accrued for one run. A debt is possible: what runs again for other reasons counts as well.

    Args:
        rate: Items that may start in a second.
        now: The present time.
    """

    __slots__ = ("_at", "_rate", "_tokens", "most")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._at = now
        self.most = max(1.0 + min(0.9, rate * LATE), rate * BURST)
        self._tokens = float(self.burst)

    @property
    def burst(self) -> int:
        """The most items that start at once."""
        return int(self.most)

    def allowance(self, now: float) -> int:
        """Return how many items may start."""
        return max(0, int(self._accrued(now) + ROUNDING))

    def _accrued(self, now: float) -> float:
        return min(self.most, self._tokens + max(0.0, now - self._at) * self._rate)

    def take(self, count: int, now: float) -> None:
        """Book starts."""
        self._tokens = self._accrued(now) - count
        self._at = max(now, self._at)

    def give_back(self, count: int, now: float) -> None:
        """Book that so many did not start after all."""
        self.take(-count, now)

    @property
    def due(self) -> float:
        """When some more will have accrued after the last start: one, or enough to be worth a look."""
        return self._at + max(0.0, max(1.0, self.most / 4) - self._tokens) / self._rate
