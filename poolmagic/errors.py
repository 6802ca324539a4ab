"""Every exception poolmagic raises, by whose fault it is; and the two one-line ways to tell a user something.

    PoolMagicError
    +- UsageError (also ValueError)       you: a bad option, a closed pool, the wrong kind of function
    +- TaskError                          the task
    |  +- PayloadError                    ... its function, argument or result cannot be pickled
    |  +- RemoteError                     ... it raised an exception that cannot travel; this one tells of it
    +- SoftTimeLimitExceeded              the task, which may catch it: it ran for longer than its soft limit
    +- TimeLimitExceeded                  the task: it ran for longer than its limit, and was stopped
    +- WorkerLostError                    the world: a worker process died under the task
    |  +- MemoryLimitExceeded             ... because it took more memory than it may
    +- InitializerError                   the pool's initializer: no task of the run could start
    +- RunCancelled                       somebody cancelled the run
    +- WireError                          a peer sent bytes that are no message
    +- InternalError                      us: please report it

    FailedItems (an ExceptionGroup)       many tasks, where ``on_error="collect"`` was asked for

All of them carry what they know as attributes and survive pickling. `TaskCancelled` is no error: it is thrown *into*
a running task to stop it, and derives from `BaseException` so that a task's `except Exception` does not swallow it.

This module imports nothing of poolmagic and owns no state but the set of notes already said.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

__all__ = [
    "FailedItems",
    "InitializerError",
    "InternalError",
    "MemoryLimitExceeded",
    "PayloadError",
    "PoolMagicError",
    "RemoteError",
    "RunCancelled",
    "SoftTimeLimitExceeded",
    "TaskCancelled",
    "TaskError",
    "TaskOverdue",
    "TimeLimitExceeded",
    "UnconsumedWarning",
    "UsageError",
    "WireError",
    "WorkerLostError",
    "annotate",
    "note",
    "note_once",
]


class PoolMagicError(Exception):
    """Base of all errors of poolmagic; never raised itself."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {name: fact for name, fact in self.__dict__.items() if name != "run"}  # which stays where it is
        return _rebuild, (type(self), self.args[0], facts)


def _rebuild(cls: type[PoolMagicError], message: str, facts: dict[str, Any]) -> PoolMagicError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(facts)
    return error


class UsageError(PoolMagicError, ValueError):
    """The call was wrong; nothing was started. The message names the value and what is allowed."""


class TaskError(PoolMagicError):
    """A task failed for a reason that is not an exception of the task's own."""


class PayloadError(TaskError):
    """A function, argument or result cannot be pickled or unpickled.

    Attributes:
        culprit: The path to what cannot travel, such as ``f -> global 'lock'``; empty if it was not found.
    """

    culprit: str = ""


class RemoteError(TaskError):
    """A task raised an exception that cannot be sent; this one carries its name and text.

    Attributes:
        type_name: The dotted name of the original exception's class.
        text: The remote traceback as text.
    """

    type_name: str = ""
    text: str = ""


class SoftTimeLimitExceeded(PoolMagicError):
    """The task ran for longer than its soft limit. It is thrown into the task, which may catch it and end well.

    Attributes:
        limit: The limit in seconds, from the item's own start.
    """

    limit: float = 0.0


class TimeLimitExceeded(PoolMagicError):
    """The task ran for longer than its limit and was stopped.

    Attributes:
        limit: The limit in seconds, from the item's own start.
    """

    limit: float = 0.0


class WorkerLostError(PoolMagicError):
    """The worker process died while it ran this item; the item's neighbours are not affected.

    Attributes:
        pid: The process that died.
        exitcode: As in `subprocess`: negative for a signal; None when it is not known.
        peak_memory: The most resident bytes that it ever had; 0 when that is not known.
        oom_killed: Whether the kernel's OOM killer struck about then, in this cgroup.
        printed: The last lines that the item printed.
        stack: The Python stack at its end, where the process could still write it; else empty.
    """

    pid: int | None = None
    exitcode: int | None = None
    peak_memory: int = 0
    oom_killed: bool = False
    printed: str = ""
    stack: str = ""


class MemoryLimitExceeded(WorkerLostError):
    """The worker was ended by its pool because the item it ran took more memory than `max_memory_per_child`.

    Attributes:
        limit: The limit in bytes.
    """

    limit: int = 0


class InitializerError(PoolMagicError):
    """The pool's initializer failed in a worker, so the run ended; its `__cause__` is what the initializer raised.

    Attributes:
        refuses: On its way from a worker: it is about the worker's own pool, and not what a task raised.
    """

    refuses: bool = False


class RunCancelled(PoolMagicError):
    """The run was cancelled, or its pool terminated, before all of its items were done.

    Attributes:
        struck: The error stands for a task that was stopped while it ran.
    """

    struck: bool = False


class WireError(PoolMagicError):
    """The peer of a socket sent something that is not a message of the worker protocol."""


class InternalError(PoolMagicError):
    """A bug in poolmagic; please report it with the text of this error."""


class FailedItems(ExceptionGroup[Exception]):
    """Items of a run failed; all the others were done. ``except*`` picks its members by type.

    Its members are errors of tasks, one for each type and line, the commonest first, at most ten.

    Attributes:
        failures: A `Failure` for each item that failed, by index. What ``except*`` picks has those of its own types.
        run: The run, where it was raised; None once it was pickled.
    """

    failures: tuple[Any, ...] = ()
    run: Any = None

    def derive(self, excs: Sequence[Exception]) -> FailedItems:  # type: ignore[override] # never of base exceptions
        """Return the same for some of the members."""
        part = FailedItems(self.message, excs)
        types = {type(member.__cause__ if isinstance(member, TaskError) else member) for member in excs}
        part.failures = tuple(failure for failure in self.failures if type(failure.exception) in types)
        part.run = self.run
        return part

    def __reduce__(self) -> tuple[Any, ...]:
        return FailedItems, (self.message, list(self.exceptions)), {**self.__dict__, "run": None}


class TaskCancelled(BaseException):
    """Thrown into a running task to stop it. A task may clean up on it, and must let it go on."""


class TaskOverdue(TaskCancelled):
    """Thrown into a running task that has reached its time limit; the item's error is a `TimeLimitExceeded`.

    Attributes:
        limit: The limit in seconds.
    """

    def __init__(self, limit: float = 0.0) -> None:
        super().__init__(limit)
        self.limit = limit


class UnconsumedWarning(UserWarning):
    """An iterator of `imap` was thrown away before its first item: none of its tasks has run."""


def annotate(error: BaseException, text: str) -> None:
    """Add a note to an exception, unless its class does not let itself be changed (a frozen dataclass, say)."""
    with suppress(Exception):
        error.add_note(text)


_said: set[str] = set()


def note(text: str) -> None:
    """Print one line to stderr, which belongs to the calling thread's cell; does not block."""
    sys.stderr.write(f"poolmagic: {text}\n")


def note_once(text: str) -> None:
    """Print one line of advice to stderr, the first time only; does not block."""
    if text not in _said:
        _said.add(text)
        note(text)
