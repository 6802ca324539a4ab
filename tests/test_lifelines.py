"""Processes that end together: groups, children that end with their parents, and how an end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from poolmagic.lifelines import LOOKS, Child, end_group
from tests.conftest import wait_until

ROOT = Path(__file__).parent.parent
needs_waitid = pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system does not tell without reaping")


def start(code: str) -> Child:
    """Start Python code in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], process_group=0, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    process.returncode = 0  # it is not to be waited for by the object
    return Child(process.pid)


@pytest.mark.parametrize(
    ("code", "exitcode"),
    [("import os; os._exit(3)", 3), ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM)],
)
def test_an_end_is_told_with_exit_code_and_peak_memory(code: str, exitcode: int) -> None:
    """More than once, if asked."""
    child = start(code)

    assert child.has_ended(block=True)

    found, peak = child.reap()
    assert found == exitcode
    assert 1 << 20 < peak < 1 << 40
    assert child.has_ended()
    assert (found, peak) == child.reap()


def test_a_child_that_runs_has_not_ended() -> None:
    """And is not waited for, unless asked."""
    child = start("import signal; signal.pause()")

    assert not child.has_ended()
    assert not child.is_stopped
    end_group(child.pid)
    assert child.has_ended(block=True)
    assert -signal.SIGKILL == child.reap()[0]


@needs_waitid
def test_the_group_of_a_child_ends_before_its_number_is_free() -> None:
    """What it has started does not live on."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    process = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '1000'], close_fds=False)"],
        process_group=0,
        pass_fds=(write,),
    )
    process.returncode = 0
    os.close(write)
    child = Child(process.pid)
    assert child.has_ended(block=True)

    assert 0 == child.reap()[0]

    assert b"" == os.read(read, 1)  # the end of the pipe: nobody has the other end
    os.close(read)


@needs_waitid
def test_a_child_that_stays_stopped_is_ended() -> None:
    """It keeps its item, and would never end. What stopped it is told."""
    child = start("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")

    looks = 0
    while not child.has_ended(block=True):
        looks += child.is_stopped

    assert looks >= LOOKS
    assert -signal.SIGSTOP == child.reap()[0]


@needs_waitid
def test_a_child_that_goes_on_is_left_alone() -> None:
    """Somebody may have stopped it for a moment."""
    child = start("import signal; signal.pause()")
    for _ in range(2 * LOOKS):
        os.kill(child.pid, signal.SIGSTOP)
        assert not child.has_ended(block=True)
        assert child.is_stopped
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: not child.has_ended() and not child.is_stopped, "it goes on")

    os.kill(child.pid, signal.SIGTERM)
    assert child.has_ended(block=True)
    assert -signal.SIGTERM == child.reap()[0]


def test_a_child_that_somebody_else_has_reaped_is_over() -> None:
    """Nobody knows how."""
    child = start("pass")
    os.waitpid(child.pid, 0)

    assert child.has_ended(block=True)
    assert (None, 0) == child.reap()


def test_without_waitid_all_is_told_but_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is new on macOS."""
    monkeypatch.delattr(os, "waitid", raising=False)
    child = start("import os; os._exit(3)")

    assert child.has_ended(block=True)
    assert 3 == child.reap()[0]


MIDDLE = """
import os, subprocess, sys
code = sys.argv[1]
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
os._exit(0)
"""
SPINS = "print('ready', flush=True); import re; re.match('(a+)+$', 'a' * 60 + 'b')"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a signal")
@pytest.mark.parametrize("how", ["die_within_a_second(int(sys.argv[1]))", "die_with_parent(int(sys.argv[1]), 9)"])
def test_a_child_that_is_stuck_in_c_ends_with_its_parent(how: str) -> None:
    """Its interpreter's lock is never free again."""
    code = f"import sys; from poolmagic.lifelines import *; {how}; {SPINS}"
    middle = subprocess.Popen(
        [sys.executable, "-c", MIDDLE, code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert middle.stdout is not None
    pid = int(middle.stdout.readline())

    middle.communicate(b"\n", timeout=30)

    status = Path(f"/proc/{pid}/stat")
    wait_until(lambda: not status.exists() or ") Z " in status.read_text(), "the child has ended", seconds=2)


@pytest.mark.parametrize("how", ["die_within_a_second(1)", "die_with_parent(1, 15)"])
def test_a_child_whose_parent_has_ended_before_ends_at_once(how: str) -> None:
    """Its parent is another one by then."""
    child = start(f"from poolmagic.lifelines import *; {how}; import os; os._exit(3)")

    assert child.has_ended(block=True)
    assert -signal.SIGKILL == child.reap()[0]
