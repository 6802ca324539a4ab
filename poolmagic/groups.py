"""Many failures as few groups: by the type of their errors, and by the line of the user's own code they come from.

No state; any thread.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from poolmagic.errors import FailedItems, TaskError, annotate
from poolmagic.failure import Failure
from poolmagic.places import cell_of, is_library
from poolmagic.records import OWN_CODE

__all__ = ["FailureGroup", "brief", "describe", "gather", "group_failures", "list_indices", "note_others", "summarize"]

MOST_GROUPS: Final = 5
"""So many groups are told of; the rest is counted."""
MOST_MEMBERS: Final = 10
"""So many groups are members of an exception group: each is shown with its traceback."""
MOST_INDICES: Final = 3
LONGEST: Final = 80
"""Characters of a message."""

_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one type at one line.

    Attributes:
        type_name: The type of their errors.
        message: What most of them say, numbers aside; one line.
        line: Where they come from, ``Cell In[12] line 4`` or ``prices.py:12``; empty where no code is to blame.
        indices: The items, in order.
        exception: The error of the first of them.
    """

    type_name: str
    message: str
    line: str
    indices: tuple[int, ...]
    exception: BaseException

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.indices)


def group_failures(failures: Iterable[Failure]) -> list[FailureGroup]:
    """Return failures in groups, the largest first; does not block."""
    found: dict[tuple[type, str, int], list[Failure]] = {}
    for failure in sorted(failures, key=lambda one: one.index):
        place = _own_line(failure.exception.__traceback__)
        found.setdefault((type(failure.exception), *place), []).append(failure)
    groups = [_group(file, line, members) for (_, file, line), members in found.items()]
    return sorted(groups, key=lambda group: -group.count)  # among equals the one that comes first in the input


def _group(file: str, line: int, members: list[Failure]) -> FailureGroup:
    messages = [_message(failure.exception) for failure in members]
    folded = [_NUMBERS.sub("0", message) for message in messages]
    [(commonest, _)] = Counter(folded).most_common(1)
    first = members[0].exception
    return FailureGroup(
        _type_name(first),
        messages[folded.index(commonest)],
        name_line(file, line) if file else "",
        tuple(failure.index for failure in members),
        first,
    )


def _type_name(error: BaseException) -> str:
    """Return the name of an exception's type; one that could not travel has the name that it had there."""
    name = getattr(error, "type_name", "") or type(error).__qualname__
    return str(name).rpartition(".")[2]


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:  # the user's class; its failure must not hide what it failed to tell of
        text = f"(its text raised {type(second).__qualname__})"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _own_line(trace: TracebackType | None) -> tuple[str, int]:
    """Return file and line of the innermost frame that is the user's own code; without one, of the innermost."""
    inner, own = ("", 0), ("", 0)
    for frame, line in traceback.walk_tb(trace):
        file = frame.f_code.co_filename
        if not file.startswith(OWN_CODE):
            inner = (file, line)
            if not is_library(file) and file != "<string>":
                own = (file, line)
    return own if own[0] else inner


def name_line(file: str, line: int) -> str:
    """Return what a person calls a line of code, in few letters."""
    cell = cell_of(file)
    return f"{cell} line {line}" if cell else f"{Path(file).name}:{line}"


def describe(group: FailureGroup) -> str:
    """Return one line: ``37 x KeyError 'price' at Cell In[12] line 4, e.g. items 5, 9, 12``."""
    where = f" at {group.line}" if group.line else ""
    return f"{group.count:,} x {_headline(group.type_name, group.message)}{where}, {list_indices(group.indices)}"


def brief(error: BaseException) -> str:
    """Return the type and the text of an error in one line that is not long."""
    return _headline(_type_name(error), _message(error))


def _headline(type_name: str, message: str) -> str:
    if not message:
        return type_name
    return f"{type_name} {message}" if message[0] in "'\"" else f"{type_name}: {message}"


def list_indices(indices: Sequence[int]) -> str:
    """Return the first of some indices: ``item 5``, ``items 5, 9``, or ``e.g. items 5, 9, 12``."""
    shown = ", ".join(map(str, indices[:MOST_INDICES]))
    if len(indices) == 1:
        return f"item {shown}"
    return f"items {shown}" if len(indices) <= MOST_INDICES else f"e.g. items {shown}"


def summarize(groups: Sequence[FailureGroup]) -> str:
    """Return the largest groups in one line."""
    told = [describe(group) for group in groups[:MOST_GROUPS]]
    left = sum(group.count for group in groups[MOST_GROUPS:])
    return "; ".join(told + [f"{left:,} of other kinds"] * bool(left))


def note_others(error: BaseException, others: Sequence[Failure]) -> None:
    """Tell of the other failures in a note of the first one's error."""
    if others:
        items = "item" if len(others) == 1 else "items"
        annotate(error, f"{len(others):,} more {items} failed: {summarize(group_failures(others))}")


def gather(failures: Sequence[Failure], total: int, run: Any) -> FailedItems:
    """Return one exception for many failures: a member for each group, with a note that tells of the others in it."""
    groups = group_failures(failures)
    message = f"{len(failures):,} of {total:,} items failed: {summarize(groups)}"
    members = []
    for group in groups[:MOST_MEMBERS]:
        if group.count > 1:
            annotate(group.exception, f"{group.count - 1:,} more like this: {list_indices(group.indices[1:])}")
        members.append(_as_exception(group.exception))
    error = FailedItems(message, members)
    error.run, error.failures = run, tuple(failures)
    return error


def _as_exception(error: BaseException) -> Exception:
    """Return what can be in a group of exceptions; a task may also raise `SystemExit` and the like."""
    if isinstance(error, Exception):
        return error
    stands_for = TaskError(f"the task raised {brief(error)}")
    stands_for.__cause__ = error
    return stands_for
