"""What the cgroups of this process say: CPUs, memory, and whether the OOM killer struck. Versions 1 and 2.

All of it is read from `/proc` and `/sys` at each call, which takes some ten microseconds and does not block. Where
there are no cgroups there are no limits either. Owns no state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["count_oom_kills", "cpu_quotas", "memory_limit"]

_UNLIMITED: Final = 1 << 60
"""Version 1 says it with a number that is a little less than 2 to the 63rd."""

_Value = TypeVar("_Value")


def cpu_quotas() -> list[float]:
    """Return the CPU quotas, in CPUs, that are set on this process's cgroup and on those above it."""
    return _read_all("cpu", _quota_v2, _quota_v1)


def memory_limit() -> int | None:
    """Return how many bytes of memory this process may take at most, with all others in its cgroup and in those above.

    It is what the machine has where that is less; None if neither is known.
    """
    limits = _read_all("memory", _limit_v2, _limit_v1)
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((limit for limit in limits if 0 < limit < _UNLIMITED), default=None)


def count_oom_kills() -> int:
    """Return how many processes of these cgroups the OOM killer has killed so far; a process may count several times.

    Where no cgroup tells, it is those of the whole machine. Only a difference of two calls means something.
    """
    counts = _read_all("memory", lambda folder: _kills(folder / "memory.events"), _kills_v1)
    if counts:
        return sum(counts)
    return _kills(Path("/proc/vmstat")) or 0


def _read_all(
    controller: str, read_v2: Callable[[Path], _Value | None], read_v1: Callable[[Path], _Value | None]
) -> list[_Value]:
    """Return what is found in the folders of a controller."""
    values: list[_Value] = []
    for folder, is_v2 in _folders(controller):
        value = read_v2(folder) if is_v2 else read_v1(folder)
        if value is not None:
            values.append(value)
    return values


def _folders(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of this process's cgroup and those above it, and whether they are of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = Path("/sys/fs/cgroup")
        elif controller in controllers.split(","):
            root = Path(f"/sys/fs/cgroup/{controller}")
        else:
            continue
        # In a container the path may be the host's, which is not visible here; the root then is the container's own.
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place == root.parent:
                break
            yield place, controllers == ""


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


def _limit_v2(folder: Path) -> int | None:
    with suppress(OSError, ValueError):  # the latter: "max"
        return int((folder / "memory.max").read_text())
    return None


def _limit_v1(folder: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((folder / "memory.limit_in_bytes").read_text())
    return None


def _kills_v1(folder: Path) -> int | None:
    return _kills(folder / "memory.oom_control")


def _kills(file: Path) -> int | None:
    """Return the number that stands behind ``oom_kill`` in a file of names and numbers."""
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None
