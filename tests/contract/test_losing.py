"""Workers that die, or nearly so, under their tasks: the item is told what happened, and nothing else is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import crew
from poolmagic.core import events as ev
from tests.conftest import MakePool, children, wait_until
from tests.tasks import for_kind, square

pytestmark = pytest.mark.faults

KINDS = ("prefork", "gevent")
COMMANDS: dict[type, Any] = vars(crew)["_COMMANDS"]


def segfault() -> None:
    """Read at address 0."""
    import ctypes

    ctypes.string_at(0)


def abort() -> None:
    """Give up as C code does that finds its memory broken."""
    os.abort()


def kill_itself() -> None:
    """Die like a process that the OOM killer chose."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    """End the process without a word."""
    os._exit(3)


def overflow() -> None:
    """Overflow the stack of C code: Python guards against it only where that is as large as it should be."""
    import resource

    sys.setrecursionlimit(1 << 30)
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 16, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    nested: list[Any] = []
    for _ in range(8000):
        nested = [nested]
    repr(nested)


def close_descriptors() -> None:
    """Do as programs do that become daemons; and go on."""
    os.closerange(3, 1024)
    import time

    time.sleep(60)


def close_descriptors_and_return() -> None:
    """The result cannot be told any more."""
    os.closerange(3, 1024)


def become_another_program() -> None:
    """Leave nothing of the worker but its number."""
    os.execv("/bin/sleep", ["sleep", "60"])  # noqa: S606 - no shell is wanted


def stop() -> None:
    """Stop as the terminal's Ctrl-Z does."""
    os.kill(os.getpid(), signal.SIGSTOP)


def read_terminal() -> None:
    """Be stopped like a process that reads the terminal from the background."""
    os.kill(os.getpid(), signal.SIGTTIN)


def become_a_daemon() -> None:
    """Fork twice, in a session of its own, and end; descriptors stay open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os._exit(0)


CRASHES: dict[Callable[[], None], tuple[int, str]] = {
    segfault: (-signal.SIGSEGV, "was killed by SIGSEGV (a crash in C code)"),
    abort: (-signal.SIGABRT, "was killed by SIGABRT (a crash in C code)"),
    kill_itself: (-signal.SIGKILL, "was killed by SIGKILL"),
    leave: (3, "exited with code 3 (by os._exit, perhaps in a library)"),
    overflow: (-signal.SIGSEGV, "was killed by SIGSEGV (a crash in C code)"),
    close_descriptors: (-signal.SIGKILL, "closed its line to the kernel, or became another program"),
    close_descriptors_and_return: (-signal.SIGKILL, "closed its line to the kernel, or became another program"),
    become_another_program: (-signal.SIGKILL, "closed its line to the kernel, or became another program"),
    stop: (-signal.SIGSTOP, "was stopped by SIGSTOP and did not go on"),
    read_terminal: (-signal.SIGTTIN, "was stopped by SIGTTIN and did not go on"),
    become_a_daemon: (0, "exited with code 0"),
}


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
@pytest.mark.parametrize("of_kind", KINDS)
def test_the_item_is_told_what_happened(crash: Callable[[], None], of_kind: str, make_pool: MakePool) -> None:
    """All others are right, and the pool works on."""
    pool = make_pool(of_kind, 2)
    exitcode, words = CRASHES[crash]

    def task(x: int) -> int:
        if x == 17:
            print("the end is near")
            crash()
        return x

    results = pool.map(task, range(30), on_error="return", chunksize=5)

    assert [x for x in range(30) if x != 17] == [value for value in results if not isinstance(value, pm.Failure)]
    error = results[17].exception
    assert isinstance(error, pm.WorkerLostError)
    assert words in str(error)
    assert "\n" not in str(error)
    assert "the end is near" in error.printed or crash is close_descriptors_and_return  # it had ended
    assert exitcode == error.exitcode
    if of_kind == "prefork":  # the peak of an interpreter that was started by itself is not always known
        assert error.peak_memory > 1 << 20
    assert [x * x for x in range(10)] == pool.map(square, range(10))


@pytest.mark.parametrize("of_kind", ["prefork", "gevent", "eventlet", "asyncio"])
def test_a_crash_shows_the_line_of_the_task(of_kind: str, make_pool: MakePool) -> None:
    """In the error's text, in its traceback, and as the stack that the process wrote in its last moment."""

    def task(x: int) -> int:
        if x == 1:
            segfault()
        return x

    with pytest.raises(pm.WorkerLostError, match=r"in line [0-9]+ of segfault") as caught:
        make_pool(of_kind, 1).map(for_kind(of_kind, task), range(3))

    names = [entry.name for entry in caught.traceback]
    assert ["task", "segfault", "string_at"] == names[-3:]
    assert "Segmentation fault" in caught.value.stack
    assert f'"{__file__}"' in caught.value.stack


def test_a_childs_crash_is_not_taken_for_the_workers(make_pool: MakePool) -> None:
    """It has the worker's descriptors; what it writes is lost."""

    def task(x: int) -> int:
        pid = os.fork()
        if pid == 0:
            segfault()
        os.waitpid(pid, 0)
        if x == 1:
            os.abort()
        return x

    results = make_pool("prefork", 1).map(task, range(2), on_error="return")

    assert 0 == results[0]
    assert "Segmentation" not in results[1].exception.stack
    assert "Aborted" in results[1].exception.stack


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("of_kind", ["prefork", "gevent", "asyncio"])
def test_programs_that_a_task_starts_get_none_of_our_descriptors(of_kind: str, make_pool: MakePool) -> None:
    """Nor does one that takes over all that may be inherited."""

    def task(_: int) -> str:
        return subprocess.run(
            ["ls", "-l", "/proc/self/fd"],
            close_fds=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # else it is the tape that our own stderr is
            text=True,
            check=True,
        ).stdout

    [listing] = make_pool(of_kind, 1).map(for_kind(of_kind, task), [0])

    assert "socket:" not in listing
    assert "memfd:" not in listing


def breaks(pool: pm.Pool, before: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a bug, which is mended then, ends the pool for good, and that no process is left."""
    with pytest.raises(pm.InternalError, match="ZeroDivisionError: a bug"):
        pool.map(square, range(10))
    monkeypatch.undo()

    wait_until(lambda: not pool.snapshot().workers and children() <= before, "all have ended", seconds=5)
    with pytest.raises(pm.InternalError, match="a bug"):
        pool.map(square, range(10))
    assert children() <= before


@pytest.mark.parametrize("of_kind", ["prefork", "gevent", "threads"])
def test_a_bug_in_the_supervisor_leaves_no_worker(
    of_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither one that runs nor one that is about to; the run ends with an error that says so."""
    before = children()
    pool = make_pool(of_kind, 2)
    pool.map(square, range(10))

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(COMMANDS, ev.Accept, fail)
    breaks(pool, before, monkeypatch)
    assert "a bug" in capfd.readouterr().err


@pytest.mark.parametrize("of_kind", ["prefork", "gevent"])
def test_a_bug_while_workers_are_started_leaves_none(
    of_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are not born yet, so there is no process to kill."""
    before = children()
    pool = make_pool(of_kind, 3, **({"workers": 3} if of_kind == "gevent" else {}))
    spawn = COMMANDS[ev.Spawn]
    spawned: list[Any] = []

    def fail(owner: Any, command: Any) -> None:
        spawned.append(command)
        if len(spawned) == 3:
            raise ZeroDivisionError("a bug")
        spawn(owner, command)

    monkeypatch.setitem(COMMANDS, ev.Spawn, fail)
    breaks(pool, before, monkeypatch)
    assert "a bug" in capfd.readouterr().err


SCARCE = """
import os, resource, sys
import poolmagic as pm
from tests.tasks import for_kind, square

kind = sys.argv[1]
pool = pm.Pool(kind, 2)
taken = []
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
pm.Pool("threads", 1).map(square, [1])  # the supervisor is there
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for descriptor in taken[:int(sys.argv[2])]:
    os.close(descriptor)
try:
    print(pool.map(for_kind(kind, square), range(4)))
except (pm.WorkerLostError, OSError) as error:
    print(error)
for descriptor in taken[int(sys.argv[2]):]:
    os.close(descriptor)
print(pm.Pool(kind, 2).map(for_kind(kind, square), range(4)))
"""


@pytest.mark.parametrize("free", [0, 2, 3, 5])
@pytest.mark.parametrize("of_kind", ["prefork", "gevent"])
def test_a_lack_of_descriptors_is_told(of_kind: str, free: int) -> None:
    """It is not a bug of anybody; the next pool works if it is over."""
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, of_kind, str(free)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert 0 == done.returncode, done.stderr
    *first, last = done.stdout.splitlines()
    assert "[0, 1, 4, 9]" == last
    assert first == ["[0, 1, 4, 9]"] or "Too many open files" in first[0], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
