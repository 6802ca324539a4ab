"""What a function drags along when it is sent: what of it, from where, how large, and what of it cannot be sent.

All that is called of the user's code is what pickling calls. It belongs to the calling thread. This module owns no
state.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from time import perf_counter
from typing import Any, Final

from poolmagic.anatomy import ATOMS, Anatomist, name_of, text_of
from poolmagic.culprits import SECONDS
from poolmagic.culprits import explain as explain_culprit
from poolmagic.memory import is_shared
from poolmagic.picklers import PROTOCOL, Pickler, is_aimed_at_thread, is_importable
from poolmagic.quantities import read_seconds, show_size

__all__ = ["HEAVY", "Explanation", "Part", "captures", "explain"]

HEAVY: Final = 50_000_000
"""Bytes of a captured object that its user is told of."""
MOST_SHOWN: Final = 30
"""Parts in the text of an explanation."""
MOST_NAMED: Final = 6
"""Captured objects in the note on an error."""
DEEPEST: Final = 20
"""Functions that call one another, on the way to a part."""


@dataclass(frozen=True)
class Part:
    """One of the objects that a function drags along.

    Attributes:
        owner: The functions on the way to it, such as ``"f -> helper"``.
        place: What it is there, such as ``"global 'table'"``, ``"closure 'client'"`` or ``"default of 'x'"``.
        type_name: The name of its class.
        size: Its bytes when it is pickled by itself; None if it cannot be, or if there was no time left.
        problem: Why it cannot be pickled, with the way to what keeps it from that, and what to do about it; empty if it
            can be.
    """

    owner: str
    place: str
    type_name: str
    size: int | None
    problem: str = ""

    @property
    def way(self) -> str:
        """The way to it, in words."""
        return f"{self.owner} -> {self.place}"

    @property
    def weight(self) -> str:
        """Its size in words."""
        if self.problem:
            return "cannot be sent"
        return "not weighed" if self.size is None else show_size(self.size)

    @property
    def advice(self) -> str:
        """What to do about it; empty if nothing is to be done."""
        if self.problem:
            return f"{self.owner} -> {self.problem}"
        if self.size is None or self.size < HEAVY:
            return ""
        return "large: pm.share() sends it once, not with each run"


@dataclass(frozen=True)
class Explanation:
    """What a function drags along; made by `explain`, and shown as a text or a table.

    Attributes:
        name: What the function is called.
        size: The bytes of the whole when it is pickled, without what is shared; None if it cannot be, or if there was
            no time left.
        parts: What it drags along: first what cannot be pickled, then by size. An object that several functions use is
            there once.
        imports: What it refers to by name, and the workers import: modules, and functions and classes of modules.
        culprit: The path to what cannot be pickled, such as ``"f -> global 'client' -> attribute 'lock'"``; or empty.
        problem: Why it cannot be pickled, in full, with advice; empty if it can be.
    """

    name: str
    size: int | None
    parts: tuple[Part, ...]
    imports: tuple[str, ...]
    culprit: str = ""
    problem: str = ""

    @property
    def _heading(self) -> str:
        if self.problem:
            return f"{self.name} cannot be sent to workers"
        return f"{self.name}: " + ("not weighed in time" if self.size is None else f"{show_size(self.size)} pickled")

    @property
    def _problems(self) -> list[str]:
        return [part.advice for part in self.parts if part.problem][:MOST_NAMED] or (
            [self.problem] * bool(self.problem)
        )

    @property
    def _rest(self) -> str:
        left = len(self.parts) - MOST_SHOWN
        return f"... and {left} more" if left > 0 else ""

    def __repr__(self) -> str:
        shown = self.parts[:MOST_SHOWN]
        rows = [(part.way, part.type_name, part.weight, "" if part.problem else part.advice) for part in shown]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        padded = [[*map(str.ljust, row[:3], widths), row[3]] for row in rows]
        lines = [f"  {'  '.join(cells)}".rstrip() for cells in padded]
        if self._rest:
            lines.append(f"  {self._rest}")
        if self.imports:
            lines.append(f"  imported by the workers: {', '.join(self.imports)}")
        lines += [f"  {problem}" for problem in self._problems]
        return "\n".join([self._heading, *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: left">{escape(cell)}</td>'
                for cell in (part.way, part.type_name, part.weight, part.advice)
            )
            + "</tr>"
            for part in self.parts[:MOST_SHOWN]
        )
        heads = "".join(
            f'<th scope="col" style="text-align: left">{head}</th>' for head in ("What", "Type", "Pickled", "Advice")
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        imports = f"imported by the workers: {', '.join(self.imports)}" if self.imports else ""
        told = self.problem if not any(part.problem for part in self.parts) else ""
        lines = "".join(f"<div>{escape(line)}</div>" for line in (self._rest, imports, told) if line)
        return f"<div><div><b>{escape(self._heading)}</b></div>{table}{lines}</div>"


def explain(function: Any, /, *, seconds: float = 5.0) -> Explanation:
    """Return what a function drags along to the workers: names, places, types and sizes; and what cannot be sent.

    Nothing is sent, and nothing is changed. Blocks for about `seconds` at most, besides what the pickling code of a
    class takes at a time, and a second for each object that cannot be sent.

    Args:
        function: A function, a method, a partial; or any object.
        seconds: After so long the rest is not weighed.

    Raises:
        UsageError: `seconds` is not a number above zero.
    """
    deadline = perf_counter() + read_seconds("seconds", seconds)
    size, error = _weigh(function, deadline)
    problem, culprit = ("", "") if error is None else explain_culprit(function, error, "", SECONDS)
    walk = _Walk(function)
    parts = [_part(owner, place, value, deadline) for owner, place, value in walk.leaves()]
    parts.sort(key=lambda part: (not part.problem, -(part.size or 0)))
    return Explanation(name_of(function), size, tuple(parts), tuple(sorted(walk.imports)), culprit, problem)


def captures(function: Any) -> str:
    """Return in one line what a function that cannot be sent drags along; "" if there is nothing to tell."""
    try:
        leaves = [(place, value) for _, place, value in _Walk(function).leaves() if type(value) not in ATOMS]
        found = [f"{place} ({type(value).__name__})" for place, value in leaves]
    except BaseException as error:  # the user's code, in a second way to fail; what is told is the first
        if is_aimed_at_thread(error):
            raise
        return ""
    if not found:
        return ""
    name = name_of(function)
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    named = ", ".join(found[:MOST_NAMED])
    return f"{name} drags along {named}{more}; poolmagic.explain({name}) shows sizes and the way to each"


def _part(owner: str, place: str, value: Any, deadline: float) -> Part:
    size, error = _weigh(value, deadline)
    problem = "" if error is None else explain_culprit(value, error, place, SECONDS)[0]
    if problem and not problem.startswith(place):
        problem = f"{place}: {problem}"
    return Part(owner, place, type(value).__name__, size, problem)


class _Late(Exception):
    """There is no time left."""


class _Scales:
    """A file that only counts what is written to it.

    Attributes:
        size: The bytes.
    """

    def __init__(self, deadline: float) -> None:
        self.size = 0
        self._deadline = deadline

    def write(self, data: Any) -> int:
        """Count bytes."""
        length = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
        self.size += length
        if perf_counter() > self._deadline:
            raise _Late
        return length

    def put_aside(self, buffer: pickle.PickleBuffer) -> bool:
        """Count a large buffer without a copy of it; what is shared weighs nothing."""
        try:
            view = buffer.raw()
        except BufferError:  # it is in pieces
            return True
        self.size += 0 if is_shared(view) else view.nbytes
        return False


def _weigh(value: Any, deadline: float) -> tuple[int | None, BaseException | None]:
    """Pickle a value and return its size; None if that cannot be, with the reason unless it is the time."""
    scales = _Scales(deadline)
    if perf_counter() > deadline:
        return None, None
    try:
        Pickler(scales, PROTOCOL, buffer_callback=scales.put_aside).dump(value)
    except _Late:
        return None, None
    except BaseException as error:  # whatever the user's code raises here is what keeps it from being sent
        if is_aimed_at_thread(error):
            raise
        return None, error
    return scales.size, None


class _Walk:
    """Goes from a function to what it captures, and on through the functions that travel with it.

    Attributes:
        imports: What was met on the way that is known by its name.
    """

    def __init__(self, function: Any) -> None:
        self.imports: set[str] = set()
        self._root = function
        self._parts = Anatomist().parts
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # so that an id stands for one object

    def leaves(self) -> Iterator[tuple[str, str, Any]]:
        """Yield owner, place and value of each part."""
        yield from self._inside(name_of(self._root), self._root, 0)

    def _inside(self, owner: str, value: Any, depth: int) -> Iterator[tuple[str, str, Any]]:
        try:
            parts = self._parts(value)
        except BaseException as error:  # it is not made of parts that could be told; it is told of as a whole
            if is_aimed_at_thread(error):
                raise
            return
        for label, part in parts:
            place = text_of(label)
            if part is None or place.startswith(("annotation of", "key ")) or not self._is_new(part):
                continue
            if isinstance(part, types.ModuleType) or is_importable(part):
                self._note(part)
            elif isinstance(part, types.FunctionType | types.MethodType) or place == "":
                inner = f"{owner} -> {name_of(part)}" if place else owner
                yield from self._inside(inner, part, depth + 1) if depth < DEEPEST else ()
            elif place == "self":
                yield from self._inside(f"{owner} -> self", part, depth + 1)
            else:
                yield owner, place, part

    def _is_new(self, part: Any) -> bool:
        if type(part) in ATOMS:
            return True
        if id(part) in self._seen:
            return False
        self._seen.add(id(part))
        self._kept.append(part)
        return True

    def _note(self, part: Any) -> None:
        if isinstance(part, types.ModuleType):
            self.imports.add(part.__name__)
        elif part.__module__ != "builtins":
            self.imports.add(f"{part.__module__}.{part.__qualname__}")
