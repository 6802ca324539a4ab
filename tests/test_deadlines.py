"""Alarms and time limits, on a clock that the test moves."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from poolmagic import appetite, deadlines
from poolmagic.appetite import Appetite, Limits
from poolmagic.board import Mark
from poolmagic.deadlines import GRACE, Alarm, Deadlines


class FakeLoop:
    """A loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, int, Callable[[], None]]] = []

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        heapq.heappush(self.calls, (when, len(self.calls), function))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with everything that is planned for it."""
        until = self.now + seconds
        while self.calls and self.calls[0][0] <= until:
            self.now, _, function = heapq.heappop(self.calls)
            function()
        self.now = until

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nothing else is needed of the loop, such as {name}")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    loop = FakeLoop()
    clock = SimpleNamespace(monotonic=lambda: loop.now, perf_counter=lambda: loop.now)  # the real one is everybody's
    monkeypatch.setattr(deadlines, "time", clock)
    monkeypatch.setattr(appetite, "time", clock)
    return loop


def test_an_alarm_rings_once_at_its_time(loop: Any) -> None:
    """And may be set again."""
    rung: list[float] = []
    alarm = Alarm(loop, lambda: rung.append(loop.now))

    alarm.set(1003.0)
    loop.pass_time(2.9)
    assert [] == rung
    loop.pass_time(5)
    assert [1003.0] == rung

    alarm.set(1010.0)
    loop.pass_time(5)
    assert [1003.0, 1010.0] == rung


def test_an_alarm_can_be_set_earlier_later_and_off(loop: Any) -> None:
    """The last word counts."""
    rung: list[float] = []
    alarm = Alarm(loop, lambda: rung.append(loop.now))

    alarm.set(1005.0)
    alarm.set(1002.0)
    alarm.set(1004.0)
    loop.pass_time(10)
    assert [1004.0] == rung

    alarm.set(1012.0)
    alarm.set(None)
    loop.pass_time(10)
    assert [1004.0] == rung


def test_setting_an_alarm_again_and_again_plans_one_call(loop: Any) -> None:
    """The supervisor does so after each event."""
    alarm = Alarm(loop, lambda: None)
    for _ in range(1000):
        alarm.set(1005.0)
    for later in range(1000):
        alarm.set(1005.0 + later)
    assert 1 == len(loop.calls)


class Board:
    """What runs, as the test says."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.marks: list[tuple[int, Mark]] = []
        self.found: list[tuple[float, int, int]] = []
        self.looks = 0

    def look(self) -> Iterator[tuple[int, Mark]]:
        self.looks += 1
        yield from list(self.marks)

    def overdue(self, worker: int, mark: Mark) -> None:
        self.found.append((self.loop.now, worker, mark.position))
        self.marks = [one for one in self.marks if one[1] != mark]


def test_an_item_that_goes_beyond_its_limit_is_found_in_time(loop: Any) -> None:
    """Neither before it had time to stop by itself, nor long after."""
    board = Board(loop)
    watch = Deadlines(loop, board.look, board.overdue)
    watch.add(7, 2.0)

    loop.pass_time(1.0)
    board.marks = [(3, Mark(7, 40, loop.now, True)), (4, Mark(8, 41, loop.now - 99, True))]
    loop.pass_time(10)

    [(when, worker, position)] = board.found
    assert (3, 40) == (worker, position)
    assert when == pytest.approx(1003.0 + GRACE)


def test_short_items_cost_one_look_in_each_limit(loop: Any) -> None:
    """And none when the run is over."""
    board = Board(loop)
    watch = Deadlines(loop, board.look, board.overdue)
    watch.add(7, 1.0)
    for _ in range(1000):
        board.marks = [(1, Mark(7, 1, loop.now, True))]
        loop.pass_time(0.01)
    assert [] == board.found
    assert 12 >= board.looks

    watch.remove(7)
    looks = board.looks
    loop.pass_time(100)
    assert looks == board.looks


# Memory ------------------------------------------------------------------------------------------------------------


class Crew:
    """Workers of any size."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = {int(name[1:]): size for name, size in sizes.items()}
        self.said: list[tuple[str, int]] = []
        self.is_busy = True

    def pids(self) -> dict[int, int]:
        return {worker: worker for worker in self.sizes}

    def outgrown(self, worker: int, size: int) -> None:
        self.said.append(("outgrown", worker))

    def burst(self, worker: int, size: int) -> None:
        self.said.append(("burst", worker))

    def hold(self, on: bool, size: int) -> None:
        self.said.append(("hold" if on else "go on", size))


def watch(loop: Any, crew: Crew, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> Appetite:
    monkeypatch.setattr(appetite, "_resident", lambda pid: crew.sizes[pid])
    monkeypatch.setattr(appetite, "_proportional", lambda pid: crew.sizes[pid] // 2)
    return Appetite(loop, limits, crew, lambda: crew.is_busy)


def test_a_worker_that_takes_too_much_is_replaced_and_one_that_takes_far_more_is_ended(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are left alone."""
    crew = Crew(w1=90, w2=110, w3=126)
    watch(loop, crew, Limits(worker=100), monkeypatch).wake()
    loop.pass_time(0.3)
    assert [("outgrown", 2), ("burst", 3)] == crew.said


def test_what_workers_share_counts_once_for_the_pool(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it holds only when the proportional sizes are too much, and goes on when there is room again."""
    crew = Crew(w1=100, w2=90)
    watch(loop, crew, Limits(pool=100), monkeypatch).wake()
    loop.pass_time(0.3)
    assert [] == crew.said
    crew.sizes[1] = 120
    loop.pass_time(1)
    assert [("hold", 105)] == crew.said
    crew.sizes[1] = 100
    loop.pass_time(1)
    assert [("hold", 105)] == crew.said
    crew.sizes[1] = 60
    loop.pass_time(1)
    assert [("hold", 105), ("go on", 75)] == crew.said


def test_nobody_looks_while_nothing_runs_or_nothing_is_limited(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle pool costs nothing."""
    crew = Crew(w1=500)
    watch(loop, crew, Limits(), monkeypatch).wake()
    assert [] == loop.calls
    limited = watch(loop, crew, Limits(worker=100), monkeypatch)
    crew.is_busy = False
    limited.wake()
    loop.pass_time(10)
    assert [("burst", 1)] == crew.said
