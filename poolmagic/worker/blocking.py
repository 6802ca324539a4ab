"""Tells the user of a task that keeps a green worker's hub, or an asyncio loop, from running all the others.

Everything belongs to the control thread, a real one that goes on while the hub's thread does not. It asks the hub for a
sign of life while tasks run, and looks at the stack of the hub's thread if none comes. It never stops a task.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Final, Protocol

from poolmagic.board import POSITION, RUN
from poolmagic.messages import Message, Output
from poolmagic.worker.native import perf_counter
from poolmagic.worker.signals import called_by
from poolmagic.worker.stacks import called_from, users

__all__ = ["BLOCKED_SECONDS", "MOST_NOTES", "Hub", "HubWatch"]

BLOCKED_SECONDS: Final = 1.0
"""After so long the user is told."""
LOOK_SECONDS: Final = 0.2
"""Between two looks. The same task must be there at each of them: a thousand short ones may take as long together."""
MOST_NOTES: Final = 3
"""So many tasks of a run are told of."""


class Hub(Protocol):
    """What turns in the thread that is watched."""

    @property
    def is_busy(self) -> bool:
        """Whether there are tasks that have begun."""
        ...

    def ask(self) -> None:
        """Ask for a sign of life; does not block."""
        ...

    @property
    def has_answered(self) -> bool:
        """Whether it came since `ask`."""
        ...


class HubWatch:
    """Finds a task that lets no other run for `BLOCKED_SECONDS`, and tells of it in the cell that started it.

    Attributes:
        due: When the next look is to be, in seconds of the system's steady clock; None if none is.

    Args:
        hub: The hub.
        thread: Its thread, as `_thread.get_ident` calls it.
        runs: The code of the function that runs tasks; its `slot` says which.
        load: The code of the function that loads the user's: what it imports takes as long as it takes.
        send: Sends a message to the supervisor.
    """

    def __init__(self, hub: Hub, thread: int, runs: CodeType, load: CodeType, send: Callable[[Message], None]) -> None:
        self.due: float | None = perf_counter()
        self._hub = hub
        self._thread = thread
        self._runs = runs
        self._load = load
        self._send = send
        self._has_asked = False
        self._suspect: tuple[int, int] | None = None
        self._since = 0.0
        self._told: tuple[int, int] | None = None
        self._notes: Counter[int] = Counter()

    def expect(self, now: float) -> None:
        """Say that tasks may begin from now on."""
        if self.due is None:
            self.due = now + LOOK_SECONDS

    def look(self, now: float) -> None:
        """Look at the hub, if it is time to; never blocks."""
        if self.due is None or now < self.due:
            return
        self.due = now + LOOK_SECONDS
        if not self._has_asked or self._hub.has_answered:
            self._suspect = None
            self._has_asked = self._hub.is_busy
            if self._has_asked:
                self._hub.ask()
            else:
                self.due = None
            return
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the only way to see another thread's stack
        task = self._task_in(frame)
        if task is None or task != self._suspect:
            self._suspect, self._since = task, now - LOOK_SECONDS
        elif now - self._since >= BLOCKED_SECONDS and task != self._told:
            self._told = task
            self._notes[task[0]] += 1
            if self._notes[task[0]] <= MOST_NOTES:
                self._send(Output(*task, "stderr", self._text(task[1], now - self._since, frame)))

    def _task_in(self, frame: FrameType | None) -> tuple[int, int] | None:
        """Return the (run, position) of the task in a stack; None if there is none, or the time is not its own."""
        runs, called = called_by(self._runs, frame)
        if runs is None or called_by(self._load, frame)[0] is not None:
            return None
        if called is not None and not self._users(frame):  # we put an outcome away
            return None
        slot = runs.f_locals.get("slot")
        if slot is None or slot.record[POSITION] < 0:
            return None
        return slot.record[RUN] - 1, slot.record[POSITION]

    def _users(self, frame: FrameType | None) -> list[FrameType]:
        """Return the frames of the user's code in a task, outermost first."""
        return users(called_from(self._runs, frame))

    def _text(self, position: int, seconds: float, frame: FrameType | None) -> str:
        stack = traceback.StackSummary.extract((one, one.f_lineno) for one in self._users(frame))
        where = ", at:\n" + "".join(stack.format()) if stack else "\n"
        return (
            f"poolmagic: item {position} has let no other task of its worker run for {seconds:.1f} s{where}"
            "  Code that computes, or waits without the pool's library, is at home in a prefork pool.\n"
        )
