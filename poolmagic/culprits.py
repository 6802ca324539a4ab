"""Which part of an object cannot be pickled: where it is, what it is, and what to do about it.

The search goes the way that the pickler went, with the pickler's own reductions, and stops at the first object that has
none. So it calls the user's code no more often than the pickler did, and needs no second try at pickling any part. It
runs only after a failure, in the thread in which that happened; never in the supervisor's loop thread. Whatever the
user's code does meanwhile, the search ends and the first error stays the one that is told.

This module owns no state.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, TypeAlias

from poolmagic.advice import advice_for, say
from poolmagic.describe import describe_value
from poolmagic.picklers import PROTOCOL, Pickler, dumps, is_aimed_at_thread
from poolmagic.retrying import Retrying

__all__ = ["SECONDS", "explain", "find_culprit", "name_of"]

SECONDS: Final = 1.0
"""How long a search may take; the objects of one list of values share it."""
MOST_OBJECTS: Final = 100_000
DEEPEST: Final = 400
"""Levels of nesting after which the search turns back; the pickler gets about as far."""
LONGEST: Final = 12
"""Steps of a path that are shown."""

_ATOMS: Final = frozenset(
    {int, float, complex, bool, str, bytes, bytearray, type(None), types.CodeType, pickle.PickleBuffer, type(...)}
)
_CACHED: Final = type(functools.lru_cache(len))

_Label: TypeAlias = "str | tuple[str, object]"
"""How a part is called: a text, or one with a gap and what is to be described in it. "" for one that needs no name."""
_Part: TypeAlias = tuple[_Label, Any]


def name_of(function: Any) -> str:
    """Return what people call a function, whatever it is; never raises."""
    for _ in range(100):  # a partial of a partial; one that is its own would never end
        try:
            name = getattr(function, "__name__", None)
            inner = getattr(function, "func", None)
        except Exception:  # a `__getattr__` of the user's
            break
        if isinstance(name, str):
            return name
        if not callable(inner):
            break
        function = inner
    return type(function).__name__


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
    parts: list[_Part] = [(root or name_of(value), value)]
    if isinstance(value, Retrying):  # which is ours, and not what the user calls the function
        parts = [(root or name_of(value.function), value.function), ("retry_on", value.retry_on)]
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


def _path(labels: list[_Label]) -> str:
    texts = [_text(label) for label in labels if label != ""]
    if len(texts) > LONGEST:
        texts[LONGEST // 2 : -LONGEST // 4] = ["..."]
    return " -> ".join(texts)


def _text(label: _Label) -> str:
    if isinstance(label, str):
        return label
    text = describe_value(label[1], 40)
    return label[0].format(f"of type {type(label[1]).__name__}" if " object at 0x" in text else text)


class _Enough(Exception):
    """The search has taken as long as it may."""


class _Search:
    """A walk over the parts of objects, in the order in which they are pickled; not recursive, as they may be deep."""

    def __init__(self, deadline: float, wants_depth: bool) -> None:
        self._deadline = deadline
        self._wants_depth = wants_depth
        self._pickler = Pickler(io.BytesIO(), PROTOCOL)
        self._seen: dict[int, Any] = {}  # the values keep their ids from being used again

    def run(self, parts: Iterator[_Part]) -> tuple[list[_Label], Any] | None:
        """Return the labels on the way to the culprit, and the culprit; None if there is none.

        Raises:
            _Enough: There was no more time.
        """
        levels = [parts]
        labels: list[_Label] = [""]
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
            if type(value) in _ATOMS or id(value) in self._seen:
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

    def _next(self, parts: Iterator[_Part]) -> _Part | BaseException | None:
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

    def _inside(self, labels: list[_Label], value: Any, error: BaseException) -> tuple[list[_Label], Any]:
        """Look for the culprit in the attributes of an object that pickles them itself, such as a `Shared`."""
        for label, inner in _attributes_of(value):
            if type(inner) in _ATOMS or id(inner) in self._seen or len(labels) > LONGEST:
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

    def _parts(self, value: Any) -> Iterator[_Part]:
        """Return what of a value is pickled; raises if the value itself cannot be."""
        kind = type(value)
        if kind is dict:
            return _of_dict(value)
        if kind is list or kind is tuple:
            return ((("[{}]", index), one) for index, one in enumerate(value))
        if kind is set or kind is frozenset:
            return ((("element {}", one), one) for one in tuple(value))
        reduced = self._pickler.reducer_override(value)
        if reduced is NotImplemented:
            if issubclass(kind, type) or kind is types.FunctionType:  # known by its name
                dumps(value)
                return iter(())
            reducer = self._pickler.dispatch_table.get(kind)
            reduced = value.__reduce_ex__(PROTOCOL) if reducer is None else reducer(value)
        if isinstance(reduced, str):  # a global of that name
            dumps(value)
            return iter(())
        _check(reduced)
        return _of_reduced(value, reduced)


def _check(reduced: Any) -> None:
    """Raise `PicklingError` unless the pickler can make something of what `__reduce__` returned."""
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise pickle.PicklingError("__reduce__ must return a string or a tuple of two to six")
    if not callable(reduced[0]) or not isinstance(reduced[1], tuple):
        raise pickle.PicklingError("__reduce__ must return a callable and a tuple of its arguments")
    for items in reduced[3:5]:
        if items is not None and not hasattr(items, "__next__"):
            raise pickle.PicklingError("__reduce__ must return iterators of items")


def _of_dict(value: dict[Any, Any]) -> Iterator[_Part]:
    for key, one in tuple(value.items()):
        yield ("key {}", key), key
        yield ("[{}]", key), one


def _of_reduced(value: Any, reduced: tuple[Any, ...]) -> Iterator[_Part]:
    """Yield what `reduced` is made of, by the names that the user knows it by."""
    special = _SPECIAL.get(type(value))
    if special is not None:
        yield from special(value)
        return
    make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    if isinstance(value, types.FunctionType):
        yield from _of_function(value, state)
        return
    if isinstance(value, type):
        yield from _of_class(value, arguments, state)
        return
    yield from _of_table(value)
    yield from _of_arguments(value, make, arguments)
    for index, one in enumerate(items or ()):
        yield ("[{}]", index), one
    for key, one in pairs or ():
        yield ("key {}", key), key
        yield ("[{}]", key), one
    yield from _of_state(state)
    yield "the setter of its state", setter


def _of_table(value: Any) -> Iterator[_Part]:
    """Yield the objects in an array or a frame, which the pickler meets by other names in a state of a state."""
    library, name = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "pandas" and name == "DataFrame":
        for column, one in value.items():
            yield ("column {}", column), one
    elif library == "pandas" and name == "Series" and value.dtype == object:
        for row, one in value.items():
            yield ("row {}", row), one
    elif library == "numpy" and name == "ndarray" and value.dtype == object:
        for place, one in sys.modules["numpy"].ndenumerate(value):
            yield f"[{', '.join(map(str, place))}]", one


def _of_arguments(value: Any, make: Any, arguments: tuple[Any, ...]) -> Iterator[_Part]:
    name = name_of(make)
    if name in ("__newobj__", "__newobj_ex__") and arguments:
        cls, *rest = arguments
        yield f"class {name_of(cls)}", cls
        fields = getattr(type(value), "_fields", ())
        for index, one in enumerate(rest):
            yield f"attribute {fields[index]!r}" if len(fields) == len(rest) else "", one
        return
    yield f"the function {name} that makes it", make
    for index, one in enumerate(arguments):
        if make is getattr:
            yield "self", one
        elif isinstance(value, BaseException):
            yield f"args[{index}]", one
        else:
            yield f"argument {index} of {name}()", one


def _of_state(state: Any) -> Iterator[_Part]:
    if (
        isinstance(state, tuple)
        and len(state) == 2
        and isinstance(state[0], dict | None)
        and isinstance(state[1], dict)
    ):
        for half in state:  # that of `__dict__`, that of `__slots__`
            yield from _of_state(half or {})
    elif type(state) is dict:
        for name, one in tuple(state.items()):
            yield ("key {}", name), name
            yield ("attribute {}", name), one
    else:
        yield "its state", state


def _of_function(function: types.FunctionType, state: Any) -> Iterator[_Part]:
    attributes, slots = state
    for name, one in attributes.items():
        yield "" if name == "__wrapped__" else f"attribute {name!r}", one
    for name, one in (slots.get("__annotations__") or {}).items():
        yield f"annotation of {name!r}", one
    for name, one in (slots.get("__kwdefaults__") or {}).items():
        yield f"default of {name!r}", one
    defaults = slots.get("__defaults__") or ()
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    for name, one in zip(names[len(names) - len(defaults) :], defaults, strict=False):
        yield f"default of {name!r}", one
    for name, cell in zip(code.co_freevars, slots.get("__closure__") or (), strict=False):
        with suppress(ValueError):  # it has no value yet
            yield _label_of_variable("closure", name, cell.cell_contents), cell.cell_contents
    for module in slots.get("_cloudpickle_submodules") or ():
        yield f"module {name_of(module)}", module
    for name, one in (slots.get("__globals__") or {}).items():
        yield _label_of_variable("global", name, one), one


def _label_of_variable(place: str, name: str, value: Any) -> str:
    is_function = isinstance(value, types.FunctionType | _CACHED)
    return name if is_function and name_of(value) == name else f"{place} {name!r}"


def _of_class(cls: type, arguments: tuple[Any, ...], state: Any) -> Iterator[_Part]:
    yield f"metaclass {type(cls).__name__}", type(cls)
    for base in cls.__bases__:
        yield f"class {base.__name__}", base
    for one in arguments:
        if isinstance(one, dict):  # slots, or the members of an enum
            for name, part in one.items():
                yield f"attribute {name!r}", part
    for half in state or ():
        for name, one in half.items():
            yield _label_of_variable("attribute", name, one), one


def _of_partial(value: functools.partial[Any]) -> Iterator[_Part]:
    yield "", value.func
    for index, one in enumerate(value.args):
        yield f"argument {index} of the partial", one
    for name, one in value.keywords.items():
        yield f"argument {name!r} of the partial", one
    yield from _of_state(vars(value))


def _of_method(value: types.MethodType) -> Iterator[_Part]:
    yield "", value.__func__
    yield "self", value.__self__


_SPECIAL: Final[dict[type, Callable[[Any], Iterator[_Part]]]] = {
    functools.partial: _of_partial,
    types.MethodType: _of_method,
    _CACHED: lambda value: iter([("", value.__wrapped__)]),
    classmethod: lambda value: iter([("", value.__func__)]),
    staticmethod: lambda value: iter([("", value.__func__)]),
    property: lambda value: iter([("", value.fget), ("", value.fset), ("", value.fdel)]),
}


def _attributes_of(value: Any) -> list[_Part]:
    try:
        return [(f"attribute {name!r}", one) for name, one in vars(value).items()]
    except Exception:  # it has none, or a `__getattr__` that raises
        return []
