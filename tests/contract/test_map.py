"""What `map`, `starmap` and `submit` promise, on every kind."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, open_once_struck
from tests.tasks import Gate, Unloadable, add, for_kind, gated, square


def test_map_gives_what_the_builtin_gives(kind: str, make_pool: MakePool) -> None:
    """The results are a list in the order of the items."""
    pool = make_pool(kind, None if kind == "solo" else 3)

    assert list(map(square, range(1000))) == pool.map(for_kind(kind, square), range(1000))


def test_map_walks_several_iterables_in_step(kind: str, make_pool: MakePool) -> None:
    """As with the builtin, the shortest decides."""
    pool = make_pool(kind)

    assert [11, 22, 33] == pool.map(for_kind(kind, add), [1, 2, 3], iter([10, 20, 30, 40]))


def test_starmap_spreads_each_item_over_the_arguments(kind: str, make_pool: MakePool) -> None:
    """Items are tuples of arguments; defaults hold."""
    assert [3, 107] == make_pool(kind).starmap(for_kind(kind, add), [(1, 2), (7,)])


def test_map_takes_an_item_that_is_a_tuple_as_one_argument(kind: str, make_pool: MakePool) -> None:
    """`map` never unpacks."""
    assert [(2, 1)] == make_pool(kind).map(for_kind(kind, lambda pair: pair[::-1]), [(1, 2)])


def test_a_map_over_nothing_is_an_empty_list(kind: str, make_pool: MakePool) -> None:
    """No items, no results, no waiting."""
    pool = make_pool(kind)

    assert [] == pool.map(for_kind(kind, square), [])
    assert [] == pool.map(for_kind(kind, square), iter(()))


def test_map_works_with_an_input_of_unknown_length(kind: str, make_pool: MakePool) -> None:
    """A generator is read to its end."""
    assert list(range(0, 200, 2)) == make_pool(kind).map(for_kind(kind, lambda x: 2 * x), (x for x in range(100)))


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_any_chunksize_gives_the_same_results(kind: str, chunksize: int, make_pool: MakePool) -> None:
    """`chunksize` is about speed alone."""
    assert [x * x for x in range(50)] == make_pool(kind).map(for_kind(kind, square), range(50), chunksize=chunksize)


def test_a_pool_can_be_used_again_and_again(kind: str, make_pool: MakePool) -> None:
    """One pool, many maps."""
    pool = make_pool(kind)

    for n in range(20):
        assert [x + n for x in range(n)] == pool.map(for_kind(kind, functools.partial(add, n)), range(n))


def test_several_threads_may_map_on_one_pool_at_once(kind: str, make_pool: MakePool) -> None:
    """Nobody gets another's results."""
    pool = make_pool(kind)
    results: dict[int, list[int]] = {}

    def use(n: int) -> None:
        results[n] = pool.map(for_kind(kind, functools.partial(add, 1000 * n)), range(300), progress=False)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {n: [1000 * n + x for x in range(300)] for n in range(5)} == results


def test_items_are_read_in_the_thread_that_maps(kind: str, make_pool: MakePool) -> None:
    """Iterators that belong to one thread, such as database cursors, work."""
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for item in range(100):
            threads.add(threading.get_ident())
            yield item

    make_pool(kind).map(for_kind(kind, square), items())

    assert {threading.get_ident()} == threads


def test_an_error_of_the_input_is_raised_as_it_is(kind: str, make_pool: MakePool) -> None:
    """What the iterator raises comes out of `map`, and the pool is fit for the next one."""
    pool = make_pool(kind)

    def items() -> Iterator[int]:
        yield from range(20)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        pool.map(for_kind(kind, square), items())
    assert [4] == pool.map(for_kind(kind, square), [2])


def test_tasks_run_at_the_same_time(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """As many as the concurrency says: all of them are under way before one ends."""
    run = make_pool(working_kind, 4).start(gated(working_kind, gate.port), range(8))

    first = gate.wait_for(4)
    gate.open()

    assert {"0", "1", "2", "3"} == set(first)
    assert list(range(8)) == run.result(30)


def test_no_more_tasks_run_than_the_concurrency_says(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Two at a time, of many."""
    pool = make_pool(working_kind, 2)
    run = pool.start(gated(working_kind, gate.port), range(10))
    gate.wait_for(2)

    assert 2 == pool.snapshot().busy
    assert 2 == len(gate.arrived)
    gate.open()
    assert list(range(10)) == run.result(30)


def test_submit_returns_a_standard_future(kind: str, make_pool: MakePool) -> None:
    """Its calling convention is that of `concurrent.futures`, keywords named like our own included."""
    pool = make_pool(kind)

    def task(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    future = pool.submit(for_kind(kind, task), 1, 2, chunksize=3, f=4)

    assert isinstance(future, concurrent.futures.Future)
    assert ((1, 2), {"chunksize": 3, "f": 4}) == future.result(30)
    assert future.done()
    assert future.exception() is None


def test_submit_reports_the_tasks_exception(kind: str, make_pool: MakePool) -> None:
    """By `exception` and by `result`."""

    def fail() -> None:
        raise KeyError("gone")

    future = make_pool(kind).submit(for_kind(kind, fail))

    assert isinstance(future.exception(30), KeyError)
    with pytest.raises(KeyError, match="gone"):
        future.result()


def test_futures_work_with_wait_as_completed_and_callbacks(kind: str, make_pool: MakePool) -> None:
    """All that the standard library does with futures."""
    pool = make_pool(kind)
    futures = [pool.submit(for_kind(kind, square), n) for n in range(20)]
    called: list[int] = []
    all_called = threading.Event()

    def callback(future: concurrent.futures.Future[int]) -> None:
        called.append(future.result())
        if len(called) == 20:
            all_called.set()

    for future in futures:
        future.add_done_callback(callback)

    assert sorted(n * n for n in range(20)) == sorted(f.result() for f in concurrent.futures.as_completed(futures, 30))
    assert all_called.wait(30)
    assert not concurrent.futures.wait(futures, 30).not_done


def test_a_future_can_be_cancelled_before_and_while_it_runs(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """And the pool is fit for the next task."""
    pool = make_pool(working_kind, 1)
    running = pool.submit(gated(working_kind, gate.port), "running")
    gate.wait_for(1)
    waiting = pool.submit(gated(working_kind, gate.port), "waiting")

    assert running.running()
    assert waiting.cancel()
    assert running.cancel()
    assert running.cancelled()
    if working_kind == "threads":
        open_once_struck(pool, gate)
    assert 4 == pool.submit(for_kind(working_kind, square), 2).result(30)
    assert "waiting" not in gate.arrived


def test_an_argument_that_cannot_be_pickled_fails_its_item_alone(process_kind: str, make_pool: MakePool) -> None:
    """The items around it are fine."""
    items = [1, threading.Lock(), 3]

    results = make_pool(process_kind).map(for_kind(process_kind, lambda x: x), items, on_error="return")

    assert [1, 3] == [results[0], results[2]]
    assert isinstance(results[1].exception, pm.PayloadError)
    assert "cannot pickle" in str(results[1].exception)


@pytest.mark.parametrize("bad", ["generator", "unloadable"])
def test_a_result_that_cannot_travel_fails_its_item_alone(process_kind: str, bad: str, make_pool: MakePool) -> None:
    """Whether it cannot be pickled there or unpickled here."""

    def task(x: int) -> Any:
        if x != 5:
            return x
        return (number for number in range(3)) if bad == "generator" else Unloadable()

    results = make_pool(process_kind).map(for_kind(process_kind, task), range(10), on_error="return")

    assert [0, 1, 2, 3, 4, 6, 7, 8, 9] == [value for value in results if not isinstance(value, pm.Failure)]
    assert isinstance(results[5].exception, pm.PayloadError)


def test_an_argument_that_cannot_be_unpickled_fails_its_item_alone(process_kind: str, make_pool: MakePool) -> None:
    """The task of that item does not run, the others do."""
    items = [1, Unloadable(), 3]

    results = make_pool(process_kind).map(for_kind(process_kind, lambda x: x), items, on_error="return")

    assert [1, 3] == [results[0], results[2]]
    assert isinstance(results[1].exception, pm.PayloadError)


def test_nothing_is_pickled_for_threads(make_pool: MakePool) -> None:
    """Tasks use and change the notebook's own objects, and give back the very objects."""
    lock, seen = threading.Lock(), []

    def task(x: object) -> object:
        with lock:
            seen.append(x)
        return x

    items = [object(), threading.Lock(), iter(())]
    results = make_pool("threads", 2).map(task, items)

    assert all(result is item for result, item in zip(results, items, strict=True))
    assert 3 == len(seen)


def test_a_callback_may_cancel_the_future_that_it_is_called_for(working_kind: str, make_pool: MakePool) -> None:
    """And all the others."""
    pool = make_pool(working_kind, 1)
    futures = [pool.submit(for_kind(working_kind, square), n) for n in range(6)]
    for future in futures:
        future.add_done_callback(lambda _: [one.cancel() for one in futures])

    futures[5].cancel()

    assert not concurrent.futures.wait(futures, 30).not_done
