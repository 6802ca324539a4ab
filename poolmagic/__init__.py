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
    from poolmagic.magics import load_ipython_extension, unload_ipython_extension
    from poolmagic.pools import Pool
    from poolmagic.runs import Run
    from poolmagic.sharing import Shared, share

    pool: CurrentPool

__version__ = "0.1.0"

_PLACES = {
    "Failure": "failure",
    "InternalError": "errors",
    "MemoryLimitExceeded": "errors",
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
    "load_ipython_extension": "magics",
    "share": "sharing",
    "unload_ipython_extension": "magics",
}

__all__ = [
    "Failure",
    "InternalError",
    "MemoryLimitExceeded",
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
    "load_ipython_extension",
    "pool",
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


def find_display(progress: bool | None) -> Any:
    """Return what opens a display of progress, None if there should be none: pools show it without knowing how."""
    display = _load("progress")
    return display.open_progress if display.wants_progress(progress) else None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
