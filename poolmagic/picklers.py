"""cloudpickle as it is used here: with what it lacks, and with large buffers kept out of the stream.

This module owns no state.
"""

from __future__ import annotations

import dis
import functools
import inspect
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import cloudpickle

from poolmagic.errors import SoftTimeLimitExceeded, TaskCancelled
from poolmagic.memory import is_shared

__all__ = ["OUTSIDE", "PROTOCOL", "Pickler", "dumps", "find_heavy", "is_aimed_at_thread", "is_importable"]

PROTOCOL: Final = 5
OUTSIDE: Final = 1 << 17
"""Bytes from which on a buffer is kept out of the stream: below it, the copies cost less than a view of its own."""

_CACHED: Final = type(functools.lru_cache(len))


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's, and the functions of `functools.lru_cache` too: they arrive with an empty cache."""

    def reducer_override(self, value: Any) -> Any:
        """Return how to rebuild a value; `NotImplemented` leaves it to the usual ways."""
        if isinstance(value, _CACHED) and not is_importable(value):
            options = value.cache_parameters()
            return _cached, (options["maxsize"], options["typed"], value.__wrapped__)
        return super().reducer_override(value)


def _cached(maxsize: int | None, typed: bool, function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


def is_importable(value: Any) -> bool:
    """Whether `value` is found under its own name in an importable module, so that its name is enough."""
    module = getattr(value, "__module__", None)
    if module in (None, "__main__") or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


def dumps(value: Any, buffers: list[pickle.PickleBuffer] | None = None, pickler: type[Pickler] = Pickler) -> bytes:
    """Pickle a value; runs the user's code.

    Args:
        value: Any object.
        buffers: Takes the large buffers, in their order, which are then not in the returned bytes; None keeps them in.
        pickler: The pickler's class.
    """

    def stays(buffer: pickle.PickleBuffer) -> bool:
        assert buffers is not None
        try:
            size = buffer.raw().nbytes
        except BufferError:  # it is in pieces
            return True
        if size < OUTSIDE:
            return True
        buffers.append(buffer)
        return False

    stream = io.BytesIO()
    pickler(stream, PROTOCOL, buffer_callback=None if buffers is None else stays).dump(value)
    return stream.getvalue()


def is_aimed_at_thread(error: BaseException) -> bool:
    """Whether an exception that came out of the user's pickling code was thrown into the thread, to stop it."""
    greenlet = sys.modules.get("greenlet")
    stops: tuple[type[BaseException], ...] = (KeyboardInterrupt, TaskCancelled, SoftTimeLimitExceeded)
    return isinstance(error, stops if greenlet is None else (*stops, greenlet.GreenletExit))


def find_heavy(function: Any, least: int) -> dict[tuple[str, str], int]:
    """Return the bytes of each variable that `function`, or one that it calls, captures, from `least` on.

    Pickles the variables, so it takes its time. What is shared does not count.

    Args:
        function: Any function.
        least: Bytes.
    """
    sizes: dict[tuple[str, str], int] = {}
    for path, _, name, value in _captured(function):
        buffers: list[pickle.PickleBuffer] = []
        with suppress(Exception):  # it travelled with the function; what keeps it from travelling alone is its secret
            size = len(dumps(value, buffers))
            size += sum(view.nbytes for buffer in buffers if not is_shared(view := buffer.raw()))
            if size >= least:
                sizes[path, name] = size
    return sizes


def _captured(function: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, str, str, Any]]:
    """Yield (path of functions, place, name, value) of all variables that a function and those it calls capture."""
    seen = set() if seen is None else seen
    with suppress(Exception):  # a `__getattr__` of the user's that raises: this is no function
        function = getattr(function, "__func__", getattr(function, "func", function))
    function = inspect.unwrap(function) if isinstance(function, _CACHED) else function
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    path = f"{path} -> {function.__name__}" if path else function.__name__
    variables = [
        ("global", name, function.__globals__[name])
        for name in _global_names(function.__code__)
        if name in function.__globals__
    ]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # it has no value yet
            variables.append(("closure", name, cell.cell_contents))
    for place, name, value in variables:
        if not isinstance(value, types.FunctionType):
            yield path, place, name, value
        elif not is_importable(value):
            yield from _captured(value, path, seen)


def _global_names(code: types.CodeType) -> dict[str, None]:
    """Return the names of the globals that code uses, and the code of what is defined inside of it."""
    names = {one.argval: None for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
