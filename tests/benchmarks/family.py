"""The processes of one measurement: all that were started for it, however they were started.

They are told by a mark in their environment, because some libraries start daemons that are nobody's children.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

__all__ = ["MARK", "end_family", "family", "memory_of_family"]

MARK: Final = "POOLMAGIC_BENCHMARK"
"""The variable that holds the mark."""


def family(mark: str) -> Iterator[psutil.Process]:
    """Find the processes that carry a mark; does not block."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it is gone, or another user's and therefore none of ours
            if process.environ().get(MARK) == mark:
                yield process


def end_family(mark: str) -> int:
    """Kill what is left of a measurement, by process id; return how many processes that were.

    Blocks until they are gone. A process that starts another one while it is killed makes another turn. Trackers of
    semaphores and shared memory end by themselves when all others have, and tidy up before: they are given the time.
    """
    ended = 0
    for turn in range(5):
        left = list(family(mark))
        if not left:
            break
        for process in left:
            with suppress(psutil.Error):
                if turn or "resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
        gone, _ = psutil.wait_procs(left, timeout=5)
        ended += len(gone)
    return ended


def memory_of_family() -> float:
    """Return the megabytes that this process and its relatives take up; what they share is counted once. Linux only.

    Shared memory is counted by the system's own figure, because it is there as long as a file or a descriptor is,
    whether anybody maps it or not.
    """
    mark = os.environ.get(MARK)
    members = list(family(mark)) if mark else []
    if not members:  # run by hand, without a mark
        members = [psutil.Process(), *psutil.Process().children(recursive=True)]
    own = sum(_sum_lines(Path(f"/proc/{process.pid}/smaps_rollup"), ("Pss_Anon:", "Pss_File:")) for process in members)
    return (own + _sum_lines(Path("/proc/meminfo"), ("Shmem:",))) / 1e6


def _sum_lines(path: Path, captions: tuple[str, ...]) -> int:
    """Return the sum in bytes of the lines with these captions, which are in kB."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        return sum(int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(captions))
    return 0
