"""The initializer and the finalizer of a pool: once in each worker, whatever happens there, on every kind."""

from __future__ import annotations

import functools
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated, pass_gate, pass_gate_async, square

client: Any = None
"""What the initializers assign."""


def many(kind: str, n: int = 4) -> int | None:
    """Return how many tasks at once a pool of this kind is to have."""
    return None if kind == "solo" else n


def lines(path: Path) -> list[str]:
    """Return the lines of a file, none if it is not there."""
    return path.read_text().splitlines() if path.exists() else []


def leaves(path: Path) -> Callable[..., None]:
    """Return a function that adds a line to a file: its process, and its arguments."""

    def leave(*args: object) -> None:
        with path.open("a") as file:
            file.write(" ".join([str(os.getpid()), *map(str, args)]) + "\n")

    return leave


def pids(kind: str) -> Callable[[Any], Any]:
    """Return a task that tells its process."""
    return for_kind(kind, lambda _: os.getpid())


# Once --------------------------------------------------------------------------------------------------------------


def test_each_worker_runs_the_initializer_once_before_its_first_task(
    kind: str, make_pool: MakePool, tmp_path: Path
) -> None:
    """In all runs together, and before any task; with its arguments."""
    log = tmp_path / "log"
    pool = make_pool(kind, many(kind), initializer=leaves(log), initargs=(1, "two"))

    def task(_: int) -> tuple[int, int]:
        return os.getpid(), len([line for line in lines(log) if line.startswith(str(os.getpid()))])

    found = {*pool.map(for_kind(kind, task), range(40)), *pool.map(for_kind(kind, task), range(40))}

    assert {1} == {count for _, count in found}
    assert {f"{pid} 1 two" for pid, _ in found} <= set(lines(log))
    assert len(lines(log)) == len(set(lines(log)))


def test_a_pool_that_is_not_used_runs_no_initializer(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Nor a finalizer."""
    log = tmp_path / "log"
    with make_pool(kind, many(kind), initializer=leaves(log), finalizer=leaves(log)):
        pass
    assert [] == lines(log)


def test_what_the_initializer_assigns_is_there_for_the_functions_of_all_runs(kind: str, make_pool: MakePool) -> None:
    """With `global`, as in a script; a function of a cell that only a task calls finds it, too."""
    space: dict[str, Any] = {"__name__": "__main__", "client": "none yet"}
    exec(  # noqa: S102 - what a notebook's cells are: functions of no module that could be imported
        """
def connect(name):
    global client
    client = {"name": name}

def helper():
    return client["name"]

def task(x):
    return helper(), x

def other(x):
    return client["name"], -x
""",
        space,
    )
    pool = make_pool(kind, many(kind), initializer=space["connect"], initargs=("first",))

    assert [("first", 1), ("first", 2)] == pool.map(for_kind(kind, space["task"]), [1, 2])
    assert [("first", -1), ("first", -2)] == pool.map(for_kind(kind, space["other"]), [1, 2])
    assert ("first", 3) == pool.submit(for_kind(kind, functools.partial(space["task"])), 3).result(30)


def _assign(value: object) -> None:
    global client
    client = value


def _leave_client(log: Path) -> None:
    leaves(log)(client)


def _changed(_: object) -> object:
    global client
    client = (*client, 1)
    return client


def test_a_module_that_workers_import_is_assigned_to_once(make_pool: MakePool) -> None:
    """What tasks make of its variables afterwards stays, from run to run."""
    pool = make_pool("prefork", 1, initializer=_assign, initargs=((),))
    assert [(1,), (1, 1)] == pool.map(_changed, range(2))
    assert [(1, 1, 1)] == pool.map(_changed, range(1))


def test_workers_that_take_the_place_of_others_run_it_too(
    process_kind: str, make_pool: MakePool, tmp_path: Path
) -> None:
    """After a restart, and after a crash."""
    log = tmp_path / "log"
    pool = make_pool(process_kind, 1, initializer=leaves(log))
    first = pool.map(pids(process_kind), [0])
    pool.restart()
    second = pool.map(pids(process_kind), [0])
    os.kill(second[0], signal.SIGKILL)
    wait_until(lambda: second[0] not in {worker.pid for worker in pool.snapshot().workers}, "the worker is gone")
    third = pool.map(pids(process_kind), [0])

    assert [str(one) for one in first + second + third] == lines(log)


def test_a_worker_that_has_run_its_tasks_is_finished(process_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """With `max_tasks_per_child` each has both: its initializer, and its finalizer."""
    log, end = tmp_path / "log", tmp_path / "end"
    with make_pool(process_kind, 1, max_tasks_per_child=2, initializer=leaves(log), finalizer=leaves(end)) as pool:
        found = pool.map(pids(process_kind), range(6), chunksize=1)
    assert 3 == len(set(found))
    assert set(map(str, found)) <= set(lines(log)) == set(lines(end))
    assert len(lines(end)) == len(set(lines(end)))


@pytest.mark.parametrize("shared_kind", ["gevent", "eventlet", "threads", "asyncio"])
def test_tasks_at_once_wait_for_the_one_that_runs_the_initializer(
    shared_kind: str, make_pool: MakePool, gate: Gate, tmp_path: Path
) -> None:
    """None starts before it is done, and it is run once, though it waits itself."""
    log = tmp_path / "log"
    leave, port = leaves(log), gate.port

    async def initialize_async() -> None:
        leave("began")
        await pass_gate_async(port, "initializer")
        leave("ended")

    def initialize() -> None:
        leave("began")
        pass_gate(port, "initializer")
        leave("ended")

    pool = make_pool(shared_kind, 8, initializer=initialize_async if shared_kind == "asyncio" else initialize)
    run = pool.start(for_kind(shared_kind, lambda x: (leave("task"), x)[1]), range(100))
    other = pool.start(for_kind(shared_kind, lambda x: (leave("task"), x)[1]), range(100))
    gate.wait_for(1)
    assert not run.done()
    gate.open()

    assert list(range(100)) == run.result(30) == other.result(30)
    assert ["began", "ended"] == [line.split()[1] for line in lines(log)][:2]
    assert 202 == len(lines(log))


def test_the_time_of_the_initializer_counts_for_no_item(working_kind: str, make_pool: MakePool) -> None:
    """It may take longer than the items may."""
    waits = threading.Event

    def initialize() -> None:
        waits().wait(0.6)

    pool = make_pool(working_kind, 2, initializer=initialize)
    assert [0, 1, 4] == pool.map(for_kind(working_kind, square), range(3), time_limit=0.3, soft_time_limit=0.2)


def test_pools_never_share_what_their_initializers_made(working_kind: str, make_pool: MakePool) -> None:
    """What an initializer captured may have changed in the meantime, though it is the same function."""
    one = make_pool(working_kind, 1, initializer=_assign, initargs=("same",))
    [worker] = one.map(pids(working_kind), [0])
    one.close()
    other = make_pool(working_kind, 1, initializer=_assign, initargs=("same",))
    [another] = other.map(pids(working_kind), [0])
    assert one.config != other.config
    assert (worker == another) == (working_kind == "threads")


def test_large_arguments_are_packed_once_for_all_runs(process_kind: str, make_pool: MakePool) -> None:
    """And they are what they were when the pool was first used, for workers that start later, too."""
    array = np.ones(1_000_000)

    def keep(given: np.ndarray[Any, Any]) -> None:
        global client
        client = given

    pool = make_pool(process_kind, 1, initializer=keep, initargs=(array,))
    total = for_kind(process_kind, lambda _: float(client.sum()))
    assert [1e6] == pool.map(total, [0])
    array[:] = 2
    assert [1e6] == pool.map(total, [0])
    pool.restart()
    assert [1e6] == pool.map(total, [0])


# Failing -----------------------------------------------------------------------------------------------------------


def broken_connect(address: str) -> None:
    """Fail."""
    raise ConnectionError(f"no route to {address}")


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_failing_initializer_is_the_error_of_the_map(kind: str, make_pool: MakePool, on_error: Any) -> None:
    """Raised once and not for each item, with its cause and the line where it failed; and the run ends."""
    pool = make_pool(kind, many(kind), initializer=broken_connect, initargs=("db",))

    with pytest.raises(pm.InitializerError, match=r"the pool's initializer broken_connect\(\) raised") as caught:
        pool.map(for_kind(kind, square), range(1000), on_error=on_error)

    cause = caught.value.__cause__
    assert isinstance(cause, ConnectionError)
    assert "no route to db" == str(cause)
    assert 'raise ConnectionError(f"no route to {address}")' in "".join(traceback.format_exception(caught.value))
    assert "broken_connect" == traceback.extract_tb(cause.__traceback__)[-1].name
    wait_until(lambda: pool.snapshot().busy == 0, "nothing runs any more")


def test_it_is_the_error_of_iterators_and_futures_too(kind: str, make_pool: MakePool) -> None:
    """Of each of them."""
    pool = make_pool(kind, many(kind), initializer=broken_connect, initargs=("db",))
    with pytest.raises(pm.InitializerError):
        list(pool.imap(for_kind(kind, square), range(10)))
    with pytest.raises(pm.InitializerError):
        list(pool.imap_unordered(for_kind(kind, square), range(10), on_error="skip"))
    with pytest.raises(pm.InitializerError):
        pool.submit(for_kind(kind, square), 3).result(30)


def test_the_next_run_tries_it_again(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """A server that was down may be up; the run that failed can be resumed."""
    ready, log = tmp_path / "ready", tmp_path / "log"
    leave = leaves(log)

    def initialize() -> None:
        leave()
        if not ready.exists():
            raise ConnectionError("not yet")

    pool = make_pool(kind, many(kind, 1), initializer=initialize)
    with pytest.raises(pm.InitializerError):
        pool.map(for_kind(kind, square), range(5))
    with pytest.raises(pm.InitializerError) as caught:
        pool.map(for_kind(kind, square), range(5), retries=3)
    ready.touch()

    assert 2 == len(lines(log))
    assert [0, 1, 4] == pool.map(for_kind(kind, square), range(3))
    if kind != "solo":  # there is no run yet when it fails in the calling thread
        assert [0, 1, 4, 9, 16] == caught.value.run.resume()  # type: ignore[attr-defined]


def test_an_initializer_that_ends_its_process_ends_the_run(process_kind: str, make_pool: MakePool) -> None:
    """And not one process after the other for ever."""
    pool = make_pool(process_kind, 2 if process_kind == "prefork" else 8, initializer=os._exit, initargs=(3,))
    with pytest.raises(pm.WorkerLostError):
        pool.map(for_kind(process_kind, square), range(1000))


def test_an_initializer_that_exits_fails(process_kind: str, make_pool: MakePool) -> None:
    """Its worker stays."""
    pool = make_pool(process_kind, 1, initializer=exit, initargs=("no",))
    with pytest.raises(pm.InitializerError, match="SystemExit: no"):
        pool.map(for_kind(process_kind, square), range(3))
    assert 1 == len(pool.snapshot().workers)


def test_a_run_that_waits_for_the_initializer_can_be_cancelled(
    working_kind: str, make_pool: MakePool, gate: Gate, tmp_path: Path
) -> None:
    """At once; the initializer goes on, and the next run has what it made."""
    log, wait = tmp_path / "log", gated("threads", gate.port)
    leave = leaves(log)

    def initialize() -> None:
        leave("began")
        wait("initializer")

    pool = make_pool(working_kind, 2 if working_kind != "prefork" else 1, initializer=initialize)
    run = pool.start(for_kind(working_kind, square), range(10))
    gate.wait_for(1)
    run.cancel()
    with pytest.raises(pm.RunCancelled):
        run.result(30)
    gate.open()

    assert [0, 1, 4] == pool.map(for_kind(working_kind, square), range(3))
    assert 1 == len(lines(log))


def test_an_initializer_that_cannot_be_sent_is_refused_at_the_call(process_kind: str, make_pool: MakePool) -> None:
    """With the path to what keeps it from that, in it or in its arguments."""
    lock = threading.Lock()

    def initialize(_: object = None) -> None:
        lock.acquire()

    with pytest.raises(pm.PayloadError, match=r"initializer initialize -> closure 'lock'"):
        make_pool(process_kind, 2, initializer=initialize).map(for_kind(process_kind, square), [1])
    pool = make_pool(process_kind, 2, initializer=_assign, initargs=(1, {"lock": lock}))
    with pytest.raises(pm.PayloadError, match=r"initargs -> \[1\] -> \['lock'\]"):
        pool.map(for_kind(process_kind, square), [1])


def test_the_error_of_a_pool_in_a_task_is_the_task_s_own(make_pool: MakePool) -> None:
    """An item that fails with it fails alone."""

    def task(x: int) -> list[int]:
        inner = pm.Pool("threads", 1, initializer=broken_connect, initargs=("inner",))
        return inner.map(square, [x])

    [failure] = make_pool("prefork", 1).map(task, [3], on_error="return")
    assert isinstance(failure.exception, pm.InitializerError)


# The end -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_ends_well_runs_the_finalizer_once(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Before `with` is over; it finds what the initializer has assigned."""
    log = tmp_path / "log"
    finalize = functools.partial(_leave_client, log)

    with make_pool(kind, many(kind), initializer=_assign, initargs=("mine",), finalizer=finalize) as pool:
        found = pool.map(pids(kind), range(20))
        assert [] == lines(log)

    assert {f"{pid} mine" for pid in found} <= set(lines(log))
    assert len(lines(log)) == len(set(lines(log)))


def test_a_finalizer_may_stand_alone(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """It is for what tasks have made."""
    log = tmp_path / "log"
    pool = make_pool(kind, many(kind, 1), finalizer=leaves(log))
    pool.map(for_kind(kind, square), range(3))
    pool.close()
    pool.close()
    pool.join(30)
    assert 1 == len(lines(log))


def test_a_pool_that_is_terminated_runs_no_finalizer(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Nothing of the user's is run any more."""
    log = tmp_path / "log"
    pool = make_pool(kind, many(kind, 1), finalizer=leaves(log))
    pool.map(for_kind(kind, square), range(3))
    pool.terminate()
    pool.join(30)
    assert [] == lines(log)


def test_a_worker_that_could_not_be_prepared_has_nothing_to_finish(
    kind: str, make_pool: MakePool, tmp_path: Path
) -> None:
    """Its initializer failed."""
    log = tmp_path / "log"
    pool = make_pool(kind, many(kind), initializer=broken_connect, initargs=("db",), finalizer=leaves(log))
    with pytest.raises(pm.InitializerError):
        pool.map(for_kind(kind, square), range(3))
    pool.close()
    pool.join(30)
    assert [] == lines(log)


@pytest.mark.parametrize("local_kind", ["threads", "solo"])
def test_a_failing_finalizer_is_told_of(
    local_kind: str, make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and it keeps nothing from ending."""

    def finalize() -> None:
        raise OSError("it was gone")

    with make_pool(local_kind, many(local_kind), finalizer=finalize) as pool:
        pool.map(square, range(3))
    assert "poolmagic: the pool's finalizer finalize() raised OSError: it was gone\n" == capsys.readouterr().err


def test_a_failing_finalizer_keeps_no_worker_from_ending(process_kind: str, make_pool: MakePool) -> None:
    """It ends as well as any."""

    def finalize() -> None:
        raise SystemExit(7)

    with make_pool(process_kind, many(process_kind), finalizer=finalize) as pool:
        pool.map(for_kind(process_kind, square), range(3))
    assert not pool.snapshot().workers


def test_coroutines_may_set_up_an_asyncio_worker(make_pool: MakePool, tmp_path: Path) -> None:
    """In the loop that its tasks run in, which a plain initializer finds, too."""
    log = tmp_path / "log"
    leave = leaves(log)
    space: dict[str, Any] = {"__name__": "__main__", "leave": leave}
    exec(  # noqa: S102 - see above
        """
import asyncio

async def connect():
    global loop
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()

def connect_plainly():
    global loop
    loop = asyncio.get_running_loop()

async def task(x):
    return loop is asyncio.get_running_loop()

async def end():
    await asyncio.sleep(0)
    leave(loop is asyncio.get_running_loop())
""",
        space,
    )
    for initializer in (space["connect"], space["connect_plainly"]):
        with make_pool("asyncio", 4, initializer=initializer, finalizer=space["end"]) as pool:
            assert [True] * 8 == pool.map(space["task"], range(8))
    assert ["True", "True"] == [line.split()[1] for line in lines(log)]


# Refused -----------------------------------------------------------------------------------------------------------


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"initializer": 3}, "initializer=3: use a function"),
        ({"finalizer": "f"}, "finalizer='f': use a function"),
        ({"initializer": print, "initargs": "abc"}, "initargs='abc': use a tuple"),
        ({"initializer": print, "initargs": 3}, "initargs=3: use a tuple"),
        ({"initargs": (3,)}, r"initargs=\(3,\): there is no initializer= that takes them"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, settings: Any, text: str) -> None:
    """When the pool is made."""
    with pytest.raises(pm.UsageError, match=text):
        pm.Pool(kind, **settings)


@pytest.mark.parametrize("plain_kind", ["prefork", "solo", "gevent", "eventlet", "threads"])
@pytest.mark.parametrize("option", ["initializer", "finalizer"])
def test_an_async_function_has_its_place_in_an_asyncio_pool(plain_kind: str, option: str) -> None:
    """Elsewhere there is no loop that would outlive it."""
    with pytest.raises(pm.UsageError, match=f"{option}=_nothing is an async function: use the 'asyncio' pool"):
        pm.Pool(plain_kind, **{option: _nothing})  # type: ignore[arg-type]


def test_arguments_may_come_from_an_iterator(make_pool: MakePool) -> None:
    """They are read once, also for a pool that stands in for this one later."""
    pool = make_pool("solo", initializer=_assign, initargs=iter([5]))
    assert [5] == pool.map(lambda _: client, [0])
    assert [5] == pool._twin().map(lambda _: client, [0])


def test_a_pool_in_a_task_that_becomes_solo_is_prepared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker whose share of the machine is one CPU."""
    monkeypatch.setenv("POOLMAGIC_LEVEL", "1")
    monkeypatch.setenv("POOLMAGIC_SHARE", "1")
    pool = pm.Pool("prefork", initializer=_assign, initargs=("there",))
    assert "solo" == pool.config.kind.name
    assert ["there"] == pool.map(lambda _: client, [0])


def test_a_dropped_pool_ends_its_workers_well(working_kind: str, tmp_path: Path) -> None:
    """Nobody else could use them."""
    log = tmp_path / "log"
    pm.Pool(working_kind, 1, finalizer=leaves(log)).map(for_kind(working_kind, square), range(3))
    wait_until(lambda: len(lines(log)) == 1, "the finalizer was run")
