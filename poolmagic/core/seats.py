"""Where workers sit: how many there are to be, with how many slots, and when a seat is filled again.

The seat of a worker that ended is filled again at once, but if it had achieved nothing, the seat stays empty for a
while, and for twice as long after the next such worker. With *autoscale* seats are opened as soon as items wait for a
free slot, and closed when they have not been needed for `KEEPALIVE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from poolmagic.core.alarms import Alarm, Alarms
from poolmagic.core.attempts import Attempts, size_of
from poolmagic.core.books import PoolLimits, RunBook, WorkerBook, WorkerPhase

__all__ = ["ALIVE", "Seats"]

ALIVE: Final = (WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.RETIRING)
"""Workers that have a seat."""
KEEPALIVE: Final = 30.0
"""Seconds without work after which an autoscaled pool does without a worker or a slot."""
FIRST_WAIT: Final = 0.05
"""Seconds that a seat stays empty after a worker that achieved nothing; twice as long after the next, and so on."""
LONGEST_WAIT: Final = 5.0


class Seats:
    """The seats of one pool.

    Args:
        full: The slots of each worker that the pool has at most.
        scales: What there may be more or less of: ``"workers"`` or ``"slots"``.
        limits: What workers are limited to.
        alarms: Where it is noted when a seat is to be looked at.

    Attributes:
        wanted: The slots of each worker that there should be now; 0 for a seat that is closed.
    """

    def __init__(self, full: list[int], scales: str, limits: PoolLimits, alarms: Alarms) -> None:
        self.full = full
        self._by_worker = scales == "workers"
        self._alarms = alarms
        self._deaths: dict[int, int] = {}
        self._progress = 0
        self._empty_until: dict[int, float] = {}
        self.wanted = full
        self._least: int | None = None
        if limits.autoscale is not None:
            self._least = limits.autoscale[1]
            self.wanted = [0] * len(full) if self._by_worker else [1] * len(full)
            self._set_total(self._least)

    # Sizes ---------------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Workers that there should be."""
        return sum(map(bool, self.wanted))

    @property
    def may_grow(self) -> bool:
        """Whether more could be wanted than is."""
        return self._least is not None and sum(self.wanted) < sum(self.full)

    @property
    def may_shrink(self) -> bool:
        """Whether less could be wanted than is."""
        return self._least is not None and sum(self.wanted) > self._floor

    @property
    def _floor(self) -> int:
        return min(max(self._least or 0, 1 if self._by_worker else len(self.full)), sum(self.full))

    def grow(self, number: int) -> None:
        """Have so many more."""
        before = sum(self.wanted)
        if self._by_worker:
            self.full += [1] * number
            if self.wanted is not self.full:
                self.wanted += [0] * number
        for _ in range(0 if self._by_worker else number):
            self.full[self.full.index(min(self.full))] += 1
        self._set_total(before + number)

    def shrink(self, number: int) -> None:
        """Have so many less, but at least one worker, and one slot of each."""
        before = sum(self.wanted)
        if self._by_worker:
            del self.full[max(1, len(self.full) - number) :]
            del self.wanted[len(self.full) :]
        for _ in range(0 if self._by_worker else min(number, sum(self.full) - len(self.full))):
            self.full[self.full.index(max(self.full))] -= 1
        self._set_total(before - number)

    def _set_total(self, total: int) -> None:
        """Want so many workers or slots now, as far as may be."""
        if self.wanted is self.full:
            return
        total = min(max(total, self._floor), sum(self.full))
        if not self._by_worker:
            base, more = divmod(total, len(self.full))
            self.wanted[:] = [base + (seat < more) for seat in range(len(self.full))]
            return
        for seat in range(len(self.wanted)):
            if sum(self.wanted) < total:
                self.wanted[seat] = 1

    def fit(self, workers: Iterable[WorkerBook], runs: Iterable[RunBook], attempts: Attempts, now: float) -> None:
        """Open as many seats as there are items that wait for one."""
        alive = [worker for worker in workers if worker.phase in ALIVE and not worker.doomed]
        rooms = [worker.slots - worker.load for worker in alive]
        free = sum(self.wanted) - sum(worker.slots for worker in alive) + sum(room for room in rooms if room > 0)
        waiting = sum(_backlog(run, now) for run in runs if run.is_open)
        waiting += sum(map(size_of, attempts.groups)) - sum(room for room in rooms if room < 0)
        if waiting > free:
            self._set_total(sum(self.wanted) + waiting - max(0, free))

    def close_spare(self, workers: Iterable[WorkerBook], now: float) -> None:
        """Close the seats, or take away the slots, that have not been needed for long; look again in time."""
        sitting = {worker.seat: worker for worker in workers if worker.phase in ALIVE}
        if not self._by_worker:
            self._set_total(min(sum(self.wanted), sum(worker.peak for worker in sitting.values())))
            for worker in sitting.values():
                worker.peak = worker.load
            return
        for seat in reversed(range(len(self.wanted))):
            one = sitting.get(seat)
            is_idle = one is None or (
                one.phase is WorkerPhase.READY and not one.load and one.idle_since + KEEPALIVE <= now
            )
            if self.may_shrink and is_idle:
                self.wanted[seat] = 0

    def look_again(self, workers: Iterable[WorkerBook], now: float) -> None:
        """Set the alarm for `close_spare`."""
        if self.may_shrink:
            idle = [one.idle_since for one in workers if one.phase is WorkerPhase.READY and not one.load]
            since = min((one for one in idle if one + KEEPALIVE > now), default=now) if self._by_worker else now
            self._alarms.set(Alarm("spare"), since + KEEPALIVE)

    # Deaths --------------------------------------------------------------------------------------------------------

    def died(self, seat: int, progress: int, now: float) -> None:
        """Leave a seat empty for a while: its worker ended and had achieved nothing, and nor has the pool since."""
        if progress != self._progress:
            self._progress = progress
            self._deaths.clear()
        deaths = self._deaths[seat] = self._deaths.get(seat, 0) + 1
        self._empty_until[seat] = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(deaths - 1, 100))

    def forgive(self) -> None:
        """Fill all seats at once, whatever happened."""
        self._deaths.clear()
        self._empty_until.clear()

    def empty(self, workers: Iterable[WorkerBook], now: float) -> list[int]:
        """Return the seats that are to be filled now; of the others it is noted when."""
        taken = {worker.seat for worker in workers if worker.phase in ALIVE}
        empty = [seat for seat, slots in enumerate(self.wanted) if slots and seat not in taken]
        for seat in empty if self._empty_until else ():
            if (until := self._empty_until.get(seat, now)) > now:
                self._alarms.set(Alarm("seat", seat), until)
        return [seat for seat in empty if self._empty_until.get(seat, now) <= now]


def _backlog(run: RunBook, now: float) -> int:
    """Return how many items of a run wait for a slot. Of an input of unknown length, one more does at least."""
    known = run.remaining
    count = run.waiting + max(1, run.asked) if known is None else known
    return count if run.throttle is None else min(count, run.throttle.allowance(now))
