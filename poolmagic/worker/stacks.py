"""What the tasks of a worker do at this moment: the frames of the user's code in each of its slots.

Everything belongs to the control thread (for a local worker: the supervisor's loop thread), which looks at frames of
other threads while these go on. It disturbs no task: it only reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Final, TypeAlias

from poolmagic.board import POSITION, RUN, SINCE
from poolmagic.records import OWN_CODE
from poolmagic.worker.native import perf_counter
from poolmagic.worker.signals import called_by

__all__ = ["SlotStack", "called_from", "dump", "thread_frames", "users"]

MOST_FRAMES: Final = 100
"""As many of the innermost frames of a task are told: an endless recursion has tens of thousands."""
_HIDDEN: Final = (OWN_CODE, "<frozen ")

SlotStack: TypeAlias = tuple[memoryview, "memoryview[float]", Callable[[], list[FrameType]]]
"""The record of a slot on the board, the same memory as floats, and what tells the frames of its task."""


def called_from(code: CodeType, frame: FrameType | None) -> list[FrameType]:
    """Return what the frame of `code` has called, in the stack that ends with `frame`, outermost first.

    Empty if it is not in that stack.
    """
    runs, _ = called_by(code, frame)
    if runs is None:
        return []
    found: list[FrameType] = []
    while frame is not None and frame is not runs:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def thread_frames(thread: int, code: CodeType) -> list[FrameType]:
    """Return what the frame of `code` has called in a thread, as `_thread.get_ident` calls it; outermost first."""
    frames = sys._current_frames()  # noqa: SLF001 - the only way to see another thread's stack
    return called_from(code, frames.get(thread))


def users(frames: Iterable[FrameType]) -> list[FrameType]:
    """Return the frames that are not poolmagic's own, nor the import system's."""
    return [frame for frame in frames if not frame.f_code.co_filename.startswith(_HIDDEN)]


def dump(slots: Iterable[SlotStack]) -> bytes:
    """Return what the tasks in the slots do now, as JSON: the different stacks, and for each task which it has.

    A stack is a list of (file, function, line), outermost first; a task is (run, position, seconds, stack).
    A task that ends, or begins, in the middle of this is left out.
    """
    stacks: dict[tuple[tuple[str, str, int], ...], int] = {}
    tasks: list[tuple[int, int, float, int]] = []
    for record, times, frames in slots:
        task, since = (record[RUN], record[POSITION]), times[SINCE]
        stack = tuple(
            (frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno or frame.f_code.co_firstlineno)
            for frame in users(frames())[-MOST_FRAMES:]
        )
        if task[0] and task[1] >= 0 and task == (record[RUN], record[POSITION]):
            seconds = max(0.0, perf_counter() - since)
            tasks.append((task[0] - 1, task[1], seconds, stacks.setdefault(stack, len(stacks))))
    return json.dumps({"stacks": list(stacks), "tasks": tasks}).encode()
