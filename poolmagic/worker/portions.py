"""A batch in a worker, and the function of its run.

A batch is a C iterator, shared by all slots that take from it: taking one item and taking all the rest are atomic under
the GIL. A function is loaded by the first task that needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from operator import length_hint
from types import CodeType
from typing import Any, Final

from poolmagic.board import SINCE
from poolmagic.equipped import Equipped
from poolmagic.errors import PayloadError
from poolmagic.memory import Payload
from poolmagic.messages import Batch, Function
from poolmagic.payload import Codec
from poolmagic.randomness import seeding
from poolmagic.setup import Setup
from poolmagic.worker.native import perf_counter
from poolmagic.worker.outbox import Outbox

__all__ = ["LOAD", "RUN_LIMITED", "Call", "Portion"]


class Call:
    """The function of a run, loaded by the first task that needs it: loading runs the user's code."""

    def __init__(self, codec: Codec, message: Function) -> None:
        self._codec = codec
        self._payload = message.payload
        self.is_large = isinstance(message.payload, Payload)
        self.limited = bool(message.soft_limit or message.time_limit)
        self.softly_limited = bool(message.soft_limit)
        self.retry_on: tuple[type[BaseException], ...] = ()
        self.prepares = message.prepares
        self.setup: Setup | None = None
        self.seed = message.seed
        self.leftover = message.leftover
        self.first_index = message.first_index
        self._seeds_globals = message.seeds_globals
        self._stars = message.stars
        self._function: Callable[[Any], Any] | None = None
        self._error: BaseException | None = None
        self.loaded = 0.0
        """When that was done: no item is said to have taken so long."""

    @property
    def is_loaded(self) -> bool:
        """Whether the function is here."""
        return self._function is not None

    def direct(self) -> Callable[[Any], Any]:
        """Return the function of an item; before it is loaded, one that loads it when it is called."""
        return self._load_and_call if self._function is None else self._function

    def _load_and_call(self, item: Any) -> Any:
        return self.load()(item)

    def load(self) -> Callable[[Any], Any]:
        """Return the function of an item; runs the user's code the first time."""
        # No lock: a green thread that waits inside the user's import would hold it against all others. Two loads at
        # once do no harm, and the first one stays.
        if self._error is not None:
            raise self._error
        if self._function is not None:
            return self._function
        try:
            loaded = self._codec.load_function(self._payload)
        except PayloadError as error:  # any other is a strike at the first item; the next one loads it
            self._error = error
            raise
        if isinstance(loaded, Equipped):
            self.retry_on, self.setup = loaded.retry_on, loaded.setup
            loaded = loaded.function
        if self._function is None:
            function = of_one_item(loaded, self._stars)
            self._function = seeding(function) if self._seeds_globals else function
        self.loaded = perf_counter()
        return self._function


LOAD: Final = Call.load.__code__
"""In the stack of a task this says that its function is being loaded."""


def of_one_item(function: Callable[..., Any], stars: int) -> Callable[[Any], Any]:
    """Return a function of an item, which becomes arguments as `messages.Function` says."""
    if stars == 0:
        return function
    if stars == 1:
        return lambda item: function(*item)
    return lambda item: function(*item[0], **item[1])


class Portion:
    """A batch in a worker: `tasks` yields (position, packed item) and is shared by all slots that take from it.

    It is made of C iterators alone, so taking one item and taking all the rest are atomic, and whoever comes second
    does not get what the first one has.
    """

    __slots__ = ("_positions", "call", "first", "load", "out", "run", "tasks")

    def __init__(self, message: Batch, codec: Codec, call: Call, out: Outbox) -> None:
        items, self.load, _ = codec.open_values(message.payload)
        self.run = message.run
        self.first = message.first
        wanted = items[message.first - message.start : message.stop - message.start]
        self._positions = iter(range(message.first, message.stop))
        self.tasks: Iterator[tuple[int, Any]] = zip(self._positions, wanted, strict=False)
        self.call = call
        self.out = out

    @property
    def waiting(self) -> int:
        """How many tasks are left."""
        return length_hint(self._positions)

    def take_rest(self) -> list[int]:
        """Take all that is left; return the positions."""
        # Not `list(self.tasks)`: making a tuple for each may start the garbage collector in the middle of it, which may
        # run Python code, which may let a slot have one of the next items.
        return list(self._positions)

    def callable(self) -> Callable[[Any], Any]:
        """Return what to call on a packed item: the user's own function as soon as that can be."""
        function, load = self.call.direct(), self.load
        return function if load is None else lambda raw: function(load(raw))

    def limited(self, times: memoryview[float]) -> Callable[[Any], Any]:
        """Return the same for a run with limits. That its frame is in a stack says that a task runs, and nothing else.

        Loading the function takes no item's time, which is noted in `times`, the slot's record.
        """

        def run_limited(raw: Any) -> Any:
            if not self.call.is_loaded:
                times[SINCE] = math.inf
                self.call.load()
                times[SINCE] = perf_counter()
            return self.callable()(raw)

        return run_limited


RUN_LIMITED: Final = next(one for one in Portion.limited.__code__.co_consts if isinstance(one, CodeType))
"""The code of what `Portion.limited` returns."""
