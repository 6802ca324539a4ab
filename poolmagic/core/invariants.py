"""What must always hold of the books. Checking it costs time in proportion to them, so only tests do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poolmagic.core.attempts import Attempts
from poolmagic.core.books import RunBook, RunPhase, WorkerBook, WorkerPhase
from poolmagic.core.seats import ALIVE
from poolmagic.core.spans import SpanSet

__all__ = ["check_items", "check_workers"]


def check_items(run: RunBook, workers: Iterable[WorkerBook], attempts: Attempts) -> None:
    """Check that every item of a run is in one place; raises `AssertionError` or `ValueError`."""
    assert run.phase is not RunPhase.SETTLED, f"run {run.id} is settled but still in the books"
    seen = SpanSet()
    for span in run.ready:
        seen.add(span)
    for worker in workers:
        for span in worker.assigned.get(run.id, ()):
            seen.add(span)
    for position in run.resting:
        seen.add((position, position + 1))
    parked = attempts.parked.get(run.id, ())
    for group in (*attempts.groups, *parked):
        for number, span in group:
            if number == run.id:
                seen.add(span)
    assert seen.count + run.resolved == run.filled, f"run {run.id}: an item is in two places or in none"
    assert all(stop <= run.filled for _, stop in seen)
    assert run.phase is RunPhase.ACTIVE or not (run.ready or run.resting)
    assert (run.id in attempts.parked) is (run.is_paused and run.phase is RunPhase.ACTIVE)
    assert not run.is_paused or not any(run.id in worker.promised for worker in workers)
    assert run.waiting == sum(stop - start for start, stop in run.ready)


def check_workers(workers: Iterable[WorkerBook], runs: Mapping[int, RunBook]) -> None:
    """Check that workers have what they may have; raises `AssertionError`."""
    workers = list(workers)
    for worker in workers:
        assert worker.assigned.keys() <= runs.keys(), f"worker {worker.id} has items of no run"
        assert all(spans.count for spans in worker.assigned.values())
        assert worker.load == sum(spans.count for spans in worker.assigned.values())
        assert worker.budget >= 0, f"worker {worker.id} has more than it may be given in its life"
        assert worker.phase is not WorkerPhase.EXITED
    alive = [worker.seat for worker in workers if worker.phase in ALIVE]
    assert len(alive) == len(set(alive)), "two workers in one seat"
