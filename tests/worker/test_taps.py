"""While tasks run in threads, the streams of the process are taps; nobody else notices."""

from __future__ import annotations

import contextlib
import io
import sys

from poolmagic.worker import taps
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, gated


def test_what_no_task_writes_passes() -> None:
    """And in all else a tap is the stream behind it."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        taps.hold("slot")
        assert sys.stdout is not stream
        print("hello")
        sys.stdout.writelines(["a\n", "b\n"])
        sys.stdout.flush()
        assert sys.stdout.tell() == stream.tell()
        taps.release("slot")
        assert sys.stdout is stream
    assert "hello\na\nb\n" == stream.getvalue()


def test_the_last_one_takes_the_taps_away() -> None:
    """However often each had said that it needs them."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        for who in ("one", "two", "one"):
            taps.hold(who)
        taps.release("one")
        assert sys.stdout is not stream
        taps.release("two")
        assert sys.stdout is stream


def test_a_stream_that_was_redirected_meanwhile_is_left_alone() -> None:
    """And a tap that comes back after its time still lets everything pass, and is gone the next time."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        taps.hold("slot")
        with contextlib.redirect_stdout(io.StringIO()) as inner:
            taps.release("slot")
            assert sys.stdout is inner
        print("late")
        assert "late\n" == stream.getvalue()
        taps.hold("slot")
        taps.release("slot")
        assert sys.stdout is stream


def test_what_tasks_print_follows_a_redirection_of_who_waits(make_pool: MakePool) -> None:
    """As it would without a pool."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        make_pool("threads", 2).map(print, range(3), progress=False)
        wait_until(lambda: sys.stdout is stream, "the slots have found that there is nothing more to do")
    assert ["0", "1", "2"] == sorted(stream.getvalue().split())


def test_the_streams_are_the_users_again_when_nothing_runs(make_pool: MakePool, gate: Gate) -> None:
    """The pool is still there."""
    before = sys.stdout, sys.stderr
    pool = make_pool("threads", 2)
    run = pool.start(gated("threads", gate.port), range(2), progress=False)
    gate.wait_for(2)
    assert sys.stdout is not before[0]
    gate.open()
    run.result()
    wait_until(lambda: before == (sys.stdout, sys.stderr), "the streams are back")
