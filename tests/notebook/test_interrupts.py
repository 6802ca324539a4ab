"""Stop in a real kernel, in each phase of a map: the run stops at once, the pool is ready, nothing is run twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

from tests.conftest import wait_until
from tests.notebook.conftest import Kernel

if TYPE_CHECKING:
    from tests.notebook.conftest import Reply

pytestmark = [pytest.mark.faults, pytest.mark.notebook]

MOST = 0.3 + 0.5
"""Seconds from Stop to the exception: 0.3 are promised, the rest is what a busy machine takes."""

PREPARE = """
import asyncio, hashlib, os, sys, time
import poolmagic as pm
from collections import Counter
from pathlib import Path

def goes_on():
    return Path(folder, "go").exists()

def done(item):
    with open(Path(folder, "done"), "a") as file:
        file.write(f"{item}\\n")
    return item * item

def counts():
    return Counter(map(int, Path(folder, "done").read_text().split()))

def sleep(item):
    if item >= 4 and not goes_on():
        print("NOW", flush=True)
        time.sleep(60)
    return done(item)

def loop(item):
    if item >= 4 and not goes_on():
        print("NOW", flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
    return done(item)

def in_c(item):
    if item >= 4 and not goes_on():
        print("NOW", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 30_000_000)
    return done(item)

def nap(item):
    if item == 4 and not goes_on():
        print("NOW", flush=True)
    time.sleep(0.03)
    return done(item)

async def wait(item):
    if item >= 4 and not goes_on():
        print("NOW", flush=True)
        await asyncio.sleep(60)
    return done(item)

class Packed:
    def __init__(self, item):
        self.item = item
    def __reduce__(self):
        if self.item == 6 and not goes_on():
            print("NOW", flush=True)
            time.sleep(60)
        return Packed, (self.item,)

class Unpacked:
    def __init__(self, item):
        self.item = item
    def __getstate__(self):
        return {"item": self.item}
    def __setstate__(self, state):
        self.__dict__ = state
        if self.item == 6 and not goes_on():
            print("NOW", flush=True)
            time.sleep(60)

class Items:
    def __init__(self, count):
        self.numbers = iter(range(count))
        self.waits = True
    def __iter__(self):
        return self
    def __next__(self):
        if self.waits and (next_one := next(self.numbers)) == 6:
            self.waits = False
            self.numbers = iter(range(6, 20))
            print("NOW", flush=True)
            time.sleep(60)
        return next(self.numbers) if not self.waits else next_one

def unpacked(item):
    done(item)
    return Unpacked(item)

def stopped(shell, kind, value, trace, tb_offset=None):
    shell.stopped_at = time.time()
    sys.last_value = value
    shell.showtraceback((kind, value, trace))

get_ipython().set_custom_exc((KeyboardInterrupt, asyncio.CancelledError), stopped)

def fresh():
    for name in ("go", "done"):
        Path(folder, name).unlink(missing_ok=True)
"""

TELL = """
import threading
def tell():
    while not pool.snapshot().runs:
        time.sleep(0.001)
    print("NOW", flush=True)
threading.Thread(target=tell).start()
"""
"""Says so when a run has begun; what comes before that has nothing that could be resumed."""


@pytest.fixture(scope="module")
def shared_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel for all tests of this module, with the tasks of `PREPARE`."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    kernel = Kernel(manager)
    folder = str(tmp_path_factory.mktemp("interrupts"))
    for code in ("%load_ext poolmagic", f"folder = {folder!r}", PREPARE):
        assert kernel.run(code).status == "ok"
    yield kernel
    kernel.close()


class Stopper:
    """Presses Stop when a cell says so, and measures how long the answer takes.

    Args:
        kernel: The kernel.
        times: How often it presses.
    """

    def __init__(self, kernel: Kernel, times: int = 1) -> None:
        self._kernel = kernel
        self._times = times
        self._pressed = 0.0

    def __call__(self, kind: str, content: dict[str, Any]) -> None:
        """Look at a message of the cell."""
        if kind == "stream" and "NOW" in content["text"] and not self._pressed:
            self.press()

    def press(self) -> None:
        """Press Stop."""
        self._pressed = time.time()
        for _ in range(self._times):
            self._kernel.manager.interrupt_kernel()

    def run(self, code: str, error: str = "KeyboardInterrupt", front_end: str = "console") -> Reply:
        """Run a cell, which must end with an interrupt soon after Stop."""
        reply = self._kernel.run(code, on_message=self, front_end=front_end)
        assert reply.error == error, (reply.error, reply.text, reply.traceback)
        stopped_at = float(self._kernel.run("get_ipython().stopped_at").result or 0)
        assert 0 < stopped_at - self._pressed < MOST
        return reply


def check(kernel: Kernel, code: str, expected: str) -> None:
    """Run an expression in the kernel."""
    reply = kernel.run(code)
    assert reply.result == expected, (reply.result, reply.traceback)


def go_on(kernel: Kernel, value: str = "item", count: int = 20, times: int = 1) -> None:
    """After an interrupt: another map is right, the run carries what is finished, and its resume does the rest once."""
    if times == 1:  # a second one may strike when all is over, and then is about nothing
        check(kernel, "sys.last_value.run is pool.last_run", "True")
    check(kernel, "run = pool.last_run; run.snapshot().state", "'interrupted'")
    kernel.run("Path(folder, 'go').touch()")
    check(kernel, "pool.map(other, range(50)) == [-item for item in range(50)]", "True")
    check(kernel, f"[{value} for item in run.resume()] == [item * item for item in range({count})]", "True")
    check(kernel, f"counts().keys() == set(range({count}))", "True")
    if times == 1:  # a second one kills workers, and what one of them did in its last 0.1 s is run again
        check(kernel, f"counts() == Counter(range({count}))", "True")


def make(kernel: Kernel, kind: str) -> None:
    """Make a pool that has run something, so that its workers are warm."""
    other = "async def other(item):\n    return -item" if kind == "asyncio" else "def other(item):\n    return -item"
    code = f"fresh()\n{other}\npool = pm.Pool({kind!r}, 2)\npool.map(other, range(4))"
    reply = kernel.run(code)
    assert reply.status == "ok", reply.traceback


TASKS = [
    ("prefork", "sleep"),
    ("prefork", "loop"),
    ("prefork", "in_c"),
    ("gevent", "sleep"),
    ("eventlet", "sleep"),
    ("asyncio", "wait"),
    ("threads", "loop"),
    ("solo", "sleep"),
    ("solo", "loop"),
]


@pytest.mark.parametrize(("pool_kind", "task"), TASKS)
@pytest.mark.parametrize("times", [1, 2])
def test_stop_while_tasks_run(shared_kernel: Kernel, pool_kind: str, task: str, times: int) -> None:
    """Whatever they do, and if one presses twice."""
    if pool_kind == "solo":
        shared_kernel.run("fresh(); pool = pm.Pool('solo'); other = lambda item: -item")
    else:
        make(shared_kernel, pool_kind)
    Stopper(shared_kernel, times).run(f"pool.map({task}, range(20))")
    go_on(shared_kernel, times=times)


def test_workers_stay_warm_whose_tasks_end_by_themselves(shared_kernel: Kernel) -> None:
    """The same processes go on."""
    make(shared_kernel, "prefork")
    shared_kernel.run("pids = {worker.pid for worker in pool.snapshot().workers}")
    Stopper(shared_kernel).run("pool.map(nap, range(200), chunksize=1)")
    check(shared_kernel, "{worker.pid for worker in pool.snapshot().workers} == pids", "True")
    go_on(shared_kernel, count=200)


@pytest.mark.parametrize("pool_kind", ["prefork", "gevent"])
def test_stop_while_workers_start(shared_kernel: Kernel, pool_kind: str) -> None:
    """At the first map of a pool."""
    shared_kernel.run("def other(item):\n    return -item")
    code = f"fresh()\npool = pm.Pool({pool_kind!r}, 3, inner_threads=2){TELL}pool.map(sleep, range(20))"
    Stopper(shared_kernel).run(code)
    go_on(shared_kernel)
    shared_kernel.run("pool.terminate()")


@pytest.mark.parametrize(
    ("task", "items", "value"),
    [
        ("lambda one: done(one.item)", "[Packed(item) for item in range(20)]", "item"),
        ("done", "Items(20)", "item"),
        ("unpacked", "range(20)", "item.item ** 2"),
    ],
    ids=["pickling", "reading", "unpickling"],
)
def test_stop_while_the_users_code_runs_in_the_kernel(shared_kernel: Kernel, task: str, items: str, value: str) -> None:
    """It is interrupted where it is, and done again when the run is resumed."""
    make(shared_kernel, "prefork")
    Stopper(shared_kernel).run(f"pool.map({task}, {items})")
    go_on(shared_kernel, value)


def test_stop_while_large_arguments_are_sent(shared_kernel: Kernel) -> None:
    """A worker gets them whole, or not at all."""
    make(shared_kernel, "prefork")
    shared_kernel.run("import numpy; arrays = [numpy.full(3_000_000, item) for item in range(20)]")
    code = "pool.map(lambda array: (time.sleep(0.05), done(int(array[-1])))[1], arrays)"
    Stopper(shared_kernel).run(f"{TELL}{code}")
    go_on(shared_kernel)
    shared_kernel.run("del arrays")


@pytest.mark.parametrize(
    "cell", ["await pool.start(sleep, range(20))", "run = pool.start(sleep, range(20)); await run"]
)
def test_stop_in_a_cell_that_awaits(shared_kernel: Kernel, cell: str) -> None:
    """The wait is cancelled, and the run with it."""
    make(shared_kernel, "prefork")
    Stopper(shared_kernel).run(cell, "CancelledError")
    shared_kernel.run("Path(folder, 'go').touch()")
    check(shared_kernel, "pool.map(other, range(50)) == [-item for item in range(50)]", "True")
    check(shared_kernel, "pool.last_run.snapshot().state", "'cancelled'")
    check(shared_kernel, "pool.last_run.resume() == [item * item for item in range(20)]", "True")
    check(shared_kernel, "counts() == Counter(range(20))", "True")


@pytest.mark.parametrize(
    "cell",
    [
        "for item in pool.imap(sleep, range(20)):\n    pass",
        "for item in pool.imap(done, range(2000)):\n    print('NOW', flush=True)\n    time.sleep(60)",
        "for item in pool.imap_unordered(unpacked, range(20)):\n    pass",
    ],
    ids=["waiting", "in the body", "unpickling"],
)
def test_stop_in_a_loop_over_results(shared_kernel: Kernel, cell: str) -> None:
    """In the iterator, and in the loop's own code."""
    make(shared_kernel, "prefork")
    Stopper(shared_kernel).run(cell)
    shared_kernel.run("Path(folder, 'go').touch()")
    check(shared_kernel, "pool.map(other, range(50)) == [-item for item in range(50)]", "True")
    check(shared_kernel, "max(counts().values())", "1")


def test_stop_while_a_run_is_resumed(shared_kernel: Kernel) -> None:
    """It can be resumed once more."""
    make(shared_kernel, "prefork")
    Stopper(shared_kernel).run("pool.map(sleep, range(20))")
    Stopper(shared_kernel).run("pool.last_run.resume()")
    go_on(shared_kernel)


def test_stop_while_the_display_is_made(shared_kernel: Kernel) -> None:
    """However long that takes."""
    make(shared_kernel, "prefork")
    patch = """
import ipywidgets
real = ipywidgets.HTML
def slow(**settings):
    print('NOW', flush=True)
    time.sleep(60)
ipywidgets.HTML = slow
"""
    shared_kernel.run(patch)
    code = "pool.map(lambda item: (time.sleep(0.1), done(item))[1], range(20))"
    Stopper(shared_kernel).run(code, front_end="lab")
    shared_kernel.run("ipywidgets.HTML = real")
    go_on(shared_kernel)


def test_no_process_survives_a_kernel_that_is_killed(kernel: Kernel) -> None:
    """With tasks of three kinds running; after two seconds nothing is left."""
    kernel.run(f"folder = '/nowhere'\n{PREPARE}")
    cell = """
runs = [pm.Pool("prefork", 2).start(loop, range(4, 20)), pm.Pool("gevent", 4).start(sleep, range(4, 20)),
        pm.Pool("asyncio", 4).start(wait, range(4, 20))]
while sum(run.snapshot().busy for run in runs) < 10:
    time.sleep(0.01)
os.getpid()
"""
    process = psutil.Process(int(kernel.run(cell).result or 0))
    left = process.children(recursive=True)
    assert len(left) >= 5
    process.kill()
    process.wait(timeout=10)
    wait_until(lambda: not any(one.is_running() for one in left), "all processes have ended", seconds=2)
