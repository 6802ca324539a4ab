"""What a user may ask for, as frozen values: the table of kinds, the settings of a pool, the options of a run.

All validation happens here, before anything is started, and every refusal is one line that says what is allowed.
A kind of pool is a row in `KINDS`, never a subclass. This module owns no state and may be used from any thread.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, SupportsIndex, TypedDict, cast

from poolmagic.errors import UsageError, note_once

__all__ = ["ALIASES", "KINDS", "Kind", "PoolConfig", "RunOptions", "RunOptionsDict", "check_function", "usable_cpus"]

MAX_SLOTS: Final = 65_536
"""Most slots of one worker, as many as its status board has records for; more than any machine's sockets allow."""


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
    return max(1, min([count, *(math.ceil(quota) for quota in _cgroup_quotas())]))


def _cgroup_quotas() -> list[float]:
    """The CPU quotas, in CPUs, that are set on this process's cgroup and on those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, read = Path("/sys/fs/cgroup"), _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = Path("/sys/fs/cgroup/cpu"), _quota_v1
        else:
            continue
        # In a container the path may be the host's, which is not visible here; the root then is the container's own.
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place == root.parent:
                break
            quota = read(place)
            if quota is not None:
                quotas.append(quota)
    return quotas


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


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


def _check_modules(preload: object) -> tuple[str, ...]:
    """Return the names of modules, each once; raises `UsageError`."""
    names = [preload] if isinstance(preload, str) else preload
    if not isinstance(names, Iterable):
        raise UsageError(f"preload={preload!r}: use the name of a module, or a list of names; [] for none")
    found = dict.fromkeys(cast("Iterable[object]", names))
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"preload={preload!r}: {name!r} is not the name of a module")
    return tuple(cast("Iterable[str]", found))


@dataclass(frozen=True)
class PoolConfig:
    """The settings of a pool. Equal settings mean that two pools may share warm workers.

    Attributes:
        kind: The row of `KINDS`.
        concurrency: Most tasks at once, over all workers.
        workers: Worker processes (1 for kinds that run in the kernel).
        inner_threads: Threads that BLAS and OpenMP may use in a worker; None shares the CPUs out, CPUs // concurrency.
        preload: Modules that are imported before the first task; None finds out what the functions need.
    """

    kind: Kind
    concurrency: int
    workers: int
    inner_threads: int | None = None
    preload: tuple[str, ...] | None = None

    @classmethod
    def make(
        cls,
        kind: object = "prefork",
        concurrency: object = None,
        workers: object = None,
        inner_threads: object = None,
        preload: object = None,
    ) -> PoolConfig:
        """Check what a user gave and fill in the rest; raises `UsageError`."""
        made = cls._of_size(find_kind(kind), concurrency, workers)
        in_kernel = made.kind.start in ("local", "inline")
        if inner_threads is not None:
            if in_kernel:
                raise UsageError(
                    f"inner_threads={inner_threads!r}: a {made.kind.name} pool runs in the kernel, whose own number it "
                    "would be; set that with threadpoolctl"
                )
            inner_threads = count_option("inner_threads", inner_threads)
        if preload is not None:
            if in_kernel:
                raise UsageError(f"preload={preload!r}: a {made.kind.name} pool runs in the kernel; import it there")
            preload = _check_modules(preload)
        return replace(made, inner_threads=inner_threads, preload=preload)

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
        inner = f" --inner-threads {self.inner_threads}" if self.inner_threads is not None else ""
        return f"{self.kind.name} -c {self.concurrency}{of}{inner}"


class RunOptionsDict(TypedDict, total=False):
    """The keyword options of the `map` family; see `RunOptions`."""

    on_error: Literal["raise", "return", "skip"]
    return_exceptions: bool
    chunksize: int | None
    buffersize: int | None
    progress: bool | None


@dataclass(frozen=True)
class RunOptions:
    """How one run treats its items.

    Attributes:
        on_error: ``"raise"`` stops dispatching at the first failure and raises it, ``"return"`` puts a `Failure` in
            the item's place, ``"skip"`` leaves the item out.
        return_exceptions: As in `asyncio.gather`: the exception itself takes the item's place.
        chunksize: Items in a batch; None sizes batches by time.
        buffersize: Most items read ahead of the consumer of `imap`; None bounds it by what the workers have in hand.
        progress: Show progress; None does so where a person looks on.
    """

    on_error: Literal["raise", "return", "skip"] = "raise"
    return_exceptions: bool = False
    chunksize: int | None = None
    buffersize: int | None = None
    progress: bool | None = None

    @classmethod
    def make(cls, given: dict[str, Any], allowed: tuple[str, ...] = ()) -> RunOptions:
        """Check the keywords that a user gave; raises `UsageError`.

        Args:
            given: The keywords.
            allowed: The names that this call takes; empty for all.
        """
        names = allowed or tuple(field.name for field in fields(cls))
        for name in given:
            if name not in names:
                raise UsageError(f"unknown option {name!r}; use one of {', '.join(names)}")
        options = cls(**given)
        if options.on_error not in ("raise", "return", "skip"):
            raise UsageError(f"on_error={options.on_error!r}: use 'raise', 'return' or 'skip'")
        for option in ("chunksize", "buffersize"):
            if getattr(options, option) is not None:
                count_option(option, getattr(options, option))
        for option in ("return_exceptions", "progress"):
            if getattr(options, option) not in (None, True, False):
                raise UsageError(f"{option}={getattr(options, option)!r}: use True or False")
        if options.return_exceptions and options.on_error != "raise":
            raise UsageError("return_exceptions=True says the same as on_error: use one of them")
        return options

    @property
    def fail_fast(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error == "raise" and not self.return_exceptions


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine: an ``async def``, a partial of one, or an async ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - the coroutine flag of the method, not callability
    )


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
