"""When the items of a run ran: from the worker's slots to the kernel, and there in columns of numbers.

A slot notes an *entry*, four numbers: the first position, the one after the last, and when they began and ended, in
seconds of the system's steady clock (`time.perf_counter`, which is the same for all processes of a machine). An item
that takes some time has an entry of its own; short ones that followed each other share one, so that neither a report
nor the kernel holds something for each of a million items. Items that wait for microseconds have one each all the same,
so nothing is done for an entry by itself that can be done for all of a report at once.

Threads. `Timings` is written by the run's asking thread alone; any thread may read it.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from time import perf_counter
from typing import Final, NamedTuple

from poolmagic.lifelines import MAXRSS_UNIT

__all__ = ["SHORT", "Stretch", "Timings", "pack", "peak_memory"]

SHORT: Final = 0.001
"""Seconds that items share an entry for: their report costs some microseconds, which would be much for less."""


def pack(peak: int, entries: Sequence[float]) -> bytes:
    """Return entries, one after the other, and the most memory that their worker has ever had in bytes, as they travel.

    All are floating point numbers, which hold any position and any size that there is.
    """
    return array("d", (peak, *entries)).tobytes()


def peak_memory() -> int:
    """Return the most bytes that this process ever had in memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - a path object would cost as much as the reading
            text = status.read()
        start = text.index(b"VmHWM:") + 6
        return int(text[start : text.index(b"kB", start)]) * 1024
    except (OSError, ValueError):  # no Linux; what the others tell is, on Linux, at least what the parent had
        import resource  # noqa: PLC0415 - Windows has none

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


class Stretch(NamedTuple):
    """Items that a worker ran one after the other, by their indices in the user's input.

    Attributes:
        first: The first index.
        stop: The index after the last.
        began: When the first began, in seconds since the run did.
        ended: When the last ended.
        worker: The place of the worker in `Timings.workers`.
        peak: The most bytes of memory that the worker had had when it told of this.
    """

    first: int
    stop: int
    began: float
    ended: float
    worker: int
    peak: int

    @property
    def seconds(self) -> float:
        """How long an item took, or on average if there are several."""
        return (self.ended - self.began) / (self.stop - self.first)


class Timings:
    """When the items of a run ran, attempts that failed included, in the order in which it became known.

    Attributes:
        workers: What the workers are called.
        worked: Seconds that all of it took, added up; what went on at the same time counts as often.
        earlier: How much of it there was when the run was resumed the last time.
    """

    def __init__(self) -> None:
        self.workers: list[str] = []
        self.worked = 0.0
        self.earlier = 0.0
        self._places: dict[str, int] = {}
        self._start = perf_counter()
        self._entries = array("d")
        # Of each report: where its entries end, the place of its worker, and the memory that this had had.
        self._ends = array("q")
        self._workers = array("q")
        self._peaks = array("q")

    def __len__(self) -> int:
        return self._ends[-1] // 4 if self._ends else 0

    def __iter__(self) -> Iterator[Stretch]:
        """Yield what has come so far."""
        start, begin = self._start, 0
        for end, worker, peak in zip(self._ends[:], self._workers[:], self._peaks[:], strict=False):
            first, stop, began, ended = (self._entries[begin + place : end : 4] for place in range(4))
            times = ([time - start for time in column] for column in (began, ended))
            yield from map(Stretch, map(int, first), map(int, stop), *times, repeat(worker), repeat(peak))
            begin = end

    def take(
        self, data: bytes, worker: str, pulled: int, indices: Callable[[tuple[int, int]], list[int] | range]
    ) -> None:
        """Take what a worker reports. A broken worker may send anything: a report that cannot be is left out.

        Args:
            data: As `pack` made it.
            worker: What the worker is called.
            pulled: How many items have been handed out: positions are below it.
            indices: Tells the indices of a span of positions. From some position on they follow one another.
        """
        if len(data) % 32 != 8 or len(data) == 8:
            return
        peak, *entries = array("d", data)
        first, stop, began, ended = (entries[place::4] for place in range(4))
        if not (
            0 <= peak < 2**63
            and min(first) >= 0
            and max(stop) <= pulled
            and all(map(float.is_integer, first + stop))
            and all(map(operator.lt, first, stop))
            and min(began) >= 0
            and max(ended) <= perf_counter()
            and all(map(operator.le, began, ended))
        ):
            return
        self.worked += sum(map(operator.sub, ended, began))
        lowest = int(min(first))
        found = indices((lowest, lowest + 1))
        if not isinstance(found, range):
            for entry in zip(first, stop, began, ended, strict=True):
                self._entries.extend(_by_index(entry, indices))
        elif found.start == lowest:
            self._entries.extend(entries)
        else:
            by = found.start - lowest
            for place in range(0, len(entries), 4):
                entries[place] += by
                entries[place + 1] += by
            self._entries.extend(entries)
        self._workers.append(self._place(worker))
        self._peaks.append(int(peak))
        self._ends.append(len(self._entries))  # the last to grow: who reads goes by it

    def _place(self, worker: str) -> int:
        place = self._places.setdefault(worker, len(self.workers))
        if place == len(self.workers):
            self.workers.append(worker)
        return place


def _by_index(
    entry: tuple[float, float, float, float], indices: Callable[[tuple[int, int]], list[int] | range]
) -> Iterator[float]:
    """Yield entries by index for one by position: what is left over of a run has gaps between its items."""
    first, stop, began, ended = entry
    each = (ended - began) / (stop - first)
    start = last = -1
    for place, index in enumerate(indices((int(first), int(stop)))):
        if index != last + 1 or start < 0:
            if start >= 0:
                yield from (start, last + 1, began, began + each * (last + 1 - start))
            start, began = index, entry[2] + each * place
        last = index
    yield from (start, last + 1, began, ended)
