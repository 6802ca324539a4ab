"""Why a worker died, in words: for the error of the item that it ran. Owns no state."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poolmagic.cgroups import count_oom_kills, memory_limit
from poolmagic.errors import MemoryLimitExceeded, WorkerLostError, annotate
from poolmagic.places import is_library
from poolmagic.quantities import show_size
from poolmagic.traces import Frame, rebuild

__all__ = ["Loss", "count_oom_kills", "explain_exit"]

FRAMES: Final = 20
"""As many of the innermost frames as an error shows."""

_CRASHES: Final = {
    -number for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT") if (number := getattr(signal, name, 0))
}
_STOPS: Final = {
    -number for name in ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU") if (number := getattr(signal, name, 0))
}
_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_OWN: Final = f"{Path(__file__).parent}/"


def explain_exit(exitcode: int | None) -> str:
    """Return in words how a process ended; does not block. For one that was stopped, see `lifelines.Child.reap`."""
    if exitcode is None:
        return "ended, nobody knows how"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    name = f"signal {-exitcode}"
    with suppress(ValueError):
        name = signal.Signals(-exitcode).name
    if exitcode in _STOPS:
        return f"was stopped by {name} and did not go on, so that its pool ended it"
    return f"was killed by {name}"


@dataclass(frozen=True)
class Loss:
    """The end of a worker.

    Attributes:
        worker: Its number.
        pid: Its process.
        exitcode: As in `subprocess`; None if it is not known. The signal that a process is stopped by stands for being
            ended for that.
        peak: The most resident bytes that it ever had; 0 if that is not known.
        stack: What faulthandler wrote.
        printed: The last lines that its task printed.
        oom_killed: Whether the kernel's OOM killer struck in this cgroup about then.
        limit: The bytes that it might have taken, if it was ended for taking more; else 0.
        is_cut: Whether it was ended because it had closed its end of the line, or had become another program.
    """

    worker: int
    pid: int | None
    exitcode: int | None
    peak: int = 0
    stack: str = ""
    printed: str = ""
    oom_killed: bool = False
    limit: int = 0
    is_cut: bool = False

    def error(self, alone: bool = True) -> WorkerLostError:
        """Return the error of an item that it ran; does not block.

        Args:
            alone: It ran no other item at the time.
        """
        stack = self.stack if self.exitcode in _CRASHES else ""  # else it is of something that the task survived
        facts = {
            "pid": self.pid,
            "exitcode": self.exitcode,
            "peak_memory": self.peak,
            "oom_killed": self.oom_killed,
            "printed": self.printed,
            "stack": stack,
        }
        frames = _read_frames(stack)
        if self.limit:
            what = f"took {show_size(self.peak)} of memory, and may have {show_size(self.limit)}: its pool ended it"
            error: WorkerLostError = MemoryLimitExceeded(f"worker {self.worker} {what}", limit=self.limit, **facts)
        else:
            error = WorkerLostError(self._sentence(frames, alone), **facts)
        if self.printed:
            annotate(error, f"the last that it printed:\n{self.printed.rstrip()}")
        return error.with_traceback(rebuild(frames))

    def _sentence(self, frames: list[Frame], alone: bool) -> str:
        which = "this item" if alone else "this item beside others, any of which may have done it"
        where = ""
        if frames:
            _, name, _, _, (line, *_) = next((one for one in frames[::-1] if not is_library(one[0])), frames[-1])
            where = f", in line {line} of {name}"
        memory = self._memory()
        return (
            f"worker {self.worker} {self._how()} while it ran {which}{where}; "
            f"{memory and f'{memory}; '}its other items go on elsewhere"
        )

    def _how(self) -> str:
        if self.exitcode is None:
            return f"{explain_exit(None)},"
        if self.is_cut:
            return "closed its line to the kernel, or became another program, so that its pool ended it"
        how = explain_exit(self.exitcode)
        if self.oom_killed and self.exitcode == -signal.SIGKILL:
            return "was killed by the system's OOM killer (SIGKILL, for want of memory)"
        if self.exitcode in _CRASHES:
            return f"{how} (a crash in C code)"
        if self.exitcode >= 0:
            return f"{how} (by os._exit, perhaps in a library)"
        return how

    def _memory(self) -> str:
        """Say how much memory it took, and how much there is."""
        if not self.peak:
            return ""
        limit = memory_limit()
        return f"it took up to {show_size(self.peak)} of memory" + (f" (there is {show_size(limit)})" if limit else "")


def _read_frames(stack: str) -> list[Frame]:
    """Return the innermost frames of a stack of faulthandler, outermost first, down to what called the task."""
    frames: list[Frame] = []
    for file, line, name in _FRAME.findall(stack)[:FRAMES]:
        if file.startswith(_OWN):
            break
        frames.append((file, name, name, int(line), (int(line), None, None, None)))
    return frames[::-1]
