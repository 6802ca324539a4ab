"""What tasks print and display in threads of the kernel: taken on its way to the kernel's streams, and sent home.

While threads of a pool are at work, `sys.stdout` and `sys.stderr` are taps, which let pass what no task writes. For
displays a kernel has a hook in each thread. What writes to a stream that it has kept from before, such as a handler of
`logging`, passes by: that appears in the right cell, but is not kept with its item.

Threads. Taps are set by the slots of all pools, under a lock. They may be written to from any thread.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any, Final

from poolmagic.shell import find_shell
from poolmagic.worker.native import allocate_lock
from poolmagic.worker.output import current_task
from poolmagic.worker.printing import Printer
from poolmagic.worker.tasks import inside

__all__ = ["hold", "release", "tap_displays"]

STREAMS: Final = ("stdout", "stderr")

_lock = allocate_lock()
_holders: set[Hashable] = set()
_recent: deque[_Tap] = deque(maxlen=16)
"""Keeps taps alive: CPython's `print` does not hold the stream that it writes to, and crashes if another thread takes
that out of `sys` meanwhile and nobody else has it."""


class _Tap:
    """Stands in for a stream. In all but writing it is the one that was there before."""

    def __init__(self, name: str, before: Any) -> None:
        self.before = before
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)

    def write(self, text: str) -> int:
        """Send what a task writes home; blocks as the stream does for all else."""
        printer, task = _printer_of_task()
        if printer is None or not isinstance(text, str):
            return int(self.before.write(text))
        printer.write(task, self._name, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of these."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what the present task wrote since its last line ended."""
        printer, task = _printer_of_task()
        if printer is None:
            self.before.flush()
        else:
            printer.flush(task)


def _printer_of_task() -> tuple[Printer | None, tuple[int, int] | None]:
    """Return the printer of the worker that this code belongs to, and its task; None and None if it is nobody's."""
    worker, task = inside.get(), current_task()
    return (None, None) if worker is None or task is None else (worker.printer, task)


def hold(who: Hashable) -> None:
    """Have taps, for `who` too; does not block."""
    with _lock:
        _holders.add(who)
        for name in STREAMS:
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _Tap):
                setattr(sys, name, _tap_of(name, stream))


def _tap_of(name: str, stream: Any) -> _Tap:
    for tap in _recent:
        if tap.before is stream:
            return tap
    _recent.append(_Tap(name, stream))
    return _recent[-1]


def release(who: Hashable) -> None:
    """Have taps no longer for `who`; does not block."""
    with _lock:
        _holders.discard(who)
        if not _holders:
            for name in STREAMS:
                stream = getattr(sys, name)
                if isinstance(stream, _Tap):  # else somebody has redirected it meanwhile
                    setattr(sys, name, stream.before)


def tap_displays() -> None:
    """Take what tasks in this thread display, if it is one of a kernel; does not block."""
    register = getattr(getattr(find_shell(), "display_pub", None), "register_hook", None)
    if register is not None:
        register(_take_display)


def _take_display(message: dict[str, Any]) -> dict[str, Any] | None:
    printer, task = _printer_of_task()
    if printer is None:
        return message
    if message["msg_type"] != "clear_output":  # which may be another task's
        content = message["content"]
        bundle = {
            "data": content["data"],
            "metadata": content["metadata"],
            "display_id": content.get("transient", {}).get("display_id"),
            "update": message["msg_type"] == "update_display_data",
        }
        printer.show(task, json.dumps(bundle, default=str))
    return None
