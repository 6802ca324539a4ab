"""Tracebacks as plain data and back: what is shown is what was shown."""

from __future__ import annotations

import functools
import linecache
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolmagic.traces import Frame, collect, rebuild, show_sources, sources

NOBODY = "/no/such/folder/"


def frames_of(function: Callable[[], Any], hide: str = NOBODY) -> list[Frame]:
    """Return the frames of a call that fails, from the function on."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        function()
    return collect(caught.tb.tb_next, hide)


def run(source: str, file: str = "<a cell>") -> dict[str, Any]:
    """Run source as a cell, which is on no disk."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), scope)  # noqa: S102 - that is what a cell is for
    return scope


@pytest.fixture(autouse=True)
def _clean_lines() -> Iterator[None]:
    """Forget the sources of cells after each test."""
    before = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(before)


def test_no_traceback_is_no_frames() -> None:
    """An exception that was never raised has none."""
    assert [] == collect(None, NOBODY)
    assert rebuild([]) is None


def test_a_frame_is_plain_data() -> None:
    """File, function, qualified name, first line, and the exact place."""
    scope = run("class A:\n    def f(self):\n        x = 0\n        return (1 +\n            1 / x)\n")
    (frame,) = frames_of(scope["A"]().f)
    assert ("<a cell>", "f", "A.f", 2, (5, 5, 12, 17)) == frame


SHAPES = {
    "a method": "class A:\n  def f(self):\n    return 1 / 0\nf = A().f",
    "a lambda": "f = lambda: (\n  1 / 0)",
    "a comprehension": "def f():\n  return [1 / x\n    for x in (1, 0)]",
    "a generator": "def g():\n  yield 1\n  1 / 0\ndef f(): return list(g())",
    "a decorated function": "def twice(g): return lambda: (g(), g())\n@twice\n\n\ndef f(): 1 / 0",
    "many lines": "def f():\n  return int(\n    'a'\n    'b',\n\n  base=16 / 1)",
    "a wide line": "def f():\n  größe = 'ä' * 3; return größe['ü'] + größe",
    "recursion": "def f(n=9):\n  return f(n - 1) if n else 1 / n",
    "a with block": "import contextlib\ndef f():\n  with contextlib.nullcontext():\n    raise ValueError('x')",
    "a library": "import json\ndef f(): return json.loads('{')",
    "no source": "f = eval('lambda: 1 / 0')",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_rebuilt_traceback_reads_as_the_original(name: str) -> None:
    """The text of the standard library is the same to the last arrow."""
    function = run(SHAPES[name])["f"]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        function()
    original = caught.tb.tb_next
    rebuilt = rebuild(collect(original, NOBODY))
    assert traceback.format_tb(original) == traceback.format_tb(rebuilt)


def test_a_rebuilt_traceback_is_a_real_one() -> None:
    """An exception can carry it, be raised with it and collect it again."""
    frames = frames_of(run(SHAPES["a generator"])["f"])
    error = ValueError("again").with_traceback(rebuild(frames))
    assert error.__traceback__ is not None
    assert frames == collect(error.__traceback__, NOBODY)


def test_a_frame_without_columns_shows_no_arrows() -> None:
    """Code that was not compiled from Python knows only its lines."""
    run("first = 1\nsecond = 2\n")
    frame: Frame = ("<a cell>", "f", "f", 1, (2, None, None, None))
    assert ['  File "<a cell>", line 2, in f\n    second = 2\n'] == traceback.format_tb(rebuild([frame]))


def test_a_line_before_the_first_line_of_its_function_is_believed() -> None:
    """Generated code may say so."""
    frame: Frame = ("<generated>", "f", "f", 90, (7, 7, 0, 3))
    assert ['  File "<generated>", line 7, in f\n'] == traceback.format_tb(rebuild([frame]))


def test_frames_of_a_folder_are_hidden() -> None:
    """A worker leaves out its own, wherever in the traceback they are."""
    outer = run("def call(f): return f()", "/hidden/a.py")["call"]
    inner = run("def g(): return 1 / 0", "/shown/b.py")["g"]
    frames = frames_of(lambda: outer(lambda: outer(inner)), hide=f"{os.sep}hidden{os.sep}")
    assert ["test_traces.py", "test_traces.py", "b.py"] == [os.path.basename(frame[0]) for frame in frames]  # noqa: PTH119


# Sources -----------------------------------------------------------------------------------------------------------


def test_the_sources_of_a_function_are_those_of_all_cells_it_needs() -> None:
    """Through globals, closures, wrappers, partials and methods."""
    deep = run("def deep(): pass", "<deep>")["deep"]
    method = run("class A:\n  def m(self): pass", "<method>")["A"]().m
    cell = run("def make(a):\n  def f(): a(); method(); deep()\n  return f", "<f>")
    cell |= {"deep": functools.lru_cache(deep), "method": method}
    scope = cell["make"].__globals__
    scope.update(cell)
    f = cell["make"](functools.partial(run("def a(): pass", "<partial>")["a"]))
    assert {"<f>", "<deep>", "<method>", "<partial>"} == set(sources(f))
    assert "def deep(): pass" == sources(f)["<deep>"]


def test_files_on_disk_and_things_that_are_no_functions_have_no_sources_to_send() -> None:
    """The worker can read files itself."""
    linecache.getlines(__file__)
    assert {} == sources(frames_of)
    assert {} == sources(len)
    assert {} == sources(3)


def test_functions_that_call_each_other_and_variables_without_value_are_no_problem() -> None:
    """The search ends."""
    scope = run(
        "def even(n): return odd(n)\ndef odd(n): return even(n)\ndef make():\n  def f(): later\n  return f\n  later = 1"
    )
    assert {"<a cell>"} == set(sources(scope["even"]))
    assert {"<a cell>"} == set(sources(scope["make"]()))


def test_sources_end_at_their_limit() -> None:
    """A notebook with megabytes in its cells is not sent with each run."""
    first = run("def first(): second()", "<first>")
    first["second"] = run("def second(): pass", "<second>")["second"]
    assert {"<first>"} == set(sources(first["first"], limit=10))


def test_shown_sources_are_found_by_tracebacks() -> None:
    """In the worker, where no cell was ever run; `linecache.checkcache` keeps them."""
    show_sources({"<far away>": "one\ntwo\n"})
    linecache.checkcache()
    assert "two\n" == linecache.getline("<far away>", 2)
