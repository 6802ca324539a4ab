"""Random numbers: each item of a run has its own, whatever runs it, beside what, and how often.

They come from the seed of the run and the index of the item alone. What runs items one after the other, a slot of a
worker or a solo pool, is a `Place`; it knows which item that is now, and makes its generator when it is first asked.
The module owns a context variable, the place that the calling code runs in; the seeds of the process's own generators
belong to the user, and are touched for runs with ``seed=`` only.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from poolmagic.errors import UsageError, note_once

__all__ = [
    "LARGEST",
    "NOWHERE",
    "Numbers",
    "Place",
    "Task",
    "at",
    "choose",
    "enter",
    "fresh_seed",
    "keep_globals",
    "make_generator",
    "rng",
    "seeding",
    "stream",
]

LARGEST: Final = 2**128 - 1
"""The largest seed; more would not make streams more different."""


class Numbers(NamedTuple):
    """Where the random numbers of a run come from: its seed, and whether the process's generators are seeded, too."""

    seed: int
    seeds_globals: bool


def choose(seed: int | None, kind: str, *, alone: bool) -> Numbers:
    """Return where the numbers of a run come from.

    Args:
        seed: What the user gave; None has one drawn.
        kind: What the kind of the pool is called.
        alone: Whether its tasks have their process to themselves while they run.
    """
    if seed is None:
        return Numbers(fresh_seed(), seeds_globals=False)
    if not alone:
        note_once(
            "seed= gives pm.rng() its numbers; random and numpy.random cannot be seeded for each item on "
            f"{kind}, whose tasks run at once in one process"
        )
    return Numbers(seed, seeds_globals=alone)


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt at an item; `attempt` tells it from all others that its place has run or will run."""

    attempt: Hashable
    seed: int
    index: int


class Place:
    """Where items are run one after the other. It belongs to the thread, or green thread, that runs them.

    Args:
        now: Tells what runs there now; None for nothing.
    """

    def __init__(self, now: Callable[[], Task | None]) -> None:
        self.now = now
        self._latest: tuple[Task | None, Any] = (None, None)

    def generator(self) -> Any:
        """Return the generator of the item that runs, always the same one; None if there is no item."""
        task = self.now()
        latest, generator = self._latest
        if task is not None and task != latest:
            generator = make_generator(task.seed, task.index)
            self._latest = (task, generator)
        return None if task is None else generator


NOWHERE: Final = Place(lambda: None)
"""The place of what belongs to no item, though it is called while one runs."""

_here: ContextVar[Place | None] = ContextVar("poolmagic_place", default=None)


def enter(place: Place) -> None:
    """Have the code that runs in this context from now on, and what it starts with a copy of it, be in a place."""
    _here.set(place)


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Be in a place for a while."""
    token = _here.set(place)
    try:
        yield
    finally:
        _here.reset(token)


def rng() -> Any:
    """Return the random numbers of the item that the calling task works on; does not block.

    They depend on the run's seed and on the item's index only: the kind of the pool, its concurrency, the order,
    retries and a resume make no difference. The same task gets the same generator each time, which goes on; an item
    that is tried again begins anew. The index of a task of `Pool.submit` is the number of tasks that were submitted to
    its pool before. A thread that a task starts by itself belongs to no item: hand the generator to it.

    Returns:
        A `numpy.random.Generator` (PCG64); where NumPy is not installed, a `random.Random`.

    Raises:
        UsageError: The caller is no task.
    """
    place = _here.get()
    generator = None if place is None else place.generator()
    if generator is None:
        raise UsageError("pm.rng() is for tasks, each of which has numbers of its own; this is none")
    return generator


@contextmanager
def stream(seed: int, index: int, *, seeds_globals: bool = False) -> Iterator[None]:
    """Have `rng` give the numbers of one item, as its task had them, to what is called here for a while.

    Args:
        seed: That of the run.
        index: That of the item.
        seeds_globals: Seed the generators of the process as well, and put them back in the end.
    """
    task = Task(None, seed, index)
    with at(Place(lambda: task)), keep_globals() if seeds_globals else nullcontext():
        if seeds_globals:
            _seed_globals(task)
        yield


def fresh_seed() -> int:
    """Return a seed that the system has drawn."""
    return int.from_bytes(os.urandom(8), "big")


def make_generator(seed: int, index: int) -> Any:
    """Return the generator of an item; see `rng`."""
    numpy = _numpy()
    if numpy is None:
        return random.Random(f"item {seed} {index}")  # noqa: S311 - no secret; the text is hashed
    return numpy.Generator(numpy.PCG64(numpy.SeedSequence(seed, spawn_key=(index,))))


def seeding(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that seeds `random` and `numpy.random` for the item that runs here, and then calls `call`."""

    def seeded(item: Any) -> Any:
        __tracebackhide__ = True
        place = _here.get()
        task = None if place is None else place.now()
        if task is not None:
            _seed_globals(task)
        return call(item)

    return seeded


def _seed_globals(task: Task) -> None:
    """Seed the generators of the process. Their numbers have nothing to do with those of `rng`, or with each other."""
    random.seed(f"random {task.seed} {task.index}")  # a text is hashed, in the same way everywhere
    numpy = _numpy()
    if numpy is not None:
        source = random.Random(f"numpy.random {task.seed} {task.index}")  # noqa: S311 - no secret
        numpy.seed([source.getrandbits(32) for _ in range(8)])


@contextmanager
def keep_globals() -> Iterator[None]:
    """Put the generators of the process back in the end to where they were."""
    numpy = _numpy()
    before = random.getstate()
    before_numpy = None if numpy is None else numpy.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(before)
        if numpy is not None:
            numpy.set_state(before_numpy)


def _numpy() -> Any:
    """Return `numpy.random`, None where NumPy is not installed. Imports it: the task may do so later than now."""
    try:
        import numpy.random  # noqa: PLC0415 - runs that draw no numbers do without
    except ImportError:
        return None
    return numpy.random
