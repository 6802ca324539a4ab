"""One item of a run again, in the calling thread, as its worker had it; a notebook does that under the debugger."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

import poolmagic as pm
from poolmagic.replay import Replay, latest
from tests.conftest import MakePool
from tests.tasks import Gate, for_kind, gated


def failed_run(pool: pm.Pool, f: Callable[..., Any], items: Any, **options: Any) -> pm.Run:
    """Return the run of a map that fails."""
    with pytest.raises(pm.PoolMagicError if f is leave else ValueError):
        pool.map(f, items, **options)
    assert pool.last_run is not None
    return pool.last_run


def refuse(item: int) -> int:
    """Refuse item 3."""
    if item == 3:
        raise ValueError(f"refused {item}")
    return item


def leave(item: int) -> None:
    """End the process."""
    os._exit(3)


def test_a_failed_item_fails_again(kind: str, make_pool: MakePool) -> None:
    """With the very error, in this thread."""
    run = failed_run(make_pool(kind, 1), for_kind(kind, refuse), range(6))
    replay = Replay(run, 3)
    assert (3, 3) == (replay.index, replay.item)
    with pytest.raises(ValueError, match="refused 3"):
        replay()


def test_captured_values_are_those_that_were_sent(process_kind: str, make_pool: MakePool) -> None:
    """What has changed here since does not count."""
    limit = [3]

    def check(item: int) -> str:
        if item >= limit[0]:
            raise ValueError(f"{item} of {limit[0]}")
        return "fine"

    f = for_kind(process_kind, check)
    run = failed_run(make_pool(process_kind, 1), f, range(6))
    limit[0] = 99
    with pytest.raises(ValueError, match="3 of 3"):
        Replay(run, 3)()


def test_several_arguments_are_told_apart(kind: str, make_pool: MakePool) -> None:
    """As in the map."""

    def add(left: int, right: int) -> int:
        if left == 2:
            raise ValueError(f"{left} and {right}")
        return left + right

    pool = make_pool(kind, 1)
    with pytest.raises(ValueError, match="2 and 20"):
        pool.map(for_kind(kind, add), [1, 2, 3], [10, 20, 30])
    run = pool.last_run
    assert run is not None
    with pytest.raises(ValueError, match="2 and 20"):
        Replay(run, 1)()


def test_random_numbers_are_the_same(kind: str, make_pool: MakePool) -> None:
    """The item's own, in coroutines, too."""

    def draw(item: int) -> None:
        if item == 2:
            raise ValueError(str(pm.rng().random()))

    run = failed_run(make_pool(kind, 1), for_kind(kind, draw), range(4), seed=11)
    with pytest.raises(ValueError) as again:  # noqa: PT011 - the text is compared below
        Replay(run, 2)()
    assert str(run.failures[0].exception) == str(again.value)


def test_global_random_numbers_are_the_same_and_ours_go_on(make_pool: MakePool) -> None:
    """Where the run has seeded them."""

    def draw(item: int) -> None:
        raise ValueError(str(random.random()))

    run = failed_run(make_pool("prefork", 1), draw, range(1), seed=11)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with pytest.raises(ValueError) as again:  # noqa: PT011 - the text is compared below
        Replay(run, 0)()
    assert str(run.failures[0].exception) == str(again.value)
    assert expected == random.random()


def test_an_item_that_runs_can_be_run_here_beside(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """It is kept until its outcome is there."""
    run = make_pool(working_kind, 1).start(gated(working_kind, gate.port), "abc")
    gate.wait_for(1)
    replay = Replay(run, 0)
    gate.open()
    assert "a" == replay()
    assert ["a", "b", "c"] == run.result(30)


def test_there_are_no_other_items(kind: str, make_pool: MakePool) -> None:
    """One that was never read cannot be had either."""
    run = failed_run(make_pool(kind, 1), for_kind(kind, refuse), [3, 4])
    with pytest.raises(pm.UsageError, match=r"item 77 of .* is not here"):
        Replay(run, 77)


def test_what_has_returned_is_not_kept(kind: str, make_pool: MakePool) -> None:
    """Its arguments may be large."""
    run = failed_run(make_pool(kind, 1), for_kind(kind, refuse), [1, 2, 3], chunksize=1)
    with pytest.raises(pm.UsageError, match="item 0 of refuse returned"):
        Replay(run, 0)


def test_an_item_that_ended_its_worker_says_so(make_pool: MakePool) -> None:
    """It would end this process in the same way."""
    run = failed_run(make_pool("prefork", 1), leave, [1], crash_retries=0)
    assert isinstance(Replay(run, 0).lost, pm.WorkerLostError)


def test_a_coroutine_is_run_in_a_loop_even_inside_of_one(make_pool: MakePool) -> None:
    """As in a notebook, whose cells run in a loop."""
    run = failed_run(make_pool("asyncio", 1), for_kind("asyncio", refuse), [3])

    async def inside() -> None:
        with pytest.raises(ValueError, match="refused 3"):
            Replay(run, 0)()

    asyncio.run(inside())


def test_the_latest_run_is_the_one_that_ended_last(make_pool: MakePool) -> None:
    """A run that is resumed ends again."""
    pool = make_pool("solo")
    first = failed_run(pool, refuse, [3])
    second = failed_run(pool, refuse, [3])
    assert second is latest([first, second])
    with pytest.raises(ValueError, match="refused"):
        first.resume()
    assert first is latest([first, second])
