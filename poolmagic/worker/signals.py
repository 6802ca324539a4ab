"""Signals in a worker process: the one by which its control thread strikes the task in its main thread.

A signal interrupts sleeps and waits, which an asynchronous exception does not; its handler runs in the main thread
between two instructions, and an exception that it raises appears in the task. This module owns no state.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final, TypeAlias

__all__ = ["STRIKE", "Handler", "called_by", "handled", "held_back", "ignore"]

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

STRIKE: Final[int] = getattr(signal, "SIGURG", 0)
"""Nobody's else: by default it does nothing, hardly a program uses it, and those that a task starts do not inherit its
handler. (Windows has none, and no worker processes.)"""


@contextmanager
def handled(handlers: Mapping[int, Handler]) -> Iterator[bool]:
    """Handle signals for a while; False, and nothing is done, outside of the main thread, which alone may."""
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # which thread it is, patched libraries may tell otherwise
        yield False
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let no strike into this block, which sends a frame that must be whole; one that came meanwhile follows it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (STRIKE,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (STRIKE,))


def ignore(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing. Unlike SIG_IGN this is not inherited by the programs that a task starts."""


def called_by(code: CodeType, frame: FrameType | None) -> tuple[FrameType | None, FrameType | None]:
    """Return the frame of `code` in the stack that ends with `frame`, and the one that it called.

    None stands for what is not there: both, or the latter if `frame` is that of `code` itself.
    """
    called = None
    while frame is not None and frame.f_code is not code:
        called, frame = frame, frame.f_back
    return (None, None) if frame is None else (frame, called)
