"""What ``%pool VERB ...`` does: one table from the verb to its help and to the function that acts.

A verb's function gets the `Extension` of its shell and the words that follow the verb, and returns what the cell shows.
It only reads the words and calls the public API. Wrong words are refused with a one-line `UsageError`. All of it runs
in the thread that runs cells; the module owns no state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import poolmagic
from poolmagic import logbook
from poolmagic.background import here
from poolmagic.errors import UsageError
from poolmagic.magics.arguments import read_number, split_words
from poolmagic.magics.tables import RunTable

if TYPE_CHECKING:
    from poolmagic.magics.extension import Extension
    from poolmagic.pools import Pool

__all__ = ["VERBS", "Verb", "find_verb"]

Act = Callable[["Extension", list[str]], Any]


@dataclass(frozen=True)
class Verb:
    """One verb of ``%pool``.

    Attributes:
        takes: The words that may follow it, as help shows them.
        does: What it is for, in half a sentence.
        act: Does it.
    """

    takes: str
    does: str
    act: Act


def find_verb(line: str) -> tuple[Act, list[str]] | None:
    """Return what a line of ``%pool`` asks to be done and the words for it; None if the line describes a pool."""
    verb, *words = split_words(line) or [""]
    return (VERBS[verb].act, words) if verb in VERBS else None


def refuse_words(verb: str, words: Sequence[str]) -> None:
    """Raise `UsageError` if there are words that mean nothing."""
    if words:
        usage = f"%pool {verb} {VERBS[verb].takes}".strip()
        raise UsageError(f"unknown word {words[-1]!r}; use {usage}")


def read_name(verb: str, words: Sequence[str]) -> str | None:
    """Return the one word that may be left, the name of a pool; raises `UsageError`."""
    refuse_words(verb, words if words and words[0].startswith("-") else words[1:])
    return words[0] if words else None


def read_run(verb: str, words: Sequence[str]) -> int:
    """Return the number of a run or background cell; raises `UsageError`."""
    refuse_words(verb, words[1:])
    if not words:
        raise UsageError(f"use %pool {verb} {VERBS[verb].takes}: %pool runs shows the numbers")
    return read_number(verb, words[0])


def read_change(verb: str, words: Sequence[str]) -> tuple[int, str | None]:
    """Return by how many to grow or shrink, and the name of the pool; raises `UsageError`."""
    if words and re.fullmatch(r"[-+]?[0-9.]+", words[0]):
        return read_number(verb, words[0]), read_name(verb, words[1:])
    return 1, read_name(verb, words)


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the answer of a magic


def _all_or_named(extension: Extension, name: str | None) -> list[Pool]:
    """The pool of that name, or all that are alive."""
    if name is not None:
        return [extension.warm.find(name)]
    known = extension.warm.known()
    if not known:
        _say("no pool is alive")
    return known


def _stop(extension: Extension, words: list[str]) -> None:
    for pool in _all_or_named(extension, read_name("stop", words)):
        extension.warm.stop(pool)
        _say(f"{pool.name} has ended")


def _restart(extension: Extension, words: list[str]) -> None:
    for pool in _all_or_named(extension, read_name("restart", words)):
        pool.restart()
        _say(f"{pool.name}: {pool.config}")


def _grow(extension: Extension, words: list[str]) -> None:
    number, name = read_change("grow", words)
    pool = _current_or_named(extension, name)
    pool.grow(number)
    _say(f"{pool.name}: {pool.config}")


def _shrink(extension: Extension, words: list[str]) -> None:
    number, name = read_change("shrink", words)
    pool = _current_or_named(extension, name)
    pool.shrink(number)
    _say(f"{pool.name}: {pool.config}")


def _runs(_: Extension, words: list[str]) -> RunTable:
    refuse_words("runs", words)
    return RunTable(logbook.list_runs())


def _wait(_: Extension, words: list[str]) -> None:
    """Block until all that goes on, or the run of that number, is over; raise the first error of it."""
    __tracebackhide__ = True
    if words:
        chosen = [logbook.find(read_run("wait", words))]
    elif here() is not None:
        raise UsageError("a background cell would wait for its own end: use %pool wait N")
    else:
        chosen = [entry for entry in logbook.list_runs() if entry.cell is None and not entry.is_over]
    works = [entry.work for entry in chosen]  # what is waited for is not dropped meanwhile
    for entry in chosen:
        entry.wait()
    for entry, work in zip(chosen, works, strict=True):
        state = entry.snapshot.state
        if state == "failed" and work is not None:
            work.result()  # raises it
        elif state != "done":
            _say(f"{entry.number} ({entry.name}): {state}")


def _cancel(_: Extension, words: list[str]) -> None:
    entry = logbook.find(read_run("cancel", words))
    if entry.is_over:
        _say(f"{entry.number} ({entry.name}) is over: {entry.snapshot.state}")
        return
    entry.cancel()
    rest = "; its other code goes on to its end" if entry.is_cell else ""
    _say(f"{entry.number} ({entry.name}) is cancelled{rest}")


def _debug(extension: Extension, words: list[str]) -> Any:
    from poolmagic.magics.debugging import debug  # noqa: PLC0415 - only who debugs pays for a debugger

    return debug(extension.shell, poolmagic.Pool.current(), words)


def _stacks(extension: Extension, words: list[str]) -> Any:
    from poolmagic.magics.debugging import stacks  # noqa: PLC0415 - only who debugs pays for a debugger

    return stacks(_current_or_named(extension, read_name("stacks", words)))


def _current_or_named(extension: Extension, name: str | None) -> Pool:
    return poolmagic.Pool.current() if name is None else extension.warm.find(name)


VERBS: Final[dict[str, Verb]] = {
    "stop": Verb("[NAME]", "end a pool and what it runs", _stop),
    "restart": Verb("[NAME]", "end a pool's workers and start new ones, which see your changed modules", _restart),
    "grow": Verb("[N] [NAME]", "add processes or green threads", _grow),
    "shrink": Verb("[N] [NAME]", "take processes or green threads away", _shrink),
    "runs": Verb("", "show what runs, and what ran last, with its numbers", _runs),
    "wait": Verb("[N]", "wait for a run or a background cell, or for all", _wait),
    "cancel": Verb("N", "end a run, or what a background cell maps", _cancel),
    "debug": Verb("[ITEM] [--step]", "do a failed item once more, here, in the debugger", _debug),
    "stacks": Verb("[NAME]", "show what the workers are doing now", _stacks),
}
"""What ``%pool`` can do to pools and runs."""
