"""What the items of the storm do, and what must come of them. Workers import this: it imports little.

An item is a pair (act, number), and doing it twice does no harm: its right value depends on nothing else.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tests.tasks import Unloadable

__all__ = ["CRASHES", "ERRORS", "OVERDUE", "VALUES", "Item", "perform", "perform_async", "value_of"]

Item: TypeAlias = tuple[str, int]

VALUES: Final = ("value", "compute", "wait", "hold", "print", "large")
"""Acts that have a value."""
ERRORS: Final = {"raise": "ValueError", "exit": "RemoteError", "socket": "PayloadError", "unloadable": "PayloadError"}
"""Acts that fail, and the name of the error."""
CRASHES: Final = ("SIGKILL", "SIGSEGV", "os._exit")
"""Acts that end the process."""
OVERDUE: Final = ("sleep", "spin", "spin in C")
"""Acts that do not end; only with a time limit."""
PAUSES: Final = 60.0


def value_of(item: Item) -> Any:
    """Return the right value of an item, if it has one."""
    act, number = item
    return (b"%d," % number) * 100_000 if act == "large" else number * number + 1


def perform(item: Item) -> Any:
    """Be the task of all kinds but asyncio."""
    act, number = item
    if act == "wait":
        time.sleep(number % 20 / 1000)
    elif act == "sleep":
        until = time.monotonic() + PAUSES
        while time.monotonic() < until:  # not all at once: a thread hears nothing while it sleeps
            time.sleep(0.05)
    else:
        _act(act, number)
    return _result(item)


async def perform_async(item: Item) -> Any:
    """Be the task of asyncio."""
    act, number = item
    if act == "wait":
        await asyncio.sleep(number % 20 / 1000)
    elif act == "sleep":
        await asyncio.sleep(PAUSES)
    else:
        _act(act, number)
    return _result(item)


def _result(item: Item) -> Any:
    match item[0]:
        case "socket":
            return socket.socket()
        case "unloadable":
            return Unloadable()
        case _:
            return value_of(item)


def _act(act: str, number: int) -> None:
    deed = _DEEDS.get(act)
    if deed is not None:
        deed(number)


def _raise(number: int) -> None:
    raise ValueError(number)


def _exit(number: int) -> None:
    raise SystemExit(number)


def _busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        continue


def _spin_in_c(number: int) -> None:
    sum(itertools.repeat(0, 20_000_000_000))


_DEEDS: Final[dict[str, Callable[[int], object]]] = {
    "raise": _raise,
    "exit": _exit,
    "compute": lambda number: _busy(number % 5 / 1000),
    "hold": lambda number: _busy(0.1),
    "print": lambda number: print(f"item {number}"),
    "spin": lambda number: _busy(PAUSES),
    "spin in C": _spin_in_c,
    "SIGKILL": lambda number: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda number: ctypes.string_at(0),
    "os._exit": lambda number: os._exit(number % 256),
}


def task_of(kind: str) -> Callable[[Item], Any]:
    """Return the task as it is written for a kind of pool."""
    return functools.partial(perform_async if kind == "asyncio" else perform)
