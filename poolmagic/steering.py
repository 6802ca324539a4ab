"""What others see of a run while it goes on, and what they can do to it: pictures, cancel, pause.

Threads. Any thread may call all of this; nothing of it waits for the run. What is done to a run is handed to the books
by its link, which a run has only while it goes on.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from poolmagic.asking import Asking
from poolmagic.core.events import Verdict
from poolmagic.errors import UsageError
from poolmagic.feed import Feed
from poolmagic.inline import InlineAsking
from poolmagic.outcomes import Outcomes
from poolmagic.snapshot import IDLE, RunSnapshot

__all__ = ["Steered"]


class Steered(ABC):
    """The part of a run that is for whoever looks on.

    Attributes:
        id: Number of the run in this kernel.
        name: Name of its function.
    """

    id: int
    name: str
    _asking: Asking | InlineAsking | None
    _earlier: int
    _error: BaseException | None
    _elapsed: float | None
    _feed: Feed
    _finished: int
    _kind: str
    _outcomes: Outcomes
    _started: float
    _state: str
    _total: int | None

    @property
    @abstractmethod
    def pool(self) -> Any:
        """The pool that runs it."""

    def done(self) -> bool:
        """Return whether the run is over, however it ended. Does not block."""
        return self._state != "running"

    def cancel(self) -> None:
        """End the run: nothing more is dispatched and what runs is stopped. Does not block; twice equals once.

        A running item of a prefork pool is stopped by replacing its worker, one of a green pool by killing its green
        thread, one of a threads pool by an exception that strikes when it is in Python code.
        """
        asking = self._asking
        if asking is not None:
            asking.halt(Verdict.CANCELLED, kill=True)

    def pause(self) -> None:
        """Start nothing more of the run until `unpause`; does not block. A run that is over stays as it is.

        Running items are finished. Those that wait are taken back, so that the workers are free for other runs. Who
        waits for the run goes on waiting. When its pool is closed, a paused run goes on: a closed pool finishes what
        it has.

        Raises:
            UsageError: The run is one of a solo pool, or its pool is closed.
        """
        asking = self._asking
        if asking is None or self.done():
            return
        if isinstance(asking, InlineAsking):
            text = "a solo run cannot be paused: its items run in the thread that waits for it; interrupt it instead"
            raise UsageError(f"{text}, and go on with .resume()")
        if self.pool.is_closed:
            raise UsageError("the pool is closed, and finishes what it has: a run of it can be cancelled, not paused")
        asking.pause(on=True)

    def unpause(self) -> None:
        """Let a paused run go on; does not block. One that is not paused stays as it is."""
        asking = self._asking
        if isinstance(asking, Asking):
            asking.pause(on=False)

    def snapshot(self) -> RunSnapshot:
        """Return a picture of this moment. Blocks for well under a millisecond."""
        asking = self._asking
        view = IDLE if asking is None or self.done() else asking.look()
        elapsed = time.monotonic() - self._started if self._elapsed is None else self._elapsed
        total = len(self._outcomes.values) if self._total is None and self._feed.exhausted else self._total
        # What is on its way from the books to here is in neither count for a moment; a bar must not go back for that.
        failed = len(self._outcomes.failures)
        finished = max(self._finished, self._outcomes.done + failed + view.unreported)
        self._finished = finished = finished if total is None else min(finished, total)
        done = finished - failed if self._state == "running" else self._outcomes.done
        return RunSnapshot(
            self.id,
            self.name,
            self._kind,
            self._state,
            done,
            failed,
            total,
            elapsed,
            view.busy,
            view.slots,
            self._earlier,
            view.running,
            self._outcomes.timings.worked - self._outcomes.timings.earlier,
            paused=view.is_paused and self._state == "running",
        )
