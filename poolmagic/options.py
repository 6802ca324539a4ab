"""What a user may ask of one run, as a frozen value.

All validation happens here, before anything is started, and every refusal is one line that says what is allowed.
This module owns no state and may be used from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, SupportsIndex, TypedDict, cast

from poolmagic.config import PoolSettings, count_option
from poolmagic.errors import UsageError
from poolmagic.quantities import read_rate, read_seconds
from poolmagic.randomness import LARGEST

__all__ = ["PoolOptionsDict", "RunOptions", "RunOptionsDict", "TaskOptionsDict", "divide"]


class TaskOptionsDict(TypedDict, total=False):
    """The keyword options that say how tasks are run; a pool may have them for all of its runs. See `RunOptions`."""

    time_limit: float | None
    soft_time_limit: float | None
    retries: int
    retry_on: type[Exception] | Iterable[type[Exception]]
    retry_backoff: float
    retry_backoff_max: float
    crash_retries: int
    rate_limit: float | str | None
    seed: int | None
    prefix: bool | None


class PoolOptionsDict(PoolSettings, TaskOptionsDict, total=False):
    """The keyword settings of a pool, and what its runs have that say nothing else; see `PoolConfig`, `RunOptions`."""


class RunOptionsDict(TaskOptionsDict, total=False):
    """The keyword options of the `map` family; see `RunOptions`."""

    on_error: Literal["raise", "return", "skip", "collect"]
    return_exceptions: bool
    chunksize: int | None
    buffersize: int | None
    progress: bool | None


@dataclass(frozen=True)
class RunOptions:
    """How one run treats its items.

    Attributes:
        on_error: ``"raise"`` stops dispatching at the first failure and raises it, ``"return"`` puts a `Failure` in
            the item's place, ``"skip"`` leaves the item out, ``"collect"`` runs all of them and raises one
            `FailedItems` at the end if any failed.
        return_exceptions: As in `asyncio.gather`: the exception itself takes the item's place.
        chunksize: Items in a batch; None sizes batches by time.
        buffersize: Most items read ahead of the consumer of `imap`; None bounds it by what the workers have in hand.
        progress: Show progress; None does so where a person looks on.
        time_limit: Seconds from an item's own start after which it is stopped and fails; None for no limit.
        soft_time_limit: Seconds from an item's own start after which `SoftTimeLimitExceeded` is raised in it.
        retries: How often an item is tried again that fails with one of `retry_on`.
        retry_on: Types of exceptions that may go away by themselves.
        retry_backoff: Seconds before the first retry, at most; it doubles from one to the next, and each wait is a
            random part of it ("full jitter": Brooker, 2015, "Exponential Backoff And Jitter").
        retry_backoff_max: Seconds before any retry, at most.
        crash_retries: How often an item is run again whose worker died.
        rate_limit: Items that may start in a second, or a text such as ``"100/m"``; None for any number.
        seed: What the random numbers of the items come from, and those of `random` and `numpy.random`; None has a
            seed drawn, and leaves the generators of the process alone.
        prefix: Put ``[17]``, the index of its item, before each line that a task prints; None does so where a person
            looks on.
    """

    on_error: Literal["raise", "return", "skip", "collect"] = "raise"
    return_exceptions: bool = False
    chunksize: int | None = None
    buffersize: int | None = None
    progress: bool | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    retries: int = 0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    crash_retries: int = 1
    rate_limit: float | None = None
    seed: int | None = None
    prefix: bool | None = None

    @classmethod
    def make(
        cls, given: Mapping[str, Any], allowed: tuple[str, ...] = (), defaults: RunOptions | None = None
    ) -> RunOptions:
        """Check the keywords that a user gave; raises `UsageError`.

        Args:
            given: The keywords.
            allowed: The names that this call takes; empty for all.
            defaults: What holds where nothing was given.
        """
        if not given:  # the usual case, on the way of each map
            return defaults or _DEFAULTS
        names = allowed or tuple(field.name for field in fields(cls))
        for name in given:
            if name not in names:
                raise UsageError(f"unknown option {name!r}; use one of {', '.join(names)}")
        checked = {name: _CHECKS[name](name, value) if name in _CHECKS else value for name, value in given.items()}
        options = replace(defaults or _DEFAULTS, **checked)
        if options.on_error not in ("raise", "return", "skip", "collect"):
            raise UsageError(f"on_error={options.on_error!r}: use 'raise', 'return', 'skip' or 'collect'")
        for option in ("return_exceptions", "progress", "prefix"):
            if getattr(options, option) not in (None, True, False):
                raise UsageError(f"{option}={getattr(options, option)!r}: use True or False")
        if options.return_exceptions and options.on_error != "raise":
            raise UsageError("return_exceptions=True says the same as on_error: use one of them")
        soft, hard = options.soft_time_limit, options.time_limit
        if soft is not None and hard is not None and soft >= hard:
            raise UsageError(f"soft_time_limit={soft:g}: use less than the time_limit, {hard:g}")
        return options

    @property
    def fail_fast(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error == "raise" and not self.return_exceptions


def divide(given: PoolOptionsDict) -> tuple[PoolSettings, RunOptions]:
    """Return what of the keywords of a pool are its own settings, and the options of its runs; raises `UsageError`."""
    names = [*PoolSettings.__annotations__, *TaskOptionsDict.__annotations__]
    for name in given:
        if name not in names:
            raise UsageError(f"unknown option {name!r}; use one of {', '.join(names)}")
    settings = {name: value for name, value in given.items() if name in PoolSettings.__annotations__}
    options = {name: value for name, value in given.items() if name in TaskOptionsDict.__annotations__}
    return cast("PoolSettings", settings), RunOptions.make(options)


def _exceptions(option: str, value: object) -> tuple[type[Exception], ...]:
    """Return one type of exception or several as a tuple; raises `UsageError`."""
    types = tuple(cast("Iterable[object]", value)) if isinstance(value, Iterable) else (value,)
    if not types or not all(isinstance(one, type) and issubclass(one, Exception) for one in types):
        raise UsageError(f"{option}={value!r}: use a type of exceptions, or several: (OSError, TimeoutError)")
    return cast("tuple[type[Exception], ...]", types)


def _count(option: str, value: object) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else count_option(option, value)


def _seed(option: str, value: object) -> int:
    """Return a seed, also if it is one of NumPy's integers; raises `UsageError`."""
    number = int(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else -1
    if not 0 <= number <= LARGEST:
        raise UsageError(f"{option}={value!r}: use a whole number from 0 to 2**128 - 1")
    return number


def _maybe(check: Any) -> Any:
    return lambda option, value: None if value is None else check(option, value)


_CHECKS: Final[dict[str, Any]] = {
    "chunksize": _maybe(count_option),
    "buffersize": _maybe(count_option),
    "time_limit": _maybe(read_seconds),
    "soft_time_limit": _maybe(read_seconds),
    "retries": _count,
    "retry_on": _exceptions,
    "retry_backoff": read_seconds,
    "retry_backoff_max": read_seconds,
    "crash_retries": _count,
    "rate_limit": _maybe(read_rate),
    "seed": _maybe(_seed),
}

_DEFAULTS: Final = RunOptions()
