"""The look-out for tasks that keep a hub to themselves: whom it names, and when it is silent."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from poolmagic.board import POSITION, RUN, Board
from poolmagic.messages import Message, Output
from poolmagic.worker.blocking import BLOCKED_SECONDS, LOOK_SECONDS, MOST_NOTES, HubWatch


class Slot:
    """A slot with a record on a board."""

    def __init__(self) -> None:
        self.record, _ = Board().record(0)

    def runs(self, run: int, position: int) -> None:
        self.record[POSITION], self.record[RUN] = position, run + 1


def run_tasks(slot: Slot, task: Callable[[], object]) -> None:
    """Stand for what runs tasks in a slot."""
    task()


def load(function: Callable[[], None]) -> None:
    """Stand for what loads a function."""
    function()


class Stuck:
    """A hub whose thread is in a task until it is let go, and what a watch says about it."""

    def __init__(self, call: Callable[[Callable[[], Any], Slot], None]) -> None:
        self.slot, self.sent = Slot(), list[Message]()
        self.is_busy, self.has_answered, self.asked = True, False, 0
        self._inside, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=call, args=(self._wait, self.slot))
        self._thread.start()
        assert self._inside.wait(30)
        assert self._thread.ident is not None
        self.watch = HubWatch(self, self._thread.ident, run_tasks.__code__, load.__code__, self.sent.append)
        self.now = self.watch.due or 0.0

    def _wait(self) -> None:
        self._inside.set()
        self._over.wait(30)

    def ask(self) -> None:
        self.asked += 1

    def look(self, seconds: float = BLOCKED_SECONDS + 3 * LOOK_SECONDS) -> list[str]:
        """Let so many seconds go by; return what was told."""
        end = self.now + seconds
        while self.watch.due is not None and self.watch.due <= end:
            self.watch.look(self.watch.due)
        self.now = end
        told, self.sent[:] = [one.text for one in self.sent if isinstance(one, Output)], []
        return told

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.fixture
def make_stuck() -> Any:
    """Make threads that are stuck, and let them go."""
    made: list[Stuck] = []

    def make(call: Callable[[Callable[[], Any], Slot], None]) -> Stuck:
        made.append(Stuck(call))
        return made[-1]

    yield make
    for one in made:
        one.end()


def in_a_task(wait: Callable[[], Any], slot: Slot) -> None:
    """Be stuck in a task."""
    run_tasks(slot, lambda: [wait()])


def between_two(wait: Callable[[], Any], slot: Slot) -> None:
    """Be stuck where no task runs."""
    slot.runs(1, -1)
    run_tasks(slot, wait)


def test_a_task_that_blocks_is_told_of_once(make_stuck: Any) -> None:
    """With its item, how long it has taken, its line and what helps; again for another one, and soon no more."""
    stuck = make_stuck(in_a_task)
    stuck.slot.runs(4, 17)

    assert [] == stuck.look(BLOCKED_SECONDS - LOOK_SECONDS)
    [text] = stuck.look()
    assert re.search(r"item 17 has let no other task of its worker run for \d+\.\d s, at:", text)
    assert "in in_a_task" not in text, "what called it is not the user's"
    assert 'test_blocking.py", line' in text
    assert "in <lambda>" in text
    assert "prefork" in text
    assert [] == stuck.look(100)

    told = []
    for position in range(10):
        stuck.slot.runs(4, position)
        told += stuck.look()
    assert MOST_NOTES - 1 == len(told)
    stuck.slot.runs(5, 0)
    assert 1 == len(stuck.look())


def test_many_short_tasks_are_nobodys_fault(make_stuck: Any) -> None:
    """Though the hub takes long to answer: at each look another one runs."""
    stuck = make_stuck(in_a_task)
    for position in range(30):
        stuck.slot.runs(1, position)
        assert [] == stuck.look(LOOK_SECONDS)


def test_a_hub_that_answers_is_asked_again_and_an_idle_one_is_left_alone(make_stuck: Any) -> None:
    """Until there is something to do again."""
    stuck = make_stuck(in_a_task)
    stuck.slot.runs(1, 1)
    stuck.has_answered = True
    assert [] == stuck.look(10)
    assert stuck.asked > 10

    stuck.is_busy = False
    assert [] == stuck.look(10)
    assert stuck.watch.due is None
    stuck.is_busy, stuck.has_answered = True, False
    stuck.watch.expect(stuck.now)
    assert 1 == len(stuck.look())


@pytest.mark.parametrize(
    "call",
    [
        lambda wait, slot: wait(),
        lambda wait, slot: run_tasks(slot, lambda: load(wait)),
        between_two,
    ],
    ids=["no task", "an import", "between two tasks"],
)
def test_what_is_no_task_is_not_told_of(make_stuck: Any, call: Any) -> None:
    """A worker that starts, that imports what a function needs, or puts outcomes away."""
    stuck = make_stuck(call)
    if stuck.slot.record[POSITION] >= 0:
        stuck.slot.runs(1, 1)

    assert [] == stuck.look(10)


def test_a_thread_that_is_gone_is_no_reason_to_fail(make_stuck: Any) -> None:
    """The process is about to end then."""
    stuck = make_stuck(in_a_task)
    stuck.end()
    assert stuck._thread.ident not in sys._current_frames()

    assert [] == stuck.look(10)
