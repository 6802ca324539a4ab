"""`once`: an object that each worker makes for itself, once, when a task first wants it.

A handle travels, its object never does. A handle may be used from any thread, green thread or coroutine. This module
owns the table of the handles of this process, and, in a worker, of those that have made their object here.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, ParamSpec, Self, TypeVar, cast

from poolmagic.config import is_coroutine_function
from poolmagic.errors import UsageError
from poolmagic.randomness import NOWHERE, at

__all__ = ["Once", "closers", "once"]

T = TypeVar("T")
P = ParamSpec("P")

MOST_DROPPED: Final = 256
"""Handles that are gone in this process of which those that travel tell, so that workers let go of their objects."""

_alive: Final[weakref.WeakValueDictionary[bytes, Once[Any]]] = weakref.WeakValueDictionary()
"""By their keys: one that comes again, with the function of the next run, is the one that is here."""
_kept: Final[dict[bytes, Once[Any]]] = {}
"""Those that came from elsewhere and have made their object. They stay when the run is over that they came with."""
_dropped: Final[deque[bytes]] = deque(maxlen=MOST_DROPPED)


class Once(Generic[T]):
    """A handle of an object that is made once in each process that wants it; made by `once`. Call it for the object."""

    def __init__(self, factory: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], key: bytes) -> None:
        self._factory = factory
        self._args = args
        self._kwargs = kwargs
        self._key = key
        self._is_made = False
        self._is_guest = False
        self._value: T | None = None
        # A green one, in a green worker: who waits for the factory lets the others go on. One that can be taken twice,
        # so that a factory which wants its own object fails with an error.
        self._lock = threading.RLock()
        _alive[key] = self

    def __call__(self) -> T:
        """Return this process's object; the first call makes it, and blocks as long as that takes, as all others do.

        A factory that fails is called again by the next call.
        """
        if not self._is_made:
            with self._lock, at(NOWHERE):  # what serves all items must not depend on the one that came first
                if not self._is_made:
                    self._value = self._factory(*self._args, **self._kwargs)
                    self._is_made = True
                    if self._is_guest:
                        _kept[self._key] = self
        return cast("T", self._value)

    def __getattr__(self, name: str) -> NoReturn:
        text = f"a handle made by poolmagic.once has no attribute {name!r}"
        if not name.startswith("_"):
            text += f"; call it to get the object of this worker: handle().{name}"
        raise AttributeError(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._key, self._factory, self._args, self._kwargs, tuple(_dropped))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        name = getattr(self._factory, "__name__", type(self._factory).__name__)
        return f"<Once {name}, {'made' if self._is_made else 'not made'} in this process>"

    def close(self) -> Any:
        """Close the object as it closes itself, if it was made and can; may return what must be awaited."""
        close = getattr(self._value, "close", None) if self._is_made else None
        return close() if callable(close) else None


def _arrive(
    key: bytes, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], dropped: tuple[bytes, ...]
) -> Once[Any]:
    """Return the handle of this process that stands for one of another."""
    for gone in dropped:  # what still uses one of them has it, and is the last one
        _kept.pop(gone, None)
    found = _alive.get(key)
    if found is None:
        found = Once(factory, args, kwargs, key)
        found._is_guest = True  # noqa: SLF001 - the class above
    return found


def closers() -> list[Callable[[], Any]]:
    """Return what closes the objects that were made in this worker, the last one first, each to be called once."""
    made = list(reversed(_kept.values()))
    _kept.clear()
    return [one.close for one in made]


def once(factory: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Once[T]:
    """Return a handle of an object that each worker makes for itself, when a task first calls the handle.

    It is for what cannot be sent, such as clients, connections and locks, and for what is dear to make::

        client = pm.once(make_client, "https://example.org", timeout=10)

        def fetch(url):
            return client().get(url)

    Functions may capture the handle, and items may hold it. All tasks of a worker process have the same object, in all
    runs, until the worker ends or the handle is thrown away in the kernel; tasks on threads and solo have that of the
    kernel. When a worker ends in an orderly way it calls the object's ``close()``, if there is one. Does not block.

    Args:
        factory: A plain function that makes the object; it is sent to the workers.
        args: Its arguments; sent, too.
        kwargs: Its arguments by name.

    Raises:
        UsageError: The factory is no function, or an ``async def``.
    """
    if not callable(factory):
        raise UsageError(f"cannot call {factory!r}: the first argument must be a function that makes the object")
    if is_coroutine_function(factory):
        name = getattr(factory, "__name__", repr(factory))
        raise UsageError(f"{name} is an async function: use a plain one, which may use the running event loop")
    handle = Once(factory, args, kwargs, os.urandom(16))
    weakref.finalize(handle, _dropped.append, handle._key).atexit = False  # noqa: SLF001 - the class above
    return handle
