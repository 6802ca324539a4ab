"""Time limits: a worker stops those of its own tasks that run for too long.

Everything belongs to the control thread (for a local worker: the supervisor's loop thread), which reads the worker's
own board to know since when each task runs. There is a look only when some task may be due, and none at all while no
run has limits. What does not stop is the supervisor's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final, Protocol

from poolmagic.board import Board
from poolmagic.errors import SoftTimeLimitExceeded, TaskOverdue, TimeLimitExceeded
from poolmagic.messages import Function

__all__ = ["AGAIN", "LEAST", "Limits", "Strikable", "exceeded", "softly_exceeded"]

LEAST: Final = 0.01
"""At least so many seconds are between a look and one for tasks that begin after it."""


AGAIN: Final = 0.02
"""Seconds that a strike has to come; then it is tried again."""


class Strikable(Protocol):
    """What the limits need of the slots."""

    @property
    def records(self) -> int:
        """How many records of the board the slots use."""
        ...

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Raise an error in a task if it still runs; does not block."""
        ...

    def insist(self) -> bool:
        """Try again what has been struck and shows no sign of it; does not block. False if there is nothing such."""
        ...


def softly_exceeded(limit: float) -> SoftTimeLimitExceeded:
    """Return what is raised in a task at its soft limit."""
    return SoftTimeLimitExceeded(f"the task ran for longer than its soft time limit of {limit:g} s", limit=limit)


def exceeded(overdue: TaskOverdue) -> TimeLimitExceeded:
    """Return the error of an item whose task was ended at its limit; its traceback shows where the task was."""
    text = f"the task ran for longer than its time limit of {overdue.limit:g} s"
    return TimeLimitExceeded(text, limit=overdue.limit).with_traceback(overdue.__traceback__)


@dataclass(frozen=True)
class _Stage:
    """What is raised in a task that has run for so many seconds."""

    seconds: float
    error: Callable[[float], BaseException]


class Limits:
    """Knows the limits of runs, and strikes the tasks that have reached one: once for each of the two limits.

    Attributes:
        due: When the next look is to be, in seconds of the system's steady clock; None if none is.

    Args:
        board: The worker's board.
        slots: The worker's slots.
    """

    def __init__(self, board: Board, slots: Strikable) -> None:
        self.due: float | None = None
        self._board = board
        self._slots = slots
        self._stages: dict[int, tuple[_Stage, ...]] = {}
        self._reached: dict[tuple[int, int, float], int] = {}
        self._is_last_look = False
        self._insist_at: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether any run has limits."""
        return bool(self._stages)

    def add(self, message: Function) -> None:
        """Take the limits of a run, if it has any."""
        limits = ((message.soft_limit, softly_exceeded), (message.time_limit, TaskOverdue))
        stages = tuple(_Stage(seconds, error) for seconds, error in limits if seconds)
        if stages:
            self._stages[message.run] = stages

    def forget(self, run: int) -> None:
        """Forget a run."""
        self._stages.pop(run, None)

    def expect(self, run: int, now: float) -> None:
        """Say that tasks of a run may begin from now on."""
        if run in self._stages:
            self._plan(now + self._shortest())
            self._is_last_look = False

    def look(self, now: float, waiting: Container[int]) -> None:
        """Strike what has reached a limit, if it is time to; `waiting` are the runs that have tasks to begin."""
        if self.due is None or now < self.due:
            return
        self.due = None
        if self._insist_at is not None and self._insist_at <= now:
            self._insist_at = now + AGAIN if self._slots.insist() else None
        reached: dict[tuple[int, int, float], int] = {}
        for mark in self._board.look(self._slots.records)[0]:
            stages = self._stages.get(mark.run)
            if stages is None or not mark.exact:
                continue
            task = (mark.run, mark.position, mark.since)
            before = self._reached.get(task, 0)
            reached[task] = place = max(before, sum(mark.since + stage.seconds <= now for stage in stages))
            if place > before:
                last = stages[place - 1]
                self._slots.strike(mark.run, mark.position, last.error(last.seconds))
                self._insist_at = now + AGAIN
            if place < len(stages):
                self._plan(mark.since + stages[place].seconds)
        self._reached = reached
        self._go_on(now, is_quiet=not reached and not any(run in waiting for run in self._stages))

    def _go_on(self, now: float, *, is_quiet: bool) -> None:
        """Plan a look for tasks that begin from now on.

        A task that a slot has just taken is neither among those that wait nor on the board, so that nothing is to be
        seen counts when it is seen twice.
        """
        if self._insist_at is not None:
            self._plan(self._insist_at)
        if not self._stages or (is_quiet and self._is_last_look):
            return
        self._is_last_look = is_quiet
        self._plan(now + self._shortest())

    def _plan(self, when: float) -> None:
        self.due = when if self.due is None else min(self.due, when)

    def _shortest(self) -> float:
        return max(
            LEAST, min((stage.seconds for stages in self._stages.values() for stage in stages), default=math.inf)
        )
