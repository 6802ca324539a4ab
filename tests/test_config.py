"""What a user may ask for: every setting is checked at once, and each refusal says in one line what is allowed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolmagic import cgroups, config, errors
from poolmagic.board import Board
from poolmagic.config import (
    ALIASES,
    KINDS,
    MAX_SLOTS,
    PoolConfig,
    check_function,
    find_kind,
    is_coroutine_function,
    usable_cpus,
)
from poolmagic.errors import UsageError


def make(kind: Any = "prefork", concurrency: Any = None, workers: Any = None) -> PoolConfig:
    return PoolConfig.make(kind, concurrency, workers=workers)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_said", set())


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(config, "usable_cpus", lambda: 6)
    return 6


# Kinds -------------------------------------------------------------------------------------------------------------


def test_there_are_six_kinds_under_their_own_names() -> None:
    """As in Celery, and asyncio."""
    assert ["prefork", "solo", "gevent", "eventlet", "threads", "asyncio"] == list(KINDS)
    assert [kind.name for kind in KINDS.values()] == list(KINDS)
    assert ["gevent", "eventlet", "asyncio"] == [kind.name for kind in KINDS.values() if kind.is_green]


@pytest.mark.parametrize(("alias", "name"), [*ALIASES.items(), *zip(KINDS, KINDS, strict=True)])
def test_an_alias_is_as_good_as_a_name(alias: str, name: str) -> None:
    """Both find the same row."""
    assert KINDS[name] is find_kind(alias)


@pytest.mark.parametrize("name", ["celery", "", "Prefork", None, 3, ["prefork"], KINDS["prefork"]])
def test_an_unknown_kind_is_refused_with_all_that_are_known(name: object) -> None:
    """Whatever was given instead of a name."""
    with pytest.raises(UsageError, match=r"unknown kind of pool .*use one of prefork, solo, .*, processes, ") as caught:
        find_kind(name)
    assert "\n" not in str(caught.value)


# Pools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "concurrency", "workers", "text"),
    [
        ((), 6, 6, "prefork -c 6"),
        (("prefork", 3), 3, 3, "prefork -c 3"),
        (("processes", 1), 1, 1, "prefork -c 1"),
        (("solo",), 1, 1, "solo -c 1"),
        (("solo", 1), 1, 1, "solo -c 1"),
        (("threads",), 6, 1, "threads -c 6"),
        (("threads", 500), 500, 1, "threads -c 500"),
        (("gevent", 200), 200, 1, "gevent -c 200"),
        (("gevent", 200, 2), 200, 2, "gevent -c 200 -w 2"),
        (("eventlet",), 6, 1, "eventlet -c 6"),
        (("asyncio", MAX_SLOTS * 2, 2), MAX_SLOTS * 2, 2, f"asyncio -c {MAX_SLOTS * 2} -w 2"),
    ],
)
@pytest.mark.usefixtures("cpus")
def test_settings_are_filled_in(given: tuple[Any, ...], concurrency: int, workers: int, text: str) -> None:
    """Without `-c` there is a task for each CPU, whatever the kind; solo has one."""
    made = make(*given)
    assert (concurrency, workers, text) == (made.concurrency, made.workers, str(made))
    assert made == make(*given)
    assert hash(made) == hash(make(*given))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("prefork", 0), "concurrency=0: use a whole number of at least 1"),
        (("prefork", -1), "concurrency=-1: use a whole number"),
        (("prefork", 2.0), "concurrency=2.0: use a whole number"),
        (("prefork", "2"), "concurrency='2': use a whole number"),
        (("prefork", True), "concurrency=True: use a whole number"),
        (("prefork", 2, 2), "workers=2: a prefork pool takes no workers=, its concurrency is its number of processes"),
        (("threads", 2, 2), "workers=2: a threads pool takes no workers=, it has no processes"),
        (("solo", None, 1), "workers=1: a solo pool takes no workers="),
        (("solo", 2), "concurrency=2: a solo pool always runs one task at a time"),
        (("gevent", 2, 3), "workers=3: use at most the concurrency, 2"),
        (("gevent", 2, 0), "workers=0: use a whole number of at least 1"),
        (("gevent", MAX_SLOTS + 1), f"concurrency={MAX_SLOTS + 1}: use at most {MAX_SLOTS} for each worker"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(given: tuple[Any, ...], text: str) -> None:
    """The value is named, and what is allowed."""
    with pytest.raises(UsageError, match="^" + text) as caught:
        make(*given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "made"),
    [
        ({"preload": "numpy"}, ("numpy",)),
        ({"preload": ["numpy", "os.path", "numpy"]}, ("numpy", "os.path")),
        ({"preload": (name for name in ("json", "csv"))}, ("json", "csv")),
        ({"preload": ()}, ()),
        ({"preload": None}, None),
    ],
)
def test_preload_takes_a_name_or_names(option: dict[str, Any], made: tuple[str, ...] | None) -> None:
    """Each once, in any form; none at all is not the same as nothing said."""
    assert made == PoolConfig.make("prefork", 2, **option).preload


def test_inner_threads_is_part_of_the_settings() -> None:
    """So that pools with other numbers get other workers, and a table shows it."""
    made = PoolConfig.make("gevent", 4, inner_threads=2)
    assert 2 == made.inner_threads
    assert "gevent -c 4 --inner-threads 2" == str(made)
    assert made != PoolConfig.make("gevent", 4)
    assert PoolConfig.make("prefork", 2, preload="json") != PoolConfig.make("prefork", 2)


@pytest.mark.parametrize(
    ("name", "option", "text"),
    [
        ("prefork", {"inner_threads": 0}, "inner_threads=0: use a whole number of at least 1"),
        ("prefork", {"inner_threads": "2"}, "inner_threads='2': use a whole number"),
        ("threads", {"inner_threads": 2}, "inner_threads=2: a threads pool runs in the kernel, .* threadpoolctl"),
        ("solo", {"inner_threads": 1}, "inner_threads=1: a solo pool runs in the kernel"),
        ("threads", {"preload": "json"}, "preload='json': a threads pool runs in the kernel; import it there"),
        ("solo", {"preload": []}, r"preload=\[\]: a solo pool runs in the kernel"),
        ("prefork", {"preload": 3}, r"preload=3: use the name of a module, or a list of names; \[\] for none"),
        ("prefork", {"preload": ["json", os]}, "preload=.*: <module 'os'.* is not the name of a module"),
        ("gevent", {"preload": "os path"}, "preload='os path': 'os path' is not the name of a module"),
        ("prefork", {"preload": ""}, "preload='': '' is not the name of a module"),
        ("prefork", {"preload": ".sibling"}, "preload='.sibling': '.sibling' is not the name of a module"),
    ],
)
def test_wrong_settings_of_workers_are_refused_in_one_line(name: str, option: dict[str, Any], text: str) -> None:
    """The value is named, and what is allowed; where an option has no meaning, the reason."""
    with pytest.raises(UsageError, match="^" + text) as caught:
        PoolConfig.make(name, **option)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "slots"),
    [(("prefork", 3), [1, 1, 1]), (("gevent", 7, 3), [3, 2, 2]), (("threads", 5), [5]), (("solo",), [1])],
)
def test_slots_are_split_evenly(given: tuple[Any, ...], slots: list[int]) -> None:
    """All of the concurrency is there, and no worker has two more than another."""
    made = make(*given)
    assert slots == [made.slots_of(seat) for seat in range(made.workers)]


def test_a_worker_has_a_record_for_each_slot() -> None:
    """The most slots are those that its board can hold."""
    Board().start(MAX_SLOTS - 1, 0, 0)


@pytest.mark.usefixtures("cpus")
def test_advice_comes_where_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """A green pool the size of the machine is a waste; a deprecated library says so itself, too."""
    PoolConfig.make("gevent", 100)
    PoolConfig.make("prefork")
    assert "" == capsys.readouterr().err
    PoolConfig.make("gevent")
    assert "poolmagic: gevent with 6 at once" in capsys.readouterr().err
    PoolConfig.make("eventlet", 100)
    assert "eventlet calls itself deprecated" in capsys.readouterr().err


# CPUs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/not/here\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "garbage\n"}, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cpus_are_what_the_container_gives(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of machine, affinity and every quota on the way up, rounded up; unreadable ones do not count."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "Path", lambda text: tmp_path / text.lstrip("/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert expected == usable_cpus()


def test_without_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none on macOS, and there are no quotas either."""
    monkeypatch.setattr(cgroups, "Path", lambda text: tmp_path / text.lstrip("/"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert 5 == usable_cpus()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert 1 == usable_cpus()


# Functions ---------------------------------------------------------------------------------------------------------


async def coroutine(x: int) -> int:
    return x


class AsyncCall:
    async def __call__(self, x: int) -> int:
        return x

    async def method(self, x: int) -> int:
        return x


ASYNC = [coroutine, functools.partial(functools.partial(coroutine), 1), AsyncCall(), AsyncCall().method]
PLAIN = [len, lambda x: x, functools.partial(pow, 2), str.upper, int, AsyncCall]


@pytest.mark.parametrize("function", ASYNC)
def test_an_async_function_belongs_to_asyncio_and_solo(function: Callable[..., Any]) -> None:
    """The other kinds refuse it at the call, and name these two."""
    assert is_coroutine_function(function)
    for name in ("asyncio", "solo"):
        check_function(KINDS[name], function)
    for name in ("prefork", "gevent", "eventlet", "threads"):
        with pytest.raises(UsageError, match=f"is an async function: use the 'asyncio' pool .*, not '{name}'"):
            check_function(KINDS[name], function)


@pytest.mark.parametrize("function", PLAIN)
def test_a_plain_function_belongs_to_all_kinds_but_asyncio(function: Callable[..., Any]) -> None:
    """There it would block all the others, so another kind is named."""
    assert not is_coroutine_function(function)
    for name in KINDS.keys() - {"asyncio"}:
        check_function(KINDS[name], function)
    with pytest.raises(UsageError, match=r"is a plain function: use 'gevent' or 'threads' .* not 'asyncio'"):
        check_function(KINDS["asyncio"], function)


@pytest.mark.parametrize("function", [None, 3, "len", [len]])
def test_what_cannot_be_called_is_refused(function: object) -> None:
    """On every kind."""
    for kind in KINDS.values():
        with pytest.raises(UsageError, match=r"cannot call .*: the first argument must be a function"):
            check_function(kind, function)
