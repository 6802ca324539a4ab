"""What happens when tasks fail, on every kind."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, TwoArguments, Untravelled, for_kind, gated, square


def fail_at_37(x: int) -> float:
    """Divide by zero at 37."""
    return 1 / (x - 37)


def test_the_original_exception_is_raised_with_item_and_worker(kind: str, make_pool: MakePool) -> None:
    """Its type, its text and a note that names item, index and worker."""
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        make_pool(kind).map(for_kind(kind, fail_at_37), range(100))

    notes = "\n".join(caught.value.__notes__)
    assert "item 37 (37) of fail_at_37 failed on " in notes
    assert ("solo" if kind == "solo" else "worker") in notes


def test_the_traceback_shows_the_tasks_own_line(kind: str, make_pool: MakePool) -> None:
    """With the file, the line and the function of the failing code."""
    with pytest.raises(ZeroDivisionError) as caught:
        make_pool(kind).map(for_kind(kind, fail_at_37), range(100))

    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert ("fail_at_37", "return 1 / (x - 37)") == (frame.name, frame.line)


def test_causes_notes_and_groups_survive(kind: str, make_pool: MakePool) -> None:
    """With their own tracebacks."""

    def task(x: int) -> None:
        try:
            raise KeyError("first")
        except KeyError as cause:
            error = ExceptionGroup("many", [ValueError(x), OSError("second")])
            error.add_note("said by the task")
            raise error from cause

    with pytest.raises(ExceptionGroup) as caught:
        make_pool(kind).map(for_kind(kind, task), [1])

    error = caught.value
    assert [ValueError, OSError] == [type(member) for member in error.exceptions]
    assert isinstance(error.__cause__, KeyError)
    assert "task" == traceback.extract_tb(error.__cause__.__traceback__)[-1].name
    assert "said by the task" == error.__notes__[0]


def test_an_exception_that_cannot_travel_is_told_of(process_kind: str, make_pool: MakePool) -> None:
    """`RemoteError` names it and carries its traceback; the neighbours are fine."""

    def task(x: int) -> int:
        if x == 2:
            raise Untravelled("not found")
        return x

    results = make_pool(process_kind).map(for_kind(process_kind, task), range(5), on_error="return")

    assert [0, 1, 3, 4] == [value for value in results if not isinstance(value, pm.Failure)]
    error = results[2].exception
    assert isinstance(error, pm.RemoteError)
    assert "Untravelled" == error.type_name
    assert "not found" in str(error)
    assert 'raise Untravelled("not found")' in error.text


def test_an_exception_with_a_constructor_of_its_own_arrives_as_it_was(kind: str, make_pool: MakePool) -> None:
    """Many such can be pickled, but not loaded; ours can."""

    def task(x: int) -> None:
        raise TwoArguments(404, "not found")

    with pytest.raises(TwoArguments) as caught:
        make_pool(kind).map(for_kind(kind, task), [1])
    assert "404: not found" == str(caught.value)


@pytest.mark.parametrize(
    "bad", [SystemExit(3), GeneratorExit(), StopIteration("x")], ids=lambda bad: type(bad).__name__
)
def test_what_would_end_a_program_is_the_items_failure(kind: str, bad: BaseException, make_pool: MakePool) -> None:
    """Not the worker's end, and never the kernel's."""
    pool = make_pool(kind)

    def task(x: int) -> int:
        if x == 1:
            raise bad
        return x

    results = pool.map(for_kind(kind, task), range(3), on_error="return")

    assert [0, 2] == [results[0], results[2]]
    assert isinstance(results[1].exception, Exception)
    assert type(bad).__name__ in repr(results[1].exception) + str(results[1].exception)
    assert [4] == pool.map(for_kind(kind, square), [2])


def test_a_failure_takes_the_place_of_the_item_if_asked(kind: str, make_pool: MakePool) -> None:
    """`on_error="return"`."""
    results = make_pool(kind).map(for_kind(kind, fail_at_37), range(36, 39), on_error="return")

    assert [-1.0, 1.0] == [results[0], results[2]]
    failure = results[1]
    assert isinstance(failure, pm.Failure)
    assert not failure
    assert (1, 37, ZeroDivisionError) == (failure.index, failure.item, type(failure.exception))


def test_a_failure_is_left_out_if_asked(kind: str, make_pool: MakePool) -> None:
    """`on_error="skip"`."""
    assert [-1.0, 1.0] == make_pool(kind).map(for_kind(kind, fail_at_37), range(36, 39), on_error="skip")


def test_the_exception_takes_the_place_of_the_item_as_in_gather(kind: str, make_pool: MakePool) -> None:
    """`return_exceptions=True`."""
    results = make_pool(kind).map(for_kind(kind, fail_at_37), range(36, 39), return_exceptions=True)

    assert [-1.0, 1.0] == [results[0], results[2]]
    assert isinstance(results[1], ZeroDivisionError)


def test_a_failure_stops_dispatching_and_what_runs_is_finished(
    working_kind: str, make_pool: MakePool, gate: Gate
) -> None:
    """Nothing that is finished is lost, nothing else is started."""
    wait = gated(working_kind, gate.port)
    if working_kind == "asyncio":

        async def task(x: int) -> int:
            if x == 1:
                raise ValueError(x)
            return int(await wait(x))

    else:

        def task(x: int) -> int:  # type: ignore[misc]
            if x == 1:
                raise ValueError(x)
            return int(wait(x))

    run = make_pool(working_kind, 2).start(task, range(1000), chunksize=1)
    gate.wait_for(1)
    wait_until(lambda: bool(run.failures), "the failure is known")
    gate.open()

    with pytest.raises(ValueError, match="1"):
        run.result(30)
    assert 0 == run.results[0]
    assert len(run.results) < 5
    assert [1] == [failure.index for failure in run.failures]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"on_error": "ignore"}, "'ignore'"),
        ({"chunksize": 0}, "0"),
        ({"chunk_size": 5}, "'chunk_size'"),
        ({"progress": "no"}, "'no'"),
        ({"on_error": "skip", "return_exceptions": True}, "return_exceptions"),
    ],
)
def test_a_bad_option_is_one_clear_line(kind: str, options: dict[str, Any], word: str, make_pool: MakePool) -> None:
    """It names the value and what is allowed, and nothing is started."""
    with pytest.raises(pm.UsageError, match=word) as caught:
        make_pool(kind).map(for_kind(kind, square), range(3), **options)

    assert "\n" not in str(caught.value)


def test_a_function_that_is_none_is_refused(kind: str, make_pool: MakePool) -> None:
    """At the call, in one line."""
    with pytest.raises(pm.UsageError, match="cannot call 'square'"):
        make_pool(kind).map("square", range(3))  # type: ignore[arg-type]
    with pytest.raises(pm.UsageError, match="cannot iterate over int"):
        make_pool(kind).map(for_kind(kind, square), 3)  # type: ignore[arg-type]


def test_async_and_plain_functions_go_to_their_pools(kind: str, make_pool: MakePool) -> None:
    """The refusal says which pool to use; solo takes both."""

    async def double(x: int) -> int:
        return 2 * x

    pool = make_pool(kind)
    if kind == "solo":
        assert [2, 4] == pool.map(double, [1, 2])
    elif kind == "asyncio":
        with pytest.raises(pm.UsageError, match="'gevent' or 'threads'"):
            pool.map(square, [1])
    else:
        with pytest.raises(pm.UsageError, match="'asyncio' pool"):
            pool.map(double, [1])


def test_a_function_that_cannot_be_pickled_names_the_variable(process_kind: str, make_pool: MakePool) -> None:
    """Before anything is started."""
    stream = sys.stdin if sys.stdin is not None else sys.stdout
    frame = sys._getframe()

    def task(x: int) -> Any:
        return frame, stream, x

    with pytest.raises(pm.PayloadError, match="task -> closure 'frame'"):
        make_pool(process_kind).map(for_kind(process_kind, task), [1])


def test_a_worker_that_is_killed_costs_the_item_it_ran(make_pool: MakePool) -> None:
    """The rest of its batch goes on elsewhere, the worker is replaced."""
    pool = make_pool("prefork", 2)

    def task(x: int) -> int:
        if x == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = pool.map(task, range(100), on_error="return", chunksize=10)

    assert [x for x in range(100) if x != 17] == [value for value in results if not isinstance(value, pm.Failure)]
    error = results[17].exception
    assert isinstance(error, pm.WorkerLostError)
    assert -signal.SIGKILL == error.exitcode
    assert "SIGKILL" in str(error)
    assert 2 == len(pool.snapshot().workers)
