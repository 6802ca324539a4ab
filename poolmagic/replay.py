"""Running one item of a run once more, here in the calling thread: with the function as the workers had it.

A `Replay` belongs to the thread that makes it. Making one loads the function, which runs the user's pickling code.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from poolmagic.config import is_coroutine_function
from poolmagic.equipped import Equipped
from poolmagic.errors import UsageError, WorkerLostError
from poolmagic.payload import Direct
from poolmagic.preparation import Preparation
from poolmagic.randomness import stream
from poolmagic.solo import run_coroutine

if TYPE_CHECKING:
    from poolmagic.runs import Run

__all__ = ["Replay", "latest"]


def latest(runs: Iterable[Run]) -> Run:
    """Return the run that ended last, or goes on; a run that was resumed ends again. Does not block."""
    return max(runs, key=lambda run: math.inf if run._elapsed is None else run._started + run._elapsed)


class Replay:
    """One item of a run, ready to be run again. Time limits and retries are left out: somebody looks on.

    Args:
        run: The run.
        index: The place of the item in the input.

    Raises:
        UsageError: The item is not there any more.
        PayloadError: The function cannot be loaded in this process.

    Attributes:
        name: What the function is called.
        index: As given.
        item: The item.
        is_coroutine: Whether the function is an ``async def``.
        lost: How the item's worker ended, if that is what became of the item: it may end this process in the same way.
    """

    def __init__(self, run: Run, index: int) -> None:
        engine, work = run._engine, run._work
        failure = next((failure for failure in run.failures if failure.index == index), None)
        self.name = run.name
        self.index = index
        self.item = _item_of(run, index) if failure is None else failure.item
        self.lost = (
            failure.exception if failure is not None and isinstance(failure.exception, WorkerLostError) else None
        )
        codec = Direct() if engine is None else engine.codec
        loaded = codec.load_function(work.payload)
        self._function = loaded.function if isinstance(loaded, Equipped) else loaded
        # In this very process the pool has done it already, if its tasks run here.
        self._setup = loaded.setup if isinstance(loaded, Equipped) and not isinstance(codec, Direct) else None
        self.is_coroutine = is_coroutine_function(self._function)
        self._arguments = (self.item,) if work.stars == 0 else tuple(self.item)
        self._numbers = work.numbers

    def __call__(self, call: Callable[..., Any] = lambda function, *args: function(*args)) -> Any:
        """Run the item, and return or raise what it does; blocks as long as it takes.

        Args:
            call: Calls the function that it is given with the arguments that follow.
        """
        __tracebackhide__ = True
        with stream(self._numbers.seed, self.index, seeds_globals=self._numbers.seeds_globals):
            if self.is_coroutine:
                return run_coroutine(self._awaited())
            if self._setup is not None:
                Preparation().prepare(self._setup)
            return call(self._function, *self._arguments)

    async def _awaited(self) -> Any:
        __tracebackhide__ = True
        if self._setup is not None:
            await Preparation().prepare_async(self._setup, 0, asyncio.Lock())
        return await self._function(*self._arguments)


def _item_of(run: Run, index: int) -> Any:
    """Return an item that has not failed."""
    kept = run._feed.kept(index)
    if kept:
        return kept[0]
    if index in run.results:
        raise UsageError(f"item {index} of {run.name} returned, and what has returned is not kept to be run again")
    raise UsageError(f"item {index} of {run.name} is not here: it was not read yet, or there is no such item")
