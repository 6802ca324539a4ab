"""What a task prints: text streams that send it home with the task's name on it, line by line.

A stream may be written to from any thread of the worker; text from outside of a task goes where it went before.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Final, TextIO

from poolmagic.messages import Output
from poolmagic.worker.signals import held_back
from poolmagic.worker.tasks import Worker, current

__all__ = ["TaskStream"]

PART: Final = 1 << 20
"""Most letters in a message: far below what a frame may hold."""


class TaskStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr` in a worker."""

    def __init__(self, worker: Worker, name: str, before: TextIO) -> None:
        self._worker = worker
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
        """Send the whole lines in `text` home, and keep the rest of it for later."""
        task = _current_task()
        if task is None:
            return self._before.write(text)
        lines, end, rest = (self._worker.unfinished.pop((task, self._name), "") + text).rpartition("\n")
        if len(rest) > PART:  # a line without an end
            end, rest = end + rest, ""
        if rest:
            self._worker.unfinished[task, self._name] = rest
            self._worker.nudges.add("an unfinished line")
        whole = lines + end
        with held_back() if self._worker.limits.are_set else nullcontext():
            for start in range(0, len(whole), PART):
                self._worker.send(Output(*task, self._name, whole[start : start + PART]))
        return len(text)

    def flush(self) -> None:
        """Send what the present task wrote since its last line ended."""
        task = _current_task()
        if task is None:
            self._before.flush()
        else:
            with held_back() if self._worker.limits.are_set else nullcontext():
                self._worker.send_unfinished(task)


def _current_task() -> tuple[int, int] | None:
    tell = current.get()
    return None if tell is None else tell()
