"""The messages of the one worker protocol, and of the zygote that forks workers.

All are frozen values. A worker of any kind speaks these and no others, whether it is a process behind a socket or
threads in the kernel. `payload` is opaque here: bytes for a process, the objects themselves for a local worker; nobody
between the asking thread and the slot looks inside.

A *span* is a pair ``(start, stop)`` of item positions of a run, half open. This module owns no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "MESSAGES",
    "Batch",
    "Cancel",
    "Done",
    "Dump",
    "Dumped",
    "Forget",
    "Fork",
    "Forked",
    "Function",
    "Gone",
    "Hello",
    "Message",
    "Output",
    "Preload",
    "Preloaded",
    "Resize",
    "Returned",
    "Span",
    "Stop",
    "Withdraw",
    "index_of",
]

Span: TypeAlias = tuple[int, int]


def index_of(position: int, leftover: tuple[int, ...], first_index: int) -> int:
    """Return the index, in the user's input, of a position of a run; see `Function`."""
    return leftover[position] if position < len(leftover) else position - len(leftover) + first_index


@dataclass(frozen=True, slots=True)
class Function:
    """To a worker: the function of a run, sent once, before the run's first batch.

    `stars` says how an item becomes arguments: 0 ``f(item)``, 1 ``f(*item)``, 2 ``f(*item[0], **item[1])``. The limits
    are seconds from an item's own start; 0 stands for none. The random numbers of an item come from `seed` and from the
    index that it has for the user: the first positions are those of `leftover`, the others count on from `first_index`
    (see `feed`). With `seeds_globals` the generators of the process are seeded for each item, too. If it `prepares`,
    the pool's initializer comes with it (see `setup`), which the worker runs before its first item.
    """

    run: int
    stars: int
    soft_limit: float
    time_limit: float
    seed: int
    leftover: tuple[int, ...]
    first_index: int
    seeds_globals: bool
    prepares: bool
    payload: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """To a worker: run the items ``[first, stop)``; `payload` holds the items from `start` on."""

    run: int
    start: int
    first: int
    stop: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Withdraw:
    """To a worker: give back what you have of a run and have not started."""

    run: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """To a worker: give back what has not started of a run, and stop what has."""

    run: int


@dataclass(frozen=True, slots=True)
class Forget:
    """To a worker: a run is over; drop its function."""

    run: int


@dataclass(frozen=True, slots=True)
class Resize:
    """To a worker: have this many slots from now on."""

    slots: int


@dataclass(frozen=True, slots=True)
class Dump:
    """To a worker: say what your tasks do now; `request` comes back with the answer."""

    request: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: finish what you have and exit."""


@dataclass(frozen=True, slots=True)
class Hello:
    """From a worker: ready for batches. From a zygote: ready for all that it may be told."""

    pid: int


@dataclass(frozen=True, slots=True)
class Done:
    """From a worker: these items are finished.

    `spans` are those that returned, `failed` the positions of those that raised, `retriable` those of them that raised
    what may be tried again; `seconds` is the wall time that the worker took for all of them. `timings` says when they
    ran, as `timings.pack` makes it. `payload` packs the values in the order of `spans`, and the errors in the order of
    `failed`.
    """

    run: int
    spans: tuple[Span, ...]
    failed: tuple[int, ...]
    retriable: tuple[int, ...]
    seconds: float
    timings: bytes
    payload: Any


@dataclass(frozen=True, slots=True)
class Returned:
    """From a worker: these spans were not started, and will not be."""

    run: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """From a worker: a task printed `text`; `stream` is ``"stdout"`` or ``"stderr"``.

    Or it displayed something: then that is ``"display"``, and the text JSON, the `data` and the `metadata` of a MIME
    bundle. A position of -1 stands for some task of the run, or for none.
    """

    run: int
    position: int
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class Dumped:
    """From a worker: the stacks of its tasks, as `worker.stacks.dump` writes them."""

    request: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Fork:
    """To a zygote: fork worker `worker`. Along travel the descriptors of `ProcessLink`."""

    worker: int
    slots: int


@dataclass(frozen=True, slots=True)
class Forked:
    """From a zygote: the worker runs as `pid`."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Gone:
    """From a zygote: a worker ended; `exitcode` as in `subprocess`, negative for a signal; `peak` in resident bytes."""

    worker: int
    exitcode: int
    peak: int


@dataclass(frozen=True, slots=True)
class Preload:
    """To a zygote: import a module that the workers will need."""

    module: str


@dataclass(frozen=True, slots=True)
class Preloaded:
    """From a zygote: it has tried to import a module.

    `threads` is how many threads that has left running: with any, it forks no more. `error` is what went wrong, in
    words, or empty.
    """

    module: str
    threads: int
    error: str


Message: TypeAlias = (
    Function
    | Batch
    | Withdraw
    | Cancel
    | Forget
    | Resize
    | Dump
    | Stop
    | Hello
    | Done
    | Returned
    | Output
    | Dumped
    | Fork
    | Forked
    | Gone
    | Preload
    | Preloaded
)

MESSAGES: tuple[type[Message], ...] = Message.__args__
"""Every kind of message; the place in this tuple is its number on the wire."""
