"""The loop thread does what it is told, in order, and outlives whatever goes wrong in it."""

from __future__ import annotations

import threading
import time

import pytest

from poolmagic.supervisor import Supervisor, get_supervisor


@pytest.fixture(scope="module")
def supervisor() -> Supervisor:
    """The one of this process."""
    return get_supervisor()


def test_there_is_one_supervisor_in_a_process(supervisor: Supervisor) -> None:
    """With one thread."""
    assert get_supervisor() is supervisor
    assert 1 == sum(thread.name == "poolmagic-supervisor" for thread in threading.enumerate())


def test_calls_are_made_in_order_in_the_loop_thread(supervisor: Supervisor) -> None:
    """From whatever thread they come."""
    made: list[int] = []
    for number in range(1000):
        supervisor.call(made.append, number)

    assert "poolmagic-supervisor" == supervisor.ask(lambda: threading.current_thread().name)
    assert list(range(1000)) == made


def test_what_goes_wrong_in_an_answer_belongs_to_who_asked(supervisor: Supervisor) -> None:
    """And the loop goes on."""
    with pytest.raises(ZeroDivisionError):
        supervisor.ask(lambda: 1 // 0)
    assert 2 == supervisor.ask(lambda: 1 + 1)


def test_the_loop_outlives_a_call_that_raises(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    """The bug is printed, not hidden."""
    supervisor.call(lambda: 1 // 0)

    assert 2 == supervisor.ask(lambda: 1 + 1)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_deadlines_come_in_the_order_of_time(supervisor: Supervisor) -> None:
    """Not in that in which they were set."""
    came: list[str] = []
    done = threading.Event()
    now = time.monotonic()

    def set_them() -> None:
        supervisor.call_at(now + 0.03, done.set)
        supervisor.call_at(now + 0.02, lambda: came.append("second"))
        supervisor.call_at(now + 0.01, lambda: came.append("first"))

    supervisor.ask(set_them)

    assert done.wait(30)
    assert ["first", "second"] == came
