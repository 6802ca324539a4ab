"""Who is to blame for the end of a worker: nobody if we killed it, else an item that was alone, or one of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.attempts import Attempts
from poolmagic.core.books import RunBook, RunPhase, WorkerBook
from poolmagic.messages import Span

__all__ = ["Blame"]

SILENT_RETRIES: Final = 2
"""How often an item is tried again at least that was all that a worker had when it died, though it was not running: it
may have been reported next, or have been about to start."""


KILL_RETRIES: Final = 3
"""How often more an item is tried again whose worker was killed from outside: of a hundred kills at random moments,
about one hits an item that is being tried again."""


INNOCENT_RETRIES: Final = 10
"""And how often more if it was not even running then. Not for ever: C code that packs a result might do it."""


class Blame:
    """Decides which items of a dead worker are lost, and which run again.

    Args:
        attempts: Where suspects wait for a worker.
        do: Takes a command.
        count: Books outcomes of a run: how many items succeeded, and how many failed.
    """

    def __init__(
        self, attempts: Attempts, do: Callable[[ev.Command], None], count: Callable[[RunBook, int, int], None]
    ) -> None:
        self._attempts = attempts
        self._do = do
        self._count = count

    def spare(self, worker: WorkerBook, running: list[tuple[RunBook, int]]) -> None:
        """Tell runs that their items ran on a worker that we killed."""
        for run, position in running:
            if run.phase is RunPhase.ACTIVE:
                self._do(ev.Rerun(worker.id, run.id, position, blamed=False))

    def blame(self, worker: WorkerBook, running: list[tuple[RunBook, int]], killed: bool) -> None:
        """Decide about the items that a worker ran when it died, or was killed by somebody else."""
        if len(running) == 1:
            [(run, position)] = running
            most = run.policy.crash_retries
            self._blame_one(worker, run, position, most + KILL_RETRIES if most and killed else most)
            return
        suspects = [(run, position) for run, position in running if _may_rerun(run)]
        for run, position in running:
            if not _may_rerun(run):
                self._lose(worker, run, position)
        for run, position in suspects:
            # The loss of the others may have been the end of the run.
            if _may_rerun(run):
                self._do(ev.Rerun(worker.id, run.id, position, blamed=True))
            else:
                self._lose(worker, run, position)
        group = tuple((run.id, (position, position + 1)) for run, position in suspects if _may_rerun(run))
        self._attempts.add_halves(group)

    def suspect(self, worker: WorkerBook, pieces: list[tuple[RunBook, Span]], killed: bool) -> bool:
        """Decide about what a worker had in hand that died with nothing on its board; return whether an item is lost.

        It may have died of packing a value. One of the items is to blame then, and if all were just tried again, so
        would be all workers.
        """
        group = tuple((run.id, span) for run, span in pieces if run.phase is RunPhase.ACTIVE)
        for run, (start, stop) in pieces:
            run.resolved += stop - start if run.phase is not RunPhase.ACTIVE else 0
        runs = [run for run, _ in pieces if run.phase is RunPhase.ACTIVE]
        if len(group) == 1 and group[0][1][1] - group[0][1][0] == 1:
            most = max(SILENT_RETRIES, runs[0].policy.crash_retries)
            return self._blame_one(worker, runs[0], group[0][1][0], most + INNOCENT_RETRIES if killed else most)
        self._attempts.add_halves(group)
        return False

    def _blame_one(self, worker: WorkerBook, run: RunBook, position: int, most: int) -> bool:
        """Have an item that was alone run again, alone, or lose it; return whether it is lost."""
        crashes = run.crashes[position] = run.crashes.get(position, 0) + 1
        if run.phase is not RunPhase.ACTIVE or crashes > most:
            self._lose(worker, run, position)
            return True
        self._do(ev.Rerun(worker.id, run.id, position, blamed=True))
        self._attempts.add_halves(((run.id, (position, position + 1)),))
        return False

    def _lose(self, worker: WorkerBook, run: RunBook, position: int) -> None:
        self._do(ev.Lose(worker.id, run.id, position))
        self._count(run, 0, 1)


def _may_rerun(run: RunBook) -> bool:
    return run.phase is RunPhase.ACTIVE and run.policy.crash_retries > 0
