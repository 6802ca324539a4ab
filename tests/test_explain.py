"""What `explain` shows of a function: all that it drags along, and what of it cannot be sent; and what errors show."""

from __future__ import annotations

import functools
import json
import math
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import pytest

import poolmagic as pm
from poolmagic import xray
from poolmagic.payload import Pickled


def cells(source: str, **variables: Any) -> dict[str, Any]:
    """Run the code of cells, whose functions are of no module that could be imported; return what they define."""
    space: dict[str, Any] = {"__name__": "__main__", **variables}
    exec(source, space)  # noqa: S102 - as a kernel does
    return space


def places(explanation: pm.Explanation) -> dict[str, str]:
    """Return the types of the parts by owner and place."""
    return {f"{part.owner}: {part.place}": part.type_name for part in explanation.parts}


def test_all_that_a_function_drags_along_is_told() -> None:
    """Globals, closures, defaults, attributes of self and arguments of partials, and of functions that it calls."""
    space = cells(
        """
def outer(captured):
    def f(x, y=[1, 2], *, z={}):
        return helper(x) + captured
    return f

def helper(x):
    return table[x]

class Model:
    rate = 0.5
    def __init__(self, weights):
        self.weights = weights
    def run(self, x):
        return helper(x) * self.weights
""",
        table={"a": 1},
    )

    assert {
        "f: closure 'captured'": "bytes",
        "f: default of 'y'": "list",
        "f: default of 'z'": "dict",
        "f -> helper: global 'table'": "dict",
    } == places(pm.explain(space["outer"](b"...")))
    assert {
        "helper: argument 0 of the partial": "list",
        "helper: argument 'y' of the partial": "str",
        "helper: global 'table'": "dict",
    } == places(pm.explain(functools.partial(space["helper"], [], y="")))
    found = places(pm.explain(space["Model"]([1]).run))
    assert "list" == found["run -> self: attribute 'weights'"]
    assert "dict" == found["run -> helper: global 'table'"]


def test_sizes_are_those_of_pickles() -> None:
    """The largest comes first; what is shared weighs nothing, and an array is not copied to be weighed."""
    table, shared = np.zeros(1_000_000), pm.share(np.zeros(1_000_000))
    text = "x" * 1000

    def f(x: int) -> Any:
        return table, shared, text

    explanation = pm.explain(f)

    sizes = {part.place: part.size or 0 for part in explanation.parts}
    assert ["closure 'table'", "closure 'text'", "closure 'shared'"] == list(sizes)
    assert 8_000_000 <= sizes["closure 'table'"] <= 8_001_000
    assert 1000 <= sizes["closure 'text'"] <= 1100
    assert sizes["closure 'shared'"] < 1000
    assert explanation.size is not None
    assert 8_001_000 <= explanation.size <= 8_010_000
    assert "7.63 MB" in repr(explanation)


def test_what_workers_import_is_told_apart() -> None:
    """Modules, and what is known by its name in one."""

    def f(x: int) -> Any:
        return math.sqrt(x), json.dumps, functools.partial(monotonic)

    space = cells("def g(x):\n    return np.sum(x), Thread, dumps(x)", np=np, Thread=threading.Thread, dumps=json.dumps)
    explanation = pm.explain(space["g"])

    assert ("json.dumps", "numpy", "threading.Thread") == explanation.imports
    assert () == explanation.parts
    assert "imported by the workers: json.dumps, numpy, threading.Thread" in repr(explanation)
    assert {"math", "json", "functools"} <= set(pm.explain(f).imports)


def test_what_cannot_be_sent_is_told_with_the_way_to_it() -> None:
    """First of all; with what to do instead. One that holds such a thing is one as well."""
    with socket.socket() as line:
        space = cells(
            """
class Holder:
    def __init__(self, line):
        self.line = line

def f(x):
    with lock:
        return holder, number
""",
            lock=threading.Lock(),
            number=3,
        )
        space["holder"] = space["Holder"](line)
        explanation = pm.explain(space["f"])

    assert "f -> global 'lock'" == explanation.culprit
    assert None is explanation.size
    assert explanation.problem.startswith("f -> global 'lock': cannot pickle '_thread.lock' object; make it inside")
    assert "pm.once(make_it) or initializer=" in explanation.problem
    assert ["global 'lock'", "global 'holder'", "global 'number'"] == [part.place for part in explanation.parts]
    holder = explanation.parts[1]
    assert "global 'holder' -> attribute 'line'" in holder.problem
    assert "cannot be sent" == holder.weight
    assert repr(explanation).startswith("f cannot be sent to workers\n")


def test_an_object_is_told_once() -> None:
    """Also if several functions use it, and if they call each other."""
    space = cells(
        """
def even(n):
    return table and (n == 0 or odd(n - 1))

def odd(n):
    return table and n != 0 and even(n - 1)
""",
        table=[1],
    )
    assert {"even: global 'table'": "list"} == places(pm.explain(space["even"]))


def test_nothing_of_the_user_s_is_called_but_what_pickling_calls() -> None:
    """And a handle makes no object for being looked at."""
    called: list[str] = []

    class Loud:
        def __reduce__(self) -> Any:
            called.append("reduce")
            return int, ()

        def __repr__(self) -> str:
            called.append("repr")
            return ""

        def __len__(self) -> int:
            called.append("len")
            return 0

        def __eq__(self, other: object) -> bool:
            called.append("eq")
            return False

        def __hash__(self) -> int:
            called.append("hash")
            return 0

    loud, handle = Loud(), pm.once(called.append, "made")

    def f(x: int) -> Any:
        return loud, handle

    pm.explain(f)
    assert {"reduce"} == set(called)


def test_an_explanation_takes_no_longer_than_it_may() -> None:
    """What was not weighed by then says so."""
    large = [[str(number)] for number in range(300_000)]

    def f(x: int) -> Any:
        return large

    began = monotonic()
    explanation = pm.explain(f, seconds=0.001)
    assert monotonic() - began < 5
    assert None is explanation.size
    assert ["not weighed"] == [part.weight for part in explanation.parts]
    assert "" == explanation.problem
    assert repr(explanation).startswith("f: not weighed in time\n")


def test_anything_can_be_explained() -> None:
    """What is no function as well; a text shows the first parts only."""
    assert "int: 5 bytes pickled" == repr(pm.explain(5))
    assert repr(pm.explain(math.sqrt)).startswith("sqrt: ")
    many = cells("def f(x):\n    return " + ", ".join(f"v{n}" for n in range(50)), **{f"v{n}": n for n in range(50)})
    text = repr(pm.explain(many["f"]))
    assert "... and 20 more" in text
    with pytest.raises(pm.UsageError, match="seconds=0"):
        pm.explain(math.sqrt, seconds=0)


def test_a_notebook_shows_a_table_in_which_nothing_of_the_user_s_is_html() -> None:
    """Names and errors show as they are."""

    class Evil:
        def __reduce__(self) -> Any:
            raise ValueError("<script>alert(1)</script>")

    Evil.__name__ = "<b>Evil</b>"
    evil = Evil()

    def f(x: int) -> Any:
        return evil

    shown = pm.explain(f)._repr_html_()
    assert "<script>" not in shown
    assert "<b>Evil" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "&lt;b&gt;Evil&lt;/b&gt;" in shown
    assert '<th scope="col"' in shown


def test_the_error_of_a_function_that_cannot_be_sent_names_what_it_drags_along() -> None:
    """In a note of one line, without a second look at what is large."""
    lock, table, size = threading.Lock(), np.zeros(10), 3

    def f(x: int) -> Any:
        return lock, table, size

    with pytest.raises(pm.PayloadError) as caught:
        Pickled().pack_function(f)
    [note] = caught.value.__notes__
    assert note.startswith("f drags along closure 'lock' (lock), closure 'table' (ndarray); poolmagic.explain(f) shows")


def test_a_note_names_only_some() -> None:
    """A line is a line. Nothing is said where there is nothing, or where looking fails."""
    many = cells("def f(x):\n    return " + ", ".join(f"v{n}" for n in range(9)), **{f"v{n}": [n] for n in range(9)})
    assert " and 3 more; poolmagic" in xray.captures(many["f"])
    assert "" == xray.captures(math.sqrt)
    assert "" == xray.captures(_fails())


def _fails() -> Callable[..., Any]:
    class Fails:
        def __call__(self) -> None: ...

        def __reduce__(self) -> Any:
            raise ValueError

    return Fails()


@pytest.mark.parametrize("size", [xray.HEAVY - 1, xray.HEAVY])
def test_what_is_large_has_an_advice(size: int) -> None:
    """From as much on as the first run points out."""
    part = xray.Part("f", "global 'table'", "ndarray", size)
    assert (size >= xray.HEAVY) == ("pm.share()" in part.advice)
