"""What cannot be pickled, or unpickled, is the error of its item alone, and named; on every kind that pickles.

The classes are made in functions, so that they travel themselves: workers need not import this file.
"""

from __future__ import annotations

import functools
import socket
import sqlite3
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, cast

import pytest

import poolmagic as pm
from tests.conftest import MakePool
from tests.tasks import TwoArguments, for_kind, square

Make = Callable[[str], Any]
BAD = 3


def maker() -> Make:  # noqa: C901 - a catalogue
    """Return a function that makes bad objects by their names, in whatever process it is called."""

    class Holder:
        def __init__(self, **held: Any) -> None:
            self.__dict__.update(held)

    class Acts:
        """Does something when it is pickled."""

        def __init__(self, act: str) -> None:
            self.act = act

        def __reduce__(self) -> Any:
            if self.act == "raise":
                raise RuntimeError("not me")
            if self.act == "exit":
                sys.exit(3)
            return self.__reduce__()

    class Arrives:
        """Does something when it is unpickled."""

        def __init__(self, act: str) -> None:
            self.act = act

        def __setstate__(self, state: dict[str, Any]) -> None:
            if state["act"] == "raise":
                raise RuntimeError("no state for me")
            if state["act"] == "stop":
                raise StopIteration
            sys.exit(3)

    class Picky:
        def __init__(self, one: int, two: int) -> None:
            self.one, self.two = one, two

        def __reduce__(self) -> Any:
            return Picky, (self.one,)

    def missing(name: str) -> Any:
        """Return an object whose class is in a module that no other process has."""
        module = sys.modules[name] = types.ModuleType(name)
        exec("class Ghost: pass", module.__dict__)  # noqa: S102 - see above
        return module.Ghost()

    def closed(value: Any) -> Any:
        """Close something, which makes it no easier to pickle."""
        value.close()
        return value

    makers: dict[str, Callable[[], Any]] = {
        "lock": threading.Lock,
        "socket": lambda: {"client": Holder(_sock=closed(socket.socket()))},
        "generator": lambda: (number for number in range(3)),
        "connection": lambda: {"rows": [1, 2, 3, Holder(conn=closed(sqlite3.connect(":memory:")))]},
        "raises": lambda: [Acts("raise")],
        "recurses": lambda: [Acts("recurse")],
        "exits": lambda: [Acts("exit")],
        "arrives and raises": lambda: Arrives("raise"),
        "arrives and exits": lambda: Arrives("exit"),
        "arrives and ends": lambda: Arrives("stop"),
        "picky": lambda: Picky(1, 2),
    }
    return lambda name: missing(name) if name.startswith("ghost") else makers[name]()


INSIDE = "; make it inside the task, or lazily once per worker with pm.once(make_it) or initializer="
UNPICKLABLE = [
    ("lock", "", "cannot pickle '_thread.lock' object", INSIDE),
    ("socket", " -> ['client'] -> attribute '_sock'", "cannot pickle 'socket' object", INSIDE),
    ("generator", "", "cannot pickle 'generator' object", " a list"),
    ("connection", " -> ['rows'] -> [3] -> attribute 'conn'", "cannot pickle 'sqlite3.Connection' object", INSIDE),
    ("raises", " -> [0]", "(Acts): RuntimeError: not me", ""),
    ("recurses", " -> [0]", "(Acts): ", "; it is nested too deeply, or its __reduce__ never ends"),
    ("exits", " -> [0]", "(Acts): SystemExit: 3", ""),
]
"""Names, paths, what is said of them and what is advised."""
UNLOADABLE = [
    ("arrives and raises", "Arrives.__setstate__ raised RuntimeError: no state for me"),
    ("arrives and exits", "Arrives.__setstate__ raised SystemExit: 3"),
    ("arrives and ends", "Arrives.__setstate__ raised StopIteration"),
    ("picky", "missing 1 required positional argument: 'two'"),
    ("ghost", "its class or function must be importable"),
]


def only_failure(results: list[Any], pool: pm.Pool) -> BaseException:
    """Return the one failure; the other results are right, and the pool is as good as before."""
    assert [0, 2, 4, 8, 10] == [result for index, result in enumerate(results) if index != BAD]
    failure = results[BAD]
    assert isinstance(failure, pm.Failure)
    assert [4, 9] == pool.map(for_kind(pool.config.kind.name, square), [2, 3])
    return failure.exception


def map_argument(pool: pm.Pool, bad: Any) -> BaseException:
    """Map over a bad argument among good ones."""

    def task(x: Any) -> Any:
        return 2 * x if isinstance(x, int) else "it is here"

    items = [0, 1, 2, bad, 4, 5]
    return only_failure(pool.map(for_kind(pool.config.kind.name, task), items, on_error="return"), pool)


def map_result(pool: pm.Pool, make: Make, name: str, chunksize: int | None = None) -> BaseException:
    """Have one task of several return what is bad."""

    def task(x: int) -> Any:
        return make(name) if x == BAD else 2 * x

    function = for_kind(pool.config.kind.name, task)
    return only_failure(pool.map(function, range(6), on_error="return", chunksize=chunksize), pool)


def test_arguments_that_cannot_be_pickled(process_kind: str, make_pool: MakePool) -> None:
    """Each fails alone, before it is sent, and its error says what of it, and what to do."""
    pool, make = make_pool(process_kind), maker()
    for name, path, said, advice in UNPICKLABLE:
        error = map_argument(pool, make(name))
        assert isinstance(error, pm.PayloadError), (name, error)
        assert f"argument{path}" == error.culprit
        assert str(error).startswith("cannot send the argument to a worker: ")
        assert path in str(error)
        assert said in str(error)
        assert str(error).endswith(advice)


def test_results_that_cannot_be_pickled(process_kind: str, make_pool: MakePool) -> None:
    """Each fails alone, in the worker, and its error says what of it, and what to do."""
    pool, make = make_pool(process_kind), maker()
    for name, path, said, advice in UNPICKLABLE:
        is_green = name in ("lock", "socket") and process_kind in ("gevent", "eventlet")
        if is_green and process_kind == "eventlet":
            continue  # its locks and sockets are Python objects, and travel
        error = map_result(pool, make, name, chunksize=6)
        assert isinstance(error, pm.PayloadError), (name, error)
        assert f"result{path}" == error.culprit
        assert str(error).startswith("cannot send the result to the kernel: ")
        assert path in str(error)
        assert is_green or said in str(error)
        assert str(error).endswith(advice)


def test_arguments_that_cannot_be_unpickled(process_kind: str, make_pool: MakePool) -> None:
    """The tasks of these do not run; the error says on which side that was, and who raised it."""
    pool, make = make_pool(process_kind), maker()
    for name, text in UNLOADABLE:
        error = map_argument(pool, make("ghost a" if name == "ghost" else name))
        assert isinstance(error, pm.PayloadError), (name, error)
        assert "the argument cannot be unpickled in the worker: " in str(error)
        assert text in str(error)


def test_results_that_cannot_be_unpickled(process_kind: str, make_pool: MakePool) -> None:
    """Each fails alone, here, in the thread that asked."""
    pool, make = make_pool(process_kind), maker()
    for name, text in UNLOADABLE:
        error = map_result(pool, make, "ghost b" if name == "ghost" else name)
        assert isinstance(error, pm.PayloadError), (name, error)
        assert "the result cannot be unpickled in the kernel: " in str(error)
        assert text in str(error)


def test_a_cause_tells_where_the_users_own_code_raised(process_kind: str, make_pool: MakePool) -> None:
    """With its line, from the worker too."""
    pool = make_pool(process_kind)
    for error in (map_argument(pool, maker()("arrives and raises")), map_result(pool, maker(), "raises")):
        assert isinstance(error.__cause__, RuntimeError)
        assert error.__cause__.__traceback__ is not None


def test_one_task_and_an_iterator_of_results_fail_as_a_map_does(process_kind: str, make_pool: MakePool) -> None:
    """`submit` and `imap`."""
    pool, make = make_pool(process_kind), maker()

    def task(x: int, name: str) -> Any:
        return make(name) if x == BAD else 2 * x

    for name in ("exits", "arrives and exits"):
        function = functools.partial(for_kind(process_kind, task), name=name)
        assert isinstance(pool.submit(function, BAD).exception(30), pm.PayloadError)
        assert 2 == pool.submit(function, 1).result(30)
        assert isinstance(only_failure(list(pool.imap(function, range(6), on_error="return")), pool), pm.PayloadError)
        with pytest.raises(pm.PayloadError):
            pool.map(function, range(6))


def test_a_function_that_cannot_be_pickled_is_named_with_its_culprit(process_kind: str, make_pool: MakePool) -> None:
    """Before anything is started, whatever the options."""
    pool, model = make_pool(process_kind), maker()("socket")

    def task(x: int) -> Any:
        return model, x

    function = for_kind(process_kind, task)
    for retries in (0, 2):
        with pytest.raises(pm.PayloadError) as caught:
            pool.map(function, range(3), retries=retries, retry_on=(OSError,))
        assert "task -> closure 'model' -> ['client'] -> attribute '_sock'" == caught.value.culprit
        assert "cannot send the function to the workers: task -> " in str(caught.value)
    assert [4] == pool.map(for_kind(process_kind, square), [2])


def test_a_function_that_cannot_be_unpickled_fails_its_items(process_kind: str, make_pool: MakePool) -> None:
    """All of them, because none of them can run; the pool goes on."""
    pool, make = make_pool(process_kind), maker()
    for name in ("arrives and raises", "arrives and exits", "ghost c"):
        model = make(name)

        def task(x: int, model: Any = model) -> Any:
            return model, x

        results = pool.map(for_kind(process_kind, task), range(6), on_error="return")
        assert {pm.PayloadError} == {type(failure.exception) for failure in results}
        assert "the function cannot be unpickled in the worker: " in str(results[0].exception)
        assert [4] == pool.map(for_kind(process_kind, square), [2])


# Exceptions --------------------------------------------------------------------------------------------------------


def raiser() -> Callable[[str], Any]:  # noqa: C901 - a catalogue
    """Return a function that raises awkward exceptions by their names, in whatever process it is called."""

    class KeywordOnly(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")
            self.code = code

    class Reduces(Exception):
        def __reduce__(self) -> Any:
            if self.args[0] == "exit":
                sys.exit(3)
            raise RuntimeError("not me")

    class Arrives(Exception):
        def __setstate__(self, state: Any) -> None:
            sys.exit(3)

    class Slots(Exception):
        __slots__ = ("code",)

    class Own(BaseException):
        pass

    def make(name: str) -> BaseException:
        if name == "two arguments":
            return TwoArguments(404, "not found")
        if name == "keyword only":
            return KeywordOnly(code=7)
        if name == "slots":
            slots = Slots("slots")
            slots.code = 7  # type: ignore[attr-defined]
            return slots
        if name == "held":  # by something that cannot be pickled in any kind of worker
            held = ValueError("held")
            held.held = [sys._getframe()]  # type: ignore[attr-defined]
            return held
        if name == "large":
            large = ValueError("large")
            large.data = bytes(20_000_000)  # type: ignore[attr-defined]
            return large
        if name == "group":
            return ExceptionGroup("group", [ValueError("fine"), Reduces("raise")])
        if name == "arrives and exits":
            arrives = Arrives("x")
            arrives.add_note("which makes a state")
            return arrives
        return Own("own") if name == "own" else Reduces(name)

    def fail(name: str) -> Any:
        error = make(name)
        error.__cause__ = Reduces("cause")
        error.__cause__.__context__ = error
        raise error

    return fail


AWKWARD = [
    ("two arguments", "TwoArguments", "404: not found"),
    ("keyword only", "KeywordOnly", "code 7"),
    ("slots", "Slots", "slots"),
    ("held", "ValueError", "held"),
    ("large", "ValueError", "large"),
    ("group", "ExceptionGroup", "group (2 sub-exceptions)"),
    ("raise", "RemoteError", "the task raised Reduces: raise"),
    ("exit", "RemoteError", "the task raised Reduces: exit"),
    ("arrives and exits", "Arrives", "x"),
    ("own", "RemoteError", "the task raised Own: own"),
]


def test_exceptions_that_are_hard_to_pickle(process_kind: str, make_pool: MakePool) -> None:
    """They arrive as they were, or are told of; so are causes and the members of groups, and circles among them."""
    pool, fail = make_pool(process_kind), raiser()

    def task(x: int, name: str) -> Any:
        return fail(name) if x == BAD else 2 * x

    for name, kind_of_error, text in AWKWARD:
        function = functools.partial(for_kind(process_kind, task), name=name)
        error = cast("Any", only_failure(pool.map(function, range(6), on_error="return"), pool))
        assert (kind_of_error, text) == (type(error).__name__, str(error))
        assert isinstance(error.__cause__, pm.RemoteError)
        if name in ("keyword only", "slots"):
            assert 7 == error.code
        elif name == "held":
            assert error.held is None
        elif name == "large":
            assert 20_000_000 == len(error.data)
        elif name == "group":
            assert [ValueError, pm.RemoteError] == [type(member) for member in error.exceptions]
        assert error is error.__cause__.__context__


# Where nothing is pickled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local_kind", ["threads", "solo"])
def test_in_the_kernel_nothing_is_pickled(local_kind: str, make_pool: MakePool) -> None:
    """There all of these are arguments and results as any others."""
    pool, make = make_pool(local_kind), maker()
    names = [name for name, *_ in [*UNPICKLABLE, *UNLOADABLE]]
    values = [make(name) for name in names]

    assert all(a is b for a, b in zip(values, pool.map(lambda value: value, values), strict=True))
    assert [type(value) for value in pool.map(make, ["lock", "generator"])] == [type(values[0]), type(values[2])]
    assert values[0] is pool.submit(lambda: values[0]).result(30)
