"""How pools live and end, on every kind; and that nothing of them stays behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

import poolmagic as pm
from tests.conftest import MakePool, children, descriptors, wait_until
from tests.tasks import Gate, for_kind, gated, square


def pid_of_worker(kind: str) -> object:
    """Return a task that tells its process."""
    return for_kind(kind, lambda _: os.getpid())


def test_making_a_pool_starts_nothing(kind: str) -> None:
    """Workers come when they are needed."""
    before = children()
    pool = pm.Pool(kind)

    assert children() <= before  # warm workers of other tests may end meanwhile
    assert ("new", ()) == (pool.snapshot().state, pool.snapshot().workers)


def test_with_ends_the_workers(working_kind: str) -> None:
    """They have ended when the block has."""
    before = children()
    with pm.Pool(working_kind, 2) as pool:
        pool.map(for_kind(working_kind, square), range(10))

    assert "closed" == pool.snapshot().state
    wait_until(lambda: children() <= before, "no process is left")  # warm workers of other tests may end meanwhile


def test_close_finishes_what_there_is(working_kind: str, gate: Gate) -> None:
    """And takes no more."""
    pool = pm.Pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(6))
    gate.wait_for(2)

    pool.close()
    with pytest.raises(pm.UsageError, match="closed"):
        pool.map(for_kind(working_kind, square), [1])
    gate.open()

    assert list(range(6)) == run.result(30)
    pool.join(30)
    pool.close()


def test_terminate_ends_at_once(working_kind: str, gate: Gate) -> None:
    """Runs are cancelled, workers killed."""
    before = children()
    pool = pm.Pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(6))
    gate.wait_for(2)

    pool.terminate()
    pool.join(30)

    with pytest.raises(pm.RunCancelled):
        run.result(30)
    wait_until(lambda: children() <= before, "no process is left")


def test_join_wants_a_closed_pool(kind: str, make_pool: MakePool) -> None:
    """As with multiprocessing."""
    with pytest.raises(pm.UsageError, match="close"):
        make_pool(kind).join()


def test_a_pool_that_is_dropped_leaves_its_workers_to_the_next(process_kind: str) -> None:
    """So that one expression is as fast as a named pool; other settings get other workers."""
    pids = {pm.Pool(process_kind, 1).map(pid_of_worker(process_kind), [0])[0] for _ in range(10)}  # type: ignore[arg-type]

    assert 1 == len(pids)
    other = pm.Pool(process_kind, 2)
    assert pids.isdisjoint(other.map(pid_of_worker(process_kind), [0]))  # type: ignore[arg-type]


def test_the_everyday_form_leaks_nothing(process_kind: str) -> None:
    """Fifty pools in one expression each: no more processes, descriptors or threads than one."""

    def use() -> None:
        assert [0, 1, 4] == pm.Pool(process_kind, 2).map(for_kind(process_kind, square), range(3))

    use()
    processes, *before = children(), descriptors(), threading.active_count()
    gc.disable()  # reference counts must do
    try:
        for _ in range(50):
            use()
    finally:
        gc.enable()

    # Warm workers of other tests may end meanwhile.
    wait_until(lambda: children() <= processes, "no process is left")
    wait_until(
        lambda: all(now <= then for now, then in zip((descriptors(), threading.active_count()), before, strict=True)),
        "there are no more descriptors and threads than before",
    )


def test_workers_are_not_shared_when_the_surroundings_changed(
    process_kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They see the environment, the directory and the path of the kernel as these are when the pool starts."""
    look = for_kind(process_kind, lambda _: (os.environ.get("COLOUR"), str(Path.cwd()), sys.path[0]))
    pm.Pool(process_kind, 1).map(look, [0])
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert [("green", str(tmp_path), str(tmp_path))] == pm.Pool(process_kind, 1).map(look, [0])


def test_restart_gives_new_workers(process_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which see the kernel's environment as it is now."""
    pool = make_pool(process_kind, 1)
    look = for_kind(process_kind, lambda _: (os.getpid(), os.environ.get("COLOUR")))
    [(before, _)] = pool.map(look, [0])
    monkeypatch.setenv("COLOUR", "red")

    pool.restart()

    [(after, colour)] = pool.map(look, [0])
    assert before != after
    assert "red" == colour
    wait_until(lambda: not psutil.pid_exists(before), "the old worker has ended")
    pool.close()
    pool.join(30)


def test_restarts_leave_nothing_behind(process_kind: str) -> None:
    """No helper process of an earlier set of workers."""
    processes = children()
    with pm.Pool(process_kind, 2) as pool:
        pool.map(for_kind(process_kind, square), range(4))
        one = len(children() - processes)
        for _ in range(3):
            pool.restart()
            assert [0, 1, 4, 9] == pool.map(for_kind(process_kind, square), range(4))
        wait_until(lambda: len(children() - processes) == one, "only the last set of workers is there")
    wait_until(lambda: children() <= processes, "no process is left")


@pytest.mark.parametrize("change", [1, -1, 3])
def test_grow_and_shrink_change_how_many_run(working_kind: str, change: int, make_pool: MakePool, gate: Gate) -> None:
    """From the next tasks on; at least one stays."""
    pool = make_pool(working_kind, 2)
    pool.map(for_kind(working_kind, square), range(4))
    if change > 0:
        pool.grow(change)
    else:
        pool.shrink(-change)
    run = pool.start(gated(working_kind, gate.port), range(20), chunksize=1)

    gate.wait_for(2 + change)
    wait_until(lambda: pool.snapshot().busy == 2 + change, "all slots are busy")
    wait_until(lambda: pool.snapshot().slots == 2 + change, "workers that are not needed have ended")
    assert 2 + change == pool.config.concurrency
    assert 2 + change == len(gate.arrived)
    gate.open()
    assert list(range(20)) == run.result(30)


def test_shrinking_and_growing_again_is_as_before(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """No slot is counted twice."""
    pool = make_pool(working_kind, 6)
    pool.map(for_kind(working_kind, square), range(10))
    for _ in range(3):
        pool.shrink(4)
        pool.grow(4)
    run = pool.start(gated(working_kind, gate.port), range(40), chunksize=1)

    gate.wait_for(6)
    wait_until(lambda: pool.snapshot().busy == 6, "all slots are busy")
    assert 6 == len(gate.arrived)
    gate.open()
    assert list(range(40)) == run.result(30)


def test_solo_cannot_be_resized() -> None:
    """It is one slot by nature."""
    with pytest.raises(pm.UsageError, match="solo"):
        pm.Pool("solo").grow()


def test_the_kernel_is_never_patched(process_kind: str, make_pool: MakePool) -> None:
    """Green pools live in other processes."""
    make_pool(process_kind).map(for_kind(process_kind, square), range(3))

    import socket
    import time

    assert "socket" == socket.socket.__module__
    assert "time" == time.sleep.__module__
    assert not {"gevent", "eventlet"} & sys.modules.keys()


def test_green_workers_are_patched_before_anything_else(make_pool: MakePool) -> None:
    """Any ordinary blocking client is cooperative there."""

    def look(_: int) -> list[str]:
        import socket
        import threading
        import time

        return [socket.socket.__module__, threading.get_ident.__module__, time.sleep.__module__]

    for kind in ("gevent", "eventlet"):
        [modules] = make_pool(kind, 2).map(look, [0])
        assert all(module.startswith((kind, f"{kind}.")) for module in modules)


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )


ENDINGS = {
    "never used": "pool = pm.Pool(kind, 2)",
    "used": "pool = pm.Pool(kind, 2); pool.map(f, range(5))",
    "dropped": "pm.Pool(kind, 2).map(f, range(5))",
    "in the middle of a run": "pool = pm.Pool(kind, 2); run = pool.start(slow, range(50))",
    "in the middle of an imap": "pool = pm.Pool(kind, 2); results = pool.imap(f, range(50)); next(results)",
    "with an error": "pool = pm.Pool(kind, 2); pool.map(f, range(5)); 1 / 0",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_with_pools_in_any_state(working_kind: str, ending: str) -> None:
    """Without a word, without waiting for tasks, without a process left."""
    done = run_script(
        f"""
        import asyncio, os, psutil, sys, time
        import poolmagic as pm
        kind = {working_kind!r}
        if kind == "asyncio":
            async def f(x): return x
            async def slow(x): await asyncio.sleep(60)
        else:
            def f(x): return x
            def slow(x): time.sleep(60)
        try:
            exec({ENDINGS[ending]!r})
        finally:
            print(*(child.pid for child in psutil.Process().children(recursive=True)))
        """
    )

    assert (1 if ending == "with an error" else 0) == done.returncode, done.stderr
    assert ("ZeroDivisionError" in done.stderr) == (ending == "with an error")
    noise = [line for line in done.stderr.splitlines() if not line.startswith("poolmagic: ")]
    assert ending == "with an error" or not noise
    for pid in map(int, done.stdout.split()):
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), f"process {pid} has ended")  # type: ignore[misc]


def test_no_process_survives_the_kernel(process_kind: str) -> None:
    """However it dies: here by SIGKILL."""
    done = run_script(
        f"""
        import asyncio, os, psutil, signal, time
        import poolmagic as pm
        if {process_kind!r} == "asyncio":
            async def slow(x): await asyncio.sleep(60)
        else:
            def slow(x): time.sleep(60)
        pool = pm.Pool({process_kind!r}, 2)
        run = pool.start(slow, range(50))
        while pool.snapshot().busy < 2:
            time.sleep(0.01)
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )

    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), f"process {pid} has ended", seconds=2)  # type: ignore[misc]


def test_a_forked_child_is_told_to_make_its_own_pool(make_pool: MakePool) -> None:
    """The supervisor is not there; a pool of the child's own works."""
    pool = make_pool("threads", 2)
    pool.map(square, range(3))
    pid = os.fork()
    if pid == 0:  # pytest must not see any of this end
        code = 1
        try:
            pool.map(square, range(3))
        except pm.UsageError as error:
            if "belongs to the process that made it" in str(error):
                code = 0 if pm.Pool("threads", 2).map(square, range(3)) == [0, 1, 4] else 2
        finally:
            os._exit(code)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert [0, 1, 4] == pool.map(square, range(3))
