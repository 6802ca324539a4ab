"""`share`: an object that is sent once, whatever uses it and how often.

A `Shared` may be used from any thread. This module owns the table of those that are alive in this process.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final, Generic, Self, SupportsIndex, TypeAlias, TypeVar

from poolmagic.memory import ONE_FILE, SharedBuffer, share_places, store
from poolmagic.picklers import OUTSIDE, dumps

__all__ = ["Shared", "share"]

T = TypeVar("T")
_Packed: TypeAlias = tuple[bytes | None, Sequence[memoryview]]
"""The pickle of a value, None if it is the first of the buffers, and the large buffers."""

_alive: Final[weakref.WeakValueDictionary[bytes, Shared[Any]]] = weakref.WeakValueDictionary()
"""By their keys: one that comes back, or comes again, is the one that is here."""


class Shared(Generic[T]):
    """An object that is packed once, however many runs and pools use it; made by `share`."""

    def __init__(self, value: T, key: bytes | None = None, packed: _Packed | None = None) -> None:
        self._value = value
        self._key = key or os.urandom(16)
        self._packed = packed
        self._loaded = packed is None
        self._kept: list[SharedBuffer] = []
        self._is_packing = False
        self._lock = threading.RLock()
        _alive[self._key] = self

    @property
    def value(self) -> T:
        """The object.

        In a worker process it is a copy of what it was when it was first sent, made when it is first wanted. All
        workers map its large buffers; a task that writes into them writes for its worker alone. On threads and solo it
        is the object itself.
        """
        with self._lock:
            if not self._loaded:
                assert self._packed is not None
                body, views = self._packed
                self._value = pickle.loads(views[0] if body is None else body, buffers=views[body is None :])
                self._loaded = True
        return self._value

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        with self._lock:
            if self._packed is None:
                self._packed = self._pack()
        body, views = self._packed
        form = pickle.PickleBuffer if int(protocol) >= 5 else bytearray
        return _arrive, (self._key, body, [form(view) for view in views])

    def _pack(self) -> _Packed:
        """Pickle the value, and put what of it is large into memory files that are kept."""
        if self._is_packing:
            raise pickle.PicklingError("a shared object cannot hold the handle that it is shared by")
        buffers: list[pickle.PickleBuffer] = []
        self._is_packing = True
        try:
            body = dumps(self._value, buffers)
        finally:
            self._is_packing = False
        views = [buffer.raw() for buffer in buffers]
        is_large = len(body) >= OUTSIDE
        if is_large:
            views.insert(0, memoryview(body))
        try:
            files, places = store(views, ONE_FILE)
        except OSError:  # a container's limit: they travel in the frame, as they are now
            views = [memoryview(bytearray(view)) for view in views]
        else:
            self._kept = share_places(files, places)
            views = [buffer.view for buffer in self._kept]
        return None if is_large else body, views

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Shared {type(self._value).__name__}>" if self._loaded else "<Shared, not loaded>"


def _arrive(key: bytes, body: bytes | None, views: list[Any]) -> Shared[Any]:
    """Return the object of this process that stands for one of another."""
    found = _alive.get(key)
    if found is not None:
        return found
    return Shared(None, key, (body, [memoryview(view) for view in views]))  # its value comes when it is wanted


def share(value: T) -> Shared[T]:
    """Return a handle of an object that is sent to workers once, not with each run; does not block.

    Functions may capture the handle, and items may hold it; they use its `value`. What is done to the object after its
    first use is not seen by workers. A handle that comes back from a worker is the one that went there.

    Args:
        value: Anything that can be pickled; what it holds in large arrays and frames is shared by all workers.
    """
    return Shared(value)
