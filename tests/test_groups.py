"""Many failures as few groups."""

from __future__ import annotations

import json
import linecache
import pickle
import sys
import types
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import groups
from poolmagic.groups import brief, describe, gather, group_failures, list_indices, note_others, summarize


def failure(index: int, error: BaseException, source: str = "", file: str = "") -> pm.Failure:
    """Return a failure whose error comes from a line of code."""
    if source:
        code = compile(source, file, "exec")
        try:
            exec(code, {"error": error, "json": json})  # noqa: S102 - the code is the test's own
        except BaseException as raised:
            error = raised
    return pm.Failure(index, f"item {index}", error, "worker 1")


def test_failures_are_grouped_by_type_and_line() -> None:
    """The largest group comes first, among equals the one that came first in the input."""
    some = [failure(index, KeyError("price"), "\n\nraise error", "shop.py") for index in (12, 5, 9)]
    some += [failure(7, KeyError("price"), "raise error", "shop.py")]
    some += [failure(3, ValueError("no"), "\n\nraise error", "shop.py")]

    found = group_failures(some)

    assert [3, 1, 1] == [group.count for group in found]
    assert [(5, 9, 12), (3,), (7,)] == [group.indices for group in found]
    assert "3 x KeyError 'price' at shop.py:3, items 5, 9, 12" == describe(found[0])
    assert "1 x ValueError: no at shop.py:3, item 3" == describe(found[1])
    assert found[0].exception is some[1].exception


def test_numbers_in_messages_make_no_groups() -> None:
    """The commonest message is shown, with the numbers of its first item."""
    texts = ["row 17 is bad", "row 2 is bad", "something else"]
    [group] = group_failures(
        [failure(index, ValueError(text), "raise error", "a.py") for index, text in enumerate(texts)]
    )

    assert ("row 17 is bad", 3) == (group.message, group.count)
    assert "3 x ValueError: row 17 is bad at a.py:1, items 0, 1, 2" == describe(group)


def test_the_line_is_the_users_own_and_not_the_librarys_below_it() -> None:
    """What he called there is his business, where it failed is its."""
    [group] = group_failures([failure(0, Exception(), "\njson.loads('{')", "mine.py")])

    assert "mine.py:2" == group.line
    assert "JSONDecodeError" == group.type_name


def test_without_a_line_of_ones_own_the_innermost_counts() -> None:
    """And where no code is to blame, none is named."""
    try:
        json.loads("{")
    except ValueError as error:
        trace = error.__traceback__
        assert trace is not None
        [group] = group_failures([failure(0, error.with_traceback(trace.tb_next))])
        assert group.line.startswith("decoder.py:")
    [group] = group_failures([failure(n, pm.WorkerLostError(f"pid {n} died", pid=n)) for n in range(8)])
    assert "8 x WorkerLostError: pid 0 died, e.g. items 0, 1, 2" == describe(group)


def test_a_line_of_a_cell_is_called_as_ipython_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of the cell, which only the shell knows."""
    from IPython.core.compilerop import CachingCompiler

    compiler = CachingCompiler()
    file = compiler.cache("pass\n", 12)
    shell = types.SimpleNamespace(compile=compiler)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    some = [failure(index, KeyError("price"), "\n\n\nraise error", file) for index in range(37)]
    linecache.cache.pop(file)

    assert ["37 x KeyError 'price' at Cell In[12] line 4, e.g. items 0, 1, 2"] == [
        describe(group) for group in group_failures(some)
    ]


def test_an_error_that_could_not_travel_has_the_name_that_it_had() -> None:
    """It is that of its class, in the worker."""
    [group] = group_failures([failure(0, pm.RemoteError("no", type_name="shop.errors.SoldOut"))])

    assert "SoldOut" == group.type_name


def test_long_and_broken_messages_do_not_break_the_line() -> None:
    """Nor does a class whose text raises."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    long, mute = group_failures([failure(0, ValueError("a\nb " * 100)), failure(1, Mute())])
    assert len(long.message) == groups.LONGEST
    assert "\n" not in describe(long)
    assert "1 x Mute: (its text raised RuntimeError), item 1" == describe(mute).replace(mute.type_name, "Mute")
    assert brief(Mute()).endswith("Mute: (its text raised RuntimeError)")
    assert "KeyError 'price'" == brief(KeyError("price"))
    [empty] = group_failures([failure(2, ValueError())])
    assert "1 x ValueError, item 2" == describe(empty)


def test_few_indices_are_named() -> None:
    """As many as one can look at."""
    assert ["item 5", "items 5, 6", "e.g. items 5, 6, 7"] == [
        list_indices(some) for some in ([5], [5, 6], [5, 6, 7, 8])
    ]


def test_one_note_tells_of_all_other_failures() -> None:
    """Five groups of them; the rest is a number."""
    error = ValueError("first")
    others = [
        failure(index, OSError(f"kind {chr(97 + index % 7)}"), "\n" * (index % 7) + "raise error", "a.py")
        for index in range(21)
    ]
    note_others(error, others)
    note_others(error, [])

    [note] = error.__notes__
    assert note.startswith("21 more items failed: 3 x OSError: kind a at a.py:1, items 0, 7, 14; 3 x ")
    assert note.endswith("; 6 of other kinds")
    assert 5 == note.count("OSError")
    assert "1 x OSError: kind a at a.py:1, item 0" == summarize(group_failures(others[:1]))


def some_failures() -> list[pm.Failure]:
    """Failures of three kinds, one of which cannot be in a group of exceptions."""
    some = [failure(index, KeyError("price"), "raise error", "a.py") for index in range(3)]
    return [
        *some,
        failure(3, ValueError("no"), "raise error", "b.py"),
        failure(4, SystemExit(3), "raise error", "c.py"),
    ]


def test_collected_failures_are_one_exception_with_a_member_for_each_kind() -> None:
    """`except*` picks them by type; the notes say how many more there are."""
    error = gather(some_failures(), 50, "the run")

    assert "5 of 50 items failed: 3 x KeyError 'price' at a.py:1, items 0, 1, 2; 1 x ValueError: no" in str(error)
    assert ["KeyError", "ValueError", "TaskError"] == [type(one).__name__ for one in error.exceptions]
    assert ["2 more like this: items 1, 2"] == error.exceptions[0].__notes__
    assert "the task raised SystemExit: 3" == str(error.exceptions[2])
    assert isinstance(error.exceptions[2].__cause__, SystemExit)
    assert list(range(5)) == [one.index for one in error.failures]
    assert "the run" == error.run

    caught: list[Any] = []
    try:
        raise error
    except* KeyError as some:
        caught.append(some)
    except* Exception as others:
        caught.append(others)
    assert [[0, 1, 2], [3, 4]] == [[one.index for one in group.failures] for group in caught]
    assert all(isinstance(group, pm.FailedItems) and group.run == "the run" for group in caught)


def test_collected_failures_can_be_pickled() -> None:
    """All but the run, which belongs to its process."""
    error = gather(some_failures()[:4], 50, object())
    error.add_note("a note")
    loaded = pickle.loads(pickle.dumps(error))

    assert type(loaded) is pm.FailedItems
    assert (error.message, ["a note"], None) == (loaded.message, loaded.__notes__, loaded.run)
    assert [0, 1, 2, 3] == [one.index for one in loaded.failures]
    assert ["KeyError", "ValueError"] == [type(one).__name__ for one in loaded.exceptions]


def test_a_group_of_exceptions_stays_small() -> None:
    """Each member is shown with its traceback."""
    some = [failure(index, ValueError(), "\n" * index + "raise error", "a.py") for index in range(40)]
    error = gather(some, 40, None)

    assert groups.MOST_MEMBERS == len(error.exceptions)
    assert 40 == len(error.failures)
    assert len(str(error)) < 500
