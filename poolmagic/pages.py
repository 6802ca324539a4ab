"""What several tasks print at once, as a person can read it: line by line, with the index of its item before each.

A page belongs to the thread that prints.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

__all__ = ["NOBODY", "Key", "Page", "bars_apart", "is_terminal"]

NOBODY: Final = -1
"""Stands for the index of what belongs to no item: printed between two items, or by a thread that outlived its own."""
REPAINT: Final = 0.2
"""Seconds between two pictures of a line that is not at its end, such as a progress bar."""

Key: TypeAlias = "tuple[int, str]"
"""The index of an item, and its stream."""


class Page:
    """Whole lines are never mixed. Of one that is not at its end the present state is shown until another one comes.

    Args:
        is_named: Whether the index of its item stands before each line.
        is_live: Whether somebody looks on who wants to see lines that are not at their end.
    """

    def __init__(self, *, is_named: bool, is_live: bool) -> None:
        self._is_named = is_named
        self._is_live = is_live
        self._ready: list[tuple[str, str]] = []  # streams and texts
        self._lines: dict[Key, str] = {}  # those that are not at their end
        self._last: Key | None = None  # whose line the page ends with, if that is not at its end
        self._painted = ""  # what of it is to be seen
        self._painted_at = 0.0

    def name(self, index: int) -> str:
        """Return what stands before the lines of an item."""
        return f"[{index}] " if self._is_named and index != NOBODY else ""

    @property
    def is_open(self) -> bool:
        """Whether there are lines that are not at their end."""
        return bool(self._lines)

    def put(self, key: Key, text: str) -> None:
        """Add text of an item; a line that has no end yet waits for it."""
        whole, end, line = (self._lines.pop(key, "") + text).rpartition("\n")
        if end:
            self._finish(key, whole)
        if line:
            ends = line[len(line.rstrip("\r")) :]  # what comes next overwrites it
            self._lines[key] = _seen(line) + ends

    def close(self) -> None:
        """End all lines."""
        for key in list(self._lines):
            self._finish(key, self._lines.pop(key))

    def _finish(self, key: Key, text: str) -> None:
        """Add lines that are at their end."""
        name = self.name(key[0])
        lines = [_seen(line) for line in text.split("\n")]
        if self._last == key:
            lines[0] = self._over(name, lines[0])
        else:
            lines[0] = self._instead(key[1], name + lines[0])
        self._last, self._painted = None, ""
        self._ready.append((key[1], f"\n{name}".join(lines) + "\n"))

    def _over(self, name: str, line: str) -> str:
        """Return what makes a line of the one that is painted."""
        if line.startswith(self._painted):
            return line[len(self._painted) :]
        return f"\r{name}{line.ljust(len(self._painted))}"

    def _instead(self, stream: str, line: str) -> str:
        """Return what puts another line where one is painted; that is shown again later, or when it is at its end."""
        if self._last is None:
            return line
        if self._last[1] == stream:
            return f"\r{line.ljust(len(self.name(self._last[0]) + self._painted))}"
        self._ready.append((self._last[1], "\n"))  # a notebook shows the streams apart
        return line

    def _paint(self) -> None:
        """Show the line that is painted as it is now; if there is none, the one that has waited longest."""
        if self._last is None:
            if not self._lines:
                return
            self._last = key = next(iter(self._lines))
            line = _seen(self._lines[key])
            text = self.name(key[0]) + line
        else:
            key = self._last
            line = _seen(self._lines[key])
            text = "" if line == self._painted else self._over(self.name(key[0]), line)
        self._painted, self._painted_at = line, time.monotonic()
        self._ready.append((key[1], text))

    def print(self, *, paint: bool) -> None:
        """Write what was added; blocks until it is written. With `paint`, also lines that are not at their end."""
        if paint and self._is_live and time.monotonic() - self._painted_at >= REPAINT:
            self._paint()
        parts: list[str] = []
        for place, (name, text) in enumerate(self._ready):
            parts.append(text)
            if place + 1 == len(self._ready) or self._ready[place + 1][0] != name:
                _write(sys.stdout if name == "stdout" else sys.stderr, "".join(parts))
                parts.clear()
        self._ready.clear()


def _seen(line: str) -> str:
    """Return what is to be seen of a line: what it was overwritten with last."""
    return line.rstrip("\r").rpartition("\r")[2]


def _write(stream: Any, text: str) -> None:
    if stream is None or not text:  # there is none in an interpreter without a console
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:  # half of a surrogate pair, or a terminal of few letters
        stream.write(text.encode("ascii", "backslashreplace").decode())
    stream.flush()


def is_terminal(stream: Any) -> bool:
    """Return whether a stream of the user's is a terminal, whatever he has put there; does not block."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False


@contextmanager
def bars_apart() -> Iterator[bool]:
    """Take the progress bars of tqdm away, and draw them again below what was written; true if there are any."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    has_bars = bool(getattr(tqdm, "_instances", None))
    if tqdm is None or not has_bars:
        yield False
    else:
        with tqdm.external_write_mode():
            yield True
