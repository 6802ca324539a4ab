"""What a run wants done about its items, and how it may end: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["USUAL", "Policy", "Verdict"]


class Verdict(Enum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run does about items that fail or are lost, and how fast it may go.

    Attributes:
        retries: How often an item is tried again that raised what may be tried again.
        backoff: Seconds before the first of these tries, at most: each wait is random, below twice the one before.
        longest: Seconds that such a wait takes at most.
        crash_retries: How often an item is tried again whose worker died.
        rate: Items that may start in a second; 0 for any number.
    """

    retries: int = 0
    backoff: float = 1.0
    longest: float = 600.0
    crash_retries: int = 1
    rate: float = 0.0

    def longest_wait(self, attempt: int) -> float:
        """Return how many seconds the wait after a failed attempt, the first being 1, takes at most."""
        return min(self.longest, self.backoff * 2.0 ** min(attempt - 1, 100))


USUAL: Final = Policy()
