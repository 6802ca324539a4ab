"""Who gets the next batch, when more is ordered, and what is taken back.

A worker is served when something happens to it: it has reported, or what was ordered for it has arrived. So an event
costs the same with two workers as with two hundred; only what is rare, such as a new run or a new worker, has everybody
served. Workers with free slots that nothing was found for are remembered, and come first when there is something.
Meanwhile what another has not started is taken back for them, from whoever has most of it (work stealing: Blumofe and
Leiserson, 1999). Half of that at least goes elsewhere. So a worker that is held up by one long item is soon rid of all
that waits behind it. Nobody is robbed again of a run before something was finished, so workers cannot rob each other in
circles; unless there was nothing to take, and there is now.

A group of suspects (see `attempts`) goes to the next worker that is empty; if none is about to be, one is let run dry.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from typing import Final

from poolmagic.core import events as ev
from poolmagic.core.alarms import Alarm, Alarms
from poolmagic.core.attempts import Attempts, Group
from poolmagic.core.books import RunBook, RunPhase, WorkerBook, WorkerPhase
from poolmagic.core.spans import split
from poolmagic.messages import Span

__all__ = ["Scheduler"]

RUNS_IN_HAND: Final = 4
"""Runs of which a worker may have its fill each, so that no run starves another."""
NOBODY: Final = 0
"""Stands for a worker; the first one's number is 1."""


class Scheduler:
    """Books what it hands out, and returns the commands for it.

    Args:
        workers: The books of the pool's workers, by id.
        runs: The books of its runs, by id.
        attempts: The groups of suspects.
        alarms: Where it is noted when more of a run may start.

    Attributes:
        progress: Items finished, ever.
        now: The present time.
        holds: Nothing is handed out but one batch at a time.
    """

    def __init__(
        self, workers: dict[int, WorkerBook], runs: dict[int, RunBook], attempts: Attempts, alarms: Alarms
    ) -> None:
        self._workers = workers
        self._runs = runs
        self._groups = attempts.groups
        self._attempts = attempts
        self._alarms = alarms
        self._open: OrderedDict[int, RunBook] = OrderedDict()
        """Runs that have or may get items to hand out; the next to be served is first."""
        self._idle: dict[int, None] = {}
        """Workers with free slots that nothing was found for, the longest idle first."""
        self._expectant: dict[int, None] = {}
        """Workers with free slots for which something is on order."""
        self._woken: dict[int, None] = {}
        """Workers to which something has happened."""
        self._came_back = False
        self._robbed: set[int] = set()
        """Workers that have not answered yet what they give back."""
        self._able = 1
        self.progress = 0
        self.now = 0.0
        self.holds = False
        self._commands: list[ev.Command] = []

    def update(self, run: RunBook) -> None:
        """Take note of a run that has changed."""
        is_open = run.phase is RunPhase.ACTIVE and not run.is_paused
        if is_open and (run.ready or not run.last):
            self._open.setdefault(run.id, run)
        else:
            self._open.pop(run.id, None)
        if run.last or not is_open:
            for number, _ in run.orders:  # nobody is to wait for what will not come, or not be used
                if (worker := self._workers.get(number)) is not None and worker.promised.pop(run.id, 0):
                    self.wake(number)
        if run.is_paused:  # what comes is for whoever is free when the run goes on
            run.orders = deque((NOBODY, size) for _, size in run.orders)

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
            if self.holds:
                self._woken.clear()
                return self._serve_one()
            self._serve_groups(able)
        else:
            able = [self._workers[number] for number in self._woken]
        self._woken.clear()
        self._serve_first(self._idle, self._hand_out)
        if self._came_back:  # for them, and not for whom it came from
            self._came_back = False
            self._serve_first(self._expectant, self._hand_out)
        hungry = able
        while hungry:  # one batch for each, and again
            hungry = [worker for worker in hungry if self._hand_out(worker)]
        for worker in able:
            self._order(worker)
            self._note(worker)
        self._serve_first(self._expectant, self._hand_out)
        self._serve_first(self._idle, self._order)
        while len(self._robbed) < len(self._idle) and self._take_back(self._runs):
            continue
        # What is on order may be long in coming, from a slow input or for a slow consumer. Of a run of which nothing
        # is on order, nobody needs to wait for that.
        dry = [run.id for run in self._runs.values() if run.last] if self._expectant else []
        while dry and len(self._robbed) < len(self._idle) + len(self._expectant) and self._take_back(dry):
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
        if worker.load < worker.slots and not worker.is_closed:
            hopes = worker.load + sum(worker.promised.values()) >= worker.slots
            (self._expectant if hopes else self._idle)[worker.id] = None

    def _hand_out(self, worker: WorkerBook) -> bool:
        """Give a worker one batch of what is ready, if it has room."""
        if worker.alone or worker.dries or worker.budget <= 0:
            return False
        most = worker.budget
        for run in self._open.values():
            if not run.ready:
                continue
            if run.throttle is not None:
                if not (allowance := self._allowance_of(run, worker)):
                    continue
                most = min(worker.budget, allowance)
                break
            if _room(run, worker, run.sizer.plan(worker.slots, run.remaining, self._able).limit) > 0:
                break
            if len(worker.assigned) >= RUNS_IN_HAND:
                return False
        else:
            return False
        # A batch is cut only if it turned out to be far too long: its payload travels whole with each part.
        span = run.next_span(run.sizer.plan(worker.slots, None, self._able).size, most)
        self._give(worker, run, span)
        self._open.move_to_end(run.id)
        self.update(run)
        return True

    def _give(self, worker: WorkerBook, run: RunBook, span: Span) -> None:
        if worker.id not in run.introduced:
            run.introduced.add(worker.id)
            self._commands.append(ev.Introduce(worker.id, run.id))
        worker.give(run.id, span)
        if run.throttle is not None:
            run.throttle.take(span[1] - span[0], self.now)
        self._commands.append(ev.Dispatch(worker.id, run.id, span))

    def _allowance_of(self, run: RunBook, worker: WorkerBook) -> int:
        """Return how many items of a run that has a rate a worker may be given; nothing is given in advance."""
        assert run.throttle is not None
        plan = run.sizer.plan(worker.slots, run.remaining, self._able)
        if (room := _room(run, worker, max(worker.slots, plan.size))) <= 0:
            return 0
        allowance = run.throttle.allowance(self.now)
        if not allowance:
            self._alarms.set(Alarm("rate", run.id), run.throttle.due)
        return min(room, allowance)

    def _order(self, worker: WorkerBook) -> bool:
        """Order as many batches as a worker has room for, beside what is on order for it already."""
        if worker.is_closed:
            return False
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
            if room < plan.least or (run.throttle is not None and run.waiting):
                return True
            left = room if run.total is None else run.total - run.filled - run.asked
            if run.last or (left <= 0 and run.asked):
                return False
            # If all that was claimed is here, and yet there was no word that this is all, one more will bring it.
            size = plan.size if run.sizer.chunksize else min(plan.size, room)
            if run.throttle is not None:
                size = min(size, run.throttle.burst)  # it would be cut, and travel whole with each part
            size = max(1, int(min(left, size, worker.budget)))
            run.orders.append((worker.id, size))
            run.asked += size
            worker.promised[run.id] = promised + size
            self._commands.append(ev.Ask(run.id, size))

    # Workers of which one has something in hand ---------------------------------------------------------------------

    def _serve_groups(self, able: list[WorkerBook]) -> None:
        """Give the groups that wait to workers that are empty; if that is not enough, let one more get so."""
        drying = next((worker for worker in able if worker.dries), None)
        for worker in able:
            worker.dries = False
            if self._groups and not worker.load and worker.budget > 0:
                self._give_group(worker)
        if not self._groups or any(worker.phase is WorkerPhase.STARTING for worker in self._workers.values()):
            return  # a new worker is empty
        able = [worker for worker in able if not worker.is_closed]
        if drying not in able:
            drying = able[0] if able else None
        if drying is not None:
            drying.dries = True
            if self._has_to_spare(drying, self._runs):
                self._rob(drying, self._active_of(drying))

    def _give_group(self, worker: WorkerBook) -> None:
        group: Group = self._attempts.next_group(worker.budget)
        for number, span in group:
            self._give(worker, self._runs[number], span)
        worker.alone = True

    def _serve_one(self) -> list[ev.Command]:
        """Give one batch to one worker, if none has anything in hand; or order one for it."""
        worker = self.last_to_go()
        if worker is not None and not worker.load:
            worker.dries = False
            if self._groups:
                self._give_group(worker)
            elif not self._hand_out(worker) and not any(run.asked for run in self._open.values()):
                for run in self._open.values():
                    if not run.last and not run.waiting:
                        self._order_of(run, worker)
                        break
        return self._commands

    def last_to_go(self) -> WorkerBook | None:
        """Return the worker that goes on while the pool holds: one that has something in hand, or else any."""
        able = [worker for worker in self._workers.values() if worker.is_able and worker.budget > 0]
        busy = [worker for worker in self._workers.values() if worker.load]
        return next(iter(busy + able), None)

    def ease(self) -> list[ev.Command]:
        """Have all workers give back what they have not started."""
        self._commands = []
        for worker in self._workers.values():
            if self._has_to_spare(worker, self._runs):
                self._rob(worker, self._active_of(worker))
        return self._commands

    # Taking back ---------------------------------------------------------------------------------------------------

    def _take_back(self, runs: Container[int]) -> bool:
        """Have the worker that has most to spare of some runs give that back; return whether there is one."""
        victims = [worker for worker in self._workers.values() if self._has_to_spare(worker, runs)]
        if not victims:
            return False
        victim = max(victims, key=lambda worker: worker.load - worker.slots)
        # Of equals the newest: the oldest is most likely what runs, and has nothing to give back.
        run = max(reversed(self._open_to_robbery(victim, runs)), key=lambda run: victim.assigned[run].count)
        self._rob(victim, [run])
        return True

    def _rob(self, victim: WorkerBook, runs: list[int]) -> None:
        if victim.robbed_at != self.progress:
            victim.robbed_at, victim.robbed_of = self.progress, {}
        victim.robbed_of.update(dict.fromkeys(runs, math.inf))
        self._robbed.add(victim.id)
        self._commands += [ev.WithdrawItems(victim.id, run) for run in runs]

    def _has_to_spare(self, worker: WorkerBook, runs: Container[int]) -> bool:
        """Return whether a worker may have items of some runs that it has not started and that others might."""
        if worker.load <= worker.slots or worker.id in self._robbed:
            return False
        return worker.is_up and not worker.alone and bool(self._open_to_robbery(worker, runs))

    def _open_to_robbery(self, worker: WorkerBook, runs: Container[int]) -> list[int]:
        """Return those of some runs that a worker was not robbed of since something was finished."""
        active = [run for run in self._active_of(worker) if run in runs]
        if worker.robbed_at != self.progress:
            return active
        return [run for run in active if worker.assigned[run].count > worker.robbed_of.get(run, 0)]

    def _active_of(self, worker: WorkerBook) -> list[int]:
        return [run for run in worker.assigned if self._runs[run].is_open]

    def returned(self, worker: WorkerBook, run: RunBook, spans: list[Span]) -> list[Span]:
        """Take note that a worker has given back these spans; return them cut for those who wait and itself."""
        self._robbed.discard(worker.id)
        count = sum(stop - start for start, stop in spans)
        if not count and (held := worker.assigned.get(run.id)) is not None:
            worker.robbed_of[run.id] = held.count  # which it has begun; it may get more
        self._came_back = bool(count)
        share = run.sizer.share(count, 1 + len(self._idle) + len(self._expectant))
        return [part for start, stop in spans for part in split((start, stop), -(-(stop - start) // share))]

    # The books -----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check that orders are booked twice alike, and that nobody is idle for nothing."""
        active = [run for run in self._runs.values() if run.is_open]
        for run in self._runs.values():
            assert run.asked == sum(size for _, size in run.orders)
            for worker in self._workers.values():
                ordered = sum(size for number, size in run.orders if number == worker.id)
                wanted = ordered if run.is_open and not run.last else 0
                assert worker.promised.get(run.id, 0) == wanted
        ready = [run.id for run in active if run.ready and (not run.throttle or run.throttle.allowance(self.now))]
        in_hand = {run for worker in self._workers.values() for run in worker.assigned}
        unread = [
            run.id
            for run in active
            if not (run.last or run.asked or run.waiting or (run.throttle and run.id in in_hand))
        ]
        for run in active:
            is_set = run.throttle is None or not run.waiting or run.throttle.allowance(self.now) or self.holds
            free = any(one.is_able and not one.is_closed and not one.load for one in self._workers.values())
            assert is_set or not free or Alarm("rate", run.id) in self._alarms, f"nobody will look after run {run.id}"
        self._validate_groups()
        if self.holds:
            last = self.last_to_go()
            assert last is None or last.load or last.promised or not ready, "the pool holds, and does not go on"
            return
        for worker in self._workers.values():
            if not worker.is_able or worker.load >= worker.slots or worker.is_closed:
                continue
            assert not ready, f"worker {worker.id} has free slots, and items of {ready} are ready"
            assert not unread, f"worker {worker.id} has free slots, and nothing of {unread} is on order"
            if not self._robbed:
                hopes = worker.load + sum(worker.promised.values()) >= worker.slots
                runs = [run.id for run in active if run.last or not hopes]
                rich = [one.id for one in self._workers.values() if self._has_to_spare(one, runs)]
                assert not rich, f"worker {worker.id} has free slots, and {rich} have items to spare"

    def _validate_groups(self) -> None:
        """Check that suspects will run, and alone."""
        workers = [one for one in self._workers.values() if one.is_able]
        assert all(self._runs[run].is_open for group in self._groups for run, _ in group)
        assert all(one.load for one in self._workers.values() if one.alone), "a worker is alone with nothing"
        if self._groups and not self.holds:
            empty = [one.id for one in workers if not one.load and one.budget > 0]
            assert not empty, f"workers {empty} are empty, and suspects wait"
            is_new = any(one.phase is WorkerPhase.STARTING for one in self._workers.values())
            closed = all(one.is_closed for one in workers)
            assert is_new or closed or any(one.dries for one in workers), "no worker runs dry, and suspects wait"


def _room(run: RunBook, worker: WorkerBook, limit: int) -> int:
    """Return how many more items of a run a worker may take."""
    held = worker.assigned.get(run.id)
    if held is not None:
        return limit - held.count
    return limit - (worker.load if len(worker.assigned) >= RUNS_IN_HAND else 0)
