"""The lives of pools, runs and workers: three tables of what changes their phase.

The cause is an event that came in or a command that goes out. A cause with no entry for the present phase changes
nothing, and is safe to get: messages may come late or twice.
"""

from __future__ import annotations

from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.books import PoolPhase, RunPhase, WorkerPhase

__all__ = ["POOL_TRANSITIONS", "RUN_TRANSITIONS", "WORKER_TRANSITIONS"]

POOL_TRANSITIONS: Final = {
    (PoolPhase.RUNNING, ev.Close): PoolPhase.CLOSING,
    (PoolPhase.RUNNING, ev.Terminate): PoolPhase.TERMINATING,
    (PoolPhase.RUNNING, ev.WorkerExited): PoolPhase.BROKEN,  # the last of several that died at their start
    (PoolPhase.BROKEN, ev.Close): PoolPhase.CLOSING,
    (PoolPhase.BROKEN, ev.Terminate): PoolPhase.TERMINATING,
    (PoolPhase.BROKEN, ev.Restart): PoolPhase.RUNNING,
    (PoolPhase.CLOSING, ev.Terminate): PoolPhase.TERMINATING,
    (PoolPhase.CLOSING, ev.Finish): PoolPhase.CLOSED,
    (PoolPhase.TERMINATING, ev.Finish): PoolPhase.CLOSED,
}

RUN_TRANSITIONS: Final = {
    (RunPhase.ACTIVE, ev.Halt): RunPhase.HALTING,  # a failure, a cancel, an interrupt, the end of the pool
    (RunPhase.ACTIVE, ev.Settle): RunPhase.SETTLED,  # every item has its outcome
    (RunPhase.HALTING, ev.Settle): RunPhase.SETTLED,  # nothing runs any more
}

WORKER_TRANSITIONS: Final = {
    (WorkerPhase.STARTING, ev.WorkerReady): WorkerPhase.READY,
    (WorkerPhase.STARTING, ev.Shrink): WorkerPhase.DRAINING,
    (WorkerPhase.STARTING, ev.Restart): WorkerPhase.DRAINING,
    (WorkerPhase.STARTING, ev.Close): WorkerPhase.DRAINING,
    (WorkerPhase.READY, ev.Shrink): WorkerPhase.DRAINING,
    (WorkerPhase.READY, ev.Restart): WorkerPhase.DRAINING,
    (WorkerPhase.READY, ev.Close): WorkerPhase.DRAINING,
    (WorkerPhase.READY, ev.Recycle): WorkerPhase.RETIRING,
    (WorkerPhase.RETIRING, ev.Shrink): WorkerPhase.DRAINING,
    (WorkerPhase.RETIRING, ev.Restart): WorkerPhase.DRAINING,
    (WorkerPhase.STARTING, ev.StopWorker): WorkerPhase.STOPPING,  # the pool has had nothing to do for long
    (WorkerPhase.READY, ev.StopWorker): WorkerPhase.STOPPING,  # it is not needed, or has done all that it may
    (WorkerPhase.DRAINING, ev.StopWorker): WorkerPhase.STOPPING,  # once it has nothing in hand
    (WorkerPhase.RETIRING, ev.StopWorker): WorkerPhase.STOPPING,
    (WorkerPhase.STARTING, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.READY, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.DRAINING, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.RETIRING, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.STOPPING, ev.WorkerExited): WorkerPhase.EXITED,
}
