"""The thread in which the callbacks of futures run, one after the other; started when the first comes.

Threads. `call_back` may be called from any thread, the supervisor's loop thread included.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["call_back"]


class _CallbackThread:
    """Calls functions, one after the other."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = False

    def call(self, function: Callable[[], Any]) -> None:
        """Have a function called; does not block."""
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._serve, name="poolmagic-callbacks", daemon=True).start()
        self._queue.put(function)

    def _serve(self) -> None:
        while True:
            self._queue.get()()  # futures catch what their callbacks raise


_callbacks = _CallbackThread()


def call_back(function: Callable[[], Any]) -> None:
    """Have a function called by the thread; does not block. It must not raise."""
    _callbacks.call(function)


def _forget() -> None:
    """In a process forked off the kernel the thread is not there."""
    global _callbacks
    _callbacks = _CallbackThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
