"""Ctrl-C and the Stop button while the asking thread has results in its hands: they wait until it has put them down.

`KeyboardInterrupt` may strike between any two instructions, and what a thread just took out of an inbox would be lost.
So while a run is driven from the main thread, an interrupt only wakes the wait, and is raised where nothing can be
lost: between two steps, and inside of the user's iterator. A second interrupt before that is raised at once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C functions: what `signal` adds takes longer than a short run has
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupts"]


class Interrupts:
    """Holds interrupts back within its ``with`` block. Does nothing outside of the main thread, where there are none.

    Args:
        wake: Called, in the signal handler, when an interrupt is held back; None lets all of them through.
    """

    def __init__(self, wake: Callable[[], None] | None) -> None:
        self._wake = wake
        self._before: Any = None
        self._is_open = False
        self._count = 0

    def __enter__(self) -> Self:
        if self._wake is not None and threading.current_thread() is threading.main_thread():
            before = _signal.getsignal(_signal.SIGINT)
            if callable(before):
                self._before = before
                _signal.signal(_signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        before, self._before = self._before, None
        if before is not None:
            _signal.signal(_signal.SIGINT, before)
        held_back, self._count = self._count, 0
        if before is not None and held_back and kind is None:
            before(_signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._is_open or self._count > 1 or self._wake is None:
            self._raise(frame)
        else:
            self._wake()

    def _raise(self, frame: FrameType | None = None) -> None:
        self._count = 0
        if self._before is not None:
            self._before(_signal.SIGINT, frame)

    def check(self) -> None:
        """Raise an interrupt that was held back."""
        if self._count:
            self._raise()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let interrupts through at once for a while."""
        self._is_open = True
        try:
            self.check()
            yield
        finally:
            self._is_open = False
