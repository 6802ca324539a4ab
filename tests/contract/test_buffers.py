"""Large arrays, frames and texts arrive as they were, both ways, on every kind; and nothing of them stays behind."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
import pickle
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import poolmagic as pm
from poolmagic import memory
from tests.conftest import MakePool, descriptors, wait_until
from tests.tasks import Gate, for_kind, gated, pass_gate

LARGE = 1 << 20
SIZES = (10, 1000, 30_000, 300_000)
"""Numbers of an array below, around and above what travels in memory files."""


def numbers(size: int = 100_000, start: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + size, dtype=float)


def read_only() -> np.ndarray[Any, Any]:
    array = numbers()
    array.flags.writeable = False
    return array


def frame() -> pd.DataFrame:
    """A frame of all that people put into one."""
    rows = 40_000
    return pd.DataFrame(
        {
            "arrow": pd.array([f"text {number % 1000}" for number in range(rows)], dtype="string[pyarrow]"),
            "objects": [f"text {number}" for number in range(rows)],
            "categories": pd.Categorical(["a", "b", "c", None] * (rows // 4), ordered=True, categories=list("cba")),
            "nullable": pd.array([1, None] * (rows // 2), dtype="Int64"),
            "flags": pd.array([True, None] * (rows // 2), dtype="boolean"),
            "floats": np.where(np.arange(rows) % 7, np.arange(rows) / 3, np.nan),
            "zoned": pd.date_range("2020-03-01", periods=rows, freq="h", tz="Europe/Berlin"),
            "durations": pd.to_timedelta(np.arange(rows), unit="s"),
        },
        index=pd.MultiIndex.from_arrays([np.arange(rows) // 10, np.arange(rows) % 10], names=["row", "column"]),
    )


@dataclasses.dataclass
class Record:
    name: str
    parts: list[Any]


def records() -> np.ndarray[Any, Any]:
    array = np.zeros(50_000, dtype=[("id", "i4"), ("value", ">f8"), ("name", "U5")])
    array["value"] = np.arange(50_000)
    return array


VALUES: dict[str, Any] = {
    "array": numbers(),
    "fortran": np.asfortranarray(numbers().reshape(100, 1000)),
    "transposed": numbers().reshape(100, 1000).T,
    "strided": numbers(800_000).reshape(800, 1000)[::2, ::3],
    "backwards": numbers()[::-1],
    "rows": numbers(800_000).reshape(800, 1000)[100:700],
    "broadcast": np.broadcast_to(numbers(1000), (100, 1000)),
    "read-only": read_only(),
    "empty": np.zeros((0, 5)),
    "one number": np.array(5.0),
    "big endian": numbers().astype(">f8"),
    "bools": numbers() > 7,
    "dates": np.arange(100_000).astype("M8[s]"),
    "structured": records(),
    "masked": np.ma.masked_greater(numbers(), 50_000),
    "objects": np.array([{"a": 1}, None, "text"] * 20_000, dtype=object),
    "bytes": b"x" * 10 * LARGE,
    "bytearray": bytearray(b"x") * 10 * LARGE,
    "text": "ä" * 5 * LARGE,
    "nested": [{"a": [numbers(), (numbers(7), numbers().reshape(10, -1))]}, numbers()],
    "dataclass": Record("name", [numbers(), {"a": numbers()}]),
    "frame": frame(),
    "series": frame()["arrow"],
    "categorical": frame()["categories"],
    "index": pd.Index(np.arange(100_000), name="index"),
    "nothing": pd.DataFrame(),
}


def assert_same(expected: Any, found: Any) -> None:
    """Check that two values are the same in all that one could see."""
    assert type(expected) is type(found)
    if isinstance(expected, np.ndarray):
        assert (expected.dtype, expected.shape, expected.strides) == (found.dtype, found.shape, found.strides)
        assert expected.flags.writeable == found.flags.writeable
        np.testing.assert_array_equal(expected, found)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(expected, found)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(expected, found)
    elif isinstance(expected, pd.Index):
        pd.testing.assert_index_equal(expected, found)
    elif isinstance(expected, dict):
        assert list(expected) == list(found)
        assert_same(list(expected.values()), list(found.values()))
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert_same(one, other)
    elif dataclasses.is_dataclass(expected):
        assert_same(vars(expected), vars(found))
    else:
        assert expected == found


def test_every_large_value_arrives_as_pickle_would_bring_it(kind: str, make_pool: MakePool) -> None:
    """There and back; on threads and solo it is the value itself."""
    results = make_pool(kind, None if kind == "solo" else 2).map(for_kind(kind, lambda value: value), VALUES.values())

    for (name, value), result in zip(VALUES.items(), results, strict=True):
        if kind in ("threads", "solo"):
            assert result is value, name
        else:
            assert_same(pickle.loads(pickle.dumps(value, 5)), result)


def test_captured_values_arrive_as_well(kind: str, make_pool: MakePool) -> None:
    """In the task they are what they are here, and what it returns of them arrives here."""
    values = VALUES

    results = make_pool(kind).map(for_kind(kind, lambda name: values[name]), list(values))

    for value, result in zip(values.values(), results, strict=True):
        assert_same(pickle.loads(pickle.dumps(value, 5)) if kind not in ("threads", "solo") else value, result)


def test_submitted_values_arrive_as_well(kind: str, make_pool: MakePool) -> None:
    """As positional and as keyword arguments."""
    future = make_pool(kind).submit(for_kind(kind, lambda a, *, b: [a, b, a + b]), numbers(), b=numbers(start=5))
    assert_same([numbers(), numbers(start=5), 2 * numbers() + 5], future.result(30))


@pytest.mark.parametrize("size", SIZES)
def test_a_task_may_write_into_its_argument(process_kind: str, size: int, make_pool: MakePool) -> None:
    """At every size; neither the caller nor another item of the batch sees it."""
    array = numbers(size)

    def write(argument: np.ndarray[Any, Any]) -> float:
        argument += 1
        return float(argument[0])

    results = make_pool(process_kind).map(for_kind(process_kind, write), [array] * 8, chunksize=4)

    assert [1.0] * 8 == results
    assert np.array_equal(numbers(size), array)


@pytest.mark.parametrize("size", SIZES)
def test_a_result_may_be_written_into(process_kind: str, size: int, make_pool: MakePool) -> None:
    """It belongs to who asked for it, also if the task returned a part of its argument, or twice the same."""

    def parts(argument: np.ndarray[Any, Any]) -> Any:
        return argument, argument[::2], [argument]

    (whole, part, (again,)), other = make_pool(process_kind).map(for_kind(process_kind, parts), [numbers(size)] * 2)

    assert_same([numbers(size), numbers(size)[::2].copy()], [whole, part])
    whole[:] = -1
    part[:] = -2
    assert again is whole
    assert_same(numbers(size), other[0])


def test_a_worker_that_gets_no_memory_files_sends_its_results_all_the_same(make_pool: MakePool) -> None:
    """They go through the socket, and can be written into as usual."""

    def task(argument: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        def refuse(*_: object) -> int:
            raise PermissionError(errno.EPERM, "not in this container")

        vars(os)["memfd_create"] = refuse
        return argument * 2

    pool = make_pool("prefork", 1)
    for result in pool.map(task, [numbers()] * 5):
        assert_same(numbers() * 2, result)
    pool.close()  # its worker will never have memory files again


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSPC, errno.EMFILE])
def test_a_kernel_that_gets_no_memory_files_sends_its_items_all_the_same(
    process_kind: str, error: int, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, or out of memory in the middle of one, or out of descriptors."""
    gc.collect()
    before = len(memory._open)
    array = numbers()

    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pwrite", fail)
    results = make_pool(process_kind).map(for_kind(process_kind, lambda one: one + array[1]), [array] * 5)

    for result in results:
        assert_same(array + 1, result)
    assert len(memory._open) <= before


def test_a_kernel_without_mappings_reads_its_results(
    process_kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower, but right; and not at the cost of the mappings that it needs to live."""
    most = len(memory._mapped) + 2
    monkeypatch.setattr(memory, "_most_mapped", lambda: most)
    results = make_pool(process_kind).map(for_kind(process_kind, lambda one: one * 2), [numbers()] * 20, chunksize=1)

    assert most == len(memory._mapped)
    for result in results:
        assert_same(numbers() * 2, result)


def test_hundreds_of_submitted_arrays_leave_descriptors_for_others(make_pool: MakePool) -> None:
    """Those beyond a quarter of what the process may have go through the socket."""
    pool = make_pool("prefork", 2)
    assert [1] == pool.map(len, [[1]])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        futures = [pool.submit(np.sum, numbers(40_000)) for _ in range(200)]
        assert len(memory._open) <= 64
        assert [float(np.sum(numbers(40_000)))] * 200 == [future.result(60) for future in futures]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Captured objects --------------------------------------------------------------------------------------------------


def test_a_captured_array_that_was_changed_in_place_is_seen_changed(process_kind: str, make_pool: MakePool) -> None:
    """By the next run, whatever is kept of the last one; and when it is as before, it is seen as before."""
    array = numbers()
    pool = make_pool(process_kind)
    read = for_kind(process_kind, lambda i: float(array[i]))
    for value in (0.0, 5.0, 0.0, 5.0, 5.0):
        array[0] = value
        assert [value, 99_999.0] == pool.map(read, [0, 99_999])


def test_functions_may_take_turns(process_kind: str, make_pool: MakePool) -> None:
    """Each finds what it captured itself."""
    first, second = numbers(), numbers(start=7)
    pool = make_pool(process_kind)
    for _ in range(3):
        for array in (first, second, first):
            assert [array[3]] * 4 == pool.map(for_kind(process_kind, lambda _: array[3]), range(4))  # noqa: B023


def test_captured_arrays_are_written_once(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers and runs there are, until they change."""
    written: list[int] = []
    real = memory.MemoryFile.create

    def create(buffers: Any, starts: Any) -> memory.MemoryFile:
        written.append(sum(map(len, buffers)))
        return real(buffers, starts)

    monkeypatch.setattr(memory.MemoryFile, "create", create)
    array = numbers()
    pool = make_pool("prefork", 3)
    for _ in range(5):
        assert [5.0] * 9 == pool.map(lambda _: float(array[5]), range(9))
    assert [size >= array.nbytes for size in written].count(True) == 1
    array[5] = 6
    assert [6.0] == pool.map(lambda _: float(array[5]), [0])
    assert [size >= array.nbytes for size in written].count(True) == 2


def test_what_a_task_writes_into_a_captured_array_ends_with_the_run(process_kind: str, make_pool: MakePool) -> None:
    """As the workers of a new run would have it."""
    array = numbers()

    def write(i: int) -> float:
        array[i] += 0.5
        return float(array[i])

    pool = make_pool(process_kind, 1)
    for _ in range(2):
        assert [0.5, 1.5, 2.5] == pool.map(for_kind(process_kind, write), range(3))
    assert np.array_equal(numbers(), array)


def test_new_workers_get_what_is_captured(process_kind: str, make_pool: MakePool) -> None:
    """After a restart, for what is retained was never theirs."""
    array = numbers()
    pool = make_pool(process_kind)
    for _ in range(2):
        assert [3.0] * 4 == pool.map(for_kind(process_kind, lambda _: float(array[3])), range(4))
        pool.restart()


# Workers that die --------------------------------------------------------------------------------------------------


def test_a_worker_that_is_replaced_gets_the_function_too(make_pool: MakePool, gate: Gate) -> None:
    """Its captured arrays are still there to be sent; the others' items and results are not touched."""
    array = numbers()

    def task(item: tuple[int, np.ndarray[Any, Any]]) -> Any:
        number, argument = item
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return argument + array[number]

    pool = make_pool("prefork", 2)
    results = pool.map(task, [(number, numbers()) for number in range(8)], on_error="return")

    assert isinstance(results[2].exception, pm.WorkerLostError)
    for number in (0, 1, 3, 4, 5, 6, 7):
        assert_same(numbers() + number, results[number])


def test_a_worker_killed_before_it_reads_its_large_item_costs_nothing(make_pool: MakePool, gate: Gate) -> None:
    """What is under way to it goes to the next, and its descriptors are closed."""
    pool = make_pool("prefork", 1)
    (pid,) = pool.map(lambda _: os.getpid(), [0])
    before = descriptors()
    os.kill(pid, signal.SIGSTOP)
    futures = [pool.submit(np.sum, numbers()) for _ in range(3)]
    os.kill(pid, signal.SIGKILL)

    assert [float(np.sum(numbers()))] * 3 == [future.result(30) for future in futures]
    del futures
    assert [1] == pool.map(len, [[1]])
    wait_until(lambda: descriptors() <= before, "the descriptors are as before", 10)


def test_a_worker_killed_while_it_sends_a_large_report_is_replaced(make_pool: MakePool, tmp_path: Path) -> None:
    """Half a frame is no report; what was in it is done again, and the run ends."""
    killed = tmp_path / "killed"

    def task(number: int) -> Any:
        from poolmagic.worker import process

        def die(connection: Any, pieces: Any, descriptors: Any) -> Any:
            sent = real(connection, [memoryview(pieces[0])[:20]], descriptors)
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
            return sent

        real = vars(process)["transmit"]
        if number == 1 and not killed.exists():
            vars(process)["transmit"] = die
        return numbers(start=number)

    results = make_pool("prefork", 1).map(task, range(3))

    assert killed.exists()
    assert_same([numbers(start=number) for number in range(3)], results)


# What stays behind -------------------------------------------------------------------------------------------------


def mapped(_: object = None) -> int:
    """How many mappings of memory files the process has that runs this."""
    gc.collect()
    return len(memory._mapped)


@pytest.fixture
def unchanged() -> Iterator[None]:
    """What the kernel has open and mapped must be as before, but for what a pool keeps of its last function."""
    gc.collect()
    most_open, most_mapped = len(memory._open) + 1, len(memory._mapped) + 1
    yield
    gc.collect()
    wait_until(lambda: len(memory._open) <= most_open and len(memory._mapped) <= most_mapped, "all as before", 10)


@pytest.mark.usefixtures("unchanged")
def test_many_maps_over_large_arrays_leave_nothing_behind(process_kind: str, make_pool: MakePool) -> None:
    """Neither in the kernel nor in a worker: memory goes when the last array that views it does."""
    pool = make_pool(process_kind, 1)
    count = for_kind(process_kind, mapped)
    assert [0] == pool.map(count, [0])
    before = descriptors()
    kept = None
    for number in range(60):
        array = numbers(40_000, number)
        kept = pool.map(for_kind(process_kind, lambda one: one + array[0]), [array] * 4)[-1][5:10]  # noqa: B023
    assert_same(numbers(5, 5 + 2 * 59), kept)
    del kept
    assert [0] == pool.map(count, [0])
    wait_until(lambda: descriptors() <= before + 1, "descriptors are as before, but for what the last function had", 10)


@pytest.mark.usefixtures("unchanged")
def test_a_result_keeps_its_memory_only(make_pool: MakePool) -> None:
    """One that is kept does not hold those that came with it, beyond a little."""
    pool = make_pool("prefork", 1)
    assert [0] == pool.map(len, [[]])
    before = mapped()
    results = pool.map(lambda number: numbers(start=number), range(30), chunksize=30)
    assert [0] == pool.map(len, [[]])
    assert before + 10 <= mapped()
    kept = results[7]
    del results
    assert mapped() <= before + 1
    assert_same(numbers(start=7), kept)


@pytest.mark.usefixtures("unchanged")
def test_an_interrupt_while_items_are_written_leaves_nothing_behind(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And loses none of them."""
    pool = make_pool("prefork", 1)
    assert [0] == pool.map(len, [[]])
    before = descriptors()

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.map(np.sum, [numbers()] * 3)
    assert descriptors() <= before  # warm workers of other tests may end meanwhile
    run = pool.last_run
    assert run is not None
    assert [float(np.sum(numbers()))] * 3 == run.resume()
    pool.last_run = None


def test_imap_with_a_slow_consumer_has_a_bounded_number_of_arrays(process_kind: str, make_pool: MakePool) -> None:
    """However long the input is."""
    pool = make_pool(process_kind, 2)
    most = 0
    before = len(memory._open) + len(memory._mapped)
    results = pool.imap(for_kind(process_kind, lambda one: one * 2), map(constant, range(100)), buffersize=4)
    for number, result in enumerate(results):
        assert 2.0 * number == result[0]
        most = max(most, len(memory._open) + len(memory._mapped) - before)
        time.sleep(0.002)
    assert most <= 15


def constant(number: int) -> np.ndarray[Any, Any]:
    return np.full(40_000, float(number))


def test_a_batch_is_not_too_heavy(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut by weight where items are large, however fast they are done."""
    monkeypatch.setattr("poolmagic.feed.HEAVIEST", 10 * LARGE)
    sizes: list[int] = []
    real = memory.MemoryFile.create

    def create(buffers: Any, starts: Any) -> memory.MemoryFile:
        sizes.append(sum(map(len, buffers)))
        return real(buffers, starts)

    monkeypatch.setattr(memory.MemoryFile, "create", create)
    assert [131_072] * 300 == make_pool("prefork", 2).map(len, [np.zeros(131_072)] * 300)
    assert max(sizes) <= 11 * LARGE


def test_more_than_four_gigabytes_travel_in_one_piece(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are 64 bits wide, and a write is repeated until all is written."""
    array = np.zeros((4 << 30) + 4096, dtype="u1")
    places = [0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, len(array) - 1]
    array[places] = range(1, 7)
    real = os.pwrite

    def write_ends(descriptor: int, piece: memoryview, start: int) -> int:
        """Leave out the zeros in the middle, which a file has of itself: they would take seconds and gigabytes."""
        real(descriptor, piece[:4096], start)
        real(descriptor, piece[-4096:], start + len(piece) - min(4096, len(piece)))
        return len(piece)

    monkeypatch.setattr(os, "pwrite", write_ends)
    (found,) = make_pool("prefork", 1).map(lambda one: (len(one), one[places].tolist(), int(one[12345])), [array])

    assert (len(array), [1, 2, 3, 4, 5, 6], 0) == found


def test_tasks_wait_with_large_arguments(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Items are in nobody's way while they wait."""
    port = gate.port
    if working_kind == "asyncio":
        wait = gated("asyncio", port)

        async def task(one: np.ndarray[Any, Any]) -> float:
            await wait(int(one[0]))
            return float(one[-1])

        run = make_pool("asyncio", 4).start(task, [numbers(start=number) for number in range(4)])
    else:

        def plain(one: np.ndarray[Any, Any]) -> float:
            pass_gate(port, int(one[0]))
            return float(one[-1])

        run = make_pool(working_kind, 4).start(plain, [numbers(start=number) for number in range(4)])
    gate.wait_for(4)
    gate.open()
    assert [99_999.0 + number for number in range(4)] == run.result(30)
