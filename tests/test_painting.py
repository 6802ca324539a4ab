"""The picture of a run that goes on: figures, lanes, many slots in one bar, and nothing of the user's as HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from poolmagic.painting import MOST_LANES, Lanes, paint
from poolmagic.snapshot import ItemSnapshot, RunSnapshot

RUN = RunSnapshot(
    1, "fetch", "gevent", "running", done=1_037, failed=0, total=4_000, elapsed=2.0, busy=2, slots=3, worked=5.0
)


def item(index: int, seconds: float = 1.0, worker: int = 1) -> ItemSnapshot:
    return ItemSnapshot(index, seconds, worker)


class Text(HTMLParser):
    """The text of a page; an element that is not closed, or is closed twice, is an error."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.styles: list[str] = []
        self.feed(markup)
        assert [] == self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text(snapshot: RunSnapshot, state: str = "running", hint: str = "", *, by_worker: bool = False) -> str:
    """Return what a person reads."""
    return "|".join(Text(paint(snapshot, Lanes(), by_worker=by_worker, state=state, hint=hint)).parts)


def test_the_figures() -> None:
    """What is done, what failed, how fast it is, how long it will take, and how much faster than one worker."""
    shown = text(replace(RUN, failed=3))
    for part in ("fetch", "on gevent", "1,037| of 4,000 done", "3 failed", "520.0/s", "5.7 s left", "2 of 3 busy"):
        assert part in shown
    assert "2.5 times one worker" in shown
    assert "times one worker" not in text(replace(RUN, worked=0.0))


def test_what_runs_counts_for_the_speed_up() -> None:
    """A run whose items take an hour is no slower in its first hour."""
    run = replace(RUN, running=(item(1, 2.0), item(2, 1.0)))
    assert 4.0 == run.speedup


def test_a_run_of_unknown_length_has_a_bar_that_says_nothing() -> None:
    """And no time that is left."""
    markup = paint(replace(RUN, total=None), Lanes(), by_worker=False, state="running")
    assert "aria-valuenow" not in markup
    assert "left" not in markup
    assert "1,037</b> done" in markup


def test_a_screen_reader_gets_the_bar_as_numbers() -> None:
    """What failed is over, too."""
    markup = paint(replace(RUN, failed=3), Lanes(), by_worker=False, state="running")
    assert 'role="progressbar" aria-label="fetch" aria-valuemin="0" aria-valuemax="4000" aria-valuenow="1040"' in markup


def test_the_bar_has_a_part_for_what_failed() -> None:
    """After that for what is done."""
    styles = Text(paint(replace(RUN, done=50, failed=10, total=100), Lanes(), by_worker=False, state="running")).styles
    assert ["50.00", "10.00"] == [width[1] for style in styles if (width := re.match(r"width: ([\d.]+)%", style))][:2]


def test_there_is_a_lane_for_each_slot() -> None:
    """With its item, or idle."""
    shown = text(replace(RUN, running=(item(17, 2.3), item(9, 0.4))))
    assert "slot 1|item 9|0.4 s|slot 2|item 17|2.3 s|slot 3|idle|" in shown
    assert "slowest now: item 17 for 2.3 s on worker 1" in shown
    assert "nothing runs" in text(RUN)


def test_a_lane_of_processes_is_a_worker() -> None:
    """Called by its number, as everywhere else."""
    shown = text(replace(RUN, running=(item(17, worker=4), item(9, worker=2))), by_worker=True)
    assert "worker 4|item 17|" in shown
    assert "worker 2|item 9|" in shown


def test_items_stay_in_their_lanes() -> None:
    """And the next item of a worker comes where its last one was."""
    lanes = Lanes()
    first = [item(0, worker=1), item(1, worker=2), item(2, worker=3)]
    assert first == lanes.place(replace(RUN, running=tuple(first)))
    later = item(3, worker=2)
    assert [first[0], None, first[2]] == lanes.place(replace(RUN, running=(first[2], first[0])))
    assert [first[0], later, first[2]] == lanes.place(replace(RUN, running=(later, first[2], first[0])))


def test_lanes_come_and_go_with_slots() -> None:
    """An item goes on whose slot was taken away, and has a lane until it ends."""
    lanes = Lanes()
    assert 3 == len(lanes.place(RUN))
    assert 5 == len(lanes.place(replace(RUN, slots=5)))
    two = (item(0), item(1))
    assert [*two] == lanes.place(replace(RUN, slots=1, running=two))
    assert [two[1]] == lanes.place(replace(RUN, slots=1, running=two[1:]))


def test_items_of_one_index_do_not_hide_each_other() -> None:
    """A board that is read while it changes may show one twice."""
    assert 2 == len([one for one in Lanes().place(replace(RUN, running=(item(1), item(1)))) if one])


@pytest.mark.parametrize("slots", [MOST_LANES, MOST_LANES + 1])
def test_many_slots_are_counted_by_how_long_they_are_busy(slots: int) -> None:
    """Nobody reads hundreds of lanes."""
    run = replace(RUN, slots=slots, busy=6, running=(item(1, 0.05), item(2, 3.0), item(3, 4.0), item(4, 300.0)))
    shown = text(run)
    assert (slots == MOST_LANES) is ("slot 1" in shown)
    if slots > MOST_LANES:
        assert f"1 under 0.1 s, 2 under 10 s, 1 over 1 min, {slots - 6} idle, 2 busy with other runs" in shown


def test_whatever_a_user_calls_a_thing_is_text() -> None:
    """A function may have any name, and so may a kind; a hint comes from an error."""
    evil = "<script>alert('\"')</script>"
    markup = paint(replace(RUN, name=evil, kind=evil), Lanes(), by_worker=False, state=evil, hint=evil)
    assert "<script" not in markup
    assert 4 == "|".join(Text(markup).parts).count(evil)
