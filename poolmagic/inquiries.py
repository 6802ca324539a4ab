"""Asking all workers of a crew at once what their tasks do, and gathering what they answer.

Threads. Answers come in the supervisor's loop thread; whoever asked waits in his own. A worker whose interpreter is
held by C code does not answer, so nobody waits for all of them for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from poolmagic.snapshot import WorkerSnapshot

__all__ = ["Inquiry"]


class Inquiry:
    """One question to all workers.

    Args:
        workers: What the boards say of them.
        indices: For each run what tells an item's index in the input by its position; None for a submitted task.

    Attributes:
        workers: As given.
        answers: By worker: what it sent, as `worker.stacks.dump` writes it.
    """

    def __init__(self, workers: tuple[WorkerSnapshot, ...], indices: Mapping[int, Callable[[int], int | None]]) -> None:
        self.workers = workers
        self.answers: dict[int, Any] = {}
        self._indices = indices
        self._asked = time.monotonic()
        self._changed = threading.Condition()
        self._awaited = {worker.id for worker in workers if worker.running}

    # Loop thread ---------------------------------------------------------------------------------------------------

    @property
    def awaited(self) -> frozenset[int]:
        """The workers that run something and have not answered."""
        return frozenset(self._awaited)

    def answer(self, worker: int, payload: Any) -> None:
        """Take the answer of a worker; None if it has ended. Does not block."""
        with self._changed:
            if worker in self._awaited:
                self._awaited.remove(worker)
                self.answers[worker] = payload
                self._changed.notify_all()

    # Who asked -----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> float:
        """Block until all have answered, but at most `timeout` seconds; return the seconds since they were asked."""
        with self._changed:
            self._changed.wait_for(lambda: not self._awaited, timeout)
        return time.monotonic() - self._asked

    def index(self, run: int, position: int) -> int | None:
        """Return the index of an item in the input of its run; None for a submitted task, or one that is over."""
        index = self._indices.get(run)
        return None if index is None else index(position)
