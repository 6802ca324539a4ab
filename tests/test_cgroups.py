"""What cgroups say, of both versions: here files that look like theirs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmagic import cgroups
from poolmagic.cgroups import count_oom_kills, memory_limit

MACHINE = 4096 * 1000
MakeFiles = Callable[[dict[str, str]], None]


@pytest.fixture
def make_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFiles:
    """Make files that are read instead of the system's."""
    monkeypatch.setattr(cgroups, "Path", lambda text: tmp_path / text.lstrip("/"))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "100000\n"}, 100_000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "100000\n",
                "sys/fs/cgroup/a/memory.max": "50000\n",
            },
            50_000,
        ),
        ({"proc/self/cgroup": "0::/not/here\n", "sys/fs/cgroup/memory.max": "7\n"}, 7),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "garbage\n"}, MACHINE),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
            },
            3_000_000,
        ),
    ],
)
def test_memory_is_what_the_container_gives(files: dict[str, str], expected: int, make_files: MakeFiles) -> None:
    """The smallest limit on the way up, and at most what the machine has."""
    make_files(files)

    assert expected == memory_limit()


def test_without_any_limit_there_is_none(make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not even tell what it has."""
    make_files({})
    monkeypatch.setattr(os, "sysconf", {}.__getitem__)
    monkeypatch.setattr(os, "sysconf", lambda name: -1)

    assert memory_limit() in (None, 1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"proc/vmstat": "nr_free_pages 7\noom_kill 5\n"}, 5),
        (
            {
                "proc/vmstat": "oom_kill 5\n",
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
                "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.events": "oom_kill many\n"}, 0),
    ],
)
def test_the_oom_killers_deeds_are_counted(files: dict[str, str], expected: int, make_files: MakeFiles) -> None:
    """Here and above; those of the machine where no cgroup tells."""
    make_files(files)

    assert expected == count_oom_kills()


def test_the_real_files_can_be_read() -> None:
    """Whatever they are here."""
    limit = memory_limit()

    assert limit is None or limit > 1 << 20
    assert count_oom_kills() >= 0
