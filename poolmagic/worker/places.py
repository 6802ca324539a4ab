"""Slots as places of random numbers: which item a slot runs, its record on the board tells. Owns no state."""

from __future__ import annotations

from poolmagic.board import DONE, POSITION, RUN
from poolmagic.messages import index_of
from poolmagic.randomness import Place, Task, enter
from poolmagic.worker.tasks import Worker

__all__ = ["enter_slot"]


def enter_slot(worker: Worker, record: memoryview) -> None:
    """Have tasks that run in this context from now on have the random numbers of the slot with this record."""

    def now() -> Task | None:
        # The count of finished items tells a second attempt of an item from the first.
        run, position, done = record[RUN] - 1, record[POSITION], record[DONE]
        call = worker.calls.get(run)
        if call is None or position < 0:
            return None
        return Task((run, position, done), call.seed, index_of(position, call.leftover, call.first_index))

    enter(Place(now))
