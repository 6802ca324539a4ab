"""What the tasks of a pool do at one moment: their stacks, for people and programs. Frozen values, no other state."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from poolmagic.inquiries import Inquiry
from poolmagic.places import describe_place, line_at
from poolmagic.snapshot import WorkerSnapshot, show_seconds

__all__ = ["Place", "Stacks", "TaskStack"]

ANSWER_SECONDS: Final = 1.0
"""So long a worker is waited for. Those that can answer do so within milliseconds."""
EXAMPLES: Final = 3
"""Of many equal tasks so many items are named."""

Place: TypeAlias = tuple[str, str, int]
"""File, function and line."""


@dataclass(frozen=True)
class TaskStack:
    """What one task does.

    Attributes:
        worker: Number of the worker.
        pid: Its process.
        index: The item, by its place in the input; None for a task that was submitted.
        seconds: For how long the item has run.
        places: The lines of the user's code and of libraries, outermost first; none where C code was mapped itself.
            None if the worker did not answer.
    """

    worker: int
    pid: int | None
    index: int | None
    seconds: float
    places: tuple[Place, ...] | None

    @property
    def who(self) -> str:
        """The worker, for people."""
        return f"worker {self.worker}" if self.pid is None else f"worker {self.worker} (pid {self.pid})"

    @property
    def what(self) -> str:
        """The item, for people."""
        return "a submitted task" if self.index is None else f"item {self.index}"


@dataclass(frozen=True)
class Stacks:
    """What all tasks of a pool do; its text groups tasks that do the same, the one that has run for longest first.

    Attributes:
        pool: Name of the pool.
        tasks: What runs.
        idle: Workers that run nothing.
        remark: Why nothing can be told, if that is so; else empty.
    """

    pool: str
    tasks: tuple[TaskStack, ...] = ()
    idle: int = 0
    remark: str = ""

    @classmethod
    def ask(cls, pool: str, inquiry: Inquiry) -> Stacks:
        """Return what workers answer; blocks for about a second at most."""
        waited = inquiry.wait(ANSWER_SECONDS)
        tasks = [task for worker in inquiry.workers for task in _tasks_of(worker, inquiry, waited)]
        return cls(pool, tuple(tasks), sum(not worker.running for worker in inquiry.workers))

    def __repr__(self) -> str:
        return "\n".join([self._headline(), *(line for group in self._groups() for line in ("", *_lines(group)))])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _headline(self) -> str:
        if self.remark:
            return f"{self.pool}: {self.remark}"
        count = len(self.tasks)
        running = "nothing runs" if not count else "1 task runs" if count == 1 else f"{count} tasks run"
        idle = "" if not self.idle else ", 1 worker is idle" if self.idle == 1 else f", {self.idle} workers are idle"
        return f"{self.pool}: {running}{idle}"

    def _groups(self) -> list[list[TaskStack]]:
        """Return the tasks that do the same together; those of a worker that does not answer are of its own kind."""
        groups: dict[Any, list[TaskStack]] = {}
        for task in sorted(self.tasks, key=lambda task: -task.seconds):
            groups.setdefault(task.worker if task.places is None else task.places, []).append(task)
        return list(groups.values())


def _tasks_of(worker: WorkerSnapshot, inquiry: Inquiry, waited: float) -> Iterator[TaskStack]:
    """Yield the tasks of a worker: from its answer, or, if there is none, by its board."""
    if worker.id not in inquiry.answers:
        for run, position, seconds in worker.running:
            yield TaskStack(worker.id, worker.pid, inquiry.index(run, position), seconds + waited, None)
        return
    try:
        answer = json.loads(inquiry.answers[worker.id])
        stacks = [tuple((str(file), str(name), int(line)) for file, name, line in one) for one in answer["stacks"]]
        for run, position, seconds, stack in answer["tasks"]:
            yield TaskStack(worker.id, worker.pid, inquiry.index(run, position), float(seconds), stacks[stack])
    except (TypeError, ValueError, LookupError):  # it has ended; or a task has made a liar of it
        return


def _lines(group: list[TaskStack]) -> Iterator[str]:
    """Yield the text of tasks that do the same."""
    first = group[0]
    if len(group) == 1:
        what, seconds = first.what, show_seconds(first.seconds)
    else:
        some = sorted(task.index for task in group if task.index is not None)[:EXAMPLES]
        examples = f", e.g. items {', '.join(map(str, some))}" if some else ""
        what = f"{len(group)} tasks like this{examples}"
        seconds = " to ".join(dict.fromkeys((show_seconds(group[-1].seconds), show_seconds(first.seconds))))
    workers = len({task.worker for task in group})
    yield f"{first.who if workers == 1 else f'{workers} workers'}, {what}, {seconds}:"
    if first.places is None:
        yield "  no answer: C code holds the interpreter (the GIL), or the process is stopped; its board says this much"
    elif not first.places:
        yield "  no line of Python: C code was mapped itself, or the task is just beginning"
    for file, name, line in first.places or ():
        yield f"  {describe_place(file, line)}, in {name}"
        if text := line_at(file, line):
            yield f"    {text}"
