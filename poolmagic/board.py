"""The status board: shared memory in which a worker says, with plain stores, what each of its slots runs.

It costs no message. When a worker dies, its board tells which items it was running, so that just these are blamed.
A board has one writer per record (the slot) and one reader (the supervisor's loop thread). The record of a slot is
two aligned 8-byte integers: the run's id plus one, 0 while the slot is idle; and the position of the item.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

__all__ = ["Board"]

_RECORD: Final = 2
_RECORDS: Final = 65_536
"""As many as a worker can have slots; a page of memory exists only once a slot on it is used."""
_SIZE: Final = 8 * _RECORD * _RECORDS


class Board:
    """One worker's board. `Board()` is private to the process, `create` and `attach` share it by a descriptor."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        self._memory = mmap.mmap(-1, _SIZE) if memory is None else memory
        self._view = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls) -> tuple[Board, int]:
        """Return a board and a descriptor to attach to it; the file has no name, so it ends with its last user."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("poolmagic-board", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _SIZE)
        return cls.attach(descriptor), descriptor

    @classmethod
    def attach(cls, descriptor: int) -> Board:
        """Return the board behind a descriptor, which may be closed afterwards."""
        return cls(mmap.mmap(descriptor, _SIZE))

    def start(self, slot: int, run: int, position: int) -> None:
        """Say that a slot now runs an item. The run is stored last, so that a record is never half of two items."""
        place = slot * _RECORD
        self._view[place + 1] = position
        self._view[place] = run + 1

    def clear(self, slot: int) -> None:
        """Say that a slot is idle."""
        self._view[slot * _RECORD] = 0

    def running(self, slots: int) -> tuple[tuple[int, int], ...]:
        """Return the (run, position) that each busy slot of the first `slots` runs."""
        view = self._view
        return tuple((view[place] - 1, view[place + 1]) for place in range(0, slots * _RECORD, _RECORD) if view[place])

    def close(self) -> None:
        """Let go of the memory. Calling it twice equals once."""
        self._view.release()
        self._memory.close()
