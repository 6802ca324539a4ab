"""Random numbers: an item has its own, on every kind of pool, whatever else is different from one run to the next."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poolmagic as pm
from poolmagic import errors
from tests.conftest import MakePool, wait_until
from tests.tasks import PROCESS_KINDS, Gate, for_kind, gated

SOON: Any = {"retry_backoff": 0.001}


def draw(x: int) -> tuple[int, float, float]:
    """Draw from the generator of the item, which is the same one each time."""
    return x, pm.rng().random(), float(pm.rng().normal())


def draw_global(x: int) -> tuple[int, float, float, int]:
    """Draw from the generators of the process, and leave them in a state that depends on the item."""
    drawn = x, random.random(), float(np.random.normal()), int(np.random.randint(1000))  # noqa: NPY002
    for _ in range(x % 5):
        random.random()
        np.random.rand()  # noqa: NPY002
    return drawn


def expected(indices: range, seed: int = 7) -> list[tuple[int, float, float]]:
    """Return what `draw` gives, as the documentation says that it comes to be."""
    found = []
    for index in indices:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
        found.append((index, generator.random(), float(generator.normal())))
    return found


def globals_of(count: int, seed: int = 7) -> list[Any]:
    """Return what `draw_global` gives on a solo pool."""
    return pm.Pool("solo").map(draw_global, range(count), seed=seed)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What was said once, from now on."""
    monkeypatch.setattr(errors, "_said", set())
    return errors._said


# The numbers of an item --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_the_numbers_of_an_item_depend_on_seed_and_index_alone(
    kind: str, concurrency: int, make_pool: MakePool
) -> None:
    """On every kind, at any concurrency, in any batches and order."""
    pool = make_pool(kind, None if kind == "solo" else concurrency)
    task = for_kind(kind, draw)

    assert expected(range(200)) == pool.map(task, range(200), seed=7)
    assert expected(range(40)) == pool.map(task, range(40), seed=7, chunksize=3)
    assert expected(range(40)) == list(pool.imap(task, range(40), seed=7))
    assert expected(range(40)) == sorted(pool.imap_unordered(task, iter(range(40)), seed=7))
    assert expected(range(40)) == pool.starmap(task, zip(range(40)), seed=7)
    assert expected(range(40), 8) == pool.start(task, range(40), seed=8).result(30)


def test_the_same_numbers_after_an_interrupt_and_a_resume(kind: str, make_pool: MakePool, gate: Gate) -> None:
    """What was finished keeps its numbers, and the rest gets those that it would have had."""
    pool = make_pool(kind, None if kind == "solo" else 2)
    wait = gated(kind, gate.port)

    if kind == "asyncio":

        async def task(x: int) -> Any:
            if x >= 3:
                await wait(x)
            return draw(x)

    else:

        def task(x: int) -> Any:  # type: ignore[misc]
            if x >= 3:
                wait(x)
            return draw(x)

    def interrupt() -> None:
        gate.wait_for(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(task, range(20), chunksize=1, seed=7)
    gate.open()
    run = caught.value.run  # type: ignore[attr-defined]
    wait_until(lambda: pool.snapshot().busy == 0, "what was interrupted has ended")

    assert expected(range(20)) == run.resume()
    assert 7 == run.seed


def test_the_same_numbers_after_failures_and_a_resume(kind: str, make_pool: MakePool) -> None:
    """With a repaired function, and also for the items that come after those that were left over."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    def broken(x: int) -> Any:
        if x in (5, 11, 12):
            raise ValueError(x)
        return draw(x)

    run = pool.start(for_kind(kind, broken), iter(range(30)), on_error="skip")
    first = dict(enumerate(run.result(30)))
    assert 27 == len(first)
    assert expected(range(30), run.seed) == run.resume(for_kind(kind, draw))

    run = pool.start(for_kind(kind, broken), iter(range(300)), chunksize=2)
    with pytest.raises(ValueError, match=r"5|11|12"):
        run.result(30)
    assert expected(range(300), run.seed) == run.resume(for_kind(kind, draw))


def test_a_retry_begins_anew(kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """Whatever the attempt before had drawn."""

    def flaky(x: int) -> Any:
        if not (tmp_path / str(x)).exists():
            (tmp_path / str(x)).touch()
            pm.rng().random(x + 1)
            raise OSError(x)
        return draw(x)

    pool = make_pool(kind, None if kind == "solo" else 1)

    assert expected(range(10)) == pool.map(for_kind(kind, flaky), range(10), seed=7, retries=1, **SOON)
    assert expected(range(1)) == pool.map(for_kind(kind, draw), range(1), seed=7)


def test_an_item_whose_worker_died_begins_anew(process_kind: str, make_pool: MakePool, tmp_path: Path) -> None:
    """The worker that takes its place draws the same."""

    def deadly(x: int) -> Any:
        before = draw(x)
        if x == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return before

    assert expected(range(8)) == make_pool(process_kind, 2).map(for_kind(process_kind, deadly), range(8), seed=7)


def test_without_a_seed_one_is_drawn_and_recorded(kind: str, make_pool: MakePool) -> None:
    """No two runs have the same numbers, but each can be had again."""
    pool = make_pool(kind, None if kind == "solo" else 2)
    task = for_kind(kind, draw)

    first, second = (pool.start(task, range(20)) for _ in range(2))

    assert first.result(30) != second.result(30)
    assert first.seed != second.seed
    assert first.result() == expected(range(20), first.seed) == pool.map(task, range(20), seed=first.seed)
    results = pool.imap(task, range(20))
    assert list(results) == expected(range(20), results.seed)


def test_a_pool_may_have_a_seed(kind: str, make_pool: MakePool) -> None:
    """For its maps that name none; a task that is submitted has the number of those before it as its index."""
    pool = make_pool(kind, None if kind == "solo" else 2, seed=7)
    task = for_kind(kind, draw)

    assert expected(range(20)) == pool.map(task, range(20))
    assert expected(range(20), 1) == pool.map(task, range(20), seed=1)
    assert expected(range(5)) == [pool.submit(task, x).result(30) for x in range(5)]


def test_submitted_tasks_have_numbers_too(kind: str, make_pool: MakePool) -> None:
    """No two of them the same."""
    pool = make_pool(kind, None if kind == "solo" else 2)

    drawn = [pool.submit(for_kind(kind, draw), 0).result(30) for _ in range(6)]

    assert 6 == len(set(drawn))


def test_what_a_coroutine_starts_draws_from_its_item(make_pool: MakePool) -> None:
    """The generator is that of the item, whichever of its coroutines asks."""

    async def part() -> Any:
        await asyncio.sleep(0)
        return pm.rng()

    async def task(x: int) -> Any:
        both = await asyncio.gather(part(), part())
        assert both[0] is both[1] is pm.rng()
        await asyncio.to_thread(pm.rng)
        return draw(x)

    assert expected(range(20)) == make_pool("asyncio", 8).map(task, range(20), seed=7)


def test_a_green_task_that_waits_keeps_its_numbers(make_pool: MakePool, gate: Gate) -> None:
    """The tasks that run meanwhile have others."""
    wait = gated("gevent", gate.port)

    def task(x: int) -> Any:
        before = pm.rng()
        wait(x)
        assert pm.rng() is before
        return draw(x)

    run = make_pool("gevent", 8).start(task, range(8), seed=7)
    gate.wait_for(8)
    gate.open()
    assert expected(range(8)) == run.result(30)


def test_a_map_in_a_task_has_a_seed_of_its_own(make_pool: MakePool) -> None:
    """Drawn, or given; and the task goes on with its own numbers."""

    def task(x: int) -> Any:
        first = pm.rng().random()
        with pm.Pool("solo") as inner:
            drawn = inner.map(draw, range(3))
            again = inner.map(draw, range(3), seed=5)
        return x, first, float(pm.rng().normal()), drawn, again

    for kind in ("prefork", "threads", "solo"):
        results = make_pool(kind, None if kind == "solo" else 2).map(task, range(4), seed=7)
        assert expected(range(4)) == [result[:3] for result in results]
        assert 4 == len({result[3][0] for result in results})
        assert [expected(range(3), 5)] * 4 == [result[4] for result in results]


def test_outside_of_a_task_there_are_none(kind: str, make_pool: MakePool) -> None:
    """One line says so, in the kernel and in a thread that the task has started by itself."""

    def task(x: int) -> str:
        told: list[str] = []

        def ask() -> None:
            try:
                pm.rng()
            except pm.UsageError as error:
                told.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return told[0]

    if kind not in ("gevent", "eventlet"):  # whose threads are green, and belong to the task
        assert (
            "pm.rng() is for tasks" in make_pool(kind, None if kind == "solo" else 1).map(for_kind(kind, task), [0])[0]
        )
    with pytest.raises(pm.UsageError, match=r"pm.rng\(\) is for tasks"):
        pm.rng()


# The generators of the process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_with_a_seed_the_global_generators_are_seeded_for_each_item(concurrency: int, make_pool: MakePool) -> None:
    """On prefork as on solo: whatever ran in the worker before."""
    pool = make_pool("prefork", concurrency)

    assert globals_of(60) == pool.map(draw_global, range(60), seed=7)
    assert globals_of(60) == pool.map(draw_global, range(60), seed=7, chunksize=7)
    assert globals_of(60) == pool.map(draw_global, range(60), seed=7, time_limit=60)
    assert 60 == len({drawn[1:] for drawn in globals_of(60)})
    assert globals_of(60, 8) != globals_of(60)


@pytest.mark.parametrize("alone", ["prefork", "solo"])
def test_global_numbers_are_the_same_after_an_interrupt(alone: str, make_pool: MakePool, gate: Gate) -> None:
    """As those of the items are."""
    wait = gated("prefork", gate.port)

    def task(x: int) -> Any:
        drawn = draw_global(x)
        if x == 3:
            wait(x)
        return drawn

    def interrupt() -> None:
        gate.wait_for(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pool = make_pool(alone, None if alone == "solo" else 2)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(task, range(20), seed=7)
    gate.open()
    assert globals_of(20) == caught.value.run.resume()  # type: ignore[attr-defined]


def test_an_item_that_is_tried_again_has_the_same_global_numbers(make_pool: MakePool, tmp_path: Path) -> None:
    """An attempt begins where the one before it began."""

    def flaky(x: int) -> Any:
        drawn = draw_global(x)
        if not (tmp_path / f"{os.getpid()}.{x}").exists() and not list(tmp_path.glob(f"*.{x}")):
            (tmp_path / f"{os.getpid()}.{x}").touch()
            raise OSError(x)
        return drawn

    for kind in ("prefork", "solo"):
        for file in tmp_path.iterdir():
            file.unlink()
        pool = make_pool(kind, None if kind == "solo" else 2)
        assert globals_of(10) == pool.map(flaky, range(10), seed=7, retries=1, **SOON)


def test_numbers_of_items_and_global_ones_have_nothing_to_do_with_each_other(make_pool: MakePool) -> None:
    """Drawing from the one does not change the other, and neither repeats the other."""

    def both(x: int) -> Any:
        drawn = draw(x)
        return drawn, draw_global(x)

    results: list[Any] = []
    for kind in ("prefork", "solo"):
        results = make_pool(kind, None if kind == "solo" else 2).map(both, range(20), seed=7)
        assert expected(range(20)) == [result[0] for result in results]
        assert globals_of(20) == [result[1] for result in results]
    numbers = [number for drawn, of_process in results for number in (*drawn[1:], *of_process[1:3])]
    assert len(numbers) == len(set(numbers))


def test_solo_puts_the_kernels_generators_back(make_pool: MakePool) -> None:
    """Also when a task fails; and the input draws from where the kernel was."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    wanted = [random.random() for _ in range(4)], np.random.rand(3).tolist()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    pool = make_pool("solo")

    def items() -> Iterator[float]:
        for _ in range(3):
            yield random.random()

    items_drawn: list[float] = pool.map(lambda item: [item, random.random()][0], items(), seed=7)
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda x: random.random() / 0, [1], seed=7)

    assert wanted == ([*items_drawn, random.random()], np.random.rand(3).tolist())  # noqa: NPY002


def test_without_a_seed_workers_share_no_stream(make_pool: MakePool, gate: Gate) -> None:
    """Each begins somewhere else; and nobody seeds the kernel."""
    before = random.getstate()
    port = gate.port

    def task(x: int) -> Any:
        from tests.tasks import pass_gate

        pass_gate(port, x)
        return os.getpid(), random.random(), float(np.random.rand())  # noqa: NPY002

    run = make_pool("prefork", 3).start(task, range(3), chunksize=1)
    gate.wait_for(3)
    gate.open()
    assert [3, 3, 3] == [len(set(column)) for column in zip(*run.result(30), strict=True)]
    assert before == random.getstate()


@pytest.mark.parametrize("shared", ["gevent", "eventlet", "asyncio", "threads"])
def test_where_tasks_run_at_once_global_numbers_are_refused_in_one_line(
    shared: str, make_pool: MakePool, said: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once; `rng` has its numbers all the same, and the generators of the process are left alone."""
    before = random.getstate()
    pool = make_pool(shared, 2)

    for _ in range(2):
        assert expected(range(10)) == pool.map(for_kind(shared, draw), range(10), seed=7)

    lines = [line for line in capsys.readouterr().err.splitlines() if "seed=" in line]
    assert 1 == len(lines)
    assert f"random and numpy.random cannot be seeded for each item on {shared}" in lines[0]
    assert before == random.getstate()
    drawn = [pool.map(for_kind(shared, draw_global), range(4), seed=7) for _ in range(2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("alone", ["prefork", "solo"])
def test_where_they_run_alone_there_is_nothing_to_say(
    alone: str, make_pool: MakePool, said: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed is no reason for a line."""
    make_pool(alone, None if alone == "solo" else 1).map(draw, range(3), seed=7)
    assert "seed" not in capsys.readouterr().err


# Without NumPy -----------------------------------------------------------------------------------------------------


def without_numpy(f: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return a task that runs where NumPy cannot be imported."""

    def task(x: int) -> Any:
        import sys

        before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "numpy"}
        for name in before:
            sys.modules.pop(name)
        sys.modules["numpy"] = None  # type: ignore[assignment]
        try:
            return f(x)
        finally:
            del sys.modules["numpy"]
            sys.modules.update(before)

    return task


def test_without_numpy_an_item_has_a_generator_of_the_standard_library(make_pool: MakePool) -> None:
    """The same on all kinds, too."""

    def task(x: int) -> Any:
        assert isinstance(pm.rng(), random.Random)
        return pm.rng().random(), pm.rng().random()

    wanted = make_pool("solo").map(without_numpy(task), range(6), seed=7)
    assert 6 == len(set(wanted))
    for kind in PROCESS_KINDS:
        pool = make_pool(kind, 1)
        assert wanted == pool.map(for_kind(kind, without_numpy(task)), range(6), seed=7)


def test_what_a_worker_makes_once_is_not_made_of_one_items_numbers(kind: str, make_pool: MakePool) -> None:
    """Or the items would have others, depending on which of them came first."""

    def make() -> str:
        try:
            pm.rng()
        except pm.UsageError as error:
            return str(error)
        return "the numbers of an item"

    handle = pm.once(make)

    def task(x: int) -> Any:
        return handle(), draw(x)

    pool = make_pool(kind, None if kind == "solo" else 2)
    results = pool.map(for_kind(kind, task), range(5), seed=7)
    assert expected(range(5)) == [result[1] for result in results]
    assert all("pm.rng() is for tasks" in result[0] for result in results)
