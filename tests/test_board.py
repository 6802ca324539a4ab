"""The status board: what a worker's slots say there can be read by whoever shares it, also after the worker's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolmagic.board import DONE, LOOK, POSITION, RUN, SINCE, Board
from poolmagic.config import MAX_SLOTS

ROOT = Path(__file__).parent.parent
WORKER = """
import os, signal, sys
from poolmagic.board import Board
board = Board.attach(int(sys.argv[1]))
board.start(0, 7, 1000)
board.start(1, 7, 1001)
board.start(2, 0, 0)
board.clear(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_slot_says_what_it_runs() -> None:
    """The run 0 and the position 0 are as good as any."""
    board = Board()
    assert () == board.running(4)
    board.start(0, 0, 0)
    board.start(2, 5, 2**40)
    assert ((0, 0), (5, 2**40)) == board.running(4)
    board.start(0, 1, 1)
    board.clear(2)
    assert ((1, 1),) == board.running(4)
    board.clear(0)
    assert () == board.running(4)


def test_a_slot_says_since_when_it_runs_an_item_and_how_many_it_has_finished() -> None:
    """What each says of itself, and how many all of them have finished: the idle ones, too."""
    board = Board()
    board.start(1, 7, 1000)
    board.record(1)[0][DONE] = 5
    board.record(0)[0][DONE] = 3

    [mark], done = board.look(4)

    assert (7, 1000, True, 8) == (mark.run, mark.position, mark.exact, done)
    assert 0 <= time.monotonic() - mark.since < 60


def test_a_slot_that_seldom_looks_at_the_clock_says_when_it_did_last() -> None:
    """For all items since then the time is too early, and the count too low by those in between."""
    board = Board()
    record, times = board.record(0)
    record[LOOK], record[DONE], times[SINCE] = 100 + 1, 40, 12.5
    record[POSITION], record[RUN] = 100, 3

    assert ([(2, 100, 12.5, True)], 40) == board.look(1)
    record[POSITION] = 107
    assert ([(2, 107, 12.5, False)], 47) == board.look(1)
    record[RUN] = 0
    assert ([], 40) == board.look(1)


def test_a_slot_between_two_items_runs_nothing() -> None:
    """Though it has a batch."""
    board = Board()
    record, _ = board.record(0)
    record[POSITION], record[DONE], record[LOOK], record[RUN] = -1, 9, 51, 1

    assert () == board.running(1)
    assert ([], 9) == board.look(1)


def test_only_the_slots_that_are_asked_for_are_read() -> None:
    """A worker of one slot costs one look."""
    board = Board()
    board.start(3, 1, 1)
    assert () == board.running(3)
    assert ((1, 1),) == board.running(4)


def test_there_is_room_for_every_slot_that_a_worker_may_have() -> None:
    """The limit of the settings is that of the board."""
    board = Board()
    board.start(MAX_SLOTS - 1, 1, 2)
    assert ((1, 2),) == board.running(MAX_SLOTS)
    assert 5 == len(board.record(MAX_SLOTS - 1)[0])
    with pytest.raises(IndexError):
        board.start(MAX_SLOTS, 1, 2)
    with pytest.raises(IndexError):
        board.record(MAX_SLOTS)


def test_a_board_outlives_the_worker_that_wrote_it() -> None:
    """After a SIGKILL it still says what was running; nothing of it was ever sent."""
    board, descriptor = Board.create()
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, str(descriptor)],
        pass_fds=(descriptor,),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    os.close(descriptor)
    assert -signal.SIGKILL == worker.returncode
    assert ((7, 1000), (0, 0)) == board.running(4)


def test_a_descriptor_is_not_inherited_by_chance() -> None:
    """A program that a task starts does not get it."""
    _, descriptor = Board.create()
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_boards_without_memfd_work_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have none on macOS; a file without a name does."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    board, descriptor = Board.create()
    other = Board.attach(descriptor)
    os.close(descriptor)
    board.start(1, 2, 3)
    assert ((2, 3),) == other.running(2)
    other.close()
    board.close()


def test_a_board_may_be_closed_twice() -> None:
    """It is gone then."""
    board = Board()
    board.close()
    board.close()
    with pytest.raises(ValueError, match="released"):
        board.running(1)


CRASH = """
import os, sys
from poolmagic.board import Board
board = Board.attach(int(sys.argv[1]))
Board.write_stack_at_crash(int(sys.argv[1]))
def deep(n):
    board.start(0, 7, n)
    if n:
        deep(n - 1)
    os.abort()
exec(sys.argv[2])
"""


def crash(code: str) -> tuple[Board, int, int]:
    """Return the board of a worker that has crashed, and its file's size before and after."""
    board, descriptor = Board.create()
    before = os.fstat(descriptor).st_size
    subprocess.run(
        [sys.executable, "-c", CRASH, str(descriptor), code],
        pass_fds=(descriptor,),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    after = os.fstat(descriptor).st_size
    os.close(descriptor)
    return board, before, after


def test_a_board_holds_the_stack_of_a_crash() -> None:
    """Beside the records, which stay as they were."""
    board, before, after = crash("deep(2)")

    assert board.stack().startswith("Fatal Python error: Aborted")
    assert 3 == board.stack().count(" in deep")
    assert ((7, 0),) == board.running(4)
    assert before == after


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no file of a fixed length")
def test_a_worker_cannot_change_the_length_of_its_board() -> None:
    """Not by a stack of any length, nor at will: the supervisor would fall over a shorter one."""
    board, before, after = crash(
        "exec('def ' + 'x' * 490 + '(n):\\n if n: ' + 'x' * 490 + '(n - 1)\\n os.abort()\\n' + 'x' * 490 + '(500)')"
    )

    assert board.stack().count("x" * 490) > 50
    assert before == after
    for length in (0, 2 * before):
        board, descriptor = Board.create()
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(descriptor, length)
        os.close(descriptor)


def test_a_board_without_a_crash_has_no_stack() -> None:
    """As most have none."""
    board, _, _ = crash("os._exit(1)")

    assert "" == board.stack()
    assert "" == Board().stack()
