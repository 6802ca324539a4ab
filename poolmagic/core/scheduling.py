"""Who gets the next batch, when more is ordered, and what is taken back.

A worker is served when something happens to it: it has reported, or what was ordered for it has arrived. So an event
costs the same with two workers as with two hundred; only what is rare, such as a new run or a new worker, has everybody
served. Workers with free slots that nothing was found for are remembered, and come first when there is something.
Meanwhile what another has not started is taken back for them, from whoever has most of it (work stealing: Blumofe and
Leiserson, 1999). Half of that at least goes elsewhere. So a worker that is held up by one long item is soon rid of all
that waits behind it. Nobody is robbed again before something was finished, so workers cannot rob each other in circles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.books import RunBook, RunPhase, WorkerBook
from poolmagic.core.spans import split
from poolmagic.messages import Span

__all__ = ["Scheduler"]

RUNS_IN_HAND: Final = 4
"""Runs of which a worker may have its fill each, so that no run starves another."""


class Scheduler:
    """Books what it hands out, and returns the commands for it.

    Args:
        workers: The books of the pool's workers, by id.
        runs: The books of its runs, by id.

    Attributes:
        progress: Items finished, ever.
    """

    def __init__(self, workers: dict[int, WorkerBook], runs: dict[int, RunBook]) -> None:
        self._workers = workers
        self._runs = runs
        self._open: OrderedDict[int, RunBook] = OrderedDict()
        """Runs that have or may get items to hand out; the next to be served is first."""
        self._idle: dict[int, None] = {}
        """Workers with free slots that nothing was found for, the longest idle first."""
        self._expectant: dict[int, None] = {}
        """Workers with free slots for which something is on order."""
        self._woken: dict[int, None] = {}
        """Workers to which something has happened."""
        self._robbed: set[int] = set()
        """Workers that have not answered yet what they give back."""
        self._able = 1
        self.progress = 0
        self._commands: list[ev.Command] = []

    def update(self, run: RunBook) -> None:
        """Take note of a run that has changed."""
        is_active = run.phase is RunPhase.ACTIVE
        if is_active and (run.ready or not run.last):
            self._open.setdefault(run.id, run)
        else:
            self._open.pop(run.id, None)
        if run.last or not is_active:
            for number, _ in run.orders:  # nobody is to wait for what will not come, or not be used
                if (worker := self._workers.get(number)) is not None and worker.promised.pop(run.id, 0):
                    self.wake(number)

    def wake(self, worker: int) -> None:
        """Have a worker served next time."""
        self._woken[worker] = None

    def serve(self, everybody: bool) -> list[ev.Command]:
        """Serve those who were woken, or everybody, and the idle ones, as far as there is something for them."""
        self._commands = []
        if everybody:
            able = sorted((one for one in self._workers.values() if one.is_able), key=lambda one: one.load)
            self._able = max(1, len(able))
            self._idle.clear()
            self._expectant.clear()
            self._robbed.intersection_update(self._workers)
        else:
            able = [self._workers[number] for number in self._woken]
        self._woken.clear()
        self._serve_first(self._idle, self._hand_out)
        hungry = able
        while hungry:  # one batch for each, and again
            hungry = [worker for worker in hungry if self._hand_out(worker)]
        for worker in able:
            self._order(worker)
            self._note(worker)
        self._serve_first(self._expectant, self._hand_out)
        self._serve_first(self._idle, self._order)
        while len(self._robbed) < len(self._idle) and self._take_back():
            continue
        return self._commands

    def _serve_first(self, row: dict[int, None], serve: Callable[[WorkerBook], bool]) -> None:
        """Serve workers with free slots until there is nothing for one of them, and so for none."""
        while row:
            worker = self._workers[next(iter(row))]
            if not serve(worker):
                return
            self._note(worker)

    def _note(self, worker: WorkerBook) -> None:
        """Remember whether a worker has free slots, and whether something is on order for them."""
        self._idle.pop(worker.id, None)
        self._expectant.pop(worker.id, None)
        if worker.load < worker.slots:
            hopes = worker.load + sum(worker.promised.values()) >= worker.slots
            (self._expectant if hopes else self._idle)[worker.id] = None

    def _hand_out(self, worker: WorkerBook) -> bool:
        """Give a worker one batch of what is ready, if it has room."""
        for run in self._open.values():
            if not run.ready:
                continue
            if _room(run, worker, run.sizer.plan(worker.slots, run.remaining, self._able).limit) > 0:
                break
            if len(worker.assigned) >= RUNS_IN_HAND:
                return False
        else:
            return False
        # A batch is cut only if it turned out to be far too long: its payload travels whole with each part.
        span = run.next_span(run.sizer.plan(worker.slots, None, self._able).size)
        if worker.id not in run.introduced:
            run.introduced.add(worker.id)
            self._commands.append(ev.Introduce(worker.id, run.id))
        worker.give(run.id, span)
        self._commands.append(ev.Dispatch(worker.id, run.id, span))
        self._open.move_to_end(run.id)
        self.update(run)
        return True

    def _order(self, worker: WorkerBook) -> bool:
        """Order as many batches as a worker has room for, beside what is on order for it already."""
        before = len(self._commands)
        for run in self._open.values():
            is_full = self._order_of(run, worker)
            if is_full and len(worker.assigned) >= RUNS_IN_HAND:
                break
        return len(self._commands) > before

    def _order_of(self, run: RunBook, worker: WorkerBook) -> bool:
        """Order batches of one run until the worker has no room or nothing is left; return whether it has no room."""
        while True:
            plan = run.sizer.plan(worker.slots, run.remaining, self._able)
            promised = worker.promised.get(run.id, 0)
            room = _room(run, worker, plan.limit) - promised
            if room < plan.least:
                return True
            left = room if run.total is None else run.total - run.filled - run.asked
            if run.last or (left <= 0 and run.asked):
                return False
            # If all that was claimed is here, and yet there was no word that this is all, one more will bring it.
            size = max(1, min(left, plan.size if run.sizer.chunksize else min(plan.size, room)))
            run.orders.append((worker.id, size))
            run.asked += size
            worker.promised[run.id] = promised + size
            self._commands.append(ev.Ask(run.id, size))

    # Taking back ---------------------------------------------------------------------------------------------------

    def _take_back(self) -> bool:
        """Have the worker that has most to spare give back what it has not started; return whether there is one."""
        victims = [worker for worker in self._workers.values() if self._has_to_spare(worker)]
        if not victims:
            return False
        victim = max(victims, key=lambda worker: worker.load - worker.slots)
        run = max(self._active_of(victim), key=lambda run: victim.assigned[run].count)
        victim.robbed_at = self.progress
        self._robbed.add(victim.id)
        self._commands.append(ev.WithdrawItems(victim.id, run))
        return True

    def _has_to_spare(self, worker: WorkerBook) -> bool:
        """Return whether a worker may have items that it has not started and that others might."""
        if worker.load <= worker.slots or worker.id in self._robbed or worker.robbed_at == self.progress:
            return False
        return worker.is_up and bool(self._active_of(worker))

    def _active_of(self, worker: WorkerBook) -> list[int]:
        return [run for run in worker.assigned if self._runs[run].phase is RunPhase.ACTIVE]

    def returned(self, worker: WorkerBook, run: RunBook, spans: list[Span]) -> list[Span]:
        """Take note that a worker has given back these spans; return them cut for those who wait and itself."""
        self._robbed.discard(worker.id)
        count = sum(stop - start for start, stop in spans)
        share = run.sizer.share(count, 1 + len(self._idle))
        return [part for start, stop in spans for part in split((start, stop), -(-(stop - start) // share))]

    # The books -----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check that orders are booked twice alike, and that nobody is idle for nothing."""
        active = [run for run in self._runs.values() if run.phase is RunPhase.ACTIVE]
        for run in self._runs.values():
            assert run.asked == sum(size for _, size in run.orders)
            for worker in self._workers.values():
                ordered = sum(size for number, size in run.orders if number == worker.id)
                wanted = ordered if run.phase is RunPhase.ACTIVE and not run.last else 0
                assert worker.promised.get(run.id, 0) == wanted
        ready = [run.id for run in active if run.ready]
        unread = [run.id for run in active if not run.last and not run.asked]
        for worker in self._workers.values():
            if not worker.is_able or worker.load >= worker.slots:
                continue
            assert not ready, f"worker {worker.id} has free slots, and items of {ready} are ready"
            assert not unread, f"worker {worker.id} has free slots, and nothing of {unread} is on order"
            if worker.load + sum(worker.promised.values()) < worker.slots and not self._robbed:
                rich = [one.id for one in self._workers.values() if self._has_to_spare(one)]
                assert not rich, f"worker {worker.id} has free slots, and {rich} have items to spare"


def _room(run: RunBook, worker: WorkerBook, limit: int) -> int:
    """Return how many more items of a run a worker may take."""
    held = worker.assigned.get(run.id)
    if held is not None:
        return limit - held.count
    return limit - (worker.load if len(worker.assigned) >= RUNS_IN_HAND else 0)
