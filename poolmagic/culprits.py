"""Which part of an object cannot be pickled: where it is, what it is, and what to do about it.

The search goes the way that the pickler went, with the pickler's own reductions, and stops at the first object that has
none. So it calls the user's code no more often than the pickler did, and needs no second try at pickling any part. It
runs only after a failure, in the thread in which that happened; never in the supervisor's loop thread. Whatever the
user's code does meanwhile, the search ends and the first error stays the one that is told.

This module owns no state.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from poolmagic.advice import advice_for, say
from poolmagic.anatomy import ATOMS, Anatomist, Label, Part, name_of, text_of
from poolmagic.equipped import Equipped
from poolmagic.picklers import is_aimed_at_thread

__all__ = ["SECONDS", "explain", "find_culprit"]

SECONDS: Final = 1.0
"""How long a search may take; the objects of one list of values share it."""
MOST_OBJECTS: Final = 100_000
DEEPEST: Final = 400
"""Levels of nesting after which the search turns back; the pickler gets about as far."""
LONGEST: Final = 12
"""Steps of a path that are shown."""


def explain(value: Any, error: BaseException, root: str, seconds: float = SECONDS) -> tuple[str, str]:
    """Return why a value cannot be pickled, with the path to the culprit and advice; and the path alone.

    Blocks for at most `seconds`, and for what the user's own code takes. Path and type are left out where they would
    tell nothing that the error does not.

    Args:
        value: What could not be pickled.
        error: What its pickling raised.
        root: What the value is called, for the beginning of the path.
        seconds: How long to look.
    """
    found = None if is_aimed_at_thread(error) else find_culprit(value, root, error, seconds)
    path, culprit = found or (root or name_of(value), value)
    said, kind = say(error), type(culprit).__name__
    what = path if kind in said else f"{path} ({kind})"
    text = said if what == root else f"{what}: {said}"
    advice = advice_for(culprit, error, root)
    return f"{text.rstrip('.')}; {advice}" if advice else text, path if found else ""


def find_culprit(
    value: Any, root: str = "", error: BaseException | None = None, seconds: float = SECONDS
) -> tuple[str, Any] | None:
    """Return the path to the first part of a value that cannot be pickled, and the part; None if none is found.

    Runs the user's pickling code; blocks for at most `seconds` besides.

    Args:
        value: What could not be pickled.
        root: What it is called; "" for the name of a function.
        error: What its pickling raised.
        seconds: How long to look.
    """
    parts: list[Part] = [(root or name_of(value), value)]
    if isinstance(value, Equipped):  # which is ours, and not what the user calls the function
        parts = [(root or name_of(value.function), value.function), ("retry_on", value.retry_on)]
        if value.setup is not None:
            named = (("initializer", value.setup.initializer), ("finalizer", value.setup.finalizer))
            parts += [(f"{what} {name_of(one)}", one) for what, one in named if one is not None]
            parts += [("initargs", value.setup.arguments)]
    search = _Search(perf_counter() + seconds, _is_about_depth(error))
    try:
        found = search.run(iter(parts))
    except _Enough:
        return None
    if found is None:
        return None
    labels, culprit = found
    return _path(labels), culprit


def _is_about_depth(error: BaseException | None) -> bool:
    return isinstance(error, RecursionError) or (isinstance(error, pickle.PicklingError) and "recursion" in say(error))


def _path(labels: list[Label]) -> str:
    texts = [text_of(label) for label in labels if label != ""]
    if len(texts) > LONGEST:
        texts[LONGEST // 2 : -LONGEST // 4] = ["..."]
    return " -> ".join(texts)


class _Enough(Exception):
    """The search has taken as long as it may."""


class _Search:
    """A walk over the parts of objects, in the order in which they are pickled; not recursive, as they may be deep."""

    def __init__(self, deadline: float, wants_depth: bool) -> None:
        self._deadline = deadline
        self._wants_depth = wants_depth
        self._parts = Anatomist().parts
        self._seen: dict[int, Any] = {}  # the values keep their ids from being used again

    def run(self, parts: Iterator[Part]) -> tuple[list[Label], Any] | None:
        """Return the labels on the way to the culprit, and the culprit; None if there is none.

        Raises:
            _Enough: There was no more time.
        """
        levels = [parts]
        labels: list[Label] = [""]
        values: list[Any] = [None]
        while levels:
            part = self._next(levels[-1])
            if part is None:
                levels.pop()
                labels.pop()
                values.pop()
                continue
            if isinstance(part, BaseException):  # its own iterator of items raised
                return labels, values[-1]
            label, value = part
            if type(value) in ATOMS or id(value) in self._seen:
                continue
            self._note(value)
            labels.append(label)
            values.append(value)
            try:
                levels.append(self._parts(value))
            except BaseException as error:  # whatever the user's code raises here is what we look for
                if is_aimed_at_thread(error):
                    raise
                return self._inside(labels, value, error)
            if len(levels) > DEEPEST:
                if self._wants_depth:
                    return [*labels[: LONGEST // 2], f"... and so on, {DEEPEST} levels deep"], value
                levels[-1] = iter(())
        return None

    def _next(self, parts: Iterator[Part]) -> Part | BaseException | None:
        """Return the next part, what the iterator raised, or None at its end."""
        try:
            return next(parts, None)
        except BaseException as error:  # an iterator of the user's; see above
            if is_aimed_at_thread(error):
                raise
            return error

    def _note(self, value: Any) -> None:
        self._seen[id(value)] = value
        if len(self._seen) > MOST_OBJECTS or perf_counter() > self._deadline:
            raise _Enough

    def _inside(self, labels: list[Label], value: Any, error: BaseException) -> tuple[list[Label], Any]:
        """Look for the culprit in the attributes of an object that pickles them itself, such as a `Shared`."""
        for label, inner in _attributes_of(value):
            if type(inner) in ATOMS or id(inner) in self._seen or len(labels) > LONGEST:
                continue
            with suppress(_Enough):
                found = self.run(iter([(label, inner)]))
                if found is not None and self._fails_alike(found[1], error):
                    return [*labels, *found[0]], found[1]
        return labels, value

    def _fails_alike(self, value: Any, error: BaseException) -> bool:
        try:
            self._parts(value)
        except Exception as other:  # as above
            return say(other) == say(error)
        return False


def _attributes_of(value: Any) -> list[Part]:
    try:
        return [(f"attribute {name!r}", one) for name, one in vars(value).items()]
    except Exception:  # it has none, or a `__getattr__` that raises
        return []
