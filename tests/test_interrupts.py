"""Interrupts are held back while something is in hand, and never lost."""

from __future__ import annotations

import signal
import sys
import threading

import pytest

import poolmagic as pm
from poolmagic import driving
from poolmagic.interrupts import Interrupts


def test_an_interrupt_is_held_back_and_raised_at_the_next_check() -> None:
    """It only wakes whoever waits."""
    woken: list[bool] = []
    interrupts = Interrupts(lambda: woken.append(True))

    with interrupts:
        signal.raise_signal(signal.SIGINT)
        assert [True] == woken
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()


def test_a_second_interrupt_is_raised_at_once_if_the_first_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever presses twice means it; something is stuck."""
    monkeypatch.setattr("poolmagic.interrupts.PATIENCE", -1.0)
    with Interrupts(lambda: None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_two_interrupts_one_upon_the_other_are_two() -> None:
    """Both are held back, and each is raised at a check."""
    with Interrupts(lambda: None) as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
        interrupts.check()


def test_a_block_within_the_block_ends_nothing() -> None:
    """Interrupts are held back until the outermost one ends."""
    after: list[bool] = []

    def work(interrupts: Interrupts) -> None:
        with interrupts:
            with interrupts:
                signal.raise_signal(signal.SIGINT)
            after.append(True)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work(Interrupts(lambda: None))
    assert [True] == after
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_closes_what_was_open() -> None:
    """Though the user's code is where it struck."""
    with Interrupts(lambda: None) as interrupts:
        opened = interrupts.open()
        opened.__enter__()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_an_interrupt_that_nobody_asked_for_is_raised_at_the_end() -> None:
    """It is not lost."""
    after: list[bool] = []

    def work() -> None:
        with Interrupts(lambda: None):
            signal.raise_signal(signal.SIGINT)
            after.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert [True] == after


def test_interrupts_strike_where_they_are_let_through() -> None:
    """In the user's own code; one that was held back before that strikes first."""
    interrupts = Interrupts(lambda: None)
    with interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.open():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.open():
            raise AssertionError("the one from before was not raised")


def test_the_handler_of_before_is_put_back() -> None:
    """Whatever it was."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(lambda: None):
        assert signal.getsignal(signal.SIGINT) is not before

    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_interrupts() -> None:
    """Signals reach the main thread alone."""
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def use() -> None:
        with Interrupts(lambda: None) as interrupts:
            found.append(signal.getsignal(signal.SIGINT))
            interrupts.check()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    assert [before] == found


def test_an_interrupt_before_anything_holds_it_back_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It carries the run, which is over and can be resumed."""
    enter = Interrupts.__enter__

    def strike(interrupts: Interrupts) -> Interrupts:
        if sys._getframe(1).f_code is driving.drive.__code__:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return enter(interrupts)

    with pm.Pool("threads", 1) as pool:
        monkeypatch.setattr(Interrupts, "__enter__", strike)
        with pytest.raises(KeyboardInterrupt) as caught:
            pool.map(abs, [-2, -3])
        run: pm.Run = vars(caught.value)["run"]
        assert run.done()
        assert [2, 3] == run.resume()
