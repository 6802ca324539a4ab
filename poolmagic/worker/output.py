"""Python's own streams in a worker process: what is written to them goes home, with the name of the task on it.

A stream may be written to from any thread of the worker. In a process that a task forks off the worker, which has no
line home, it writes to the descriptor that it stands for.
"""

from __future__ import annotations

import io
from typing import TextIO

from poolmagic.worker.printing import Printer
from poolmagic.worker.tasks import current

__all__ = ["TaskStream", "current_task"]


class TaskStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr` in a worker."""

    def __init__(self, printer: Printer, name: str, before: TextIO) -> None:
        self._printer = printer
        self._name = name
        self._before = before

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that this one stands in for."""
        return self._before.encoding

    def fileno(self) -> int:
        """The descriptor of the stream that this one stands in for."""
        return self._before.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Send the whole lines in `text` home before long, and keep the rest of it for later."""
        if self._printer.is_left:
            self._before.write(text)
            self._before.flush()
        else:
            self._printer.write(current_task(), self._name, text)
        return len(text)

    def flush(self) -> None:
        """Send what the present task wrote since its last line ended."""
        if self._printer.is_left:
            self._before.flush()
        else:
            self._printer.flush(current_task())


def current_task() -> tuple[int, int] | None:
    """Return the run and the position of the task that this thread, green thread or coroutine belongs to."""
    tell = current.get()
    return None if tell is None else tell()
