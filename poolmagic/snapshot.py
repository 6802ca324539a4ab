"""Frozen pictures of runs and pools, for people and programs, and their plain text. No other state, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = [
    "IDLE",
    "ItemSnapshot",
    "PoolSnapshot",
    "RunSnapshot",
    "RunView",
    "TaskSnapshot",
    "WorkerSnapshot",
    "pool_table",
    "run_line",
    "show_bytes",
    "show_seconds",
]


@dataclass(frozen=True, slots=True)
class ItemSnapshot:
    """An item of a run that runs: its index in the user's input, for how many seconds it has run, and on which worker.

    Of a series of items that take microseconds each, `seconds` may be the time since the first of them.
    """

    index: int
    seconds: float
    worker: int


class RunView(NamedTuple):
    """What the books know of a run that goes on, and the boards of its workers.

    Attributes:
        busy: Slots that run something, of this run or another.
        slots: Slots that there are.
        unreported: Items that are over and not reported yet.
        running: Items of the run that run.
        is_paused: Nothing more of it is started for the time being.
    """

    busy: int = 0
    slots: int = 0
    unreported: int = 0
    running: tuple[ItemSnapshot, ...] = ()
    is_paused: bool = False


IDLE: Final = RunView()


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
        running: The items that run; which slot comes first says nothing.
        worked: Seconds that finished items took in all, those of one worker after those of another; 0 if not known.
        paused: Nothing more is started for the time being.
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
    running: tuple[ItemSnapshot, ...] = ()
    worked: float = 0.0
    paused: bool = False

    @property
    def slowest(self) -> ItemSnapshot | None:
        """The item that has run for longest; None if nothing runs."""
        return max(self.running, key=lambda item: item.seconds, default=None)

    @property
    def speedup(self) -> float | None:
        """How many times as fast it is as one worker that does one item after the other; None if nobody can tell."""
        worked = self.worked + sum(item.seconds for item in self.running)
        return worked / self.elapsed if self.worked and self.elapsed > 0 else None

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return (self.done + self.failed - self.earlier) / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None if nobody can tell."""
        if self.total is None or not self.rate or self.state != "running" or self.paused:
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
        return f"{text}, {run.busy}/{run.slots} busy{', paused' if run.paused else ''}"
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
