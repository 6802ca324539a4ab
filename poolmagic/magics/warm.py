"""The pools that the magics made, by the line that describes them: the same line again finds the same pool, warm.

The registry belongs to one `Extension`. Cells use it, and so may background cells meanwhile: it is behind a lock.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Final

import poolmagic
from poolmagic.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from poolmagic.config import PoolConfig
    from poolmagic.magics.arguments import PoolLine
    from poolmagic.options import RunOptions
    from poolmagic.pools import Pool

__all__ = ["WarmPools", "pools_module"]

_OVER: Final = ("closing", "closed", "broken")


def pools_module() -> ModuleType:
    """The module that makes pools; it loads when a magic first needs one, or loading the extension would be slow."""
    pools: ModuleType = import_module("poolmagic.pools")
    return pools


class WarmPools:
    """The pools that the magics of one shell made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[PoolConfig, RunOptions] | str, tuple[tuple[PoolConfig, RunOptions], Pool]] = {}

    def find_for(self, options: PoolLine) -> Pool:
        """Return the pool that a line describes: a warm one if there is, else a new one. Does not block."""
        if options.name is None and not options.has_settings:
            return poolmagic.Pool.current()
        if options.name is not None and not options.has_settings:
            for pool in self.known():
                if pool.name == options.name:
                    return pool
        config = options.config()
        key = options.name or config
        with self._lock:
            if key in self._made:
                known, pool = self._made[key]
                if known == config and pool.snapshot().state not in _OVER:
                    return pool
                pool.close()
            kind = options.kind or "prefork"
            pool = poolmagic.Pool(kind, options.concurrency, name=options.name, **options.settings)
            self._made[key] = config, pool
            return pool

    def known(self) -> list[Pool]:
        """Return all pools that are alive, and those that were made here and that nobody has used yet."""
        alive: list[Pool] = pools_module().live_pools()
        with self._lock:
            made = [pool for _, pool in self._made.values()]
        return [*alive, *(pool for pool in made if pool not in alive and pool.snapshot().state not in _OVER)]

    def find(self, name: str) -> Pool:
        """Return the pool of that name; raises `UsageError`."""
        known = self.known()
        for pool in known:
            if pool.name == name:
                return pool
        names = ", ".join(pool.name for pool in known) or "none"
        raise UsageError(f"no pool is called {name!r}; alive: {names}")

    def stop(self, pool: Pool) -> None:
        """End a pool and what it runs, and forget it; does not block."""
        if poolmagic.Pool.current() is pool:
            pools_module().set_session_pool(None)
        pool.terminate()
        with self._lock:
            self._made = {key: made for key, made in self._made.items() if made[1] is not pool}

    def terminate(self) -> None:
        """End all pools that were made here; does not block."""
        with self._lock:
            made, self._made = self._made, {}
        for _, pool in made.values():
            pool.terminate()
