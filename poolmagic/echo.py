"""Showing what the tasks of a run print in the cell that started it: line by line, and never a flood.

Text is taken as it comes and cut to what a notebook survives; a thread that all runs share writes it a moment later,
many lines at once, so that the thread that waits for a run may be busy with something else, or be gone.

Threads. A echo is filled by the supervisor's loop thread. It is emptied by the printing thread, and by whoever wants
to see all of it now, one at a time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final

from poolmagic.origin import Origin
from poolmagic.pages import NOBODY, Key, Page, bars_apart, is_terminal
from poolmagic.quantities import show_size

__all__ = ["Echo"]

RATE: Final = 64_000
"""Letters in a second that are shown: a notebook's server drops all output beyond a million."""
BURST: Final = 256_000
"""Letters that are shown at once, if there was less before."""
MOST: Final = 1_000_000
"""Letters of one run that are shown: what a notebook can be saved with and opened again."""
MOST_DISPLAYS: Final = 100
"""Rich displays of one run that are shown."""
MOST_DISPLAYED: Final = 10_000_000
"""Letters of them all: an image has some ten or hundred thousand."""
BAR: Final = 1000
"""Letters that a progress bar may have: so much is repainted now and then, which no notebook minds."""
GAP: Final = 0.05
"""Seconds between two writes."""


@dataclass
class _LeftOut:
    """What was not shown.

    Attributes:
        unit: What is counted, in singular.
        count: How many there were.
        size: How many letters.
        items: Whose they were; of many, two.
    """

    unit: str
    count: int = 0
    size: int = 0
    items: set[int] = field(default_factory=set)

    def add(self, index: int, count: int, size: int) -> None:
        """Leave out something of an item."""
        self.count += count
        self.size += size
        if len(self.items) < 2:
            self.items.add(index)

    def describe(self, *, is_kept: bool) -> str:
        """Say it in one line."""
        one = next(iter(self.items)) if len(self.items) == 1 else NOBODY
        what = f"{self.count:,} {self.unit}{'' if self.count == 1 else 's'} ({show_size(self.size)})"
        whose, place = (f" of item {one}", f".outputs[{one}]") if one != NOBODY else ("", ".outputs")
        where = f"all of it is in {place} of the run, pool.last_run" if is_kept else "map and start keep all of it"
        return f"[poolmagic: {what}{whose} not shown; {where}]\n"


class _Allowance:
    """How much may be shown. When it is used up nothing is, until it comes more slowly again and there is some room."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._total = MOST
        self._then = time.monotonic()
        self._is_used_up = False

    def take(self, cost: int) -> int:
        """Return how much of `cost` may be shown."""
        now = time.monotonic()
        self._left = min(BURST, self._left + RATE * (now - self._then))
        self._then = now
        granted = min(cost, int(self._left), self._total)
        if self._is_used_up and self._left < BURST / 2:
            granted = 0
        self._is_used_up = granted < cost
        self._left = max(-BURST, self._left - cost)
        self._total -= granted
        return granted


class Echo:
    """Shows what the tasks of one run print.

    Args:
        run: The number of the run in the books.
        is_named: Whether the index of its item stands before each line; None for where a person looks on.
        is_kept: Whether the run keeps all of it, for the line that says how much was not shown.
    """

    def __init__(self, run: int, *, is_named: bool | None, is_kept: bool) -> None:
        self._run = run
        self.come_here()
        self._is_kept = is_kept
        self._taking = threading.RLock()
        self._pending: deque[Callable[[], None]] = deque()
        self._allowance = _Allowance()
        self._displays = 0
        self._displayed = 0
        self._text_left_out = _LeftOut("line")
        self._displays_left_out = _LeftOut("display")
        self._torn: set[Key] = set()
        self._printing = threading.RLock()  # a signal handler of the user's may wait for a run
        is_live = self._origin.is_kernel or is_terminal(sys.stdout)
        self._page = Page(is_named=is_live if is_named is None else is_named, is_live=is_live)
        self._error: BaseException | None = None
        self.shown_at = 0.0
        """When something was written last."""
        self.has_hidden = False
        """Whether something was not shown."""

    def come_here(self) -> None:
        """Show what comes in the cell that this thread runs; does not block. Before the run begins."""
        self._origin = Origin.here()
        self._origin.remember(self._run)

    # Loop thread ---------------------------------------------------------------------------------------------------

    def take(self, index: int, stream: str, text: str) -> None:
        """Show what an item printed, a moment later; does not block."""
        with self._taking:
            if stream == "display":
                self._take_display(index, text)
            else:
                self._take_text((index, stream), text)
        _desk.wake(self)

    def say(self, line: str) -> None:
        """Show a line of poolmagic's own; does not block."""
        with self._taking:
            self._add(self._page.put, (NOBODY, "stderr"), f"poolmagic: {line}\n")
        _desk.wake(self)

    def _add(self, function: Callable[..., None], *args: Any) -> None:
        self._pending.append(lambda: function(*args))

    def _take_text(self, key: Key, text: str) -> None:
        if key in self._torn:  # the beginning of this line was left out
            head, end, text = text.partition("\n")
            self._text_left_out.add(key[0], len(end), len(head + end))
            if not end:
                return
            self._torn.discard(key)
        if not text:
            return
        if "\r" in text and "\n" not in text and len(text) <= BAR:
            self._add(self._page.put, key, text)
            return
        cost = len(text) + text.count("\n") * len(self._page.name(key[0]))
        granted = self._allowance.take(cost)
        shown = text
        if granted < cost:
            shown = text[: text.rfind("\n", 0, granted * len(text) // cost) + 1]
        if shown:
            self._text_left_out = self._confess(self._text_left_out)
            self._add(self._page.put, key, shown)
        if len(shown) < len(text):
            self._text_left_out.add(key[0], text.count("\n", len(shown)), len(text) - len(shown))
            if not text.endswith("\n"):
                self._torn.add(key)

    def _take_display(self, index: int, text: str) -> None:
        if self._displays < MOST_DISPLAYS and self._displayed + len(text) <= MOST_DISPLAYED:
            self._displays += 1
            self._displayed += len(text)
            self._add(self._publish, json.loads(text))
        else:
            self._displays_left_out.add(index, 1, len(text))

    def _confess(self, left_out: _LeftOut) -> _LeftOut:
        """Say what was left out until now, and return what counts on."""
        if not left_out.items:
            return left_out
        self.has_hidden = True
        self._add(self._page.put, (NOBODY, "stderr"), left_out.describe(is_kept=self._is_kept))
        return _LeftOut(left_out.unit)

    def _close(self) -> None:
        self._text_left_out = self._confess(self._text_left_out)
        self._displays_left_out = self._confess(self._displays_left_out)
        if self._pending or self._page.is_open:
            self._add(self._page.close)

    # Any thread ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Show what is left, lines without an end included, a moment later; does not block. More may follow."""
        with self._taking:
            self._close()
        _desk.wake(self)

    def flush(self) -> None:
        """Show all that was taken, lines without an end included; blocks until it is written.

        Raises:
            Exception: What writing raised, now or before: the stream is the user's.
        """
        with self._taking:
            self._close()
        self._show()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def show(self) -> None:
        """Show what was taken; blocks until it is written. What goes wrong is left to `flush`."""
        try:
            self._show()
        except Exception as error:
            self._error = error

    def _show(self) -> None:
        with self._printing:
            if self._pending:
                self._origin.run(self._write)

    def _write(self) -> None:
        # In a notebook bars are widgets, which are apart anyway.
        with nullcontext(False) if self._origin.is_kernel else bars_apart() as has_bars:
            while self._pending:
                self._pending.popleft()()
            self._page.print(paint=not has_bars)
        self.shown_at = time.monotonic()

    def _publish(self, bundle: dict[str, Any]) -> None:
        self._page.print(paint=False)
        display_id, update = bundle.get("display_id"), bundle.get("update", False)
        self._origin.publish(bundle["data"], bundle["metadata"], display_id=display_id, update=update)


class _Desk:
    """The thread that prints, started when there is something for the first time."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Echo] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_started = False

    def wake(self, echo: Echo) -> None:
        """Have an echo show what it has, soon; does not block."""
        self._queue.put(echo)
        with self._lock:
            if not self._is_started:
                with suppress(RuntimeError):  # the interpreter ends, and starts no more threads
                    threading.Thread(target=self._serve, name="poolmagic-printing", daemon=True).start()
                self._is_started = True

    def _serve(self) -> None:
        turns: dict[Echo, float] = {}
        while True:
            with suppress(Empty):
                wait = max(0.0, min(turns.values()) - time.monotonic()) if turns else None
                self._expect(turns, self._queue.get(timeout=wait))
            now = time.monotonic()
            while due := next((echo for echo, turn in turns.items() if turn <= now), None):
                del turns[due]
                due.show()

    def _expect(self, turns: dict[Echo, float], echo: Echo) -> None:
        turns.setdefault(echo, echo.shown_at + GAP)


_desk = _Desk()


def _forget() -> None:
    """In a process forked off the kernel the thread is not there."""
    global _desk
    _desk = _Desk()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
