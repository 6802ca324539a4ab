"""Pictures of runs and pools, and the plain text that people read."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from poolmagic.snapshot import (
    PoolSnapshot,
    RunSnapshot,
    WorkerSnapshot,
    pool_table,
    run_line,
    show_bytes,
    show_seconds,
)

RUN = RunSnapshot(
    id=3, name="fetch", kind="gevent", state="running", done=30, failed=0, total=120, elapsed=3.0, busy=8, slots=10
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.34, "0.3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (12, "12 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (205, "3:25"),
        (3599.6, "1:00:00"),
        (3729, "1:02:09"),
        (360_000, "100:00:00"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    """No figure is longer than its unit allows."""
    assert text == show_seconds(seconds)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1000, "1 kB"),
        (35_400_000, "35 MB"),
        (999_600_000, "1.0 GB"),
        (2_340_000_000, "2.3 GB"),
        (5e12, "5000.0 GB"),
    ],
)
def test_sizes_are_written_as_people_do(size: float, text: str) -> None:
    """In powers of 1000."""
    assert text == show_bytes(size)


def test_rate_and_time_left_follow_from_the_counts() -> None:
    """Failed items are over as well."""
    assert (10.0, 9.0) == (RUN.rate, RUN.eta)
    assert (20.0, 3.0) == (replace(RUN, failed=30).rate, replace(RUN, failed=30).eta)


@pytest.mark.parametrize("change", [{"total": None}, {"done": 0}, {"state": "done"}, {"elapsed": 0.0}])
def test_time_left_is_unknown_where_nobody_can_tell(change: dict[str, object]) -> None:
    """No total, no rate, or no more to come."""
    assert replace(RUN, **change).eta is None  # type: ignore[arg-type]


def test_more_items_than_announced_are_no_negative_time() -> None:
    """An input may be longer than it said."""
    assert 0.0 == replace(RUN, total=10).eta


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "fetch on gevent: 30/120 in 3.0 s, 10.0/s, 9.0 s left, 8/10 busy"),
        ({"total": None}, "fetch on gevent: 30 in 3.0 s, 10.0/s, 8/10 busy"),
        ({"failed": 30}, "fetch on gevent: 60/120 in 3.0 s, 20.0/s, 30 failed, 3.0 s left, 8/10 busy"),
        ({"state": "done", "done": 120_000, "total": 120_000}, "fetch on gevent: 120,000/120,000 in 3.0 s, 40,000.0/s"),
        ({"state": "cancelled"}, "fetch on gevent: 30/120 in 3.0 s, 10.0/s, cancelled"),
        ({"state": "failed", "failed": 1}, "fetch on gevent: 31/120 in 3.0 s, 10.3/s, 1 failed, failed"),
    ],
)
def test_a_run_is_told_in_one_line(change: dict[str, object], text: str) -> None:
    """How it is doing while it runs, how it went after."""
    assert text == run_line(replace(RUN, **change))  # type: ignore[arg-type]


def pool(kind: str, slots: list[int], memory: int = 35_000_000) -> PoolSnapshot:
    workers = tuple(WorkerSnapshot(number, 100 + number, "ready", count, 1, 5) for number, count in enumerate(slots, 1))
    return PoolSnapshot(
        f"{kind}-1", kind, "running", sum(slots), workers, sum(slots), len(slots), 1_234, 1, 1, memory * len(slots)
    )


def test_pools_are_told_in_a_table() -> None:
    """A row for each, below the head; a pool whose workers are not alike says so."""
    pools = [pool("prefork", [1, 1]), pool("gevent", [3, 2]), pool("threads", [])]
    assert [
        ("name", "kind", "workers x slots", "state", "busy", "done", "failed", "memory"),
        ("prefork-1", "prefork -c 2", "2 x 1", "running", "2", "1,234", "1", "70 MB"),
        ("gevent-1", "gevent -c 5", "2 x 2-3", "running", "2", "1,234", "1", "70 MB"),
        ("threads-1", "threads -c 0", "-", "running", "0", "1,234", "1", "0 B"),
    ] == pool_table(pools)


def test_a_picture_does_not_change() -> None:
    """It is of one moment."""
    with pytest.raises(FrozenInstanceError):
        RUN.done = 3  # type: ignore[misc]
