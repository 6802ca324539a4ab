"""What a user may ask of a pool, as frozen values: the table of kinds and the settings of one pool.

All validation happens here, before anything is started, and every refusal is one line that says what is allowed.
A kind of pool is a row in `KINDS`, never a subclass. This module owns no state and may be used from any thread.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, SupportsIndex, TypedDict, Unpack, cast

from poolmagic.cgroups import cpu_quotas
from poolmagic.errors import UsageError, note_once
from poolmagic.quantities import read_seconds, read_size, show_size
from poolmagic.setup import Setup

__all__ = [
    "ALIASES",
    "KINDS",
    "Kind",
    "PoolConfig",
    "PoolSettings",
    "check_function",
    "count_option",
    "find_kind",
    "usable_cpus",
]

MAX_SLOTS: Final = 65_536
"""Most slots of one worker, as many as its status board has records for; more than any machine's sockets allow."""

IDLE_SECONDS: Final = 300.0
"""How long workers wait for the next run, unless the user says otherwise: longer than one thinks about a result."""


@dataclass(frozen=True)
class Kind:
    """One row of the table of pools.

    Attributes:
        name: As in Celery.
        scales: What ``-c N`` counts: worker processes, slots of a worker, or nothing (always 1).
        start: How a worker comes to life: forked from a zygote, exec'ed, as threads of the kernel, or not at all
            because tasks run in the calling thread.
        cancels: What must be stopped to stop one running task: its slot or its whole worker.
        coroutines: Whether tasks are ``async def`` functions: always, never, or as they come.
    """

    name: str
    scales: Literal["workers", "slots"] | None
    start: Literal["fork", "exec", "local", "inline"]
    cancels: Literal["worker", "slot"]
    coroutines: Literal["always", "never", "either"] = "never"

    @property
    def is_green(self) -> bool:
        """Whether many tasks share a process that waits for them all."""
        return self.start == "exec"

    @property
    def runs_alone(self) -> bool:
        """Whether a task has its process to itself while it runs, as far as the pool goes."""
        return self.scales != "slots"


KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("prefork", scales="workers", start="fork", cancels="worker"),
        Kind("solo", scales=None, start="inline", cancels="slot", coroutines="either"),
        Kind("gevent", scales="slots", start="exec", cancels="slot"),
        Kind("eventlet", scales="slots", start="exec", cancels="slot"),
        Kind("threads", scales="slots", start="local", cancels="slot"),
        Kind("asyncio", scales="slots", start="exec", cancels="slot", coroutines="always"),
    )
}

ALIASES: Final = {"processes": "prefork", "serial": "solo", "thread": "threads"}


def usable_cpus() -> int:
    """Return how many CPUs this process may use; does not block.

    The smallest of the machine's count, this process's affinity and the cgroup quota, rounded up, of this process's
    cgroup and its parents (version 1 and 2), and at least 1.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in cpu_quotas())]))


def find_kind(name: object) -> Kind:
    """Return the row of a kind or alias; raises `UsageError` for anything else."""
    kind = KINDS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if kind is None:
        raise UsageError(f"unknown kind of pool {name!r}; use one of {', '.join([*KINDS, *ALIASES])}")
    return kind


def count_option(option: str, value: object, most: int | None = None) -> int:
    """Return `value` if it is a whole number of at least 1 and at most `most`, else raise `UsageError`."""
    number = int(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else 0
    if number < 1:
        raise UsageError(f"{option}={value!r}: use a whole number of at least 1")
    if most is not None and number > most:
        raise UsageError(f"{option}={value!r}: use at most {most}")
    return number


def _check_modules(_: str, preload: object) -> tuple[str, ...]:
    """Return the names of modules, each once; raises `UsageError`."""
    names = [preload] if isinstance(preload, str) else preload
    if not isinstance(names, Iterable):
        raise UsageError(f"preload={preload!r}: use the name of a module, or a list of names; [] for none")
    found = dict.fromkeys(cast("Iterable[object]", names))
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"preload={preload!r}: {name!r} is not the name of a module")
    return tuple(cast("Iterable[str]", found))


def _check_autoscale(row: Kind, concurrency: object, given: object) -> tuple[int, int]:
    """Return the most and the fewest tasks at once, from a pair or a text such as ``"8,2"``; raises `UsageError`."""
    if row.scales is None:
        raise UsageError(f"autoscale={given!r}: a {row.name} pool always runs one task at a time")
    if concurrency is not None:
        raise UsageError(f"autoscale={given!r} and concurrency={concurrency!r}: give one of them")
    pair = given.split(",") if isinstance(given, str) else given
    try:
        most, least = (int(number) for number in cast("Iterable[Any]", pair))
    except (TypeError, ValueError):
        most = least = 0
    if not 1 <= least <= most:
        raise UsageError(f"autoscale={given!r}: use the most and the fewest tasks at once, such as (8, 2)")
    return most, least


_SETTINGS: Final[dict[str, Callable[[str, object], Any]]] = {
    "inner_threads": count_option,
    "preload": _check_modules,
    "max_tasks_per_child": count_option,
    "max_memory_per_child": read_size,
    "memory_limit": read_size,
}
"""How the settings are read that only processes have."""

_WHY: Final = {
    "inner_threads": ", whose own number it would be; set that with threadpoolctl",
    "preload": "; import it there",
    "max_tasks_per_child": ", which cannot be replaced",
    "max_memory_per_child": ", which cannot be replaced",
    "memory_limit": ", whose memory is not the pool's alone",
}


class PoolSettings(TypedDict, total=False):
    """The keyword settings of a pool beside its kind and concurrency; see `PoolConfig`."""

    workers: int | None
    inner_threads: int | None
    preload: str | Iterable[str] | None
    autoscale: tuple[int, int] | str | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | str | None
    memory_limit: int | str | None
    idle_timeout: float
    initializer: Callable[..., Any] | None
    initargs: Iterable[Any]
    finalizer: Callable[[], Any] | None


@dataclass(frozen=True)
class PoolConfig:
    """The settings of a pool. Equal settings mean that two pools may share warm workers.

    Attributes:
        kind: The row of `KINDS`.
        concurrency: Most tasks at once, over all workers.
        workers: Worker processes (1 for kinds that run in the kernel).
        inner_threads: Threads that BLAS and OpenMP may use in a worker; None shares the CPUs out, CPUs // concurrency.
        preload: Modules that are imported before the first task; None finds out what the functions need.
        least: Fewest tasks at once, if the pool scales by itself between this and its concurrency; else 0.
        max_tasks_per_child: Tasks that a worker process runs before it is replaced; 0 for any number.
        max_memory_per_child: Resident bytes of a worker process from which on it is replaced; 0 for any number.
        memory_limit: Bytes that all of the pool's processes may take; 0 for most of what the machine has.
        idle_timeout: Seconds after which workers end that have nothing to do.
        setup: What is done once in each worker, before its first task and at its end; None for nothing. No other pool
            has an equal one.
    """

    kind: Kind
    concurrency: int
    workers: int
    inner_threads: int | None = None
    preload: tuple[str, ...] | None = None
    least: int = 0
    max_tasks_per_child: int = 0
    max_memory_per_child: int = 0
    memory_limit: int = 0
    idle_timeout: float = IDLE_SECONDS
    setup: Setup | None = None

    @classmethod
    def make(cls, kind: object = "prefork", concurrency: object = None, **settings: Unpack[PoolSettings]) -> PoolConfig:
        """Check what a user gave and fill in the rest; raises `UsageError`."""
        row = find_kind(kind)
        given = {name: value for name, value in settings.items() if value is not None}
        checked: dict[str, Any] = {}
        for name, check in _SETTINGS.items():
            if name in given:
                if row.start in ("local", "inline"):
                    raise UsageError(f"{name}={given[name]!r}: a {row.name} pool runs in the kernel{_WHY[name]}")
                checked[name] = check(name, given[name])
        if "idle_timeout" in given:
            checked["idle_timeout"] = read_seconds("idle_timeout", given["idle_timeout"])
        checked["setup"] = _check_setup(row, given)
        if "autoscale" in given:
            most, checked["least"] = _check_autoscale(row, concurrency, given["autoscale"])
            concurrency = most
        made = cls._of_size(row, concurrency, given.get("workers"))
        if checked.get("least", made.workers) < made.workers and row.scales == "slots":
            raise UsageError(
                f"autoscale={given['autoscale']!r}: each of the {made.workers} workers has a task at least"
            )
        return cls(made.kind, made.concurrency, made.workers, **checked)

    @classmethod
    def _of_size(cls, row: Kind, concurrency: object, workers: object) -> PoolConfig:
        if workers is not None and not row.is_green:
            instead = "its concurrency is its number of processes" if row.name == "prefork" else "it has no processes"
            raise UsageError(f"workers={workers!r}: a {row.name} pool takes no workers=, {instead}")
        if row.scales is None:
            if concurrency not in (None, 1):
                raise UsageError(f"concurrency={concurrency!r}: a solo pool always runs one task at a time")
            return cls(row, 1, 1)
        number = usable_cpus() if concurrency is None else count_option("concurrency", concurrency)
        if row.scales == "workers":
            return cls(row, number, number)
        processes = 1 if workers is None else count_option("workers", workers)
        if processes > number:
            raise UsageError(f"workers={workers!r}: use at most the concurrency, {number}")
        if number > processes * MAX_SLOTS:
            raise UsageError(f"concurrency={number}: use at most {MAX_SLOTS} for each worker")
        if row.is_green and concurrency is None:
            note_once(f"{row.name} with {number} at once, the number of CPUs; for I/O you want more, such as -c 100")
        if row.name == "eventlet":
            note_once(
                "eventlet calls itself deprecated; it works here all the same, and gevent is its modern neighbour"
            )
        return cls(row, number, processes)

    def slots_of(self, seat: int) -> int:
        """Return the number of slots of the worker in seat 0, 1, ...: an even split of the concurrency."""
        if self.kind.scales != "slots":
            return 1
        even, rest = divmod(self.concurrency, self.workers)
        return even + (seat % self.workers < rest)

    def __str__(self) -> str:
        of = f" -w {self.workers}" if self.kind.is_green and self.workers > 1 else ""
        size = f" --autoscale {self.concurrency},{self.least}" if self.least else f" -c {self.concurrency}"
        limits = {
            "inner-threads": self.inner_threads,
            "max-tasks-per-child": self.max_tasks_per_child,
            "max-memory-per-child": self.max_memory_per_child and show_size(self.max_memory_per_child).replace(" ", ""),
            "memory-limit": self.memory_limit and show_size(self.memory_limit).replace(" ", ""),
        }
        rest = "".join(f" --{name} {value}" for name, value in limits.items() if value)
        return f"{self.kind.name}{size}{of}{rest}"


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine: an ``async def``, a partial of one, or an async ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - the coroutine flag of the method, not callability
    )


def _check_setup(row: Kind, given: Mapping[str, Any]) -> Setup | None:
    """Return what is done once in each worker, if anything is; raises `UsageError`."""
    for option in ("initializer", "finalizer"):
        function = given.get(option)
        if function is None:
            continue
        if not callable(function):
            raise UsageError(f"{option}={function!r}: use a function")
        if row.coroutines != "always" and is_coroutine_function(function):
            loops = ": each task there has an event loop of its own" if row.coroutines == "either" else ""
            name = getattr(function, "__name__", repr(function))
            raise UsageError(f"{option}={name} is an async function: use the 'asyncio' pool, not '{row.name}'{loops}")
    initializer, finalizer, initargs = given.get("initializer"), given.get("finalizer"), given.get("initargs", ())
    if isinstance(initargs, str) or not isinstance(initargs, Iterable):
        raise UsageError(f"initargs={initargs!r}: use a tuple of the initializer's arguments")
    if initializer is None and "initargs" in given:
        raise UsageError(f"initargs={initargs!r}: there is no initializer= that takes them")
    if initializer is None and finalizer is None:
        return None
    return Setup(initializer, tuple(initargs), finalizer)


def check_function(kind: Kind, function: object) -> None:
    """Refuse at the call what the kind cannot run; raises `UsageError`."""
    if not callable(function):
        raise UsageError(f"cannot call {function!r}: the first argument must be a function")
    name = getattr(function, "__name__", repr(function))
    if kind.coroutines == "never" and is_coroutine_function(function):
        raise UsageError(f"{name} is an async function: use the 'asyncio' pool (or 'solo'), not '{kind.name}'")
    if kind.coroutines == "always" and not is_coroutine_function(function):
        raise UsageError(
            f"{name} is a plain function: use 'gevent' or 'threads' for I/O or 'prefork' for computing, not 'asyncio'"
        )
