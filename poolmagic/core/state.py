"""The state machine of one pool: events in, commands out.

Everything a pool decides is decided here: who gets which span, what happens to the items of a dead worker, when a run
is over. `PoolState.handle` is the only way in. It reads no clock, starts nothing and never blocks; whoever calls it
carries out the commands that it returns, in their order. It belongs to the thread that calls it (the supervisor's).

Theory of operation. There are three kinds of machines: the pool, its workers, its runs. Their transitions are the
three tables below: the cause is an event that came in or a command that goes out. A cause with no entry for the
present phase changes nothing, and is safe to get: messages may come late or twice. Items have no machine: a position
of a run is *ready* (queued), *assigned* (with one worker) or resolved, and `validate` checks that every position
handed in is exactly one of these.

Span arithmetic makes double and late messages harmless: a report counts only for positions that its sender has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from poolmagic.core import events as ev
from poolmagic.core.batching import Sizer
from poolmagic.core.books import PoolPhase, RunBook, RunPhase, WorkerBook, WorkerPhase
from poolmagic.core.scheduling import Scheduler
from poolmagic.core.spans import SpanSet
from poolmagic.messages import Span

__all__ = ["POOL_TRANSITIONS", "RUN_TRANSITIONS", "WORKER_TRANSITIONS", "PoolState"]

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
    (WorkerPhase.DRAINING, ev.StopWorker): WorkerPhase.STOPPING,  # once it has nothing in hand
    (WorkerPhase.STARTING, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.READY, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.DRAINING, ev.WorkerExited): WorkerPhase.EXITED,
    (WorkerPhase.STOPPING, ev.WorkerExited): WorkerPhase.EXITED,
}

STILLBORN_LIMIT: Final = 3
"""For each seat, workers that die one after the other and achieve nothing, until the pool gives up."""

_ALIVE: Final = (WorkerPhase.STARTING, WorkerPhase.READY)


class PoolState:
    """The books of one pool.

    Args:
        seats: The slots of each worker that the pool should have.
        scales: What `Grow` and `Shrink` change: ``"workers"`` or ``"slots"``.
        cancels: What must be stopped to stop a running item: its ``"slot"`` or its ``"worker"``.
    """

    def __init__(self, seats: list[int], scales: str, cancels: str) -> None:
        self.phase = PoolPhase.RUNNING
        self.seats = list(seats)
        self.workers: dict[int, WorkerBook] = {}
        self.runs: dict[int, RunBook] = {}
        self.done = 0
        self.failed = 0
        self._scales = scales
        self._cancels = cancels
        self._next_worker = 1
        self._stillborn = 0
        self._commands: list[ev.Command] = []
        self._scheduler = Scheduler(self.workers, self.runs)
        self._is_steady = False

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Apply one event; return what must be done, in order. `now` is in seconds of any steady clock."""
        self._commands = []
        _HANDLERS[type(event)](self, event)
        if self._is_steady and type(event) in _ROUTINE:
            self._commands += self._scheduler.serve(everybody=False)
            return self._commands
        self._keep_seats_taken()
        self._commands += self._scheduler.serve(everybody=True)
        self._retire()
        self._finish()
        self._is_steady = self.phase is PoolPhase.RUNNING and all(one.is_able for one in self.workers.values())
        return self._commands

    # Runs ----------------------------------------------------------------------------------------------------------

    def _on_run_added(self, event: ev.RunAdded) -> None:
        run = RunBook(event.run, Sizer(event.chunksize), event.total, event.fail_fast)
        self.runs[run.id] = run
        for span in event.filled:
            self._take_in(run, span, ())
        self._reject(run, event.bad)
        run.last = event.last
        if self.phase is not PoolPhase.RUNNING:
            verdict = ev.Verdict.BROKEN if self.phase is PoolPhase.BROKEN else ev.Verdict.CANCELLED
            self._halt(run, verdict, kill=False)
        self._settle(run)

    def _on_filled(self, event: ev.Filled) -> None:
        run = self.runs.get(event.run)
        if run is None:
            return
        run.asked -= event.asked
        if run.orders:
            number, size = run.orders.popleft()
            if (worker := self.workers.get(number)) is not None:
                worker.take_promised(run.id, size)
                self._scheduler.wake(number)
        if event.span is not None:
            self._take_in(run, event.span, event.bad)
        run.last = run.last or event.last
        self._settle(run)

    def _take_in(self, run: RunBook, span: Span, bad: tuple[int, ...]) -> None:
        """Queue the next batch of a run, without its bad positions."""
        assert span[0] == run.filled < span[1], f"batch {span} does not follow position {run.filled}"
        run.filled = span[1]
        if run.phase is RunPhase.ACTIVE:
            run.put([span])
        else:
            run.resolved += span[1] - span[0]
        self._reject(run, bad)

    def _reject(self, run: RunBook, bad: tuple[int, ...]) -> None:
        """Resolve positions that could not be encoded as failed."""
        if not bad or run.phase is not RunPhase.ACTIVE:
            return
        waiting = SpanSet()
        for span in run.ready:
            waiting.add(span)
        for position in bad:
            waiting.remove((position, position + 1))
        run.clear()
        run.put(list(waiting))
        self._count(run, 0, len(bad))

    def _on_halt(self, event: ev.Halt) -> None:
        run = self.runs.get(event.run)
        if run is not None:
            self._halt(run, event.verdict, event.kill)
            self._settle(run)

    def _halt(self, run: RunBook, verdict: ev.Verdict, kill: bool) -> None:
        """Let nothing more of a run start; with `kill`, stop what runs too (a second call may add that)."""
        if run.phase is RunPhase.ACTIVE:
            run.phase = RUN_TRANSITIONS[run.phase, ev.Halt]
            run.verdict = verdict
            run.resolved += run.waiting
            run.clear()
        elif not kill:
            return
        run.kill = run.kill or kill
        for worker in self.workers.values():
            if run.id not in worker.assigned:
                continue
            if kill and self._cancels == "slot":
                self._do(ev.CancelItems(worker.id, run.id))
                continue
            self._do(ev.WithdrawItems(worker.id, run.id))
            if kill:
                self._do(ev.KillWorker(worker.id, run.id))

    def _count(self, run: RunBook, succeeded: int, failed: int) -> None:
        """Book outcomes; the first failure of a run that wants to fail fast halts it."""
        run.resolved += succeeded + failed
        run.failed += failed
        self.done += succeeded
        self.failed += failed
        self._scheduler.progress = self.done + self.failed
        if failed and run.fail_fast and run.phase is RunPhase.ACTIVE:
            self._halt(run, ev.Verdict.FAILED, kill=False)

    def _settle(self, run: RunBook) -> None:
        """Take note of a run that has changed, and end it if there is nothing left to wait for."""
        if run.resolved >= run.filled and (run.phase is not RunPhase.ACTIVE or run.last):
            run.phase = RUN_TRANSITIONS[run.phase, ev.Settle]
            del self.runs[run.id]
            for worker_id in sorted(run.introduced & self.workers.keys()):
                self._do(ev.Drop(worker_id, run.id))
            self._do(ev.Settle(run.id, run.verdict))
        self._scheduler.update(run)

    # Workers -------------------------------------------------------------------------------------------------------

    def _on_ready(self, event: ev.WorkerReady) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None:
            self._move(worker, event)

    def _on_doomed(self, event: ev.WorkerDoomed) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None:
            worker.doomed = True

    def _on_done(self, event: ev.WorkerDone) -> None:
        worker, run = self.workers.get(event.worker), self.runs.get(event.run)
        if worker is None or run is None:
            return
        spans = worker.take(run.id, event.spans)
        failed = worker.take(run.id, [(position, position + 1) for position in event.failed])
        succeeded = sum(stop - start for start, stop in spans)
        if not succeeded and not failed:
            return
        self._scheduler.wake(worker.id)
        self._stillborn = 0
        worker.done += succeeded + len(failed)
        self._do(ev.Accept(worker.id, run.id, tuple(spans), tuple(start for start, _ in failed)))
        run.sizer.learn(succeeded + len(failed), event.seconds, worker.slots)
        self._count(run, succeeded, len(failed))
        self._settle(run)

    def _on_returned(self, event: ev.WorkerReturned) -> None:
        worker, run = self.workers.get(event.worker), self.runs.get(event.run)
        if worker is None or run is None:
            return
        self._scheduler.wake(worker.id)
        self._requeue(run, self._scheduler.returned(worker, run, worker.take(run.id, event.spans)))
        if run.kill and self._cancels == "worker" and run.id in worker.assigned:
            self._do(ev.KillWorker(worker.id))  # what it did not give back it has begun
        self._settle(run)

    def _requeue(self, run: RunBook, spans: list[Span]) -> None:
        """Queue spans again that no worker will run; those of a halting run are given up."""
        if run.phase is RunPhase.ACTIVE:
            run.put_back(spans)
        else:
            run.resolved += sum(stop - start for start, stop in spans)

    def _on_exited(self, event: ev.WorkerExited) -> None:
        worker = self.workers.pop(event.worker, None)
        if worker is None:
            return
        in_vain = worker.phase is WorkerPhase.STARTING or bool(worker.assigned)
        self._stillborn += in_vain and not worker.done and not worker.doomed
        self._move(worker, event)
        for run_id, position in event.running:
            run = self.runs.get(run_id)
            if worker.doomed or run is None or not worker.take(run_id, [(position, position + 1)]):
                continue
            self._stillborn = 0
            self._do(ev.Lose(worker.id, run_id, position))
            self._count(run, 0, 1)
        for run_id, spans in list(worker.assigned.items()):
            self._requeue(self.runs[run_id], list(spans))
        for run in list(self.runs.values()):
            self._settle(run)
        given_up = self._stillborn >= STILLBORN_LIMIT * len(self.seats)
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
        taken = {worker.seat for worker in self.workers.values() if worker.phase in _ALIVE}
        for seat, slots in enumerate(self.seats):
            if seat not in taken:
                worker = WorkerBook(self._next_worker, seat, slots)
                self._next_worker += 1
                self.workers[worker.id] = worker
                self._do(ev.Spawn(worker.id, slots))

    def _retire(self) -> None:
        """Stop draining workers that have nothing in hand, and those of a closing pool that has no runs."""
        over = self.phase in (PoolPhase.CLOSING, PoolPhase.BROKEN) and not self.runs
        for worker in self.workers.values():
            if over and worker.phase in _ALIVE:
                worker.phase = WORKER_TRANSITIONS[worker.phase, ev.Close]
            if worker.phase is WorkerPhase.DRAINING and not worker.assigned:
                worker.phase = WORKER_TRANSITIONS[worker.phase, ev.StopWorker]
                self._do(ev.StopWorker(worker.id))

    # The pool ------------------------------------------------------------------------------------------------------

    def _on_grow(self, event: ev.Grow) -> None:
        if self._scales == "workers":
            self.seats += [1] * event.number
            return
        for _ in range(event.number):
            self.seats[self.seats.index(min(self.seats))] += 1
        self._resize()

    def _on_shrink(self, event: ev.Shrink) -> None:
        if self._scales == "workers":
            del self.seats[max(1, len(self.seats) - event.number) :]
            for worker in self.workers.values():
                if worker.seat >= len(self.seats):
                    self._move(worker, event)
            return
        for _ in range(min(event.number, sum(self.seats) - len(self.seats))):
            self.seats[self.seats.index(max(self.seats))] -= 1
        self._resize()

    def _resize(self) -> None:
        for worker in self.workers.values():
            if worker.phase in _ALIVE and worker.slots != self.seats[worker.seat]:
                worker.resize(self.seats[worker.seat])
                self._do(ev.ResizeWorker(worker.id, worker.slots))

    def _on_restart(self, event: ev.Restart) -> None:
        self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)
        self._stillborn = 0
        for worker in self.workers.values():
            self._move(worker, event)

    def _on_close(self, event: ev.Close) -> None:
        self.phase = POOL_TRANSITIONS.get((self.phase, type(event)), self.phase)

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
            self._do(ev.Finish())

    def _do(self, command: ev.Command) -> None:
        self._commands.append(command)

    def validate(self) -> None:
        """Check every invariant; raises `AssertionError`. For tests: it costs time in proportion to the books."""
        for run in self.runs.values():
            assert run.phase is not RunPhase.SETTLED, f"run {run.id} is settled but still in the books"
            seen = SpanSet()
            for span in run.ready:
                seen.add(span)
            for worker in self.workers.values():
                for span in worker.assigned.get(run.id, ()):
                    seen.add(span)
            assert seen.count + run.resolved == run.filled, f"run {run.id}: an item is in two places or in none"
            assert all(stop <= run.filled for _, stop in seen)
            assert run.phase is RunPhase.ACTIVE or not run.ready
            assert run.waiting == sum(stop - start for start, stop in run.ready)
        for worker in self.workers.values():
            assert worker.assigned.keys() <= self.runs.keys(), f"worker {worker.id} has items of no run"
            assert all(spans.count for spans in worker.assigned.values())
            assert worker.load == sum(spans.count for spans in worker.assigned.values())
            assert worker.phase is not WorkerPhase.EXITED
        alive = [worker.seat for worker in self.workers.values() if worker.phase in _ALIVE]
        assert len(alive) == len(set(alive)), "two workers in one seat"
        self._scheduler.validate()


_ROUTINE: Final = (ev.WorkerDone, ev.WorkerReturned, ev.Filled)
"""Events that touch one worker only, while all of them are well and none is to come or to go."""

_HANDLERS: Final[dict[type, Callable[[PoolState, Any], None]]] = {
    ev.RunAdded: PoolState._on_run_added,
    ev.Filled: PoolState._on_filled,
    ev.Halt: PoolState._on_halt,
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
}
