"""Ctrl-C and the Stop button while the asking thread has results in its hands: they wait until it has put them down.

`KeyboardInterrupt` may strike between any two instructions, and what a thread just took out of an inbox would be lost.
So while a run is driven from the main thread, an interrupt only wakes the wait, and is raised where nothing can be
lost: between two steps, and inside of the user's own code (his iterator, his pickling). An interrupt that is not the
first, and comes when the one before it has waited for `PATIENCE` seconds, is raised at once: something is stuck.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C functions: what `signal` adds takes longer than a short run has
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any, Final, Self

__all__ = ["Interrupts", "hold"]

PATIENCE: Final = 0.1
"""Seconds that an interrupt is held back for, however often one presses; it takes a few milliseconds as a rule."""


class Interrupts:
    """Holds interrupts back within its ``with`` block. Does nothing outside of the main thread, where there are none.

    The block may be entered again inside of itself; what was held back is raised at the end of the outermost.

    Args:
        wake: Called, in the signal handler, when an interrupt is held back; None lets all of them through.

    Attributes:
        wake: The same; it may be changed.
    """

    def __init__(self, wake: Callable[[], None] | None) -> None:
        self.wake = wake
        self._before: Any = None
        self._depth = 0
        self._is_open = False
        self._count = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        if self.wake is not None and threading.current_thread() is threading.main_thread():
            self._depth += 1
            if self._depth == 1 and callable(before := _signal.getsignal(_signal.SIGINT)):
                self._before = before
                _signal.signal(_signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._depth or threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth or self._before is None:
            return
        before, self._before = self._before, None
        _signal.signal(_signal.SIGINT, before)
        held_back, self._count = self._count, 0
        if held_back and kind is None:
            before(_signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if not self._count:
            self._since = now
        self._count += 1
        if self._is_open or self.wake is None or (self._count > 1 and now - self._since > PATIENCE):
            self._count = 1
            self._raise(frame)
        else:
            self.wake()

    def _raise(self, frame: FrameType | None = None) -> None:
        self._count -= 1
        self._since = monotonic()
        self._is_open = False  # here: whoever opened it may be struck before he closes it
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


def hold() -> Interrupts:
    """Return a block that no interrupt tears apart, for a moment in which nobody waits."""
    return Interrupts(_nothing)


def _nothing() -> None:
    """Wake nobody."""
