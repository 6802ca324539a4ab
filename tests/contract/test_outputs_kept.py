"""What the items of a run print is kept with the run, on every kind whose tasks run beside the caller."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import poolmagic as pm
from poolmagic.errors import UsageError
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated


def talk(item: int) -> int:
    """Print to both streams."""
    print("out", item)
    print("err", item, file=sys.stderr)
    print("open", item, end="")
    return item


def test_each_item_has_its_own_output(working_kind: str, make_pool: MakePool) -> None:
    """In order, both streams together, to the last letter."""
    run = make_pool(working_kind, 3).start(for_kind(working_kind, talk), range(50), progress=False)
    assert list(range(50)) == run.result()
    assert {item: f"out {item}\nerr {item}\nopen {item}" for item in range(50)} == run.outputs
    assert "" == run.outputs.rest


def test_items_are_known_by_their_place_in_the_input(working_kind: str, make_pool: MakePool) -> None:
    """Also when the run was resumed, and then the output of both tries is there."""

    def picky(item: int) -> int:
        print("item", item)
        if item == 2:
            raise ValueError(item)
        return item

    run = make_pool(working_kind, 1).start(for_kind(working_kind, picky), range(5), chunksize=1, progress=False)
    with pytest.raises(ValueError, match="2"):
        run.result()
    assert "item 2\n" == run.outputs[2]
    assert list(range(5)) == run.resume(for_kind(working_kind, talk))
    assert "item 2\nout 2\nerr 2\nopen 2" == run.outputs[2]
    assert "item 0\n" == run.outputs[0]


def test_an_item_that_is_tried_again_has_the_output_of_all_tries(working_kind: str, make_pool: MakePool) -> None:
    """One behind the other."""

    def fail(item: int) -> None:
        print("try")
        raise ConnectionError

    pool = make_pool(working_kind, 1)
    options: dict[str, Any] = {"retries": 2, "retry_backoff": 0.001, "progress": False}
    run = pool.start(for_kind(working_kind, fail), [0], **options)
    with pytest.raises(ConnectionError):
        run.result()
    assert "try\n" * 3 == run.outputs[0]


def test_output_can_be_read_while_the_item_runs(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """What has come of it."""
    wait = gated(working_kind, gate.port)

    def task(item: int) -> Any:
        print("waiting")
        return wait(item)

    async def coroutine(item: int) -> Any:
        print("waiting")
        return await wait(item)

    run = make_pool(working_kind, 1).start(coroutine if working_kind == "asyncio" else task, [0], progress=False)
    gate.wait_for(1)
    wait_until(lambda: run.outputs[0] == "waiting\n", "the line is there")
    gate.open()
    run.result()


def test_ten_megabytes_are_kept_to_the_last_letter(working_kind: str, make_pool: MakePool) -> None:
    """Most of it in the file; the items beside it are not disturbed."""

    def flood(item: int) -> int:
        for part in range(100):
            sys.stdout.write(f"{item} {part} é".ljust(99_999) + "\n")
        return item

    run = make_pool(working_kind, 2).start(for_kind(working_kind, flood), range(2), progress=False)
    assert [0, 1] == run.result()
    for item in range(2):
        assert "".join(f"{item} {part} é".ljust(99_999) + "\n" for part in range(100)) == run.outputs[item]


def test_what_was_not_shown_is_found_in_the_last_run(
    working_kind: str, make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a map, which gives no handle."""
    quiet, pool = make_pool(working_kind, 1), make_pool(working_kind, 1)
    quiet.map(for_kind(working_kind, lambda item: print("quiet")), [0])
    assert quiet.last_run is None
    pool.map(for_kind(working_kind, lambda item: print(("x" * 99 + "\n") * 10_000, end="")), [0])
    out, err = capsys.readouterr()
    assert len(out) < 500_000
    assert "of item 0 not shown; all of it is in .outputs[0] of the run, pool.last_run" in err
    assert pool.last_run is not None
    assert ("x" * 99 + "\n") * 10_000 == pool.last_run.outputs[0]


def test_lines_have_the_index_of_their_item_if_that_is_asked_for(
    working_kind: str, make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody looks on, only then; a pool may have it for all of its runs."""
    task = for_kind(working_kind, lambda item: print("hello"))
    make_pool(working_kind, 1).map(task, range(2))
    assert "hello\nhello\n" == capsys.readouterr().out
    make_pool(working_kind, 1).map(task, range(2), prefix=True)
    assert ["[0] hello", "[1] hello"] == sorted(capsys.readouterr().out.splitlines())
    pool = make_pool(working_kind, 1, prefix=True)
    assert [None, None] == list(pool.imap(task, range(2)))
    assert ["[0] hello", "[1] hello"] == sorted(capsys.readouterr().out.splitlines())
    pool.submit(task, 0).result()
    assert "hello\n" == capsys.readouterr().out


def test_a_prefix_is_there_or_not(make_pool: MakePool) -> None:
    """Anything else is refused."""
    with pytest.raises(UsageError, match="prefix='yes': use True or False"):
        make_pool("threads", 1).map(print, [1], prefix="yes")  # type: ignore[arg-type]


def test_what_a_nested_map_prints_belongs_to_the_item_that_called_it(
    make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """On threads, whose tasks share the process with it."""

    def outer(item: int) -> None:
        with pm.Pool("threads", 1) as pool:
            pool.map(lambda inner: print("inner", inner), [item * 10], progress=False)

    run = make_pool("threads", 1).start(outer, range(3), progress=False)
    run.result()
    assert {item: f"inner {item * 10}\n" for item in range(3)} == run.outputs
    assert [f"inner {item * 10}" for item in range(3)] == sorted(capsys.readouterr().out.splitlines())
