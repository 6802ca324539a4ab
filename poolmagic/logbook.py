"""The logbook: the runs and the background cells of this process, those that go on and the last that are over.

It keeps nobody alive: of a run that was dropped there is just its last picture, and none of its results. The list is
the process's; any thread may add to it and read it.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol

from poolmagic import background
from poolmagic.errors import UsageError
from poolmagic.snapshot import RunSnapshot

__all__ = ["LogEntry", "find", "list_runs", "note"]

KEPT: Final = 20
"""How many entries are kept of what is over."""

_lock = threading.Lock()
_entries: list[LogEntry] = []


class Logged(Protocol):
    """A run, or background work."""

    id: int
    name: str

    def snapshot(self) -> RunSnapshot:
        """Return a picture of this moment."""
        ...

    def done(self) -> bool:
        """Return whether it is over."""
        ...

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is over."""
        ...

    def result(self, timeout: float | None = None) -> object:
        """Return its result, or raise its error."""
        ...

    def cancel(self) -> None:
        """End it."""
        ...


class LogEntry:
    """A run or a background cell, as `list_runs` lists it.

    Attributes:
        number: Its number in this kernel, which runs and background cells share.
        name: Of its function; of a background cell, the variable that it fills.
        pool: The name of its pool.
        cell: The number of the background cell that a run belongs to; None if there is none.
        is_cell: Whether it is a background cell itself.
    """

    def __init__(self, work: Logged, pool: str, *, is_cell: bool) -> None:
        owner = background.here()
        self.number = work.id
        self.name = work.name
        self.pool = pool
        self.cell = None if owner is None or is_cell else owner.id
        self.is_cell = is_cell
        self._work: weakref.ref[Logged] = weakref.ref(work)
        self._last: RunSnapshot | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it was dropped before it had begun, so that there is nothing to tell."""
        return self._work() is None and self._last is None

    @property
    def snapshot(self) -> RunSnapshot:
        """A picture of this moment; the last one if it is over. Takes well under a millisecond."""
        work = self._work()
        if work is not None:
            return work.snapshot()
        assert self._last is not None, "lost entries are not listed"
        return self._last

    @property
    def work(self) -> Logged | None:
        """The `Run`, or what goes on in the background; None if it was dropped, which happens only when it is over."""
        return self._work()

    @property
    def is_over(self) -> bool:
        """Whether it is over, however it ended."""
        work = self._work()
        return work is None or work.done()

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is over, however it ended.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: It goes on.
            UsageError: It is what this very thread does.
        """
        work, own = self._work(), background.here()
        if own is not None and own.id == self.number:
            raise UsageError(f"background cell {self.number} cannot wait for its own end")
        if work is not None:
            work.wait(timeout)

    def cancel(self) -> None:
        """End it: a run stops, of a background cell all maps do, and it begins no more. Does not block."""
        work = self._work()
        if work is not None:
            work.cancel()

    def close(self) -> None:
        """Keep the last picture; its run or cell calls this at its end."""
        self._last = self.snapshot

    def __repr__(self) -> str:
        snapshot = self.snapshot
        what = "background cell" if self.is_cell else "run"
        return f"<{what} {self.number}: {self.name} on {self.pool}, {snapshot.state}>"


def note(work: Logged, pool: str, *, is_cell: bool = False) -> LogEntry:
    """Write a run or a background cell down that begins, without keeping it alive; does not block."""
    entry = LogEntry(work, pool, is_cell=is_cell)
    owner = background.here()
    if owner is not None:
        owner.latest = lambda: None if entry.is_lost else entry.snapshot
    with _lock:
        over = [known for known in _entries if known.is_over]
        for known in over[: max(0, len(over) - KEPT)]:
            _entries.remove(known)
        _entries.append(entry)
    return entry


def list_runs() -> list[LogEntry]:
    """Return the runs and background cells of this kernel: those that go on and the last 20 others, oldest first.

    Does not block. The results of a run are in the run itself, which is not kept alive by being listed.
    """
    with _lock:
        return [entry for entry in _entries if not entry.is_lost]


def find(number: int) -> LogEntry:
    """Return the run or background cell of that number; raises `UsageError`."""
    for entry in list_runs():
        if entry.number == number:
            return entry
    raise UsageError(f"no run or background cell is number {number}: see %pool runs")


def _forget() -> None:
    """In a process forked off the kernel nothing of all this goes on."""
    global _lock
    _lock = threading.Lock()
    _entries.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
