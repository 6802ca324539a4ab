"""Which modules are installed, and which are the user's own.

A module of the user's own may change before the next worker starts, so it must be imported by the worker itself, fresh;
what it has imported need not be. Owns a cache, which any thread may use.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

__all__ = ["installed", "locate"]

_NEVER: Final = frozenset(
    {"__main__", "__mp_main__", "poolmagic", "cloudpickle", "_frozen_importlib", "_frozen_importlib_external"}
    | set(sys.builtin_module_names)
)
_DEFINED: Final = (FunctionType, BuiltinFunctionType, type)


def installed(names: Iterable[str]) -> tuple[str, ...]:
    """Return which of these modules are installed, and which the others have imported; does not block.

    Those that are not loaded are left out, and those that every process has.
    """
    return tuple(sorted(_installed(names, set())))


def _installed(names: Iterable[str], seen: set[str]) -> Iterator[str]:
    for name in names:
        module = sys.modules.get(name)
        if name in seen or not isinstance(module, ModuleType) or name.partition(".")[0] in _NEVER:
            continue
        seen.add(name)
        if _is_installed(module):
            yield name
        else:
            yield from _installed(_imported_by(module), seen)


def locate(name: str) -> str | None:
    """Return the source file of a module of the user's own, loaded or not; None for all others. Does not block."""
    if name.partition(".")[0] in _NEVER:
        return None
    if name not in sys.modules:
        return _find(name.replace(".", os.sep))
    module: Any = sys.modules[name]
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    if isinstance(origin, str) and origin.endswith(".py") and not _is_installed(module):
        return origin
    return None


def _find(path: str) -> str | None:
    """Look for a module where Python would, but in the user's own folders only."""
    for entry in sys.path:
        folder = os.path.abspath(entry)  # noqa: PTH100 - "" is the working directory; and this is done for each import
        if not f"{folder}{os.sep}".startswith(_folders()):
            for file in (f"{folder}{os.sep}{path}.py", f"{folder}{os.sep}{path}{os.sep}__init__.py"):
                if os.path.isfile(file):  # noqa: PTH113 - as above
                    return file
    return None


def _imported_by(module: ModuleType) -> set[str]:
    """The modules, and those of the functions, classes and values, that stand in a module."""
    return {
        value.__name__
        if isinstance(value, ModuleType)
        # Of a value only the type is asked: it may be anything, and answer with the user's own code.
        else str((value if isinstance(value, _DEFINED) else type(value)).__module__)
        for value in list(vars(module).values())
    }


def _is_installed(module: ModuleType) -> bool:
    """Whether a module is Python's own or was installed, and not written or changed by the user; does not block."""
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    # A namespace package has no file, but folders.
    places = [spec.origin] if spec.origin is not None else list(spec.submodule_search_locations or ())
    return bool(places) and all(str(place).startswith(_folders()) for place in places)


@functools.cache
def _folders() -> tuple[str, ...]:
    """The folders of installed modules, as they are written in `sys.path` and as they are."""
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({folder + os.sep for one in folders for folder in (one, os.path.realpath(one))})
