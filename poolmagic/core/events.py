"""What can happen to a pool (events, into the core) and what must be done about it (commands, out of it).

All are frozen values of plain data. A log of events, replayed into a fresh `PoolState`, gives the same commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from poolmagic.core.policy import USUAL, Policy, Verdict
from poolmagic.messages import Span

__all__ = [
    "Accept",
    "Ask",
    "CancelItems",
    "Close",
    "Command",
    "Dispatch",
    "Drop",
    "Event",
    "Expire",
    "Filled",
    "Finish",
    "Grow",
    "Halt",
    "Hold",
    "Introduce",
    "KillTask",
    "KillWorker",
    "Lose",
    "Overdue",
    "Pause",
    "Policy",
    "Recycle",
    "Rerun",
    "ResizeWorker",
    "Restart",
    "RunAdded",
    "Settle",
    "Shrink",
    "Spawn",
    "StopWorker",
    "Terminate",
    "Tick",
    "Verdict",
    "WithdrawItems",
    "WorkerDone",
    "WorkerDoomed",
    "WorkerExited",
    "WorkerReady",
    "WorkerReturned",
]

# Events: from the user ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunAdded:
    """A new run. `filled` are the batches that are encoded already, `bad` the positions in them that could not be.

    `total` is the number of items where it is known; `last` says that `filled` is all there is.
    """

    run: int
    filled: tuple[Span, ...]
    bad: tuple[int, ...]
    last: bool
    total: int | None
    fail_fast: bool
    chunksize: int | None
    policy: Policy = USUAL


@dataclass(frozen=True, slots=True)
class Filled:
    """The answer to `Ask`: the next batch (None when no item was left); `asked` repeats the question's size."""

    run: int
    asked: int
    span: Span | None
    bad: tuple[int, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Halt:
    """End a run early with `verdict`: dispatch no more, take back what has not started; `kill` what has."""

    run: int
    verdict: Verdict
    kill: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Let nothing more of a run start (`on`) and take back what has not; or let it go on. What runs is finished."""

    run: int
    on: bool


@dataclass(frozen=True, slots=True)
class Grow:
    """Have `number` more processes or slots."""

    number: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Have `number` processes or slots less, but at least one."""

    number: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Replace every worker by a new one; what the old ones have in hand they finish."""


@dataclass(frozen=True, slots=True)
class Close:
    """Take no more runs, finish those there are, then stop the workers."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """Stop now: runs are cancelled, workers killed."""


# Events: from the workers, and from the clock ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker said hello."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerDoomed:
    """We are killing a worker ourselves, so what it runs is not to blame for its end."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerDone:
    """A worker finished items: `spans` returned, `failed` raised; the worker took `seconds` for all of them.

    `retriable` are those of the failed that raised what may be tried again.
    """

    worker: int
    run: int
    spans: tuple[Span, ...]
    failed: tuple[int, ...]
    seconds: float
    retriable: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReturned:
    """A worker gave back spans that it did not start."""

    worker: int
    run: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker process ended, and all that it had sent was handled; `running` are the (run, position) on its board.

    `killed` says that somebody else has killed it, as far as is known: neither the pool nor the item itself.
    """

    worker: int
    running: tuple[tuple[int, int], ...]
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Overdue:
    """A worker goes on with an item beyond its time limit, though it was told to stop."""

    worker: int
    run: int
    position: int


@dataclass(frozen=True, slots=True)
class Recycle:
    """A worker takes too much memory: it may end what it runs, and is replaced."""

    worker: int


@dataclass(frozen=True, slots=True)
class Hold:
    """The pool takes too much memory (`on`), or does so no longer: until then only what must run does."""

    on: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """The time has come that `PoolState.due` named."""


Event: TypeAlias = (
    RunAdded
    | Filled
    | Halt
    | Pause
    | Grow
    | Shrink
    | Restart
    | Close
    | Terminate
    | WorkerReady
    | WorkerDoomed
    | WorkerDone
    | WorkerReturned
    | WorkerExited
    | Overdue
    | Recycle
    | Hold
    | Tick
)

# Commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker with so many slots."""

    worker: int
    slots: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Ask a worker to finish and exit."""

    worker: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill a worker; with `run`, only if it runs an item of that run right now."""

    worker: int
    run: int | None = None


@dataclass(frozen=True, slots=True)
class ResizeWorker:
    """Tell a worker its new number of slots."""

    worker: int
    slots: int


@dataclass(frozen=True, slots=True)
class Introduce:
    """Send a run's function to a worker, before its first batch there."""

    worker: int
    run: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send a span to a worker."""

    worker: int
    run: int
    span: Span


@dataclass(frozen=True, slots=True)
class WithdrawItems:
    """Tell a worker to give back what it has not started of a run."""

    worker: int
    run: int


@dataclass(frozen=True, slots=True)
class CancelItems:
    """Tell a worker to give back what it has not started of a run and to stop what it has."""

    worker: int
    run: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Tell a worker to forget a run."""

    worker: int
    run: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a run for its next `size` items."""

    run: int
    size: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Hand this part of what a worker just reported to its run: the rest was late or double.

    The `retried` failed, too, and will be tried again: their errors are for the record.
    """

    worker: int
    run: int
    spans: tuple[Span, ...]
    failed: tuple[int, ...]
    retried: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lose:
    """Tell a run that an item was lost with its worker."""

    worker: int
    run: int
    position: int


@dataclass(frozen=True, slots=True)
class Rerun:
    """Tell a run that an item was running when its worker ended, and runs again; `blamed` if it may be at fault."""

    worker: int
    run: int
    position: int
    blamed: bool


@dataclass(frozen=True, slots=True)
class Expire:
    """Tell a run that an item went beyond its time limit and could not be stopped otherwise."""

    worker: int
    run: int
    position: int


@dataclass(frozen=True, slots=True)
class KillTask:
    """Stop an item that does not stop by itself: its thread is left alone, or its process killed with all it runs."""

    worker: int
    run: int
    position: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell a run that it is over."""

    run: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Finish:
    """The pool is over: no worker is left and none will come."""


Command: TypeAlias = (
    Spawn
    | StopWorker
    | KillWorker
    | ResizeWorker
    | Introduce
    | Dispatch
    | WithdrawItems
    | CancelItems
    | Drop
    | Ask
    | Accept
    | Lose
    | Rerun
    | Expire
    | KillTask
    | Settle
    | Finish
)
