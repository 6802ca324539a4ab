"""What a user hands to a map: his iterables and his function, as far as they can be known before anything runs.

This module owns no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from poolmagic.errors import UsageError

__all__ = ["name_of", "read"]


def read(iterables: tuple[Iterable[Any], ...]) -> tuple[Iterator[Any] | range, int | None]:
    """Return an iterator of the items, or a range as it is, and how many they claim to be; reads none.

    Raises:
        UsageError: There is nothing to iterate over.
    """
    if not iterables:
        raise UsageError("what should the function be mapped over? give at least one iterable")
    given: tuple[object, ...] = iterables
    for iterable in given:
        if not isinstance(iterable, Iterable) and not hasattr(iterable, "__getitem__"):
            raise UsageError(f"cannot iterate over {type(iterable).__name__}: {iterable!r:.80}")
    if len(given) == 1 and type(given[0]) is range:  # its batches are ranges, too
        return given[0], len(given[0])
    lengths = [_length_of(iterable) for iterable in iterables]
    known = [length for length in lengths if length is not None]
    items = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)
    return items, min(known) if len(known) == len(lengths) else None


def _length_of(iterable: Any) -> int | None:
    """Return the length that an input claims; some raise when asked for it, such as a bar around a generator."""
    if not hasattr(iterable, "__len__"):
        return None
    try:
        return len(iterable)
    except (TypeError, NotImplementedError):
        return None


def name_of(f: Callable[..., Any]) -> str:
    """Return what people call a function, partials and callable objects included."""
    return getattr(f, "__name__", None) or getattr(getattr(f, "func", None), "__name__", None) or type(f).__name__
