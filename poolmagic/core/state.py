"""The state machine of one pool: events in, commands out.

Everything a pool decides is decided here: who gets which span, what happens to the items of a dead worker, when a run
is over. `PoolState.handle` is the only way in. It reads no clock, starts nothing and never blocks; whoever calls it
carries out the commands that it returns, in their order. It belongs to the thread that calls it (the supervisor's).

Theory of operation. There are three kinds of machines: the pool, its workers, its runs; see `transitions`. Items have
no machine: a position of a run is *ready* (queued), *assigned* (with one worker), *resting* before its next attempt,
in a *group* of suspects that waits for an empty worker, or resolved, and `validate` checks that every position handed
in is exactly one of these.

Span arithmetic makes double and late messages harmless: a report counts only for positions that its sender has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from poolmagic.core import events as ev
from poolmagic.core.alarms import Alarm
from poolmagic.core.blame import Blame
from poolmagic.core.books import UNLIMITED, PoolLimits, PoolPhase, WorkerBook, WorkerPhase
from poolmagic.core.invariants import check_items, check_workers
from poolmagic.core.ledger import Ledger
from poolmagic.core.seats import ALIVE, Seats
from poolmagic.core.transitions import POOL_TRANSITIONS, RUN_TRANSITIONS, WORKER_TRANSITIONS

__all__ = ["POOL_TRANSITIONS", "RUN_TRANSITIONS", "WORKER_TRANSITIONS", "PoolState"]

STILLBORN_LIMIT: Final = 3
"""For each seat, workers that die one after the other and achieve nothing, until the pool gives up."""


class PoolState(Ledger):
    """The books of one pool.

    Args:
        seats: The slots of each worker that the pool should have.
        scales: What `Grow` and `Shrink` change: ``"workers"`` or ``"slots"``.
        cancels: What must be stopped to stop a running item: its ``"slot"`` or its ``"worker"``.
        limits: What the workers are limited to. With autoscale the seats are those for the most workers or slots.
    """

    def __init__(self, seats: list[int], scales: str, cancels: str, limits: PoolLimits = UNLIMITED) -> None:
        super().__init__(cancels)
        self.seats = list(seats)
        self._limits = limits
        self._next_worker = 1
        self._seats = Seats(self.seats, scales, limits, self._alarms)
        self._blame = Blame(self._attempts, self._do, self._count)

    @property
    def due(self) -> float | None:
        """The earliest time at which a `Tick` is wanted; one that comes early or late does no harm."""
        return None if self._alarms.next == math.inf else self._alarms.next

    @property
    def wanted(self) -> list[int]:
        """The slots of each worker that there should be now: with autoscale not all seats need be taken."""
        return [slots for slots in self._seats.wanted if slots]

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Apply one event; return what must be done, in order. `now` is in seconds of any steady clock."""
        self._commands = []
        self._now = self._scheduler.now = now
        _HANDLERS[type(event)](self, event)
        if now >= self._alarms.next:
            self._ring()
        if self._is_steady and type(event) in _ROUTINE:
            self._commands += self._scheduler.serve(everybody=False)
            return self._commands
        self._retire()
        self._keep_seats_taken()
        self._commands += self._scheduler.serve(everybody=True)
        self._look_after_the_idle()
        self._finish()
        self._is_steady = (
            self.phase is PoolPhase.RUNNING
            and all(one.is_able for one in self.workers.values())
            and not (self._scheduler.holds or self._attempts.groups or self._seats.may_grow)
        )
        return self._commands

    # Workers -------------------------------------------------------------------------------------------------------

    def _on_ready(self, event: ev.WorkerReady) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None:
            worker.idle_since = self._now
            self._move(worker, event)

    def _on_doomed(self, event: ev.WorkerDoomed) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None:
            worker.doomed = True

    def _on_exited(self, event: ev.WorkerExited) -> None:
        worker = self.workers.pop(event.worker, None)
        if worker is None:
            return
        in_vain = worker.phase is WorkerPhase.STARTING or bool(worker.assigned)
        is_fruitless = worker.phase in ALIVE and not worker.done and not worker.doomed
        self._fruitless += in_vain and not worker.done and not worker.doomed
        self._move(worker, event)
        running = [
            (self.runs[run_id], position)
            for run_id, position in event.running
            if worker.take(run_id, [(position, position + 1)])
        ]
        rest = [(self.runs[run_id], span) for run_id, spans in worker.assigned.items() for span in spans]
        if worker.doomed:
            self._blame.spare(worker, running)
            rest += [(run, (position, position + 1)) for run, position in running]
        elif running:
            self._fruitless = 0
            self._blame.blame(worker, running, event.killed)
        else:
            if is_fruitless:
                self._seats.died(worker.seat, self._scheduler.progress, self._now)
            if rest and self._blame.suspect(worker, rest, event.killed):
                self._fruitless = 0
            rest = []
        if worker.alone:
            self._regroup(rest)
        else:
            for run in [one for one in self.runs.values() if one.id in worker.assigned or worker.doomed]:
                self._requeue(run, [span for one, span in rest if one is run])
        for run in list(self.runs.values()):
            self._settle(run)
        given_up = self._fruitless >= STILLBORN_LIMIT * self._seats.number
        if given_up and self.phase in (PoolPhase.RUNNING, PoolPhase.CLOSING):
            self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)
            for run in list(self.runs.values()):
                self._halt(run, ev.Verdict.BROKEN, kill=True)
                self._settle(run)

    def _move(self, worker: WorkerBook, event: ev.Event) -> None:
        worker.phase = WORKER_TRANSITIONS.get((worker.phase, type(event)), worker.phase)

    def _keep_seats_taken(self) -> None:
        """Spawn a worker for every seat that has none, while there is or may be work for it."""
        if self.phase is not PoolPhase.RUNNING and not (self.phase is PoolPhase.CLOSING and self.runs):
            return
        if self.is_asleep:
            return
        if self._limits.autoscale is not None:
            self._seats.fit(self.workers.values(), self.runs.values(), self._attempts, self._now)
            self._resize()
        empty = self._seats.empty(self.workers.values(), self._now)
        if self._scheduler.holds and any(worker.phase in ALIVE for worker in self.workers.values()):
            return
        for seat in empty[:1] if self._scheduler.holds else empty:
            worker = WorkerBook(self._next_worker, seat, self._seats.wanted[seat])
            worker.budget = self._limits.max_tasks or math.inf
            self._next_worker += 1
            self.workers[worker.id] = worker
            self._do(ev.Spawn(worker.id, worker.slots))

    def _retire(self) -> None:
        """Stop workers that have nothing in hand and are not to get anything."""
        over = self.phase in (PoolPhase.CLOSING, PoolPhase.BROKEN) and not self.runs
        last = self._scheduler.last_to_go() if self._scheduler.holds else None
        for worker in self.workers.values():
            if over and worker.phase in (WorkerPhase.STARTING, WorkerPhase.READY):
                worker.phase = WORKER_TRANSITIONS[worker.phase, ev.Close]
            if worker.assigned or worker.phase is WorkerPhase.STOPPING:
                continue
            if worker.phase is WorkerPhase.READY:
                is_needed = not self._scheduler.holds or worker is last
                is_needed = is_needed and worker.budget > 0 and bool(self._seats.wanted[worker.seat])
            else:
                is_needed = worker.phase is WorkerPhase.STARTING
            if self.is_asleep or not is_needed:
                worker.phase = WORKER_TRANSITIONS[worker.phase, ev.StopWorker]
                self._do(ev.StopWorker(worker.id))

    def _on_recycle(self, event: ev.Recycle) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None and worker.is_able:
            self._move(worker, event)
            for run_id in worker.assigned:
                self._do(ev.WithdrawItems(worker.id, run_id))

    # The pool ------------------------------------------------------------------------------------------------------

    def _on_grow(self, event: ev.Grow) -> None:
        self._seats.grow(event.number)
        self._resize()

    def _on_shrink(self, event: ev.Shrink) -> None:
        self._seats.shrink(event.number)
        for worker in self.workers.values():
            if worker.seat >= len(self.seats):
                self._move(worker, event)
        self._resize()

    def _resize(self) -> None:
        """Tell workers how many slots their seats have now."""
        for worker in self.workers.values():
            if worker.phase in ALIVE and (slots := self._seats.wanted[worker.seat]) not in (0, worker.slots):
                worker.resize(slots)
                self._do(ev.ResizeWorker(worker.id, slots))

    def _on_hold(self, event: ev.Hold) -> None:
        self._scheduler.holds = event.on
        self._is_steady = False
        if event.on:
            self._commands += self._scheduler.ease()

    def _on_restart(self, event: ev.Restart) -> None:
        self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)
        self._fruitless = 0
        self._seats.forgive()
        for worker in self.workers.values():
            self._move(worker, event)

    def _on_close(self, event: ev.Close) -> None:
        self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)
        for run in [one for one in self.runs.values() if one.is_paused]:
            self._pause(run, on=False)

    def _on_terminate(self, event: ev.Terminate) -> None:
        self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)
        for run in list(self.runs.values()):
            self._halt(run, ev.Verdict.CANCELLED, kill=False)
            self._settle(run)
        for worker in self.workers.values():
            worker.doomed = True
            self._do(ev.KillWorker(worker.id))

    def _finish(self) -> None:
        """Say that the pool is over, once."""
        over = self.phase in (PoolPhase.CLOSING, PoolPhase.TERMINATING)
        if over and not self.workers and not self.runs:
            self.phase = POOL_TRANSITIONS[self.phase, ev.Finish]
            self._alarms.clear()
            self._do(ev.Finish())

    # Time ----------------------------------------------------------------------------------------------------------

    def _on_tick(self, event: ev.Tick) -> None:
        self._is_steady = False

    def _ring(self) -> None:
        """Do what its time has come for; the rest of it is done by whoever is served next."""
        self._is_steady = False
        for alarm in self._alarms.ring(self._now):
            run = self.runs.get(alarm.number)
            if alarm.what == "spare":
                self._seats.close_spare(self.workers.values(), self._now)
            elif alarm.what == "retry" and run is not None and alarm.position in run.resting:
                run.resting.discard(alarm.position)
                run.put_back([(alarm.position, alarm.position + 1)])
                self._scheduler.update(run)
            elif alarm.what == "kill" and run is not None:
                self._escalate(run)

    def _look_after_the_idle(self) -> None:
        """Let a pool sleep that has had no run for long, and have it looked at when it may be time to."""
        if self.phase is not PoolPhase.RUNNING:
            return
        if self.is_asleep:
            return
        self._seats.look_again(self.workers.values(), self._now)
        if self.runs or not self._limits.idle_timeout:
            return
        if self._idle_since is None:
            self._idle_since = self._now
        until = self._idle_since + self._limits.idle_timeout
        if until > self._now:
            self._alarms.set(Alarm("idle"), until)
            return
        self.is_asleep = True
        self._retire()

    def validate(self) -> None:
        """Check every invariant; raises `AssertionError`. For tests: it costs time in proportion to the books."""
        for run in self.runs.values():
            check_items(run, self.workers.values(), self._attempts)
        check_workers(self.workers.values(), self.runs)
        self._scheduler.validate()


_ROUTINE: Final = (ev.WorkerDone, ev.WorkerReturned, ev.Filled)
"""Events that touch one worker only, while all of them are well and none is to come or to go."""

_HANDLERS: Final[dict[type, Callable[[PoolState, Any], None]]] = {
    ev.RunAdded: PoolState._on_run_added,
    ev.Filled: PoolState._on_filled,
    ev.Halt: PoolState._on_halt,
    ev.Pause: PoolState._on_pause,
    ev.Grow: PoolState._on_grow,
    ev.Shrink: PoolState._on_shrink,
    ev.Restart: PoolState._on_restart,
    ev.Close: PoolState._on_close,
    ev.Terminate: PoolState._on_terminate,
    ev.WorkerReady: PoolState._on_ready,
    ev.WorkerDoomed: PoolState._on_doomed,
    ev.WorkerDone: PoolState._on_done,
    ev.WorkerReturned: PoolState._on_returned,
    ev.WorkerExited: PoolState._on_exited,
    ev.Overdue: PoolState._on_overdue,
    ev.Recycle: PoolState._on_recycle,
    ev.Hold: PoolState._on_hold,
    ev.Tick: PoolState._on_tick,
}
