"""Frozen pictures of runs and pools, for people and programs, and their plain text. No other state, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "PoolSnapshot",
    "RunSnapshot",
    "TaskSnapshot",
    "WorkerSnapshot",
    "pool_table",
    "run_line",
    "show_bytes",
    "show_seconds",
]


@dataclass(frozen=True)
class RunSnapshot:
    """A run at one moment.

    Attributes:
        id: Number of the run in this kernel.
        name: Name of its function.
        kind: Kind of its pool.
        state: ``"running"``, ``"done"``, ``"failed"``, ``"cancelled"`` or ``"interrupted"``.
        done: Items that returned.
        failed: Items that did not.
        total: Items in all; None if that is not known.
        elapsed: Seconds since it began, or that it took.
        busy: Slots that run something.
        slots: Slots that there are.
        earlier: Items that were done before the run was resumed.
    """

    id: int
    name: str
    kind: str
    state: str
    done: int
    failed: int
    total: int | None
    elapsed: float
    busy: int
    slots: int
    earlier: int = 0

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return (self.done + self.failed - self.earlier) / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None if nobody can tell."""
        if self.total is None or not self.rate or self.state != "running":
            return None
        return max(0, self.total - self.done - self.failed) / self.rate


class TaskSnapshot(NamedTuple):
    """A task that runs: its run's number in the books, its position there, and for how many seconds it has run.

    Of a series of items that take microseconds each, `seconds` may be the time since the first of them.
    """

    run: int
    position: int
    seconds: float


@dataclass(frozen=True)
class WorkerSnapshot:
    """A worker at one moment.

    Attributes:
        state: As in the design page.
        busy: Slots that run something.
        done: Items that are over, returned or failed, in its life; those that it has not reported yet are among them.
        running: What the busy slots run.
        unreported: How many items are over and not reported yet.
    """

    id: int
    pid: int | None
    state: str
    slots: int
    busy: int
    done: int
    running: tuple[TaskSnapshot, ...] = ()
    unreported: int = 0


@dataclass(frozen=True)
class PoolSnapshot:
    """A pool at one moment.

    Attributes:
        state: ``"new"`` (no worker was needed yet), ``"running"``, ``"closing"``, ``"closed"`` or ``"broken"``.
        done: Items that returned, over all runs.
        failed: Items that did not.
        runs: Runs that go on.
        memory: Resident bytes of all its worker processes.
    """

    name: str
    kind: str
    state: str
    concurrency: int
    workers: tuple[WorkerSnapshot, ...]
    slots: int
    busy: int
    done: int
    failed: int
    runs: int
    memory: int


def show_seconds(seconds: float) -> str:
    """Return a duration as people write it: ``0.3 s``, ``12 s``, ``3:25``, ``1:02:09``."""
    if seconds < 9.95:  # above, it would be rounded to 10.0
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_bytes(size: float) -> str:
    """Return a size as people write it: ``35 MB``. Units are powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:  # above, it would be rounded to 1000
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def run_line(run: RunSnapshot) -> str:
    """Return one line that says how a run is doing, or how it went."""
    of = "" if run.total is None else f"/{run.total:,}"
    text = f"{run.name} on {run.kind}: {run.done + run.failed:,}{of} in {show_seconds(run.elapsed)}, {run.rate:,.1f}/s"
    if run.failed:
        text += f", {run.failed:,} failed"
    if run.eta is not None:
        text += f", {show_seconds(run.eta)} left"
    if run.state == "running":
        return f"{text}, {run.busy}/{run.slots} busy"
    return text if run.state == "done" else f"{text}, {run.state}"


def pool_table(pools: list[PoolSnapshot]) -> list[tuple[str, ...]]:
    """Return the rows of a table of pools, the head first."""
    rows: list[tuple[str, ...]] = [("name", "kind", "workers x slots", "state", "busy", "done", "failed", "memory")]
    for pool in pools:
        sizes = [worker.slots for worker in pool.workers]
        slots = f"{min(sizes, default=0)}" if len(set(sizes)) < 2 else f"{min(sizes)}-{max(sizes)}"
        shape = f"{len(sizes)} x {slots}" if sizes else "-"
        rows.append(
            (
                pool.name,
                f"{pool.kind} -c {pool.concurrency}",
                shape,
                pool.state,
                f"{pool.busy}",
                f"{pool.done:,}",
                f"{pool.failed:,}",
                show_bytes(pool.memory),
            )
        )
    return rows
