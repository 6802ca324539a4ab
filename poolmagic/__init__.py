"""poolmagic: parallel work from a notebook.

    %load_ext poolmagic

    %%pool gevent -c 200
    pages = pool.map(fetch, urls)

This module is lazy (PEP 562): a worker imports `poolmagic.worker` before it is monkey-patched, and that must not drag
in the parent side. It is also where the parts that do not know each other are put together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolmagic.current import CurrentPool
    from poolmagic.errors import (
        FailedItems,
        InitializerError,
        InternalError,
        MemoryLimitExceeded,
        PayloadError,
        PoolMagicError,
        RemoteError,
        RunCancelled,
        SoftTimeLimitExceeded,
        TaskCancelled,
        TaskError,
        TimeLimitExceeded,
        UnconsumedWarning,
        UsageError,
        WireError,
        WorkerLostError,
    )
    from poolmagic.failure import Failure
    from poolmagic.logbook import list_runs
    from poolmagic.magics import load_ipython_extension, unload_ipython_extension
    from poolmagic.perworker import Once, once
    from poolmagic.pools import Pool
    from poolmagic.randomness import rng
    from poolmagic.runs import Run
    from poolmagic.sharing import Shared, share
    from poolmagic.xray import Explanation, explain

    pool: CurrentPool

__version__ = "0.1.0"

_PLACES = {
    "Explanation": "xray",
    "FailedItems": "errors",
    "Failure": "failure",
    "InitializerError": "errors",
    "InternalError": "errors",
    "MemoryLimitExceeded": "errors",
    "Once": "perworker",
    "PayloadError": "errors",
    "Pool": "pools",
    "PoolMagicError": "errors",
    "RemoteError": "errors",
    "Run": "runs",
    "RunCancelled": "errors",
    "Shared": "sharing",
    "SoftTimeLimitExceeded": "errors",
    "TaskCancelled": "errors",
    "TaskError": "errors",
    "TimeLimitExceeded": "errors",
    "UnconsumedWarning": "errors",
    "UsageError": "errors",
    "WireError": "errors",
    "WorkerLostError": "errors",
    "explain": "xray",
    "list_runs": "logbook",
    "load_ipython_extension": "magics",
    "once": "perworker",
    "rng": "randomness",
    "share": "sharing",
    "unload_ipython_extension": "magics",
}

__all__ = [
    "Explanation",
    "FailedItems",
    "Failure",
    "InitializerError",
    "InternalError",
    "MemoryLimitExceeded",
    "Once",
    "PayloadError",
    "Pool",
    "PoolMagicError",
    "RemoteError",
    "Run",
    "RunCancelled",
    "Shared",
    "SoftTimeLimitExceeded",
    "TaskCancelled",
    "TaskError",
    "TimeLimitExceeded",
    "UnconsumedWarning",
    "UsageError",
    "WireError",
    "WorkerLostError",
    "explain",
    "list_runs",
    "load_ipython_extension",
    "once",
    "pool",
    "rng",
    "share",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    if name == "pool":
        value: Any = _load("current").CurrentPool()
    elif name in _PLACES:
        value = getattr(_load(_PLACES[name]), name)
    else:
        raise AttributeError(f"module 'poolmagic' has no attribute {name!r}")
    globals()[name] = value
    return value


def _load(module: str) -> Any:
    return importlib.import_module(f"poolmagic.{module}")


def find_display(progress: bool | None, background: bool = False) -> Any:
    """Return what opens a display of progress, None if there should be none: pools show it without knowing how."""
    return _load("progress").find_display(progress, background=background)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
