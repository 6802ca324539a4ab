"""Slots prepare their worker for the first batch of a run: one of them runs the pool's initializer, once.

Meanwhile a slot is in its run on the board, but in no item: what is printed is the run's, no time limit runs, no item
is to blame for the end of the worker, and a cancel takes the batch back and leaves the initializer alone.
This module owns no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from poolmagic.board import DONE, POSITION, RUN
from poolmagic.errors import InitializerError, PayloadError
from poolmagic.setup import Setup
from poolmagic.worker.portions import Call, Portion
from poolmagic.worker.tasks import Worker

__all__ = ["prepare", "prepare_async"]


def prepare(worker: Worker, portion: Portion, record: memoryview) -> int:
    """Have the worker prepared for a batch; blocks as long as that takes.

    If it cannot be, the items of the batch get that as their error, and nothing is left of it to run.

    Args:
        worker: The worker.
        portion: The batch.
        record: That of the slot on the board.

    Returns:
        How many items it were; none if the worker is prepared.
    """
    done = record[DONE]
    with _in_no_item(worker, portion, record):
        setup = _open(portion.call)
        if setup is not None:
            worker.preparation.prepare(setup, portion.run)
            _is_prepared(portion.call)
    return record[DONE] - done


async def prepare_async(worker: Worker, portion: Portion, record: memoryview, lock: Any) -> None:
    """Do the same in an event loop; `lock` is one of that loop's."""
    with _in_no_item(worker, portion, record):
        setup = _open(portion.call)
        if setup is not None:
            await worker.preparation.prepare_async(setup, portion.run, lock)
            _is_prepared(portion.call)


@contextmanager
def _in_no_item(worker: Worker, portion: Portion, record: memoryview) -> Iterator[None]:
    record[RUN] = 0  # while the record is of two runs
    record[POSITION] = -1
    record[RUN] = portion.run + 1
    try:
        yield
    except InitializerError as error:
        record[DONE] += worker.refuse(portion, error)
    finally:
        worker.printer.end((portion.run, -1))
        record[RUN] = 0


def _open(call: Call) -> Setup | None:
    """Return what came with the function of a run; None if there is nothing to do (any more)."""
    try:
        call.load()
    except PayloadError:  # which each item tells of
        _is_prepared(call)
    return call.setup


def _is_prepared(call: Call) -> None:
    call.prepares, call.setup = False, None
