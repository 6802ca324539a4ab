"""Nothing stays behind: neither workers nor what their tasks have started, however whoever started them ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import MakePool, wait_until
from tests.tasks import for_kind

pytestmark = pytest.mark.faults

KERNEL = """
import json, re, subprocess, sys, time
import psutil
import poolmagic as pm
from tests.conftest import wait_until
from tests.tasks import for_kind, square

kind, what = sys.argv[1:]

def stay(x):
    if what == "spins":  # in C code, which holds the lock of the interpreter
        re.match("(a+)+$", "a" * 60 + "b")
    else:
        subprocess.Popen(["sleep", "1000"])
        time.sleep(1000)

async def stay_async(x):
    stay(x)

pool = pm.Pool(kind, 2, **({"workers": 2} if kind != "prefork" else {}))
options = {"on_error": "return", "chunksize": 1}
run = pool.start(stay_async if kind == "asyncio" else stay, range(2), **options)

def tell():
    tree = [(one.pid, one.ppid()) for one in psutil.Process().children(recursive=True)]
    print(json.dumps(tree), flush=True)

def is_started():
    names = [one.name() for one in psutil.Process().children(recursive=True)]
    return pool.snapshot().busy == 2 and (what == "spins" or names.count("sleep") == 2)

wait_until(is_started, "all is started")
tell()
for line in sys.stdin:
    exec(line)
"""

KINDS = ("prefork", "gevent", "asyncio")


class Kernel:
    """A process of its own that runs a pool, whose two workers run a task that does not end."""

    def __init__(self, kind: str, what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", KERNEL, kind, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        self.tree: list[tuple[int, int]] = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def zygote(self) -> int:
        """The process that has forked the workers."""
        parents = {parent for _, parent in self.tree}
        [found] = [pid for pid, parent in self.tree if parent == self.process.pid and pid in parents]
        return found

    def do(self, code: str) -> Any:
        """Have the kernel run a line of code, and return what it prints, read as JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{code}\n")
        self.process.stdin.flush()
        return json.loads(self._line())


@pytest.fixture
def make_kernel() -> Iterator[Callable[[str, str], Kernel]]:
    """Make kernels, which are ended after the test."""
    kernels: list[Kernel] = []

    def make(kind: str, what: str) -> Kernel:
        kernels.append(Kernel(kind, what))
        return kernels[-1]

    yield make
    for kernel in kernels:
        kernel.process.kill()
        for pid in filter(is_alive, (pid for pid, _ in kernel.tree)):
            os.kill(pid, signal.SIGKILL)
        kernel.process.communicate()  # whose ends all of these hold


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def nothing_is_left(kernel: Kernel) -> None:
    """Wait for at most two seconds until no process of the pool is left."""
    wait_until(lambda: not any(is_alive(pid) for pid, _ in kernel.tree), "nothing is left", seconds=2)


ENDS: dict[str, Callable[[int], None]] = {
    "kill -9": lambda pid: os.kill(pid, signal.SIGKILL),
    "kill -9 of its group": lambda pid: os.killpg(pid, signal.SIGKILL),
    "kill": lambda pid: os.kill(pid, signal.SIGTERM),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("of_kind", KINDS)
def test_nothing_survives_the_kernel(of_kind: str, end: str, make_kernel: Callable[[str, str], Kernel]) -> None:
    """No worker, and no process that a task has started."""
    kernel = make_kernel(of_kind, "starts a process")

    ENDS[end](kernel.process.pid)

    nothing_is_left(kernel)


@pytest.mark.parametrize("of_kind", KINDS)
def test_a_worker_that_is_stuck_in_c_does_not_survive_the_kernel(
    of_kind: str, make_kernel: Callable[[str, str], Kernel]
) -> None:
    """Though no thread of it can run any Python code."""
    kernel = make_kernel(of_kind, "spins")

    kernel.process.kill()

    nothing_is_left(kernel)


@pytest.mark.parametrize("of_kind", KINDS)
def test_what_is_stopped_does_not_survive_the_kernel(of_kind: str, make_kernel: Callable[[str, str], Kernel]) -> None:
    """Though it cannot do anything about it by itself."""
    kernel = make_kernel(of_kind, "starts a process")
    for pid, _ in kernel.tree:
        os.kill(pid, signal.SIGSTOP)
    # Only of what has stopped by then does the system see that nobody is left who would let it go on.
    wait_until(
        lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid, _ in kernel.tree), "all have stopped"
    )

    kernel.process.kill()

    nothing_is_left(kernel)


def test_a_stopped_zygote_is_replaced(make_kernel: Callable[[str, str], Kernel]) -> None:
    """Or new workers would be waited for without end."""
    kernel = make_kernel("prefork", "starts a process")

    os.kill(kernel.zygote, signal.SIGSTOP)

    assert [0, 1, 4] == kernel.do("run.cancel(); print(pool.map(square, range(3)))")
    nothing_is_left(kernel)


@pytest.mark.parametrize("of_kind", KINDS)
def test_nothing_survives_the_interpreters_own_end(of_kind: str, make_kernel: Callable[[str, str], Kernel]) -> None:
    """While tasks run that have started processes."""
    kernel = make_kernel(of_kind, "starts a process")
    assert kernel.process.stdin is not None

    kernel.process.stdin.close()
    kernel.process.wait(30)
    kernel.process.stdin = None

    nothing_is_left(kernel)
    assert 0 == kernel.process.returncode


@pytest.mark.parametrize("what", ["starts a process", "spins"])
def test_nothing_survives_the_zygote(what: str, make_kernel: Callable[[str, str], Kernel]) -> None:
    """Its workers are lost; the pool gets others."""
    kernel = make_kernel("prefork", what)

    os.kill(kernel.zygote, signal.SIGKILL)

    nothing_is_left(kernel)
    assert [0, 1, 4] == kernel.do("run.cancel(); print(pool.map(square, range(3)))")


def test_nothing_survives_kernel_and_zygote_at_once(make_kernel: Callable[[str, str], Kernel]) -> None:
    """The workers are killed by the system; what their tasks have started cannot be, when all who know it are gone."""
    kernel = make_kernel("prefork", "spins")

    os.kill(kernel.process.pid, signal.SIGSTOP)
    os.kill(kernel.zygote, signal.SIGKILL)
    kernel.process.kill()

    nothing_is_left(kernel)


@pytest.mark.parametrize("of_kind", KINDS)
def test_what_a_task_leaves_behind_ends_with_its_worker(of_kind: str, make_pool: MakePool) -> None:
    """Also if the worker ends in peace."""

    def leave(_: int) -> int:
        return subprocess.Popen(["sleep", "1000"]).pid

    pool = make_pool(of_kind, 2)
    pids = pool.map(for_kind(of_kind, leave), range(3))
    assert all(map(is_alive, pids))

    pool.close()
    pool.join(30)

    wait_until(lambda: not any(map(is_alive, pids)), "what the tasks have started has ended", seconds=2)


@pytest.mark.parametrize("of_kind", KINDS)
def test_what_a_task_has_started_ends_with_a_worker_that_is_killed(
    of_kind: str, make_pool: MakePool, tmp_path: Path
) -> None:
    """Killed by its own task, or with its pool."""
    file = tmp_path / "pids"

    def leave(x: int) -> None:
        with file.open("a") as lines:
            lines.write(f"{subprocess.Popen(['sleep', '1000']).pid}\n")
        if x == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def left() -> list[int]:
        return [pid for pid in map(int, file.read_text().split()) if is_alive(pid)]

    pool = make_pool(of_kind, 1)
    pool.map(for_kind(of_kind, leave), [1], on_error="return")
    wait_until(lambda: not left(), "what the task has started has ended", seconds=2)

    pool.map(for_kind(of_kind, leave), [2])
    assert 1 == len(left())
    pool.terminate()
    pool.join(30)
    wait_until(lambda: not left(), "what the task has started has ended", seconds=2)
