"""What came of the items of a run: values, failures, and what earlier attempts ended with.

Threads. Written by the run's asking thread alone; any thread may read. Whoever waits is told by the condition.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from poolmagic.describe import describe_value
from poolmagic.errors import RunCancelled, annotate
from poolmagic.failure import Failure
from poolmagic.feed import Feed
from poolmagic.options import RunOptions
from poolmagic.timings import Timings

__all__ = ["MISSING", "Outcomes"]

MISSING: Final = object()
"""Stands for the value of an item that has none yet."""


class Outcomes:
    """The `asking.Sink` of a run that keeps everything.

    Args:
        name: What the function is called.
        total: The number of items; None if that is not known.
        options: How the run treats its items.
        changed: Who waits for outcomes.

    Attributes:
        values: By index; `MISSING` where there is none.
        failures: By index.
        attempts: The errors of earlier attempts of items that were tried again, by index.
        done: How many items have a value.
        timings: When items ran.
    """

    def __init__(self, name: str, total: int | None, options: RunOptions, changed: threading.Condition) -> None:
        self.values: list[Any] = [] if total is None else [MISSING] * total
        self.failures: dict[int, Failure] = {}
        self.attempts: dict[int, list[BaseException]] = {}
        self.done = 0
        self.timings = Timings()
        self._name = name
        self._options = options
        self._changed = changed

    def succeeded(self, indices: list[int] | range, values: Sequence[Any]) -> None:
        """Keep values."""
        self._make_room(indices[-1])
        if isinstance(indices, range):
            self.values[indices.start : indices.stop] = values
        else:
            for index, value in zip(indices, values, strict=True):
                self.values[index] = value
        with self._changed:
            self.done += len(values)
            self._changed.notify_all()

    def failed(self, index: int, item: Any, error: BaseException, worker: str) -> bool:
        """Keep a failure; whether it is final depends on the option `on_error`."""
        if isinstance(error, RunCancelled) and error.struck:
            return False
        where = f" on {worker}" if worker else ""
        annotate(error, f"item {index} ({describe_value(item)}) of {self._name} failed{where}")
        if index in self.attempts:
            annotate(error, f"it was tried {len(self.attempts[index])} times before; see .attempts of the run")
        failure = Failure(index, item, error, worker)
        self._make_room(index)
        if self._options.return_exceptions:
            self.values[index] = error
        elif self._options.on_error == "return":
            self.values[index] = failure
        with self._changed:
            self.failures[index] = failure
            self._changed.notify_all()
        return not self._options.fail_fast

    def failed_for_now(self, index: int, error: BaseException, worker: str) -> None:
        """Keep the error of an item that is run again."""
        self.attempts.setdefault(index, []).append(error)

    def timed(self, timings: bytes, worker: str, feed: Feed) -> None:
        """Keep when items ran."""
        self.timings.take(timings, worker, feed.pulled, feed.indices)

    def room(self) -> int | None:
        """Return None: all results are kept, so nothing is gained by waiting."""
        return None

    def _make_room(self, index: int) -> None:
        if index >= len(self.values):
            self.values.extend([MISSING] * (index + 1 - len(self.values)))
