"""The modules that a function needs.

Those that are installed are imported once, before workers are forked; the user's own may change from one run to the
next (see `freshness`).

Of a packed function only the text of the pickle is looked at: each string in it that is the name of a loaded module
counts. That finds the modules and classes that it refers to, those imported inside of functions (their names are in the
code), and now and then one that merely has a common name and costs little. It takes microseconds where going through
the opcodes of the pickle takes milliseconds. What is not loaded, or a function that is not packed, needs a look at the
function itself.

Owns caches, which any thread may use.
"""

from __future__ import annotations

import dis
import functools
import pickle
import re
import sys
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from poolmagic.installed import installed, locate
from poolmagic.traces import unwrapped

__all__ = ["Needs", "find_modules", "names_in"]

_STRING: Final = re.compile(
    rb"\x8c(?<!__name__\x94\x8c)(?<!__module__\x94\x8c)(?<!__package__\x94\x8c)(.)([A-Za-z_][A-Za-z0-9_.]*)\x94",
    re.DOTALL,
)
"""A short string in a pickle: opcode, length, text, and the opcode that remembers it. Behind these keys stands where a
function was written that travels itself: that module need not be imported."""
_CACHED_SIZE: Final = 1 << 16
"""Bytes of the largest pickle whose modules are remembered: the cache must not keep the user's data."""


class Needs(NamedTuple):
    """The modules that a packed function refers to: those installed, also behind the user's own, and the user's own."""

    installed: tuple[str, ...]
    own: tuple[str, ...]


def find_modules(payload: Any) -> Needs:
    """Return the modules that a packed function refers to, as far as they are loaded; does not block.

    Args:
        payload: As `payload.Pickled.pack_function` returns it.
    """
    if not isinstance(payload, bytes):
        # A large one. The pickle of the function is the first of its buffers, those that it captures come behind.
        _, ((file, start, length), *_) = pickle.loads(payload.body)
        return _modules_in(payload.files[file].view()[start : start + length])
    if len(payload) > _CACHED_SIZE:
        return _modules_in(payload)
    return _cached_modules_in(payload)


@functools.lru_cache(maxsize=64)
def _cached_modules_in(pickled: bytes) -> Needs:
    return _modules_in(pickled)


def _modules_in(pickled: bytes | memoryview) -> Needs:
    found = {name.decode() for length, name in _STRING.findall(pickled) if length[0] == len(name)}
    loaded = [name for name in found if name in sys.modules]
    return Needs(installed(loaded), tuple(name for name in loaded if locate(name)))


def names_in(function: Any) -> set[str]:
    """Return the modules that a function refers to, loaded or not, as do the functions that it calls; does not block.

    They are the homes of the values of its global variables and closures, and what it imports while it runs. A function
    that has a module to be imported from is not looked into.
    """
    found: set[str] = set()
    seen: set[int] = set()
    todo = [function]
    while todo:
        one = unwrapped(todo.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        kind = type(one)  # not `isinstance`: a proxy may run the user's code for it
        if issubclass(kind, ModuleType):
            found.add(one.__name__)
            continue
        home = str((one if issubclass(kind, FunctionType | type) else kind).__module__)
        found.add(home)
        if kind is FunctionType and not _is_imported(one, home):
            found |= _imported_in(one.__code__)
            todo += [one.__globals__[name] for name in _names_in(one.__code__) if name in one.__globals__]
            todo += _captured_by(one)
        elif issubclass(kind, type) and home == "__main__":
            todo += [*vars(one).values(), *one.__bases__]
    return found


def _captured_by(function: FunctionType) -> list[Any]:
    found: list[Any] = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the variable has no value yet
            found.append(cell.cell_contents)
    return found


def _is_imported(function: FunctionType, home: str) -> bool:
    return home != "__main__" and getattr(sys.modules.get(home), function.__qualname__, None) is function


def _names_in(code: CodeType) -> set[str]:
    """Return the names in the code of a function, and in that of the functions inside of it."""
    return set(code.co_names).union(*(_names_in(one) for one in code.co_consts if isinstance(one, CodeType)))


@functools.lru_cache(maxsize=1024)
def _imported_in(code: CodeType) -> frozenset[str]:
    """Return the modules that the code of a function imports, that of the functions inside of it included."""
    found: set[str] = set()
    names: tuple[str, ...] = ()
    for step in dis.get_instructions(code):
        if isinstance(step.argval, CodeType):
            found |= _imported_in(step.argval)
        elif step.opname == "IMPORT_NAME":
            found |= {step.argval, *(f"{step.argval}.{name}" for name in names)}
        elif step.opname == "LOAD_CONST":  # what a `from` wants of the module comes right before
            names = step.argval if isinstance(step.argval, tuple) else ()
    return frozenset(found)
