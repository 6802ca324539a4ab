"""What the lazy iterators promise, on every kind."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator

import pytest

import poolmagic as pm
from tests.conftest import MakePool, open_once_struck, wait_until
from tests.tasks import Gate, for_kind, gated, square


def counting(read: list[int]) -> Iterator[int]:
    """Count for ever, and note what was read."""
    for number in itertools.count():
        read.append(number)
        yield number


def test_imap_gives_results_in_order(kind: str, make_pool: MakePool) -> None:
    """As the builtin `map`."""
    assert list(map(square, range(500))) == list(make_pool(kind).imap(for_kind(kind, square), range(500)))


def test_imap_unordered_gives_all_results(kind: str, make_pool: MakePool) -> None:
    """Each one once, in any order."""
    results = list(make_pool(kind).imap_unordered(for_kind(kind, square), range(500)))

    assert [x * x for x in range(500)] == sorted(results)


def test_imap_unordered_tells_the_index_of_each_result(kind: str, make_pool: MakePool) -> None:
    """With `with_index` one knows which item a result belongs to."""
    pairs = make_pool(kind).imap_unordered(for_kind(kind, square), range(5, 100), with_index=True)

    assert {index: (index + 5) ** 2 for index in range(95)} == dict(pairs)


def test_results_come_as_they_are_ready(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """`imap_unordered` does not wait for a task that takes long."""
    wait = gated(working_kind, gate.port)
    if working_kind == "asyncio":

        async def task(x: int) -> int:
            return await wait(x) if x == 0 else x

    else:

        def task(x: int) -> int:  # type: ignore[misc]
            return wait(x) if x == 0 else x

    results = make_pool(working_kind, 2).imap_unordered(task, range(6), chunksize=1)

    assert {1, 2, 3, 4, 5} == {next(results) for _ in range(5)}
    gate.open()
    assert [0] == list(results)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("buffersize", [1, 5, 40])
def test_no_more_than_buffersize_is_read_ahead(
    kind: str, *, ordered: bool, buffersize: int, make_pool: MakePool
) -> None:
    """Of an endless input, with a consumer that takes its time."""
    pool = make_pool(kind, None if kind == "solo" else 3)
    read: list[int] = []
    imap = pool.imap if ordered else pool.imap_unordered
    results = imap(for_kind(kind, square), counting(read), buffersize=buffersize)

    for taken in range(1, 60):
        next(results)
        assert len(read) <= taken + buffersize
    results.close()


def test_endless_input_works_without_a_buffersize(kind: str, make_pool: MakePool) -> None:
    """What is read ahead is bounded by what the workers have in hand."""
    read: list[int] = []
    results = make_pool(kind).imap(for_kind(kind, square), counting(read))

    assert [x * x for x in range(2000)] == [next(results) for _ in range(2000)]
    results.close()


def test_nothing_is_read_before_the_first_result_is_asked_for(kind: str, make_pool: MakePool) -> None:
    """The iterators are lazy."""
    read: list[int] = []
    results = make_pool(kind).imap(for_kind(kind, square), counting(read))

    assert [] == read
    assert 0 == next(results)
    results.close()


def test_the_iterators_have_a_length_if_the_input_has(kind: str, make_pool: MakePool) -> None:
    """So that a user's own tqdm shows how far it is."""
    pool = make_pool(kind)
    results = pool.imap(for_kind(kind, square), range(7))

    assert 7 == len(results)
    assert 7 == len(list(results))
    endless = pool.imap(for_kind(kind, square), counting([]))
    with pytest.raises(TypeError):
        len(endless)
    endless.close()


def test_an_iterator_that_is_never_consumed_warns(kind: str, make_pool: MakePool) -> None:
    """It did nothing, which is hardly what was meant."""
    with pytest.warns(pm.UnconsumedWarning, match="never consumed"):
        del_soon(make_pool(kind).imap(for_kind(kind, square), range(3)))


def del_soon(results: object) -> None:
    """Throw the last reference away."""


def test_an_error_comes_at_the_items_turn(kind: str, make_pool: MakePool) -> None:
    """What came before it is given out; after it the iterator is at its end."""
    results = make_pool(kind, None if kind == "solo" else 1).imap(
        for_kind(kind, lambda x: 1 // (x - 3)), range(10), chunksize=1
    )

    assert [-1, -1, -1] == [next(results) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert [] == list(results)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_errors_can_be_returned_or_left_out(kind: str, *, ordered: bool, make_pool: MakePool) -> None:
    """As with `map`."""
    pool = make_pool(kind)
    imap = pool.imap if ordered else pool.imap_unordered

    def task(x: int) -> int:
        if x % 3 == 0:
            raise ValueError(x)
        return x

    results = list(imap(for_kind(kind, task), range(10), on_error="return"))
    assert [0, 3, 6, 9] == sorted(result.item for result in results if isinstance(result, pm.Failure))
    assert [1, 2, 4, 5, 7, 8] == sorted(result for result in results if isinstance(result, int))
    assert [1, 2, 4, 5, 7, 8] == sorted(imap(for_kind(kind, task), range(10), on_error="skip"))


# A thread that is stopped while it opens a connection leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_leaving_a_loop_early_frees_the_pool(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """The tasks that run are stopped and the next map gets the workers."""
    pool = make_pool(working_kind, 2)
    wait = gated(working_kind, gate.port)
    if working_kind == "asyncio":

        async def task(x: int) -> int:
            return x if x == 0 else int(await wait(x))

    else:

        def task(x: int) -> int:  # type: ignore[misc]
            return x if x == 0 else int(wait(x))

    for result in pool.imap(task, itertools.count(), chunksize=1):
        assert 0 == result
        gate.wait_for(1)
        break
    if working_kind == "threads":
        open_once_struck(pool, gate)

    assert [9] == pool.map(for_kind(working_kind, square), [3])
    wait_until(lambda: pool.snapshot().runs == 0, "the cancelled run is over")
    gc.collect()
