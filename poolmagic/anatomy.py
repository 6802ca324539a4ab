"""What an object is made of when it is pickled: its parts, in the order in which the pickler takes them, with names.

The names are those that its user knows the parts by, wherever there are any. Taking an object apart calls the user's
code as pickling does, and no other; in the calling thread. This module owns no state.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias

from poolmagic.describe import describe_value
from poolmagic.equipped import Equipped
from poolmagic.picklers import PROTOCOL, Pickler, dumps

__all__ = ["ATOMS", "Anatomist", "Label", "Part", "name_of", "text_of"]

ATOMS: Final = frozenset(
    {int, float, complex, bool, str, bytes, bytearray, type(None), types.CodeType, pickle.PickleBuffer, type(...)}
)
"""Types whose objects have no parts."""
_CACHED: Final = type(functools.lru_cache(len))

Label: TypeAlias = "str | tuple[str, object]"
"""How a part is called: a text, or one with a gap and what is to be described in it. "" for one that needs no name."""
Part: TypeAlias = tuple[Label, Any]


def name_of(function: Any) -> str:
    """Return what people call a function, whatever it is; never raises."""
    if isinstance(function, Equipped):
        function = function.function
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


def text_of(label: Label) -> str:
    """Return the name of a part as a text."""
    if isinstance(label, str):
        return label
    text = describe_value(label[1], 40)
    return label[0].format(f"of type {type(label[1]).__name__}" if " object at 0x" in text else text)


class Anatomist:
    """Takes objects apart as one pickler does."""

    def __init__(self) -> None:
        self._pickler = Pickler(io.BytesIO(), PROTOCOL)

    def parts(self, value: Any) -> Iterator[Part]:
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


def _of_dict(value: dict[Any, Any]) -> Iterator[Part]:
    for key, one in tuple(value.items()):
        yield ("key {}", key), key
        yield ("[{}]", key), one


def _of_reduced(value: Any, reduced: tuple[Any, ...]) -> Iterator[Part]:
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


def _of_table(value: Any) -> Iterator[Part]:
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


def _of_arguments(value: Any, make: Any, arguments: tuple[Any, ...]) -> Iterator[Part]:
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


def _of_state(state: Any) -> Iterator[Part]:
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


def _of_function(function: types.FunctionType, state: Any) -> Iterator[Part]:
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


def _of_class(cls: type, arguments: tuple[Any, ...], state: Any) -> Iterator[Part]:
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


def _of_partial(value: functools.partial[Any]) -> Iterator[Part]:
    yield "", value.func
    for index, one in enumerate(value.args):
        yield f"argument {index} of the partial", one
    for name, one in value.keywords.items():
        yield f"argument {name!r} of the partial", one
    yield from _of_state(vars(value))


def _of_method(value: types.MethodType) -> Iterator[Part]:
    yield "", value.__func__
    yield "self", value.__self__


_SPECIAL: Final[dict[type, Callable[[Any], Iterator[Part]]]] = {
    functools.partial: _of_partial,
    types.MethodType: _of_method,
    _CACHED: lambda value: iter([("", value.__wrapped__)]),
    classmethod: lambda value: iter([("", value.__func__)]),
    staticmethod: lambda value: iter([("", value.__func__)]),
    property: lambda value: iter([("", value.fget), ("", value.fset), ("", value.fdel)]),
}
