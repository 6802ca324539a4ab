"""What is told about an object that cannot be pickled: where it is, what it is, what to do."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import pickle
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import poolmagic as pm
from poolmagic import culprits, payload
from poolmagic.advice import advice_for
from poolmagic.anatomy import name_of
from poolmagic.culprits import explain, find_culprit
from poolmagic.describe import describe_value
from poolmagic.equipped import Equipped
from poolmagic.errors import PayloadError
from poolmagic.payload import Pickled

LOCK = threading.Lock()
INSIDE = "make it inside the task, or lazily once per worker with pm.once(make_it) or initializer="


def path_of(value: Any, root: str = "") -> str:
    """Return the path to the culprit; the value cannot be pickled."""
    found = find_culprit(value, root, seconds=60.0)
    assert found is not None
    return found[0]


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found must not depend on how busy the machine is."""
    monkeypatch.setattr(payload, "SECONDS", 60.0)


def namespace(source: str, **values: Any) -> dict[str, Any]:
    """Run the source of a cell among these variables."""
    names: dict[str, Any] = {"__name__": "__main__", **values}
    exec(source, names)  # noqa: S102 - that is what a cell is for
    return names


class Client:
    """Holds a lock, as clients of databases and services do."""

    def __init__(self) -> None:
        self.name = "client"
        self._lock = LOCK

    def method(self) -> object:
        return self


class Slots:
    __slots__ = ("__dict__", "conn", "empty", "number")

    def __init__(self) -> None:
        self.number = 1
        self.conn = LOCK


@dataclasses.dataclass
class Row:
    number: int
    conn: object


class Pair(NamedTuple):
    left: object
    right: object


class Rows(list[Any]):
    """A list of its own."""


class Key:
    def __init__(self) -> None:
        self.conn = LOCK


class Reduces:
    """Is pickled as a function says."""

    def __init__(self, reduce: Callable[[], Any]) -> None:
        self.reduce = reduce

    def __reduce__(self) -> Any:
        return self.reduce()


class Endless:
    """Is made of itself for ever."""

    def __reduce__(self) -> Any:
        return Endless, (Endless(),)


class Evasive:
    """Answers nothing."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __repr__(self) -> str:
        sys.exit(3)


class Stateful:
    def __getstate__(self) -> Any:
        raise LookupError("no state")


def _generate() -> Iterator[int]:
    yield 1


# Functions ---------------------------------------------------------------------------------------------------------


def test_a_culprit_is_found_in_closures_methods_and_partials() -> None:
    """Wherever a function may have it from."""
    lock = threading.Lock()

    def inside() -> object:
        return lock

    class Holder:
        def method(self) -> object:
            return inside()

    assert "inside -> closure 'lock'" == path_of(inside)
    assert "method -> inside -> closure 'lock'" == path_of(Holder().method)
    assert "inside -> closure 'lock'" == path_of(functools.partial(inside))
    assert "print -> argument 0 of the partial" == path_of(functools.partial(print, LOCK))
    assert find_culprit(len) is None
    assert find_culprit(describe_value) is None


def test_a_culprit_is_found_in_what_a_method_belongs_to() -> None:
    """The object is an argument, too."""
    assert "method -> self -> attribute '_lock'" == path_of(Client().method)
    assert "f -> argument 'client' of the partial -> attribute '_lock'" == path_of(
        functools.partial(namespace("def f(x, client): pass")["f"], client=Client())
    )


def test_a_culprit_is_found_in_what_is_defined_inside_of_a_function() -> None:
    """A comprehension, or a lambda, is a function of its own in the interpreter's eyes."""
    names = namespace(
        """
def comprehension(xs): return [lock for x in xs]
def inner(xs): return lambda: [(lambda: lock)() for x in xs]
""",
        lock=LOCK,
    )
    assert "comprehension -> global 'lock'" == path_of(names["comprehension"])
    assert "inner -> global 'lock'" == path_of(names["inner"])


def test_an_attribute_is_no_variable() -> None:
    """One that has the name of a variable that cannot be pickled is not taken for it."""
    names = namespace("def f(x): return x.lock, other", other=LOCK)
    assert "f -> global 'other'" == path_of(names["f"])


def test_a_culprit_is_found_behind_caches_and_decorators() -> None:
    """They hide the function that they wrap; it is what the user calls it."""
    names = namespace(
        """
import functools
@functools.lru_cache
def cached(x): return lock
def f(x): return cached(x)
def decorated(g):
    @functools.wraps(g)
    def wrapper(x): return g(x)
    return wrapper
@decorated
def wrapped(x): return client
""",
        lock=LOCK,
        client=Client(),
    )
    assert "cached -> global 'lock'" == path_of(names["cached"])
    assert "f -> cached -> global 'lock'" == path_of(names["f"])
    assert "wrapped -> global 'client' -> attribute '_lock'" == path_of(names["wrapped"])


def test_a_culprit_is_found_in_defaults_annotations_and_attributes_of_a_function() -> None:
    """They travel with it."""
    names = namespace(
        """
def positional(x, y=1, z=client): pass
def keyword(x, *, z=client): pass
def annotated(x): pass
annotated.__annotations__["x"] = client
def attributed(x): pass
attributed.cache = {"a": client}
""",
        client=Client(),
    )
    assert "positional -> default of 'z' -> attribute '_lock'" == path_of(names["positional"])
    assert "keyword -> default of 'z' -> attribute '_lock'" == path_of(names["keyword"])
    assert "annotated -> annotation of 'x' -> attribute '_lock'" == path_of(names["annotated"])
    assert "attributed -> attribute 'cache' -> ['a'] -> attribute '_lock'" == path_of(names["attributed"])


def test_a_culprit_is_found_in_classes_of_the_notebook() -> None:
    """In their attributes, their methods, their bases and the members of enums."""
    names = namespace(
        """
import enum
class Base:
    lock = lock
class Model(Base):
    pass
class Other:
    def method(self): return client
class Color(enum.Enum):
    RED = 1
    def lock(self): return client
def f(x): return Model
""",
        lock=LOCK,
        client=Client(),
    )
    assert "f -> global 'Model' -> class Base -> attribute 'lock'" == path_of(names["f"])
    assert "argument -> class Model -> class Base -> attribute 'lock'" == path_of(names["Model"](), "argument")
    other = "argument -> class Other -> method -> global 'client' -> attribute '_lock'"
    assert other == path_of(names["Other"](), "argument")
    assert issubclass(names["Color"], enum.Enum)
    assert path_of([names["Color"].RED], "argument").endswith("lock -> global 'client' -> attribute '_lock'")


def test_circles_and_variables_without_a_value_are_no_obstacle() -> None:
    """The search explains an error, so it must not be one."""

    def circle() -> object:
        return circle if later else None

    assert find_culprit(circle) is None
    later = 1
    assert find_culprit(circle) is None
    ring: list[Any] = [1]
    ring += [ring, {"ring": ring, "lock": LOCK}]
    assert "argument -> [2] -> ['lock']" == path_of(ring, "argument")


def test_what_may_be_retried_is_no_part_of_the_functions_name() -> None:
    """`Equipped` is ours; the user knows his function, and the option."""
    names = namespace("def f(x): return lock\ndef g(x): pass\nclass Bad(Exception): lock = lock", lock=LOCK)
    assert "f -> global 'lock'" == path_of(Equipped(names["f"], (OSError,)))
    assert "retry_on -> [1] -> attribute 'lock'" == path_of(Equipped(names["g"], (OSError, names["Bad"])))
    with pytest.raises(
        PayloadError, match="cannot send the function to the workers: f -> global 'lock': cannot pickle"
    ):
        Pickled().pack_function(Equipped(names["f"], ()))


# Values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, ""),
        ({"rows": [1, 2, 3, Row(1, LOCK)]}, " -> ['rows'] -> [3] -> attribute 'conn'"),
        ({"client": Client()}, " -> ['client'] -> attribute '_lock'"),
        ((1, (2, {3: LOCK})), " -> [1] -> [1] -> [3]"),
        (Slots(), " -> attribute 'conn'"),
        (Pair(1, LOCK), " -> attribute 'right'"),
        (Rows([1, LOCK]), " -> [1]"),
        ({Key(): 1}, " -> key of type Key -> attribute 'conn'"),
        ({Key()}, " -> element of type Key -> attribute 'conn'"),
        (frozenset([Key()]), " -> element of type Key -> attribute 'conn'"),
        (collections.deque([1, LOCK]), " -> [1]"),
        (collections.OrderedDict(a=LOCK), " -> ['a']"),
        (collections.defaultdict(LOCK.acquire), " -> argument 0 of defaultdict() -> self"),
        (ValueError("x", LOCK), " -> args[1]"),
        (Client().method, " -> self -> attribute '_lock'"),
        (pm.share({"a": LOCK}), " -> attribute '_value' -> ['a']"),
        ([Stateful()], " -> [0]"),
        ([1, Reduces(lambda: 1 / 0)], " -> [1]"),
        ([Reduces(lambda: 5)], " -> [0]"),
        ([Reduces(lambda: (1, 2))], " -> [0]"),
        ([Reduces(lambda: (list, 2))], " -> [0]"),
        ([Reduces(lambda: "no_such_global")], " -> [0]"),
        ([Reduces(lambda: (list, (), None, (1 / 0 for _ in "a")))], " -> [0]"),
        ([Reduces(sys.exit)], " -> [0]"),
        ([{"a": Evasive()}, Evasive(), LOCK], " -> [2]"),
        ([_generate()], " -> [0]"),
        (np.array([[1, 2], [3, LOCK]], dtype=object), " -> [1, 1]"),
        (pd.DataFrame({"a": [1, 2], "b": [3, LOCK]}, index=["x", "y"]), " -> column 'b' -> row 'y'"),
    ],
    ids=lambda one: None if isinstance(one, str) else type(one).__name__,
)
def test_the_path_to_a_culprit(value: Any, path: str) -> None:
    """In all that can hold it; user code that raises, exits or talks nonsense is the culprit, and no obstacle."""
    _, broken = Pickled().pack_values([[1], value])
    assert [1] == list(broken)
    error = broken[1]
    assert isinstance(error, PayloadError)
    assert f"argument{path}" == error.culprit
    assert f"argument{path}" == path_of(value, "argument")


def test_a_result_is_called_one() -> None:
    """A worker packs results."""
    connection = sqlite3.connect(":memory:")
    connection.close()
    _, broken = Pickled(in_worker=True).pack_values([{"rows": [Row(1, connection)]}])
    text = "cannot send the result to the kernel: result -> ['rows'] -> [0] -> attribute 'conn': cannot pickle"
    assert f"{text} 'sqlite3.Connection' object; {INSIDE}" == str(broken[0])


@pytest.mark.parametrize("depth", [2, 100_000])
def test_what_never_ends_is_told_of(depth: int) -> None:
    """Whether it is deep, or makes itself for ever: the path is short, and says so."""
    value: Any = Endless()
    if depth > 2:
        value = []
        for _ in range(depth):
            value = [value]
    _, broken = Pickled().pack_values([value])
    text = str(broken[0])
    assert "levels deep" in text
    assert "nested too deeply, or its __reduce__ never ends" in text
    assert len(text) < 500
    while type(value) is list and value:  # or its own end would be too deep for some interpreters
        value = value.pop()


def test_a_long_path_is_shortened() -> None:
    """Its beginning and its end are what counts."""
    value: Any = LOCK
    for _ in range(50):
        value = [value]
    assert "argument -> " + "[0] -> " * 5 + "... -> [0] -> [0] -> [0]" == path_of(value, "argument")


def test_the_search_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that takes too long is not looked at to its end, and the error stays what it was."""
    monkeypatch.setattr(culprits, "MOST_OBJECTS", 100)
    value = [[number] for number in range(1000)] + [LOCK]
    assert find_culprit(value, "argument") is None
    assert "argument -> [50]" == path_of([*value[:50], LOCK], "argument")
    assert find_culprit([LOCK], "argument", seconds=0.0) is None
    text, path = explain(value, TypeError("cannot pickle '_thread.lock' object"), "argument")
    assert ("argument (list): cannot pickle '_thread.lock' object", "") == (text, path)


def test_the_search_asks_each_object_once() -> None:
    """It goes once over all that is there, however deep; it does not try the parts of parts again and again."""
    asked: list[int] = []

    def reduce(number: int, inner: Any) -> Any:
        asked.append(number)
        return Reduces, (inner,)

    value: Any = LOCK
    for number in range(100):
        value = [Reduces(functools.partial(reduce, number, value)), value]
    found = find_culprit(value, "argument", seconds=60.0)
    assert found is not None
    assert found[1] is LOCK
    assert sorted(set(asked)) == sorted(asked) == list(range(100))


def test_an_interrupt_ends_the_search() -> None:
    """It is the user's, and not about his object."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_culprit([Reduces(interrupt)])


# Advice ------------------------------------------------------------------------------------------------------------


def test_the_advice_is_for_what_it_is() -> None:
    """One clause, for what people send by mistake; none where there is nothing to say."""
    inside, error = INSIDE, TypeError("cannot pickle it")
    with socket.socket() as line:
        assert inside == advice_for(line, error)
    assert inside == advice_for(threading.Lock(), error)
    assert inside == advice_for(threading.local(), error)
    assert inside == advice_for(type("HttpClient", (), {})(), error)
    assert "pass a list" == advice_for(_generate(), error, "argument")
    assert "return a list" == advice_for(_generate(), error, "result")
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123 - a file is what it is about
        assert "pass the path, and open it inside the task" == advice_for(file, error)
        assert "return the path" == advice_for(file, error, "result")
    assert "pass its text" == advice_for(sys._getframe(), error)
    assert "" == advice_for(Evasive(), error)
    assert "it is nested too deeply, or its __reduce__ never ends" == advice_for([], RecursionError())


def test_errors_are_told_in_one_line() -> None:
    """With their type, unless the text says all."""
    assert "argument (Row): ValueError: a b" == explain(Row(1, 2), ValueError("a\nb"), "argument")[0]
    assert "argument (Row): ValueError" == explain(Row(1, 2), ValueError(), "argument")[0]
    assert "cannot pickle 'Row'" == explain(Row(1, 2), TypeError("cannot pickle 'Row'"), "argument")[0]
    assert "Row: no" in explain(Row, pickle.PicklingError("Row: no"), "argument")[0]


def test_everything_has_a_name() -> None:
    """The function's own, where there is one."""
    assert "path_of" == name_of(path_of)
    assert "path_of" == name_of(functools.partial(functools.partial(path_of)))
    assert "Client" == name_of(Client())
    assert "Evasive" == name_of(Evasive())
