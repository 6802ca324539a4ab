"""The books of a pool's runs: which items there are, who has them, and what became of them."""

from __future__ import annotations

from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.alarms import Alarm, Alarms
from poolmagic.core.attempts import Attempts
from poolmagic.core.batching import Sizer
from poolmagic.core.books import PoolPhase, RunBook, RunPhase, WorkerBook
from poolmagic.core.scheduling import Scheduler
from poolmagic.core.spans import SpanSet
from poolmagic.core.throttle import Throttle
from poolmagic.core.transitions import RUN_TRANSITIONS
from poolmagic.messages import Span

__all__ = ["Ledger"]

CANCEL_GRACE: Final = 1.0
"""Seconds that items have to end after they were cancelled."""


class Ledger:
    """What becomes of the items of runs, whoever works on them.

    Args:
        cancels: What must be stopped to stop a running item: its ``"slot"`` or its ``"worker"``.
    """

    def __init__(self, cancels: str) -> None:
        self.phase = PoolPhase.RUNNING
        self.workers: dict[int, WorkerBook] = {}
        self.runs: dict[int, RunBook] = {}
        self.done = 0
        self.failed = 0
        self.is_asleep = False
        """There has been no run for so long that the workers were stopped."""
        self._cancels = cancels
        self._fruitless = 0
        """Workers that died one after the other and achieved nothing."""
        self._idle_since: float | None = None
        self._commands: list[ev.Command] = []
        self._alarms = Alarms()
        self._attempts = Attempts(self._alarms)
        self._scheduler = Scheduler(self.workers, self.runs, self._attempts, self._alarms)
        self._is_steady = False
        self._now = 0.0

    def _on_run_added(self, event: ev.RunAdded) -> None:
        run = RunBook(event.run, Sizer(event.chunksize), event.total, event.fail_fast, policy=event.policy)
        if event.policy.rate:
            run.throttle = Throttle(event.policy.rate, self._now)
        self.runs[run.id] = run
        self.is_asleep = False
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
            if event.span[1] - event.span[0] < event.asked:
                self._is_steady = False  # others than who is served next may have to order what is missing
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

    def _on_pause(self, event: ev.Pause) -> None:
        run = self.runs.get(event.run)
        # A pool that closes finishes what there is, so there nothing may be left waiting for a word of the user's.
        may_pause = self.phase is PoolPhase.RUNNING or not event.on
        if run is not None and run.phase is RunPhase.ACTIVE and may_pause:
            self._pause(run, event.on)

    def _pause(self, run: RunBook, on: bool) -> None:
        """Hand out nothing more of a run and take back what has not started, or let it go on."""
        run.is_paused = on
        if on:
            self._attempts.park(run.id)
            for worker in self.workers.values():
                if run.id in worker.assigned:
                    self._do(ev.WithdrawItems(worker.id, run.id))
        else:
            self._attempts.unpark(run.id)
        self._scheduler.update(run)

    def _halt(self, run: RunBook, verdict: ev.Verdict, kill: bool) -> None:
        """Let nothing more of a run start; with `kill`, stop what runs too (a second call may add that)."""
        if run.phase is RunPhase.ACTIVE:
            run.phase = RUN_TRANSITIONS[run.phase, ev.Halt]
            run.verdict = verdict
            run.resolved += run.waiting + self._attempts.give_up(run)
            run.clear()
        elif not kill:
            return
        run.kill = run.kill or kill
        for worker in self.workers.values():
            if run.id not in worker.assigned:
                continue
            if kill:
                self._alarms.set(Alarm("kill", run.id), self._now + CANCEL_GRACE)
            if kill and self._cancels == "slot":
                self._do(ev.CancelItems(worker.id, run.id))
                continue
            self._do(ev.WithdrawItems(worker.id, run.id))
            if kill:
                self._do(ev.KillWorker(worker.id, run.id))

    def _escalate(self, run: RunBook) -> None:
        """Kill what has not ended though it was cancelled; of what is left of a worker nothing is waited for."""
        for worker in self.workers.values():
            spans = list(worker.assigned.get(run.id, ()))
            if spans and self._cancels == "worker" and not worker.doomed:
                self._do(ev.KillWorker(worker.id))
            if not spans or self._cancels == "worker":
                continue
            for start, stop in self._take(worker, run, spans):
                run.resolved += stop - start
                for position in range(start, 0 if worker.doomed else stop):
                    self._do(ev.KillTask(worker.id, run.id, position))
        self._settle(run)

    def _on_overdue(self, event: ev.Overdue) -> None:
        worker, run = self.workers.get(event.worker), self.runs.get(event.run)
        if worker is None or run is None or not self._take(worker, run, [(event.position, event.position + 1)]):
            return
        self._do(ev.Expire(worker.id, run.id, event.position))
        self._do(ev.KillTask(worker.id, run.id, event.position))
        self._count(run, 0, 1)
        self._settle(run)

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
            self._attempts.unpark(run.id)
            self._alarms.drop(Alarm("kill", run.id))
            self._alarms.drop(Alarm("rate", run.id))
            if not self.runs:
                self._idle_since = self._now
                self._is_steady = False
            for worker_id in sorted(run.introduced & self.workers.keys()):
                self._do(ev.Drop(worker_id, run.id))
            self._do(ev.Settle(run.id, run.verdict))
        self._scheduler.update(run)

    # Outcomes ------------------------------------------------------------------------------------------------------

    def _on_done(self, event: ev.WorkerDone) -> None:
        worker, run = self.workers.get(event.worker), self.runs.get(event.run)
        if worker is None or run is None:
            return
        spans = worker.take(run.id, event.spans)
        failed = [start for start, _ in worker.take(run.id, [(position, position + 1) for position in event.failed])]
        succeeded = sum(stop - start for start, stop in spans)
        if not succeeded and not failed:
            return
        if not worker.load:
            self._emptied(worker)
        self._scheduler.wake(worker.id)
        self._fruitless = 0
        retried = self._retry(run, failed, event.retriable) if event.retriable else ()
        finished = succeeded + len(failed)
        worker.done += finished
        if retried:
            failed = [position for position in failed if position not in retried]
        self._do(ev.Accept(worker.id, run.id, tuple(spans), tuple(failed), retried))
        run.sizer.learn(finished, event.seconds, worker.slots)
        self._count(run, succeeded, len(failed))
        self._settle(run)

    def _retry(self, run: RunBook, failed: list[int], retriable: tuple[int, ...]) -> tuple[int, ...]:
        """Have items rest that may be tried again; return their positions."""
        if run.phase is not RunPhase.ACTIVE:
            return ()
        most = run.policy.retries
        retried = tuple(one for one in failed if one in retriable and run.attempts.get(one, 0) < most)
        for position in retried:
            self._attempts.rest(run, position, self._now)
        return retried

    def _take(self, worker: WorkerBook, run: RunBook, spans: list[Span] | tuple[Span, ...]) -> list[Span]:
        """Take spans from a worker that it does not go on with; return what it really had of them."""
        taken = worker.take(run.id, spans)
        if taken:
            self._scheduler.wake(worker.id)
            if not worker.load:
                self._emptied(worker)
        return taken

    def _emptied(self, worker: WorkerBook) -> None:
        """Take note that a worker has nothing in hand any more."""
        worker.alone = False
        worker.idle_since = self._now
        if worker.budget <= 0:
            self._is_steady = False

    def _on_returned(self, event: ev.WorkerReturned) -> None:
        worker, run = self.workers.get(event.worker), self.runs.get(event.run)
        if worker is None or run is None:
            return
        self._scheduler.wake(worker.id)
        was_alone = worker.alone
        spans = self._take(worker, run, event.spans)
        count = sum(stop - start for start, stop in spans)
        worker.budget += count
        if run.throttle is not None:
            run.throttle.give_back(count, self._now)
        parts = self._scheduler.returned(worker, run, spans)
        if was_alone:
            self._regroup([(run, span) for span in spans])
        else:
            self._requeue(run, parts)
        if run.kill and self._cancels == "worker" and run.id in worker.assigned:
            self._do(ev.KillWorker(worker.id))  # what it did not give back it has begun
        self._settle(run)

    def _regroup(self, pieces: list[tuple[RunBook, Span]]) -> None:
        """Let suspects that no worker will run wait for another; those of a halting run are given up."""
        self._attempts.add(tuple((run.id, span) for run, span in pieces if run.phase is RunPhase.ACTIVE))
        for run, (start, stop) in pieces:
            run.resolved += stop - start if run.phase is not RunPhase.ACTIVE else 0
        self._is_steady = False

    def _requeue(self, run: RunBook, spans: list[Span]) -> None:
        """Queue spans again that no worker will run; those of a halting run are given up."""
        if run.phase is RunPhase.ACTIVE:
            run.put_back(spans)
        else:
            run.resolved += sum(stop - start for start, stop in spans)

    def _do(self, command: ev.Command) -> None:
        self._commands.append(command)
