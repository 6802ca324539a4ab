"""Who gets the next batch: functions over the books of one run and the workers that are able to take something.

They book what they hand out and return the commands for it. All state is in the books, which belong to `PoolState`.
"""

from __future__ import annotations

from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.books import RunBook, WorkerBook
from poolmagic.core.spans import SpanSet

__all__ = ["schedule"]

RUNS_IN_HAND: Final = 4
"""Runs of which a worker that has its hands full may still take a first batch, so that no run starves another."""


def schedule(run: RunBook, able: list[WorkerBook]) -> list[ev.Command]:
    """Hand out what of a run is ready, ask for more, and take back what is better done elsewhere."""
    return [*_hand_out(run, able), *_ask(run, able), *_take_back(run, able)]


def _room(run: RunBook, worker: WorkerBook) -> int:
    """Return how many more items of a run a worker may take."""
    limit = run.sizer.limit(worker.slots)
    free = limit - worker.load
    if free > 0:
        return free
    held = worker.assigned.get(run.id)
    if held is None and len(worker.assigned) >= RUNS_IN_HAND:
        return 0
    return limit - (held.count if held is not None else 0)


def _hand_out(run: RunBook, able: list[WorkerBook]) -> list[ev.Command]:
    commands: list[ev.Command] = []
    while run.ready:
        room, _, worker = max(((_room(run, one), -one.load, one) for one in able), key=lambda found: found[:2])
        if room <= 0:
            break
        start, stop = run.ready.popleft()
        # A batch is cut only if it turned out to be far too long: its payload travels whole with each part.
        size = run.sizer.size(worker.slots, None, len(able))
        middle = stop if stop - start <= 2 * size else start + size
        if middle < stop:
            run.ready.appendleft((middle, stop))
        if worker.id not in run.introduced:
            run.introduced.add(worker.id)
            commands.append(ev.Introduce(worker.id, run.id))
        worker.assigned.setdefault(run.id, SpanSet()).add((start, middle))
        commands.append(ev.Dispatch(worker.id, run.id, (start, middle)))
    return commands


def _ask(run: RunBook, able: list[WorkerBook]) -> list[ev.Command]:
    """Ask for as many batches as the workers have room for beyond what is on its way already."""
    commands: list[ev.Command] = []
    spoken_for = run.asked + run.waiting
    for worker in [] if run.last else able:
        room = _room(run, worker)
        served = min(spoken_for, max(room, 0))
        spoken_for -= served
        room -= served
        while room > 0:
            left = None if run.total is None else run.total - run.filled - run.asked
            if left is not None and left <= 0:
                if run.asked:
                    return commands
                left = 1  # all that was claimed is here, and yet there was no word that this is all
            size = min(room, run.sizer.size(worker.slots, left, len(able)))
            commands.append(ev.Ask(run.id, size))
            run.asked += size
            room -= size
    return commands


def _take_back(run: RunBook, able: list[WorkerBook]) -> list[ev.Command]:
    """When the input is dry and a worker is idle, take back what others have not started: one item may hold it up."""
    commands: list[ev.Command] = []
    if run.ready or not (run.last or not run.asked) or all(worker.load for worker in able):
        return commands
    for worker in able:
        if run.id in worker.assigned and worker.load > worker.slots and run.id not in worker.asked_back:
            worker.asked_back.add(run.id)
            commands.append(ev.WithdrawItems(worker.id, run.id))
    return commands
