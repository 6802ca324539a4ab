"""What ties processes together, so that none stays behind: groups that end as one, children that end with a parent.

A worker leads a process group of its own, and all that its tasks start is in it. A group is killed before its leader is
reaped: until then its number cannot be another's. Owns no state; imports nothing that monkey-patching replaces.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Final, NoReturn

__all__ = [
    "LOOK_SECONDS",
    "MAXRSS_UNIT",
    "Child",
    "die_with_parent",
    "die_within_a_second",
    "end_group",
    "end_own_group",
]

LOOK_SECONDS: Final = 0.5
"""Between two looks at a child that is stopped."""
LOOKS: Final = 4
"""A child that is stopped each time is ended. (Counted, not timed: who looks may have been stopped as well.)"""

MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""What `ru_maxrss` counts in, in bytes."""
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None) if os.name == "posix" else None


def end_group(pid: int) -> None:
    """Kill a process, and all in the group that it leads; does not block."""
    for kill in (os.killpg, os.kill):  # the task may have left its group
        with suppress(ProcessLookupError, PermissionError):  # macOS calls it that when only a dead one is left
            kill(pid, signal.SIGKILL)


def end_own_group() -> NoReturn:
    """Kill this process, and all in its group if it is its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def die_with_parent(parent: int, sign: int) -> None:
    """Have the system send this process a signal when its parent ends, where it can; if that has ended, end now.

    Args:
        parent: Its process id. (The signal is sent when the thread ends that started this process.)
        sign: SIGKILL strikes for sure, but leaves the rest of the group alone.
    """
    prctl = getattr(_libc, "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(sign), 0, 0, 0)
    if os.getppid() != parent:
        end_own_group()


def die_within_a_second(parent: int) -> None:
    """Do as `die_with_parent`, but leave Python code a second to end the whole group before.

    That code cannot run while a task keeps the interpreter's lock. What then ends the process is C code alone: the
    signal's handler is `alarm` itself, whose argument, the number of SIGHUP, is one second.
    """
    if hasattr(_libc, "prctl"):
        assert _libc is not None
        assert int(signal.SIGHUP) == 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _libc.signal.restype = ctypes.c_void_p
        _libc.signal(int(signal.SIGHUP), ctypes.cast(_libc.alarm, ctypes.c_void_p))
    die_with_parent(parent, signal.SIGHUP)


class Child:
    """A process that this one has started, until it is reaped.

    Attributes:
        pid: Its process id.
        is_stopped: Whether it was, at the last look.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.is_stopped = False
        self._looks = 0
        self._stopped_by = 0
        self._outcome: tuple[int | None, int] | None = None

    def has_ended(self, *, block: bool = False) -> bool:
        """Whether it has ended. One that stays stopped is killed: it keeps its items and will never end.

        Args:
            block: Wait until it ends or is stopped.
        """
        flag = 0 if block else os.WNOHANG
        if self._outcome is not None:
            return True
        try:
            if not hasattr(os, "waitid"):  # macOS before Python 3.13
                pid, status, usage = os.wait4(self.pid, flag)
                if pid:
                    self._outcome = os.waitstatus_to_exitcode(status), usage.ru_maxrss * MAXRSS_UNIT
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(self.pid, signal.SIGKILL)
                return bool(pid)
            seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | flag)
        except ChildProcessError:  # somebody else has reaped it
            self._outcome = None, 0
            return True
        self.is_stopped = seen is not None and seen.si_code == os.CLD_STOPPED
        self._looks = self._looks + 1 if self.is_stopped else 0
        if seen is not None and self._looks >= LOOKS:
            self._stopped_by = seen.si_status
            end_group(self.pid)
        return seen is not None and not self.is_stopped

    def reap(self) -> tuple[int | None, int]:
        """Kill the rest of its group and let go of its number; call it when it has ended.

        Returns:
            The exit code as in `subprocess`, or None where nobody knows; if it was killed because it was stopped, what
            stopped it stands for the signal. And the most bytes that it ever had in memory.
        """
        if self._outcome is None:
            end_group(self.pid)
            try:
                _, status, usage = os.wait4(self.pid, 0)
                exitcode = os.waitstatus_to_exitcode(status)
                if self._stopped_by and exitcode == -signal.SIGKILL:
                    exitcode = -self._stopped_by
                self._outcome = exitcode, usage.ru_maxrss * MAXRSS_UNIT
            except ChildProcessError:  # somebody else was quicker
                self._outcome = None, 0
        return self._outcome
