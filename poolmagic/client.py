"""What asks a crew to run something, as the supervisor sees it: a run, or the future of one task. Owns no state."""

from __future__ import annotations

from typing import Any, Protocol

from poolmagic.core import events as ev
from poolmagic.errors import PoolMagicError
from poolmagic.messages import Done, Function, Output

__all__ = ["Client"]


class Client(Protocol):
    """A run, as the loop thread sees it. None of these may block or run the user's code."""

    id: int

    @property
    def time_limit(self) -> float:
        """Seconds that an item may take from its own start; 0 for any number."""
        ...

    def function(self) -> Function:
        """Return what makes the run's function known to a worker."""
        ...

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the batch that holds an item: the position that it starts at, and its payload."""
        ...

    def index(self, position: int) -> int | None:
        """Return the index of an item in the user's input; None for a task that was submitted. For any thread."""
        ...

    def ask(self, size: int) -> None:
        """Take the order for the next `size` items; the answer is an `events.Filled`."""
        ...

    def accept(self, message: Done, part: ev.Accept, worker: str) -> None:
        """Take this part of what a worker finished."""
        ...

    def rerun(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take note that an item's worker has ended, and that the item is run again."""
        ...

    def lose(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take the loss of an item."""
        ...

    def output(self, message: Output) -> None:
        """Take what a task printed."""
        ...

    def tell(self, line: str) -> None:
        """Take a line for the user."""
        ...

    def settle(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        """Take the end of the run; the last call."""
        ...
