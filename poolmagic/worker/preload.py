"""Importing modules before anybody needs them, in the main thread of a zygote or of a worker.

Whatever goes wrong with one is told and left: the function that needs the module imports it again when it is loaded,
and then it is the task's own error. What such a module prints is no task's output and is dropped.
"""

from __future__ import annotations

import importlib
import io
import os
import select
import sys
import threading
from typing import Final

from poolmagic.worker.capture import silenced

__all__ = ["count_other_threads", "import_quietly"]

_TASKS: Final = "/proc/self/task"


class _Echo(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr` during an import.

    Modules may keep it, for logging say: it writes to whatever stands in that place when it is written to.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write to the stream of the moment; nowhere while the import goes on."""
        stream = getattr(sys, self._name)
        return len(text) if stream is None or stream is self else stream.write(text)

    def flush(self) -> None:
        """Flush the stream of the moment."""
        stream = getattr(sys, self._name)
        if stream is not None and stream is not self:
            stream.flush()


def import_quietly(module: str) -> str:
    """Import a module; blocks as long as that takes. Returns what went wrong, in words, or ""."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Echo("stdout"), _Echo("stderr")
    try:
        with silenced():
            importlib.import_module(module)
    except BaseException as error:  # SystemExit and all: a module must not end the process of all workers
        return f"{type(error).__name__}: {error}"
    finally:
        sys.stdout, sys.stderr = streams
    return ""


def count_other_threads() -> int:
    """Return how many threads there are beside this one; blocks for some milliseconds if there are any.

    One that has ended, and been joined, may take a moment to go.
    """
    for _ in range(10):
        if _native_threads() == 1:
            break
        select.select([], [], [], 0.001)
    return _native_threads() - 1


def _native_threads() -> int:
    """How many threads this process has, those included that Python does not know of."""
    try:
        return len(os.listdir(_TASKS))  # noqa: PTH208 - pathlib would take longer than the question is worth
    except OSError:  # not Linux
        if sys.platform == "darwin":
            import psutil

            return psutil.Process().num_threads()
        return threading.active_count()
