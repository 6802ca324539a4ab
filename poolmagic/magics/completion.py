"""Tab completion for the lines of the magics: kinds, options, verbs and the names of pools.

A matcher of IPython's second API, because the older hooks mix their words with those of the namespace as soon as
a word begins with a dash. The module owns no state.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from IPython.core.completer import SimpleCompletion, context_matcher

from poolmagic import logbook
from poolmagic.config import ALIASES, KINDS
from poolmagic.magics.arguments import CELL_OPTIONS, OPTIONS, spellings
from poolmagic.magics.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from IPython.core.completer import CompletionContext, SimpleMatcherResult

__all__ = ["complete", "make_matcher"]

_OF_CELLS: Final = [name for option in CELL_OPTIONS for name in spellings(option)]
_LINE: Final = re.compile(r"\s*(%%pool|%%pmap|%pool)[ \t](.*)$")


def make_matcher(pool_names: Callable[[], Iterable[str]]) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return a matcher for IPython's completer.

    Args:
        pool_names: Gives the names of the pools that are alive.
    """

    @context_matcher()  # type: ignore[untyped-decorator]
    def poolmagic_matcher(context: CompletionContext) -> SimpleMatcherResult:
        text = context.text_until_cursor
        match = _LINE.match(text)
        if match is None or (match[1].startswith("%%") and context.cursor_line != 0):
            return {"completions": []}
        words = complete(match[1], match[2], pool_names)
        if words is None:
            return {"completions": []}
        fragment = re.split(r"[\s=]", text)[-1]
        completions = [SimpleCompletion(word, type="magic option") for word in words if word.startswith(fragment)]
        return {"completions": completions, "matched_fragment": fragment, "suppress": True, "ordered": True}

    return cast("Callable[[CompletionContext], SimpleMatcherResult]", poolmagic_matcher)


def _numbers() -> list[str]:
    return [str(entry.number) for entry in logbook.list_runs() if not entry.is_over]


def complete(magic: str, line: str, pool_names: Callable[[], Iterable[str]]) -> list[str] | None:
    """Return the words that may stand in the place of the last, perhaps empty, word of a line; does not block.

    Args:
        magic: ``%pool``, ``%%pool`` or ``%%pmap``.
        line: What stands between the magic's name and the cursor.
        pool_names: Gives the names of the pools that are alive.

    Returns:
        All such words, whatever is typed of the last one already; None where anything may stand, such as Python.
    """
    *before, last = re.split(r"\s+", line.lstrip()) or [""]
    previous = before[-1] if before else ""
    takes = {name: what for option, (_, what, _) in OPTIONS.items() for name in spellings(option)}
    option, equals, _ = last.partition("=")
    asked = takes.get(option if equals else previous)
    if asked is not None:  # nobody can complete a number or a new variable
        return {"KIND": [*KINDS, *ALIASES], "NAME": list(pool_names())}.get(asked)
    if magic == "%pool" and before and before[0] in VERBS:
        takes_what = VERBS[before[0]].takes.strip("[]")
        return _numbers() if takes_what == "N" else list(pool_names()) if "NAME" in takes_what else []
    if magic == "%%pmap" and not last.startswith("-"):
        return None
    options = [name for name in takes if magic != "%pool" or name not in _OF_CELLS]
    if last.startswith("-") or any(word in KINDS or word in ALIASES for word in before):
        return options
    return [*KINDS, *ALIASES, *(VERBS if magic == "%pool" and not before else ()), *options]
