"""The status board: shared memory in which a worker says, with plain stores, what each of its slots runs.

It costs no message. When a worker dies, its board tells which items it was running, so that just these are blamed.
A board has one writer per record (the slot) and one reader (the supervisor's loop thread). The record of a slot is
five aligned values of 8 bytes:

    RUN       the run's id plus one; 0 while the slot is idle
    POSITION  of the item that runs; stored before it begins
    SINCE     when it began, in seconds of the system's steady clock
    DONE      items that the slot had finished by then
    LOOK      0; or, where SINCE and DONE were not stored for this item but for one before it, that one's position
              plus one: the slot ran those between without a look at the clock, one after the other

A slot that goes on to another run is idle in between, so that a record is never half of two.

Behind the records is room for the stack that `faulthandler` writes when the worker crashes. The file can be made
neither longer, so that this is all it can write, nor shorter, which would take the supervisor along when it reads.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import tempfile
from time import perf_counter
from typing import Final, NamedTuple

__all__ = ["DONE", "LOOK", "POSITION", "RUN", "SINCE", "Board", "Mark"]

RUN: Final = 0
POSITION: Final = 1
SINCE: Final = 2
DONE: Final = 3
LOOK: Final = 4
_RECORD: Final = 5
_RECORDS: Final = 65_536
"""As many as a worker can have slots; a page of memory exists only once a slot on it is used."""
_SIZE: Final = 8 * _RECORD * _RECORDS
_STACK: Final = 1 << 16
"""Bytes for a stack: the hundred frames that faulthandler writes take a tenth."""


class Mark(NamedTuple):
    """What a busy slot says.

    `since` is in seconds of the system's steady clock. If it is not `exact`, the item began later than that: it is one
    of a series of which all were expected to be done within a moment.
    """

    run: int
    position: int
    since: float
    exact: bool


class Board:
    """One worker's board. `Board()` is private to the process, `create` and `attach` share it by a descriptor."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        self._memory = mmap.mmap(-1, _SIZE + _STACK) if memory is None else memory
        self._view = memoryview(self._memory)[:_SIZE].cast("q")
        self._clock = memoryview(self._memory)[:_SIZE].cast("d")

    @classmethod
    def create(cls) -> tuple[Board, int]:
        """Return a board and a descriptor to attach to it; the file has no name, so it ends with its last user."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("poolmagic-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, _SIZE + _STACK)
            _seal(descriptor)
            return cls.attach(descriptor), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def attach(cls, descriptor: int) -> Board:
        """Return the board behind a descriptor, which may be closed afterwards."""
        return cls(mmap.mmap(descriptor, _SIZE + _STACK))

    @staticmethod
    def write_stack_at_crash(descriptor: int) -> None:
        """Have this process's stack written to the board behind a descriptor if it crashes; that must stay open."""
        os.lseek(descriptor, _SIZE, os.SEEK_SET)
        faulthandler.enable(file=descriptor, all_threads=False)
        os.register_at_fork(after_in_child=faulthandler.disable)  # a crash of a task's child is another matter

    def confess(self) -> None:
        """Say that the process is about to kill itself: nobody else is to blame for it."""
        self._memory[_SIZE + _STACK - 1] = 1  # far behind any stack

    @property
    def has_confessed(self) -> bool:
        """Whether the process has killed itself."""
        return self._memory[_SIZE + _STACK - 1] == 1

    # The slot ------------------------------------------------------------------------------------------------------

    def record(self, slot: int) -> tuple[memoryview, memoryview[float]]:
        """Return a slot's record to write to: its integers, and the same memory as floats, for SINCE."""
        place = slice(slot * _RECORD, (slot + 1) * _RECORD)
        if len(self._view[place]) < _RECORD:
            raise IndexError(f"a board has no slot {slot}")
        return self._view[place], self._clock[place]

    def start(self, slot: int, run: int, position: int) -> None:
        """Say that a slot now runs an item."""
        place = slot * _RECORD
        view = self._view
        if view[place] != run + 1:
            view[place] = 0
        view[place + POSITION] = position
        self._clock[place + SINCE] = perf_counter()
        view[place] = run + 1

    def clear(self, slot: int) -> None:
        """Say that a slot is idle."""
        self._view[slot * _RECORD] = 0

    # The supervisor ------------------------------------------------------------------------------------------------

    def running(self, slots: int) -> tuple[tuple[int, int], ...]:
        """Return the (run, position) that each busy slot of the first `slots` runs."""
        view = self._view
        return tuple(
            (view[place] - 1, view[place + POSITION])
            for place in range(0, slots * _RECORD, _RECORD)
            if view[place] and view[place + POSITION] >= 0
        )

    def look(self, slots: int) -> tuple[list[Mark], int]:
        """Return what the busy ones of the first `slots` slots say, and how many items all have finished so far.

        It takes well under a millisecond for a thousand slots. They go on meanwhile, so what is finished may be wrong
        by a few items.
        """
        stop = slots * _RECORD
        numbers, times = self._view[:stop].tolist(), self._clock[:stop].tolist()
        marks: list[Mark] = []
        for place in range(0, stop, _RECORD):
            if numbers[place] and numbers[place + POSITION] >= 0:
                run, position, look = numbers[place], numbers[place + POSITION], numbers[place + LOOK]
                marks.append(Mark(run - 1, position, times[place + SINCE], look in (0, position + 1)))
        done = sum(numbers[DONE::_RECORD]) + sum(
            max(0, numbers[place + POSITION] + 1 - numbers[place + LOOK])
            for place in range(0, stop, _RECORD)
            if numbers[place] and numbers[place + LOOK]
        )
        return marks, done

    def stack(self) -> str:
        """Return the stack that the worker has written in a crash; empty if it has not."""
        return self._memory[_SIZE:].partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Let go of the memory. Calling it twice equals once."""
        self._view.release()
        self._clock.release()
        self._memory.close()


def _seal(descriptor: int) -> None:
    """Keep a file at its length, where the system can."""
    if hasattr(os, "memfd_create"):
        import fcntl  # noqa: PLC0415 - Windows has none

        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
