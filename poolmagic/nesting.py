"""Pools in tasks: how many of them there may be, one within the other, and how much of the machine each may use.

A worker process knows by two variables of its environment how deep it is and what its share of the CPUs is. A pool that
is made there and names no concurrency gets that share; where it is one CPU, another process would only cost memory, so
the pool is solo. This module owns no state and may be used from any thread.
"""

from __future__ import annotations

import os
from typing import Final, cast

from poolmagic.config import PoolConfig, PoolSettings, find_kind, usable_cpus
from poolmagic.errors import UsageError, note_once

__all__ = ["DEEPEST", "fit", "marks"]

DEEPEST: Final = 2
"""Most processes one within the other: a worker, and the worker of a pool of one of its tasks."""
LEVEL: Final = "POOLMAGIC_LEVEL"
SHARE: Final = "POOLMAGIC_SHARE"


def _number(name: str) -> int:
    """Return the number in a variable of the environment; 0 if there is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def marks(config: PoolConfig) -> dict[str, str]:
    """Return the variables that a worker of such a pool of this process has."""
    cpus = _number(SHARE) or usable_cpus()
    return {LEVEL: str(_number(LEVEL) + 1), SHARE: str(max(1, cpus // config.concurrency))}


def _setup_of(settings: PoolSettings) -> PoolSettings:
    """Return what of the settings of a pool holds for any kind of pool."""
    names = ("initializer", "initargs", "finalizer")
    return cast("PoolSettings", {name: value for name, value in settings.items() if name in names})


def fit(kind: str, concurrency: int | None, settings: PoolSettings) -> tuple[str, int | None, PoolSettings]:
    """Return what a pool gets that was asked for in this process: in the kernel just that, in a worker maybe less.

    Raises:
        UsageError: There are too many processes one within the other already.
    """
    level, row = _number(LEVEL), find_kind(kind)
    if not level or row.scales is None:
        return kind, concurrency, settings
    has_processes = row.start != "local"
    if concurrency is not None or any(settings.get(name) is not None for name in ("autoscale", "workers")):
        if has_processes and level >= DEEPEST:
            raise UsageError(
                f"a {row.name} pool in a task of a pool in a task of a pool: processes of processes end at {DEEPEST} "
                "levels; use 'threads' or 'solo' here, or map over all items at once"
            )
        return kind, concurrency, settings
    share = _number(SHARE) or 1
    if has_processes and (share == 1 or level >= DEEPEST):
        note_once(
            f"a {row.name} pool in a task is solo here: the other tasks have the other CPUs; "
            "name a concurrency to have processes all the same"
        )
        return "solo", None, _setup_of(settings)
    return kind, share, settings
