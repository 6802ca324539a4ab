"""When items ran: what a worker notes travels in few bytes and is kept in columns, by the indices of the user."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmagic.timings import Timings, pack, peak_memory
from poolmagic.worker.outbox import Outbox, Row

Entry = tuple[float, float, float, float]


def columns(*entries: Entry, peak: int = 1000, worker: str = "w", pulled: int = 1000, **more: Any) -> Timings:
    """Return what a run knows after one report."""
    timings: Timings = more.pop("timings", Timings())
    flat = [number for entry in entries for number in entry]
    timings.take(pack(peak, flat), worker, pulled, more.pop("indices", lambda span: range(*span)))
    return timings


@given(st.lists(st.tuples(st.integers(0, 998), st.floats(0, 1000)), min_size=1, max_size=20), st.integers(0, 2**50))
def test_what_is_packed_is_kept(some: list[tuple[int, float]], peak: int) -> None:
    """In the order in which it came."""
    timings = columns(*((first, first + 1, 1.0, 1.0 + seconds / 1e6) for first, seconds in some), peak=peak)

    assert [(first, first + 1, peak) for first, _ in some] == [(one.first, one.stop, one.peak) for one in timings]
    assert [seconds / 1e6 for _, seconds in some] == pytest.approx([one.seconds for one in timings], abs=1e-9)
    assert timings.worked == pytest.approx(sum(seconds for _, seconds in some) / 1e6, abs=1e-6)
    assert len(some) == len(timings)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_timings_do_no_harm(data: bytes) -> None:
    """A worker is a process that a task may have broken; what it says of itself may be wrong, and nothing more."""
    timings = Timings()
    timings.take(data, "w", 100, lambda span: range(*span))
    for stretch in timings:
        assert 0 <= stretch.first < stretch.stop <= 100


@pytest.mark.parametrize(
    "entry",
    [
        (-1, 1, 0.0, 1.0),
        (5, 5, 0.0, 1.0),
        (0, 2**62, 0.0, 1.0),
        (0, 101, 0.0, 1.0),
        (0, 1, 2.0, 1.0),
        (0, 1, float("nan"), 1.0),
        (0, 1, 0.0, float("inf")),
        (0, 1, 0.0, 1e18),
        (0.5, 1, 0.0, 1.0),
        (float("nan"), 1, 0.0, 1.0),
        (0, 1, -1.0, 1.0),
    ],
)
def test_a_report_that_cannot_be_is_left_out(entry: Entry) -> None:
    """Positions that were never handed out, times that are none or have not come."""
    timings = columns((3, 4, 0.5, 1.0), pulled=100)
    columns((4, 5, 0.5, 1.0), entry, (5, 6, 0.5, 1.0), pulled=100, timings=timings)

    assert [3] == [stretch.first for stretch in timings]
    assert 0.5 == timings.worked


def test_a_report_is_kept_by_the_indices_of_the_user() -> None:
    """In a run that was resumed the first positions are what was left over, with gaps between them."""
    left_over = [3, 7, 8, 20]
    timings = columns((0, 4, 10.0, 14.0), indices=lambda span: left_over[slice(*span)])

    assert [(3, 4), (7, 9), (20, 21)] == [(one.first, one.stop) for one in timings]
    assert [1.0, 1.0, 1.0] == pytest.approx([one.seconds for one in timings])
    assert [0.0, 1.0, 3.0] == pytest.approx([one.began - next(iter(timings)).began for one in timings])
    assert 4.0 == pytest.approx(timings.worked)


def test_times_count_from_the_start_of_the_run() -> None:
    """And add up over reports and workers."""
    timings = Timings()
    now = perf_counter()
    columns((0, 1, now, now), worker="a", peak=5, timings=timings)
    columns((1, 3, now - 2, now - 1), worker="b", peak=6, timings=timings)
    columns((3, 4, now - 2, now - 1), worker="a", peak=7, timings=timings)

    assert ["a", "b"] == timings.workers
    assert [(0, 5), (1, 6), (0, 7)] == [(one.worker, one.peak) for one in timings]
    assert 2.0 == pytest.approx(timings.worked)
    assert 0.0 == pytest.approx(next(iter(timings)).began, abs=0.5)
    assert 0.5 == next(one for one in timings if one.first == 1).seconds
    assert 3 == len(timings)


def test_later_items_of_a_resumed_run_count_on_from_their_index() -> None:
    """After what was left over."""
    timings = columns((4, 6, 10.0, 14.0), (8, 9, 1.0, 2.0), indices=lambda span: range(span[0] + 96, span[1] + 96))

    assert [(100, 102), (104, 105)] == [(one.first, one.stop) for one in timings]


def test_a_report_costs_32_bytes_for_each_entry() -> None:
    """And 8 for the memory of its worker."""
    assert 8 + 32 * 3 == len(pack(1, [0, 1, 0.0, 1.0] * 3))


def test_the_peak_of_memory_is_that_of_this_process() -> None:
    """It grows with what the process takes, and never shrinks by much."""
    before = peak_memory()
    taken = bytearray(before + (64 << 20))
    after = peak_memory()
    size = len(taken)
    del taken

    assert after >= size
    assert peak_memory() > 0.9 * after


def test_a_row_notes_the_short_items_before_a_long_one_together() -> None:
    """The long one has its own time; the next begins where the slot went on."""
    outbox = Outbox()
    row = Row(outbox, done=10, began=1.0)
    row.look(7, done=14, since=1.5, now=3.0)
    row.began = 4.0
    row.look(20, done=15, since=4.0, now=5.0)
    row.began = 6.0
    row.end(30, done=17, now=7.0)
    row.end(30, done=17, now=8.0)

    assert [4, 7, 1.0, 1.5, 7, 8, 1.5, 3.0, 20, 21, 4.0, 5.0, 29, 31, 6.0, 7.0] == outbox.take_worked()
    assert [] == outbox.take_worked()


def test_what_is_dropped_is_not_noted() -> None:
    """The items are somebody else's from then on."""
    outbox = Outbox()
    row = Row(outbox)
    row.look(0, done=1, since=1.0, now=2.0)
    row.drop()
    row.look(1, done=2, since=2.0, now=3.0)

    assert [0, 1, 1.0, 2.0] == outbox.take_worked()
