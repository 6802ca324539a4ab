"""What workers have when they start: modules that were imported once for all of them, and threads within a task."""

from __future__ import annotations

import colorsys
import gc
import importlib
import os
import random
import signal
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import poolmagic as pm
from poolmagic import errors, installed, launcher, processes
from poolmagic.config import usable_cpus
from poolmagic.inner_threads import VARIABLES
from tests.conftest import MakePool, children, wait_until
from tests.contract.test_lifecycle import run_script
from tests.tasks import PROCESS_KINDS, Gate, for_kind, pass_gate, square


def uses_colorsys() -> Callable[[bool], list[str]]:
    """Return a task that imports `colorsys` or, without doing so, tells what is loaded."""
    assert "colorsys" in sys.modules

    def task(really: bool) -> list[str]:
        if really:
            import colorsys

            return [colorsys.__name__]
        return sorted(sys.modules)

    return task


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write modules next to the notebook, as a user does."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write


Write = Callable[[str, str], None]
WHERE = "import os\npid = os.getpid()\n"
"""A module that knows which process imported it."""


def where() -> Callable[[str], tuple[int, int, int]]:
    """Return a task that tells who imported a module, and what process and parent it is in itself."""

    def task(name: str) -> tuple[int, int, int]:
        return importlib.import_module(name).pid, os.getpid(), os.getppid()

    return task


# Prefork -----------------------------------------------------------------------------------------------------------


def test_workers_start_with_the_modules_that_the_function_needs(make_pool: MakePool) -> None:
    """Nobody has to say which."""
    pool = make_pool("prefork", 1)

    [loaded] = pool.map(uses_colorsys(), [False])

    assert "colorsys" in loaded


def test_preload_names_the_modules_instead(make_pool: MakePool, write: Write) -> None:
    """Modules of one's own, too; they are imported once, and nothing else is."""
    write("own", WHERE)
    pool = make_pool("prefork", 2, preload="own")

    [(importer, worker, parent)] = pool.map(where(), ["own"])
    [loaded] = pool.map(uses_colorsys(), [False])

    assert importer == parent != worker
    assert "colorsys" not in loaded


@pytest.mark.parametrize("none", [(), []])
def test_an_empty_preload_is_none(none: Any, make_pool: MakePool) -> None:
    """Workers import everything themselves."""
    [loaded] = make_pool("prefork", 1, preload=none).map(uses_colorsys(), [False])

    assert "colorsys" not in loaded


def test_modules_of_ones_own_are_fresh_in_each_worker(make_pool: MakePool, write: Write) -> None:
    """Only a name brings them into the process that all workers come from."""
    write("own_and_fresh", WHERE)
    own = importlib.import_module("own_and_fresh")
    pool = make_pool("prefork", 1)

    [(importer, worker)] = pool.map(lambda _: (own.pid, os.getpid()), [0])

    assert importer == worker


def test_pools_that_need_different_modules_share_workers() -> None:
    """A warm worker imports what it lacks; that is better than a cold one."""

    def one(_: int) -> int:
        return os.getpid() if colorsys.__name__ else 0

    def other(_: int) -> int:
        return os.getpid() if wave.__name__ else 0

    first = pm.Pool("prefork", 1).map(one, [0])
    second = pm.Pool("prefork", 1).map(other, [0])

    assert first == second


def test_a_replaced_worker_has_what_later_functions_need(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote learns of them while workers run."""
    monkeypatch.setattr(launcher, "LATER", 0.0)
    monkeypatch.setenv("NO", "worker is warm")
    pool = make_pool("prefork", 1)
    pool.map(square, range(3))

    [before] = pool.map(uses_colorsys(), [False])
    pool.map(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0], on_error="skip")
    [after] = pool.map(uses_colorsys(), [False])

    assert "colorsys" not in before
    assert "colorsys" in after


def test_new_workers_after_a_restart_have_the_modules_as_well(make_pool: MakePool) -> None:
    """What the pool's functions have needed so far."""
    pool = make_pool("prefork", 1)
    pool.map(uses_colorsys(), [False])

    pool.restart()

    assert "colorsys" in pool.map(lambda _: list(sys.modules), [0])[0]


def test_the_zygote_is_started_again_if_it_dies(make_pool: MakePool) -> None:
    """With the same modules; its workers go with it."""
    pool = make_pool("prefork", 2)
    pool.map(uses_colorsys(), [False])
    [zygote] = set(pool.map(lambda _: os.getppid(), range(4)))
    before = {worker.pid for worker in pool.snapshot().workers}

    os.kill(zygote, signal.SIGKILL)

    wait_until(lambda: not before & {worker.pid for worker in pool.snapshot().workers}, "the workers are other ones")
    assert [x * x for x in range(100)] == pool.map(square, range(100))
    found = pool.map(lambda _: (os.getppid(), list(sys.modules)), range(4))
    assert all(parent != zygote and "colorsys" in loaded for parent, loaded in found)


BAD = {
    "raises": "raise RuntimeError('not here')",
    "exits": "import sys; sys.exit(3)",
    "is interrupted": "raise KeyboardInterrupt",
    "ends the process": "import os; os._exit(0)",
    "crashes": "import os; os.abort()",
    "starts a thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "does not parse": "if",
    "is not there": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_module_is_left_to_the_workers(
    what: str, make_pool: MakePool, write: Write, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come up; the good ones are preloaded all the same, and a line tells what is wrong."""
    monkeypatch.setattr(errors, "_said", set())
    bad = f"bad_{abs(hash(what))}"
    if BAD[what] is not None:
        write(bad, f"print('this is printed')\n{BAD[what]}\n")
    write("before", WHERE)
    write("after", WHERE)
    pool = make_pool("prefork", 2, preload=["before", bad, "after"])

    found = pool.map(where(), ["before", "after"])

    assert all(importer == parent for importer, _, parent in found)
    assert 1 == psutil.Process(found[0][2]).num_threads()
    shown = capfd.readouterr()
    assert f"poolmagic: preload='{bad}': " in shown.err
    assert "left to the workers" in shown.err
    assert "" == shown.out


@pytest.mark.parametrize("way", ["it cannot be started", "it ends at once"])
def test_no_module_is_blamed_for_a_zygote_that_never_was(
    way: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pool gives up, and says so; the next one preloads as ever."""
    monkeypatch.setenv("NO", "worker is warm")
    with monkeypatch.context() as broken:
        if way == "it ends at once":
            broken.setattr(processes, "_BOOT", "raise SystemExit(7)  # {module}")
        else:
            broken.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(pm.WorkerLostError, match="die as soon as they start"), pm.Pool("prefork", 2) as pool:
            pool.map(uses_colorsys(), [False])

    assert ("cannot start a worker" in capfd.readouterr().err) == (way == "it cannot be started")
    with pm.Pool("prefork", 2) as pool:
        assert "colorsys" in pool.map(uses_colorsys(), [False])[0]


def test_a_pool_that_ran_nothing_leaves_no_zygote() -> None:
    """It was started, to be ready; it may still be starting when it has to end."""
    before = children()
    with pm.Pool("prefork", 2) as pool:
        pool.grow(1)

    wait_until(lambda: children() <= before, "the zygote has ended")


def test_a_thread_that_is_over_does_no_harm(make_pool: MakePool, write: Write) -> None:
    """What counts is what is left after the import."""
    text = "import threading\nfor _ in range(9):\n    t = threading.Thread(target=int)\n    t.start()\n    t.join()\n"
    write("brief", WHERE + text)

    [(importer, _, parent)] = make_pool("prefork", 1, preload="brief").map(where(), ["brief"])

    assert importer == parent


def test_a_function_that_needs_a_bad_module_fails_with_its_error(make_pool: MakePool, write: Write) -> None:
    """As if nobody had tried before."""
    write("bad", "raise RuntimeError('not here')")

    def task(_: int) -> Any:
        import bad  # type: ignore[import-not-found]

        return bad

    with pytest.raises(RuntimeError, match="not here"):
        make_pool("prefork", 1, preload="bad").map(task, [0])


def test_output_that_a_module_kept_goes_to_the_cell(
    make_pool: MakePool, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """A logger that was set up while the module was imported is not silent for ever."""
    write("keeps", "import sys\nstream = sys.stderr\nprint('while importing', file=stream, flush=True)\n")

    def task(x: int) -> None:
        import keeps  # type: ignore[import-not-found]

        print("in the task", x, file=keeps.stream, flush=True)

    make_pool("prefork", 1, preload="keeps").map(task, [7])

    assert "in the task 7\n" == capsys.readouterr().err


def test_the_end_of_a_worker_is_heard_during_an_import(
    make_pool: MakePool, gate: Gate, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the import takes; the next worker comes after it."""
    text = "import os, socket\nif os.getpid() != {}:\n    line = socket.create_connection(('127.0.0.1', {}))\n"
    text += "    line.sendall(b'zygote\\n')\n    line.recv(1)\n"
    write("slow", text.format(os.getpid(), gate.port))
    importlib.import_module("slow")
    monkeypatch.setattr(installed, "_folders", lambda: (str(tmp_path) + os.sep,))
    monkeypatch.setattr(launcher, "LATER", 0.0)
    pool = make_pool("prefork", 1)
    pool.map(square, [1])

    def mentions(x: int) -> int:
        if x < 0:
            import slow  # type: ignore[import-not-found]  # noqa: F401
        return x

    assert [0] == pool.map(mentions, [0])
    gate.wait_for(1)

    with pytest.raises(pm.WorkerLostError, match="SIGKILL"):
        pool.start(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0], crash_retries=0).result(30)
    gate.open()
    assert [4] == pool.map(square, [2])


def test_the_zygote_ends_with_the_kernel_during_an_import(write: Write, tmp_path: Path) -> None:
    """It must not stay behind until the import is over."""
    write("endless", "import threading\nthreading.Event().wait(60)\n")
    done = run_script(
        f"""
        import os, psutil, signal, sys, threading
        sys.path.insert(0, {str(tmp_path)!r})
        import poolmagic as pm
        pool = pm.Pool("prefork", 1, preload="endless")
        run = pool.start(abs, [1])
        while not (children := psutil.Process().children(recursive=True)):
            threading.Event().wait(0.01)
        threading.Event().wait(0.5)  # it has booted by then, most likely; the test holds if not
        print(*(child.pid for child in children), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )

    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), f"process {pid} has ended", seconds=5)  # type: ignore[misc]


def test_workers_draw_different_random_numbers(make_pool: MakePool, gate: Gate) -> None:
    """Though NumPy's generator was made before they were forked."""
    port = gate.port

    def draw(name: int) -> tuple[float, float]:
        pass_gate(port, name)
        return float(np.random.random()), random.random()  # noqa: NPY002 - the global one is the point

    run = make_pool("prefork", 2, preload=["numpy.random", "random"]).start(draw, [1, 2], chunksize=1)
    gate.wait_for(2)
    gate.open()

    (one, own), (other, others) = run.result(30)
    assert one != other
    assert own != others


def test_what_was_imported_is_kept_out_of_collections(make_pool: MakePool) -> None:
    """A collection would touch, and so copy, the memory that all workers share; it works as ever for the rest."""
    frozen, enabled = make_pool("prefork", 1).map(lambda _: (gc.get_freeze_count(), gc.isenabled()), [0])[0]

    assert frozen > 1000
    assert enabled


# Every kind of process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exec_kind", [kind for kind in PROCESS_KINDS if kind != "prefork"])
def test_other_workers_preload_as_they_start(exec_kind: str, make_pool: MakePool, write: Write) -> None:
    """After they were patched, and whatever happens."""
    write("own", WHERE + "import socket\nfamily = socket.socket.__module__\n")
    write("bad", "raise SystemExit(3)")

    def look(_: int) -> tuple[bool, str]:
        own = sys.modules["own"]
        return own.pid == os.getpid(), own.family.partition(".")[0]

    [found] = make_pool(exec_kind, 2, preload=("bad", "own")).map(for_kind(exec_kind, look), [0])

    assert (True, exec_kind if exec_kind != "asyncio" else "socket") == found


def look_at_variables(kind: str) -> Callable[[int], Any]:
    """Return a task that tells what of the variables is set."""
    names = VARIABLES
    return for_kind(kind, lambda _: {name: os.environ[name] for name in names if name in os.environ})


@pytest.fixture
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_variables")
def test_workers_share_the_cpus_out(process_kind: str, make_pool: MakePool) -> None:
    """A process alone may use them all; of many, each uses one."""
    [found] = make_pool(process_kind, 1).map(look_at_variables(process_kind), [0])
    assert dict.fromkeys(VARIABLES, str(usable_cpus())) == found
    many = 4 * usable_cpus()
    pool = make_pool(process_kind, many, workers=None if process_kind == "prefork" else many)
    assert dict.fromkeys(VARIABLES, "1") == pool.map(look_at_variables(process_kind), [0])[0]


def test_inner_threads_overrides(process_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the shares and what the environment says."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    [found] = make_pool(process_kind, 1, inner_threads=3).map(look_at_variables(process_kind), [0])
    assert dict.fromkeys(VARIABLES, "3") == found


@pytest.mark.usefixtures("_no_variables")
def test_ones_own_environment_stays(process_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the others follow stands for them, too."""
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    [found] = make_pool(process_kind, 1).map(look_at_variables(process_kind), [0])
    assert dict.fromkeys(VARIABLES, str(usable_cpus())) | {"MKL_NUM_THREADS": "7"} == found
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    [found] = make_pool(process_kind, 1).map(look_at_variables(process_kind), [0])
    assert {"MKL_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"} == found


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_preloaded_library_has_as_many_threads(number: int, make_pool: MakePool) -> None:
    """NumPy's BLAS was loaded with one thread, or it could not have been forked."""

    def look(_: int) -> list[int]:
        import threadpoolctl

        np.dot(np.ones((200, 200)), np.ones((200, 200)))
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

    [found] = make_pool("prefork", 1, inner_threads=number).map(look, [0])

    assert {number} == set(found)


@pytest.mark.parametrize("kernel_kind", ["solo", "threads"])
@pytest.mark.parametrize("option", [{"inner_threads": 2}, {"preload": "json"}, {"preload": []}])
def test_options_without_a_meaning_are_refused(kernel_kind: str, option: dict[str, Any]) -> None:
    """With the reason."""
    with pytest.raises(pm.UsageError, match="runs in the kernel"):
        pm.Pool(kernel_kind, **option)
