"""Fresh code: which of the user's own modules a function needs, and which of them have changed on disk since.

A worker imports a module once, and keeps it. So before a run the files of the modules that its function refers to, and
of those that these import in turn, are compared with what they were when the workers first got a function that needs
them. Looking costs one `os.stat` for a module; only a file that looks different is read, and only one whose text is
different counts. A module that is installed is nobody's to edit, so it is left out (see `installed`).

Threads. What the workers of a crew have seen (`Sources`) is behind a lock, as pools of several threads may share them.
The module owns caches that any thread may use: what was read of files, and what the kernel's own modules were when
they were first looked at.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from poolmagic.errors import annotate, note
from poolmagic.installed import locate

__all__ = ["Sources", "tell_of_changes"]

_IMPORT: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)[ \t]*([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n;#(]*)|import[ \t]+([^\n;#]+))",
    re.MULTILINE,
)
"""A statement that imports, wherever in a file: dots, module and names of the one kind, or the modules of the other."""
_COMMENT: Final = re.compile(r"#[^\n]*")
_MOST_NAMES: Final = 3
"""How many changed files a line names."""


@dataclass(frozen=True, slots=True)
class _File:
    """What was read of a file.

    Attributes:
        stamp: When it was changed last, in nanoseconds, and its size.
        digest: Tells its text from any other.
        imports: The user's own modules among those that it imports.
    """

    stamp: tuple[int, int]
    digest: bytes
    imports: tuple[str, ...]


@dataclass(slots=True)
class _Imported:
    """A module of the kernel.

    Attributes:
        spec: How it was found: another one each time that it is imported or reloaded.
        digest: What its file was when it was first looked at after that.
        told: What its file was when the user was told of it last.
    """

    spec: object
    digest: bytes
    told: bytes


_files: dict[tuple[str, str], _File] = {}
_imported: dict[str, _Imported] = {}
"""By module."""


class Sources:
    """The source files of the modules that the workers of a crew may have imported, as they were then."""

    _of_crews: ClassVar[weakref.WeakKeyDictionary[object, Sources]] = weakref.WeakKeyDictionary()
    _making: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, bytes] = {}

    @classmethod
    def of(cls, crew: object) -> Sources:
        """Return those of a crew, which goes from pool to pool; does not block."""
        with cls._making:
            return cls._of_crews.setdefault(crew, cls())

    def forget(self) -> None:
        """Say that the workers are new ones; does not block."""
        self._seen.clear()

    def follow(self, names: Iterable[str], renew: Callable[[], None]) -> None:
        """Have new workers if a module has changed that the present ones may have imported, and say so in one line.

        Blocks for a moment, if files must be read.

        Args:
            names: The modules that a function refers to.
            renew: Gives the crew new workers.

        Raises:
            SyntaxError: A changed module has one; the workers are left as they are.
        """
        with self._lock:  # the run of another thread must not overtake the workers that it needs
            found = {path: file.digest for _, path, file in _own_modules(names)}
            changed = [path for path, digest in found.items() if self._seen.get(path, digest) != digest]
            for path in changed:
                _compile(path)
            if changed:
                self._seen.clear()
                renew()
            self._seen.update(found)
        if changed:
            note(f"{_listed(changed)}: new workers run {'it' if len(changed) == 1 else 'them'}")


def tell_of_changes(names: Iterable[str], kind: str) -> None:
    """Say of modules that have changed since the kernel imported them that it has the old ones; once for each change.

    Does not block, or only to read files.

    Args:
        names: The modules that a function refers to which runs in the kernel.
        kind: What the kind of the pool is called.
    """
    changed: dict[str, str] = {}
    for name, path, file in _own_modules(names):
        known = _imported.get(name)
        if known is not None and known.told != file.digest:
            known.told = file.digest
            if known.digest != file.digest:
                changed[path] = name
    if changed:
        reload = ", ".join(f"importlib.reload({name})" for name in changed.values())
        verb = "runs" if kind == "solo" else "run"
        what = "version" if len(changed) == 1 else "versions"
        note(f"{_listed(list(changed))}; {kind} {verb} the {what} that this notebook has imported: {reload}")


def _own_modules(names: Iterable[str]) -> Iterator[tuple[str, str, _File]]:
    """Return the user's own modules among these, and those that they import, with their files as they are now."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        path = locate(name)
        file = None if path is None else _look(name, path)
        if path is None or file is None:
            continue
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is not None and (name not in _imported or _imported[name].spec is not spec):
            _imported[name] = _Imported(spec, file.digest, file.digest)
        yield name, path, file
        todo += file.imports
        todo += [name.rpartition(".")[0]]  # a package is imported with each of its modules


def _look(name: str, path: str) -> _File | None:
    """Return what is in a file, which is read if it looks different than before; None if it cannot be read now."""
    known = _files.get((name, path))
    with suppress(OSError):  # it is being replaced, or was moved: then the next run sees to it
        stat = os.stat(path)  # noqa: PTH116 - it is done for each module and run
        stamp = (stat.st_mtime_ns, stat.st_size)
        if known is not None and known.stamp == stamp:
            return known
        text = Path(path).read_bytes()
        digest = hashlib.sha256(text).digest()
        if known is not None and known.digest != digest:
            _drop_bytecode(path, known.stamp, stamp)
        package = name if Path(path).name == "__init__.py" else name.rpartition(".")[0]
        own = (one for one in _imports(text.decode(errors="replace"), package) if one != name and locate(one))
        file = _files[name, path] = _File(stamp, digest, tuple(own))
        return file
    return None


def _drop_bytecode(path: str, before: tuple[int, int], now: tuple[int, int]) -> None:
    """Remove what Python has compiled of a file if it could take that for the file's present text.

    It knows the source of its bytecode by the size and the whole second of its last change: less than it takes to run
    two cells of which each writes the file.
    """
    if before[0] // 10**9 == now[0] // 10**9 and before[1] == now[1]:
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)


def _imports(text: str, package: str) -> Iterator[str]:
    """Yield the names of what a module of a package imports; names in a module may be modules themselves."""
    for dots, module, names, modules in _IMPORT.findall(text):
        yield from _split(modules)
        if not names:
            continue
        parents = package.split(".")
        base = ".".join([*parents[: len(parents) + 1 - len(dots)], *filter(None, [module])]) if dots else module
        yield base
        yield from (f"{base}.{name}" for name in _split(names))


def _split(names: str) -> Iterator[str]:
    """Yield the first word of each part of ``a, b as c``."""
    for part in _COMMENT.sub("", names).strip("()").split(","):
        words = part.split()
        if words:
            yield words[0]


def _compile(path: str) -> None:
    """Raise the error that is in the syntax of a file, where there is one."""
    try:
        compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        annotate(error, f"{_listed([path])}: the workers go on with what they have; nothing was run")
        raise


def _listed(paths: list[str]) -> str:
    """Return the beginning of a sentence about changed files."""
    here = Path.cwd()
    names = [str(path.relative_to(here)) if path.is_relative_to(here) else path.name for path in map(Path, paths)]
    if len(names) > _MOST_NAMES:
        names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} more"]
    return f"{', '.join(names[:-1])} and {names[-1]} have changed" if names[1:] else f"{names[0]} has changed"
