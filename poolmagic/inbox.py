"""The loop thread's side of a run: whatever happens is put into a queue, for the asking thread to see to.

Threads. All methods of `Inbox` that are not abstract belong to the loop thread; the abstract ones are called in the
asking thread, where the user's code may run. What a task printed is kept at once, and shown by the thread that prints.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from poolmagic.core import events as ev
from poolmagic.echo import Echo
from poolmagic.errors import PoolMagicError
from poolmagic.feed import Feed
from poolmagic.messages import Done, Function, Output
from poolmagic.options import RunOptions
from poolmagic.outputs import Outputs
from poolmagic.pages import NOBODY
from poolmagic.randomness import Numbers

__all__ = ["Action", "Inbox", "Work", "next_number", "nothing"]

Action: TypeAlias = "tuple[Callable[..., None], tuple[Any, ...]]"
_numbers = itertools.count()


def next_number() -> int:
    """Return a number for a run in the books, never given before in this process."""
    return next(_numbers)


@dataclass(frozen=True)
class Work:
    """A function on its way: its payload, and how items become its arguments (see `messages.Function`)."""

    payload: Any
    stars: int
    options: RunOptions
    numbers: Numbers
    prepares: bool = False

    def message(self, run: int, feed: Feed) -> Function:
        """Return what makes the function known to a worker that gets items of this feed."""
        options = self.options
        return Function(
            run,
            self.stars,
            options.soft_time_limit or 0.0,
            options.time_limit or 0.0,
            self.numbers.seed,
            feed.leftover,
            feed.first_index,
            self.numbers.seeds_globals,
            self.prepares,
            self.payload,
        )

    @property
    def policy(self) -> ev.Policy:
        """What the books are to do about items that fail or are lost."""
        options = self.options
        return ev.Policy(
            options.retries,
            options.retry_backoff,
            options.retry_backoff_max,
            options.crash_retries,
            options.rate_limit or 0.0,
        )


class Inbox(ABC):
    """A run, as the loop thread sees it: a `client.Client`.

    Args:
        work: The function.
        feed: The items.
        outputs: Keeps what they print; None shows it, and that is all.
    """

    def __init__(self, work: Work, feed: Feed, outputs: Outputs | None = None) -> None:
        self.id = next_number()
        self._work = work
        self._feed = feed
        self._inbox: SimpleQueue[Action] = SimpleQueue()
        self._orders: deque[int] = deque()
        self._outputs = outputs
        self.echo = Echo(self.id, is_named=work.options.prefix, is_kept=outputs is not None)

    def function(self) -> Function:
        """Return what makes the function known to a worker."""
        return self._work.message(self.id, self._feed)

    @property
    def time_limit(self) -> float:
        """Seconds that an item may take; 0 for any number."""
        return self._work.options.time_limit or 0.0

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the batch that holds an item."""
        return self._feed.payload(position)

    def index(self, position: int) -> int:
        """Return the index of an item in the user's input. For any thread."""
        return self._feed.index(position)

    def ask(self, size: int) -> None:
        """Take the order for the next items."""
        self._orders.append(size)
        self._inbox.put((nothing, ()))

    def accept(self, message: Done, part: ev.Accept, worker: str) -> None:
        """Take what a worker finished."""
        self._inbox.put((self._take_outcomes, (message, part, worker)))

    def lose(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take the loss of an item."""
        self._inbox.put((self._take_failure, (position, error, worker)))

    def rerun(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take note of the end of an attempt; the item is run again."""
        self._inbox.put((self._take_attempt, (position, error, worker)))

    def output(self, message: Output) -> None:
        """Take what a task printed."""
        index = NOBODY if message.position < 0 else self._feed.index(message.position)
        if self._outputs is not None:
            self._outputs.keep(index, message.stream, message.text)
        self.echo.take(index, message.stream, message.text)

    def tell(self, line: str) -> None:
        """Take a line for the user."""
        self.echo.say(line)

    def settle(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        """Take the end of the run."""
        self._inbox.put((self._take_end, (verdict, error)))

    # Asking thread -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _take_outcomes(self, message: Done, part: ev.Accept, worker: str) -> None: ...

    @abstractmethod
    def _take_failure(self, position: int, error: BaseException, worker: str) -> None: ...

    @abstractmethod
    def _take_attempt(self, position: int, error: BaseException, worker: str) -> None: ...

    @abstractmethod
    def _take_end(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None: ...


def nothing() -> None:
    """Do nothing, but let `step` return."""
