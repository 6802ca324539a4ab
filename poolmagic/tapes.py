"""Tapes: memory files to which a process writes as if to a terminal, and from which what it wrote is taken.

Not pipes: whoever writes to a full pipe waits for the reader, and C code that does so while it holds the interpreter
would wait for ever for a reader in the same process. A tape is never full, and what is taken off it is erased, so that
it holds no more memory than what is left on it. It has no name, and ends with its last user.

A tape belongs to one process, whose threads take turns.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

__all__ = ["MOST", "Tape"]

MOST: Final = 1 << 20
"""Most bytes that are taken at once."""

LAST: Final = 1 << 16
BEGIN: Final = 1 << 40
"""Where the bytes of a tape begin: a program that opens the file anew, and cuts it, is found out by its length."""

_PAGE: Final = 4096
_KEEP_SIZE_AND_PUNCH_HOLE: Final = 0x01 | 0x02


def _find_fallocate() -> Any:
    """Return the function of Linux that frees a part of a file; None elsewhere."""
    if os.name != "posix":
        return None
    function = getattr(ctypes.CDLL(None), "fallocate", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function


_fallocate: Final = _find_fallocate()


class Tape:
    """What is written to a file, and was not taken yet.

    Args:
        descriptor: It belongs to the tape from now on. Whatever is written to it, or to a copy of it in any process,
            goes to the end.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._taken = self.size
        self._was_cut = False

    @classmethod
    def create(cls) -> Tape:
        """Return a new tape; raises `OSError` if the system gives no memory file, or no descriptor."""
        import fcntl  # noqa: PLC0415 - Windows has none

        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("poolmagic-tape", os.MFD_CLOEXEC)
            with suppress(OSError):  # files may not be as long as that
                os.ftruncate(descriptor, BEGIN)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        return cls(descriptor)

    @property
    def has_more(self) -> bool:
        """Whether there is something to take; costs less than a microsecond."""
        return self.size != self._taken or self._begins_anew()

    @property
    def size(self) -> int:
        """Where the next byte will be."""
        return os.lseek(self.descriptor, 0, os.SEEK_END)

    def take(self) -> Iterator[bytes]:
        """Take what was written by now and was not taken yet; yields it in parts of `MOST` bytes."""
        end = self.size
        if end < self._taken or self._begins_anew():
            self._was_cut, self._taken = True, 0
        while self._taken < end:
            data = os.pread(self.descriptor, min(MOST, end - self._taken), self._taken)
            if not data:  # cut again, right now
                return
            self._erase(self._taken, len(data))
            self._taken += len(data)
            yield data

    def rest(self) -> str:
        """Return the end of what nobody took, for another process than the one that takes; `LAST` bytes at most.

        What was taken has been erased; where that cannot be, nothing is known of the rest.
        """
        if _fallocate is None:
            return ""
        data = os.pread(self.descriptor, LAST, max(0, self.size - LAST))
        return data.lstrip(b"\0").decode("utf-8", "surrogateescape")

    def _begins_anew(self) -> bool:
        """Whether a file that was cut before was cut again: a shell that is to write to /dev/stdout does so."""
        if not self._was_cut or not self._taken or _fallocate is None:
            return False
        return os.pread(self.descriptor, 1, 0) not in (b"", b"\0")

    def _erase(self, start: int, length: int) -> None:
        """Give back the memory of what was taken; what reads it again finds zeros."""
        if length and _fallocate is not None:
            first = start - start % _PAGE  # a page is given back if all of it goes
            _fallocate(self.descriptor, _KEEP_SIZE_AND_PUNCH_HOLE, first, start + length - first)

    def close(self) -> None:
        """Close the descriptor. Calling it twice equals once."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # a task has closed all that it found
                os.close(descriptor)
