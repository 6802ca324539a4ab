"""The current pool: that of the cell, else that of the session, else a shared default. And the list of pools alive.

The state is the process's; it is changed under a lock or by single assignments, and may be used from any thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import poolmagic
from poolmagic.background import here

__all__ = ["cell_pool", "choose", "live_pools", "register", "set_session_pool"]


class _Pool(Protocol):
    @property
    def is_closed(self) -> bool: ...

    def sever(self) -> None: ...


_AnyPool = TypeVar("_AnyPool", bound=_Pool)

_lock = threading.RLock()
_pools: list[weakref.ref[Any]] = []
_session_pool: Any = None
_cell_pools: list[Any] = []
_default_pool: Any = None


def register(pool: _Pool) -> None:
    """Take note of a pool whose workers are started, without keeping it alive."""
    with _lock:
        _pools.append(weakref.ref(pool))


def live_pools() -> list[Any]:
    """Return the pools that are alive: whose workers were started and that are not closed. Oldest first."""
    with _lock:
        pools = [pool for ref in _pools if (pool := ref()) is not None and not pool.is_closed]
        _pools[:] = [weakref.ref(pool) for pool in pools]
    return pools


def set_session_pool(pool: _Pool | None) -> None:
    """Choose the current pool of all later cells; None goes back to the default. Does not block."""
    global _session_pool
    _session_pool = pool


@contextmanager
def cell_pool(pool: _AnyPool) -> Iterator[_AnyPool]:
    """Make a pool the current one for a while, before any that was chosen for the session.

    For all cells, but those in the background, which have theirs; and in one of these for that one alone.
    """
    chosen = _chosen_pools()
    chosen.append(pool)
    try:
        yield pool
    finally:
        chosen.remove(pool)


def _chosen_pools() -> list[Any]:
    background = here()
    return _cell_pools if background is None else background.pools


def choose(make_default: Callable[[], _AnyPool]) -> _AnyPool:
    """Return the current pool; the default is made when it is first needed, and again after it was closed."""
    global _default_pool
    for pool in (*reversed(_chosen_pools()), _session_pool):
        if pool is not None and not pool.is_closed:
            chosen: _AnyPool = pool
            return chosen
    with _lock:
        if _default_pool is None or _default_pool.is_closed:
            _default_pool = make_default()
        default: _AnyPool = _default_pool
        return default


def _sever() -> None:
    """In a process forked off the kernel the pools are not there: their workers answer to the kernel alone."""
    global _lock
    _lock = threading.RLock()
    for pool in [pool for ref in _pools if (pool := ref()) is not None]:
        pool.sever()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sever)


class CurrentPool:
    """A stand-in for the current pool: every attribute is looked up on `Pool.current()` at that moment."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # IPython and others ask for what a pool does not have; no pool is made for that
            raise AttributeError(name)
        return getattr(poolmagic.Pool.current(), name)

    def __dir__(self) -> list[str]:
        return [name for name in dir(poolmagic.Pool) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<the current pool: {poolmagic.Pool.current()!r}>"

    def __reduce__(self) -> tuple[Callable[[], CurrentPool], tuple[()]]:
        return _stand_in, ()


def _stand_in() -> CurrentPool:
    """Return the stand-in of this process, where a function that refers to it was unpickled."""
    from poolmagic import pool  # noqa: PLC0415 - the root is above this module

    stand_in: CurrentPool = pool
    return stand_in
