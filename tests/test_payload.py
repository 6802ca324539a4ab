"""User objects on their way to a worker and back: a real other process takes part wherever identity matters."""

from __future__ import annotations

import fnmatch
import functools
import linecache
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from poolmagic import payload
from poolmagic.describe import describe_value
from poolmagic.equipped import Equipped
from poolmagic.errors import PayloadError, RemoteError
from poolmagic.payload import Direct, Pickled

ROOT = Path(__file__).parent.parent
WORKER = """
import pickle, sys
from poolmagic.payload import Pickled
codec = Pickled()
function, values = pickle.load(sys.stdin.buffer)
call = codec.load_function(function)
items, load, _ = codec.open_values(values)
done, errors = [], []
for item in items:
    try:
        done.append(call(item if load is None else load(item)))
    except BaseException as error:
        errors.append(codec.pack_error(error))
packed, broken = codec.pack_values(done, errors)
if broken:
    errors += [codec.pack_error(error) for error in broken.values()]
    packed, _ = codec.pack_values([value for offset, value in enumerate(done) if offset not in broken], errors)
pickle.dump(packed, sys.stdout.buffer)
"""


def remote(function: Callable[..., Any], items: list[Any]) -> tuple[list[Any], list[BaseException]]:
    """Run a function on items in another process, as a worker would; return the results and the errors."""
    codec = Pickled()
    values, broken = codec.pack_values(items)
    assert {} == broken
    answer = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=pickle.dumps((codec.pack_function(function), values)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"" == answer.stderr
    found, load, errors = codec.open_values(pickle.loads(answer.stdout))
    return [value if load is None else load(value) for value in found], [codec.load_error(one) for one in errors]


class Notebook(dict[str, Any]):
    """The namespace of a notebook: what is defined in it lives in no module that can be imported."""

    def __init__(self) -> None:
        super().__init__(__name__="__main__")

    def cell(self, source: str) -> Notebook:
        """Run a cell, with its source kept where tracebacks look for it."""
        source = textwrap.dedent(source)
        file = f"<cell {len(linecache.cache)}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), self)  # noqa: S102 - that is what a cell is for
        return self


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def reraised(function: Callable[[], Any]) -> BaseException:
    """Call a function that fails; return what it raised, with a traceback that begins in the function."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        function()
    assert caught.tb.tb_next is not None
    return caught.value.with_traceback(caught.tb.tb_next)


def travelled(error: BaseException) -> BaseException:
    codec = Pickled()
    return codec.load_error(codec.pack_error(error))


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# Functions ---------------------------------------------------------------------------------------------------------


def test_a_function_travels_with_all_it_needs(notebook: Notebook) -> None:
    """Other functions of the notebook, its variables, modules, defaults and closures, also through several cells."""
    notebook.cell("import math\nfactor = 3").cell("def helper(x): return math.floor(x) * factor")
    notebook.cell(
        """
        def make(offset):
            def f(x, *, more=100):
                return helper(x) + offset + more
            return f
        f = make(10)
        """
    )
    assert ([113, 116], []) == remote(notebook["f"], [1.5, 2])


def test_functions_may_call_each_other_in_a_circle(notebook: Notebook) -> None:
    """Recursion, also between cells."""
    notebook.cell("def even(n): return n == 0 or odd(n - 1)").cell("def odd(n): return n != 0 and even(n - 1)")
    assert ([True, False, True], []) == remote(notebook["even"], [0, 7, 12])


def test_lambdas_partials_and_methods_are_functions_too(notebook: Notebook) -> None:
    """Whatever can be called can travel."""
    notebook.cell(
        """
        class Scale:
            def __init__(self, by): self.by = by
            def __call__(self, x): return x * self.by
            def method(self, x): return x + self.by
            @classmethod
            def make(cls, by): return cls(by).by
            @staticmethod
            def half(x): return x / 2
        """
    )
    scale = notebook["Scale"](5)
    calls = [
        lambda x: x + 1,
        functools.partial(pow, 2),
        functools.partial(scale.method),
        scale,
        scale.method,
        notebook["Scale"].make,
        notebook["Scale"].half,
        str.upper,
        "{}!".format,
        len,
    ]
    assert [[4], [8], [8], [15], [8], [3], [1.5], ["A"], ["3!"], [2]] == [
        remote(call, ["a" if call is str.upper else "ab" if call is len else 3])[0] for call in calls
    ]


def test_a_cached_function_arrives_with_its_settings_and_an_empty_cache(notebook: Notebook) -> None:
    """Also one that calls itself: then there is one cache for all its calls."""
    notebook.cell(
        """
        import functools
        calls = []
        @functools.lru_cache(maxsize=500, typed=True)
        def fib(n):
            calls.append(n)
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        def f(n):
            value = fib(n)
            return value, len(calls), fib.cache_info().misses, fib.cache_parameters(), fib.__name__
        """
    )
    notebook["fib"](30)
    notebook["calls"].clear()
    settings = {"maxsize": 500, "typed": True}
    assert ([(832040, 31, 31, settings, "fib")], []) == remote(notebook["f"], [30])
    assert ([832040], []) == remote(notebook["fib"], [30])


def test_an_imported_function_travels_by_its_name() -> None:
    """The worker uses the module that it can import itself, and its caches as they are there."""
    codec = Pickled()
    for function in (textwrap.dedent, fnmatch._compile_pattern):  # type: ignore[attr-defined]
        assert function is codec.load_function(codec.pack_function(function))


def test_classes_of_the_notebook_keep_their_identity(notebook: Notebook) -> None:
    """A dataclass and an enum that come back are those of the notebook: `isinstance`, `==` and `is` hold."""
    notebook.cell(
        """
        import enum
        from dataclasses import dataclass

        class Color(enum.Enum):
            RED = 1
            BLUE = 2

        @dataclass(frozen=True)
        class Point:
            x: int
            color: Color = Color.RED

        def f(point):
            assert isinstance(point, Point) and point.color is Color.RED
            return Point(point.x + 1, Color.BLUE), Color(point.x)
        """
    )
    point_class, color_class = notebook["Point"], notebook["Color"]
    ((point, color),), _ = remote(notebook["f"], [point_class(1)])
    assert point_class is type(point)
    assert point_class(2, color_class.BLUE) == point
    assert color_class.BLUE is point.color
    assert color_class.RED is color


def test_an_exception_class_of_the_notebook_can_be_caught_by_its_name(notebook: Notebook) -> None:
    """It is the notebook's own class that is raised, whatever its constructor takes."""
    notebook.cell(
        """
        class Refused(Exception):
            def __init__(self, code, reason):
                super().__init__(f"refused: {reason}")
                self.code = code

        def f(x):
            raise Refused(x, "no")
        """
    )
    _, (error,) = remote(notebook["f"], [403])
    assert notebook["Refused"] is type(error)
    assert (403, "refused: no") == (error.code, str(error))  # type: ignore[attr-defined]
    assert 'raise Refused(x, "no")' in shown(error)


def test_the_worker_shows_the_lines_of_cells(notebook: Notebook) -> None:
    """The sources of the function's cells travel with it."""
    notebook.cell("def inner(x):\n    return 1 / x  # the line")
    notebook.cell(
        "import traceback\ndef f(x):\n    try: inner(x)\n    except ZeroDivisionError: return traceback.format_exc()"
    )
    (text,), _ = remote(notebook["f"], [0])
    assert "return 1 / x  # the line" in text


# What cannot travel ------------------------------------------------------------------------------------------------


def test_a_function_that_cannot_be_pickled_names_the_variable(notebook: Notebook) -> None:
    """Through as many functions as it takes, and as an attribute of the error too."""
    notebook.cell("import threading\nlock = threading.Lock()\ndef inner(x): return lock, x\ndef f(x): return inner(x)")
    with pytest.raises(PayloadError, match="f -> inner -> global 'lock': cannot pickle") as caught:
        Pickled().pack_function(notebook["f"])
    assert "f -> inner -> global 'lock'" == caught.value.culprit
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(caught.value), caught.value.culprit) == (str(again), again.culprit)


def test_a_function_with_a_variable_that_has_no_value_yet_still_gets_its_error() -> None:
    """`PayloadError`, not what went wrong while the culprit was looked for."""

    def f(lock: object = threading.Lock()) -> object:
        return later

    with pytest.raises(PayloadError, match="cannot send the function to the workers: f -> default of 'lock': cannot"):
        Pickled().pack_function(f)
    later = None


class Stubborn:
    """Cannot be pickled, or cannot be unpickled, and says so."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "pickle":
            raise RuntimeError("not me")
        if self.when == "exit":
            sys.exit(3)
        if self.when == "interrupt":
            raise KeyboardInterrupt
        return _refuse, (self.when,)

    def __repr__(self) -> str:
        return f"Stubborn({self.when!r})"


def _refuse(when: str) -> Any:
    if when == "arrival with an exit":
        sys.exit(3)
    if when == "arrival with an interrupt":
        raise KeyboardInterrupt
    if when == "arrival with an end":
        raise StopIteration
    raise LookupError(f"not at {when}")


def test_a_value_that_cannot_be_pickled_fails_alone() -> None:
    """It is named by its place, and the others travel."""
    codec = Pickled()
    packed, broken = codec.pack_values(["a", Stubborn("pickle"), ["b"]])
    assert [1] == list(broken)
    assert "cannot send the argument to a worker: argument (Stubborn): RuntimeError: not me" == str(broken[1])
    assert isinstance(broken[1], PayloadError)
    assert "argument" == broken[1].culprit
    assert isinstance(broken[1].__cause__, RuntimeError)
    entries, load, _ = codec.open_values(packed)
    assert load is not None
    assert ["a", ["b"]] == [load(entries[0]), load(entries[2])]


def test_a_value_that_cannot_be_unpickled_fails_alone() -> None:
    """Opening the list is safe; loading that one entry is not."""
    codec = Pickled()
    packed, broken = codec.pack_values([["a"], Stubborn("arrival"), ["b"]])
    assert {} == broken
    entries, load, _ = codec.open_values(packed)
    assert load is not None
    assert [["a"], ["b"]] == [load(entries[0]), load(entries[2])]
    with pytest.raises(
        PayloadError, match="cannot be unpickled in the kernel: _refuse raised LookupError: not"
    ) as caught:
        load(entries[1])
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("in_worker", [False, True])
def test_pickling_code_that_exits_is_a_broken_value(in_worker: bool) -> None:
    """Not the end of the thread that packs, or loads; nor does one that ends an iterator end the list."""
    codec = Pickled(in_worker)
    assert [0] == list(codec.pack_values([Stubborn("exit"), []])[1])
    packed, _ = codec.pack_values([Stubborn("arrival with an exit"), Stubborn("arrival with an end")])
    entries, load, _ = codec.open_values(packed)
    assert load is not None
    where = (
        "in the worker: _refuse raised SystemExit: 3" if in_worker else "in the kernel: _refuse raised SystemExit: 3"
    )
    with pytest.raises(PayloadError, match=where):
        load(entries[0])
    with pytest.raises(PayloadError, match="_refuse raised StopIteration"):
        load(entries[1])


def test_a_function_that_exits_when_it_is_packed_or_loaded_cannot_be_sent() -> None:
    """As with values."""
    codec = Pickled()
    exits, arrives = Stubborn("exit"), Stubborn("arrival with an exit")
    with pytest.raises(PayloadError, match=r"<lambda> -> closure 'exits' \(Stubborn\): SystemExit: 3"):
        codec.pack_function(lambda: exits)
    payload = codec.pack_function(lambda: arrives)
    with pytest.raises(PayloadError, match="the function cannot be unpickled in the worker: _refuse raised SystemExit"):
        codec.load_function(payload)


def test_an_interrupt_is_for_the_thread_and_not_about_the_value() -> None:
    """But a worker, which the user does not interrupt, has it from the value."""
    with pytest.raises(KeyboardInterrupt):
        Pickled().pack_values([[], Stubborn("interrupt")])
    assert [1] == list(Pickled(in_worker=True).pack_values([[], Stubborn("interrupt")])[1])
    packed, _ = Pickled().pack_values([Stubborn("arrival with an interrupt")])
    (entry,), load, _ = Pickled().open_values(packed)
    assert load is not None
    with pytest.raises(KeyboardInterrupt):
        load(entry)


def test_a_class_that_is_missing_on_the_other_side_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the side, and what is wanted there."""
    module = types.ModuleType("poolmagic_ghost")
    exec("class Ghost: pass", module.__dict__)  # noqa: S102 - a module that only this side has
    monkeypatch.setitem(sys.modules, module.__name__, module)
    packed, _ = Pickled().pack_values([module.Ghost()])
    (entry,), load, _ = Pickled(in_worker=True).open_values(packed)
    assert load is not None
    monkeypatch.delattr(module, "Ghost")
    with pytest.raises(PayloadError, match=r"in the worker: .*Ghost.* must be importable in the worker, too"):
        load(entry)
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(
        PayloadError, match=r"No module named 'poolmagic_ghost'; .* must be importable in the worker, too"
    ):
        load(entry)


def test_what_there_is_no_memory_for_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest, as often as it takes; whether they are plain or not."""
    seal = payload.seal

    def poor(content: Any, *more: Any) -> Any:
        if len(pickle.dumps(content)) > 20_000:
            raise MemoryError
        return seal(content, *more)

    monkeypatch.setattr(payload, "seal", poor)
    large, larger = "x" * 15_000, "x" * 30_000
    for first in ("a", ["a"]):
        values = [first, large, "b", larger, large]
        packed, broken = Pickled(in_worker=True).pack_values(values)
        assert {1, 3} == set(broken)
        assert "the result is too large for the memory there is, 0 MB pickled; return a path" == str(broken[3])
        entries, load, _ = Pickled().open_values(packed)
        assert load is not None
        assert [first, "b", large] == [load(entries[offset]) for offset in (0, 2, 4)]


def test_what_answers_no_question_can_be_captured(notebook: Notebook) -> None:
    """Nobody asks it for more than its pickle."""
    notebook.cell(
        """
        class Evasive:
            def __getattr__(self, name):
                if name.startswith("__") and name not in ("__wrapped__", "__func__"): raise AttributeError(name)
                raise ZeroDivisionError(name)
            def __call__(self, x): return 2 * x
        evasive = Evasive()
        def f(x): return evasive(x)
        """
    )
    assert ([4], []) == remote(notebook["f"], [2])
    assert ([4], []) == remote(notebook["evasive"], [2])


def test_the_lines_of_a_function_that_may_be_retried_are_known(notebook: Notebook) -> None:
    """What it is wrapped in has none."""
    notebook.cell("def f(x):\n    return 1 / x  # the line")
    _, cells = payload.unseal(Pickled().pack_function(Equipped(notebook["f"], (OSError,))))
    assert "# the line" in "".join(cells.values())


def test_many_broken_values_cost_little_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to look for culprits is for all of them together; what is found no more is left out."""
    monkeypatch.setattr(payload, "SECONDS", 0.0)
    _, broken = Pickled().pack_values([[threading.Lock()]] * 1000)
    assert 1000 == len(broken)
    text = "cannot send the argument to a worker: argument (list): cannot pickle '_thread.lock' object"
    assert {(text, "")} == {(str(error), error.culprit) for error in broken.values() if isinstance(error, PayloadError)}


def test_a_result_that_cannot_be_pickled_is_an_error_of_its_item() -> None:
    """In a real worker, too."""
    values, (error,) = remote(lambda x: threading.Lock() if x else [x], [0, 1])
    assert [[0]] == values
    assert PayloadError is type(error)


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        ([], True),
        ([1, 2.5, 1j, "a", b"a", None, True], True),
        ([(1, "a"), (2, None), ()], True),
        ([1, (2,)], False),
        ([[1]], False),
        ([(1, [2])], False),
        ([pytest.approx], False),
    ],
)
def test_numbers_and_strings_are_one_pickle(values: list[Any], plain: bool) -> None:
    """Anything else is pickled item by item; the values are the same either way."""
    codec = Pickled()
    packed, broken = codec.pack_values(values)
    assert {} == broken
    entries, load, _ = codec.open_values(packed)
    assert plain is (load is None)
    assert values == (entries if load is None else [load(entry) for entry in entries])


def test_values_travel_with_packed_errors() -> None:
    """In one payload, with either codec."""
    for codec in (Pickled(), Direct()):
        records = [codec.pack_error(ValueError("x"))]
        payload, _ = codec.pack_values([1, 2], records)  # type: ignore[arg-type]  # each takes what it gave
        assert ([1, 2], None, records) == codec.open_values(payload)  # type: ignore[arg-type]


# Exceptions --------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    """As many libraries have them: the constructor makes one text of two arguments."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.itself = self


class Prefixed(Exception):
    """Unpickled the usual way it would have its prefix twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such name: {name}")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Homebound(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock: Any = threading.Lock()


class KeywordOnly(Exception):
    def __new__(cls, *, code: int) -> Self:
        return super().__new__(cls)

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class WithSlots(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("with slots")
        self.code = code


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class OfTheSystem(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(2, "not there", "/a/path")
        self.code = code


class Exits(Exception):
    """Whatever is asked of it, it leaves."""

    def __reduce__(self) -> Any:
        sys.exit(3)

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Evasive(Exception):
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class OwnGroup(ExceptionGroup[Exception]):
    code = 0


def _fails() -> None:
    raise ValueError("deep")


def _chained() -> None:
    try:
        _fails()
    except ValueError as error:
        raise TwoArguments(404, "gone") from error


def _in_context() -> None:
    try:
        _fails()
    except ValueError:
        {}["missing"]  # type: ignore[index]


def _without_context() -> None:
    try:
        _fails()
    except ValueError:
        raise Prefixed("x") from None


def _groups() -> None:
    members: list[Any] = [reraised(one) for one in (_fails, _chained, _in_context, _without_context)]
    raise ExceptionGroup("outer", [members[0], ExceptionGroup("inner", members[1:])]) from members[2]


def _noted() -> None:
    error = TwoArguments(1, "with notes")
    error.add_note("a note\nof two lines")
    raise error


# fmt: off
def _over_lines() -> float:
    return sum([
        1,
        2 /
        0,
    ])
# fmt: on


def _nested() -> list[float]:
    invert: Callable[[float], float] = lambda x: 1 / x  # noqa: E731 - its frame has another name
    return [invert(y) for y in (1, 0)]


def _with_unicode() -> str:
    text = {"größe": "ü"}
    return text["größe"] + text["länge"] + "ß"


def _from_the_library() -> object:
    return textwrap.dedent(3)  # type: ignore[arg-type]


FAILURES = [
    _fails,
    _chained,
    _in_context,
    _without_context,
    _groups,
    _noted,
    _over_lines,
    _nested,
    _with_unicode,
    _from_the_library,
]


@pytest.mark.parametrize("function", FAILURES, ids=lambda one: str(one.__name__))
def test_a_traceback_reads_the_same_after_its_travel(function: Callable[[], Any]) -> None:
    """Lines, arrows, notes, causes, contexts and groups: the text of the standard library is the original's."""
    error = reraised(function)
    arrived = travelled(error)
    assert type(error) is type(arrived)
    assert error is not arrived
    assert shown(error) == shown(arrived)


def test_a_constructor_of_two_arguments_is_no_obstacle() -> None:
    """The exception arrives as it was, with its attributes, even with one that leads back to itself."""
    arrived = travelled(TwoArguments(404, "gone"))
    assert isinstance(arrived, TwoArguments)
    assert ("404: gone", 404) == (str(arrived), arrived.code)
    assert arrived is arrived.itself


def test_an_attribute_that_cannot_travel_is_left_behind() -> None:
    """The connection that an error was made with stays where it is; the error itself arrives."""
    arrived = travelled(WithLock("locked"))
    assert isinstance(arrived, WithLock)
    assert ("locked", None) == (str(arrived), arrived.lock)


def test_a_group_keeps_its_members_where_they_are() -> None:
    """An exception that is in two places before is one exception after."""
    shared, other = ValueError("shared"), KeyError("other")
    group = ExceptionGroup("group", [other, shared])
    group.__cause__ = shared
    arrived = travelled(group)
    assert isinstance(arrived, ExceptionGroup)
    assert arrived.__cause__ is arrived.exceptions[1]
    assert [KeyError, ValueError] == [type(member) for member in arrived.exceptions]


def test_a_group_keeps_its_members_if_one_cannot_travel() -> None:
    """That one is told of; the group is of its own class, and its attributes and links are there."""
    members = [TwoArguments(404, "gone"), Homebound("here"), ExceptionGroup("inner", [Homebound("deep"), KeyError(1)])]
    group = OwnGroup("group", members)
    group.code = 7
    group.lock = threading.Lock()  # type: ignore[attr-defined]
    group.__cause__ = members[0]
    arrived = travelled(group)
    assert isinstance(arrived, OwnGroup)
    assert ("group (3 sub-exceptions)", 7) == (str(arrived), arrived.code)
    first, second, third = arrived.exceptions
    assert isinstance(first, TwoArguments)
    assert arrived.__cause__ is first
    assert "the task raised Homebound: here" == str(second)
    assert isinstance(third, ExceptionGroup)
    assert [RemoteError, KeyError] == [type(member) for member in third.exceptions]


def test_a_cause_that_cannot_travel_is_told_of_alone() -> None:
    """The rest of the chain arrives as it was, circles included."""
    error, cause = ValueError("last"), Homebound("middle")
    error.__cause__, cause.__context__ = cause, error
    arrived = travelled(error)
    assert isinstance(arrived, ValueError)
    assert isinstance(arrived.__cause__, RemoteError)
    assert arrived is arrived.__cause__.__context__


@pytest.mark.parametrize(
    "error", [KeywordOnly(code=7), WithSlots(7), Frozen(7), OfTheSystem(7)], ids=lambda error: type(error).__name__
)
def test_an_exception_arrives_as_it_was_however_it_is_made(error: Any) -> None:
    """With its attributes, in slots too, and as the cause of another."""
    outer = ValueError("outer")
    outer.__cause__ = error
    arrived = travelled(outer).__cause__
    assert type(error) is type(arrived)
    assert (str(error), error.args, 7) == (str(arrived), arrived.args, arrived.code)  # type: ignore[union-attr]
    if isinstance(error, OSError):
        assert (2, "/a/path") == (arrived.errno, arrived.filename)  # type: ignore[union-attr]


def test_an_exception_that_exits_or_evades_is_no_end() -> None:
    """Neither of the thread that packs it, nor of the one that loads it."""
    arrived = travelled(Exits("x"))
    assert isinstance(arrived, RemoteError)
    assert "the task raised Exits: <no text: SystemExit in __str__>" == str(arrived)
    assert Evasive is type(travelled(Evasive("x")))


def test_a_large_exception_travels_once() -> None:
    """All of its data, but not another copy of it for each text."""
    error = ValueError("x" * 10_000_000)
    record = Pickled().pack_error(error)
    assert len(record) < 11_000_000
    assert error.args == Pickled().load_error(record).args
    record = Pickled().pack_error(Homebound("x" * 10_000_000))
    assert len(record) < 1_000_000
    assert "9,9" in str(Pickled().load_error(record))


def test_causes_may_lead_in_a_circle() -> None:
    """It is kept, and does not hang."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    arrived = travelled(first)
    assert isinstance(arrived.__cause__, KeyError)
    assert arrived is arrived.__cause__.__context__


def test_a_long_chain_of_contexts_travels() -> None:
    """A loop that tries again a thousand times has one; neither the stack nor the memory may overflow."""
    error: BaseException = ValueError(0)
    for number in range(1, 2000):
        after = ValueError(number)
        after.__context__, error = error, after
    codec = Pickled()
    record = codec.pack_error(error)
    assert len(record) < 5_000_000
    arrived: BaseException | None = codec.load_error(record)
    for number in reversed(range(2000)):
        assert arrived is not None
        assert (number,) == arrived.args
        arrived = arrived.__context__


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Homebound("here"), "the task raised Homebound: here"),
        (SystemExit(3), "the task raised SystemExit: 3"),
        (KeyboardInterrupt(), "the task raised KeyboardInterrupt: "),
        (BaseExceptionGroup("both", [SystemExit(3)]), "the task raised BaseExceptionGroup: both (1 sub-exception)"),
    ],
)
def test_an_exception_that_cannot_travel_is_told_of(error: BaseException, text: str) -> None:
    """`RemoteError` carries its name, its text, its notes and its traceback; what would end the kernel is one, too."""
    error.add_note("by the way")

    def fail() -> None:
        raise error

    arrived = travelled(reraised(fail))
    assert RemoteError is type(arrived)
    assert text == str(arrived)
    assert type(error).__name__ == arrived.type_name
    assert ["by the way"] == arrived.__notes__
    assert "raise error" in arrived.text
    assert "raise error" in shown(arrived)


def test_an_exception_without_a_text_still_travels() -> None:
    """Its `__str__` is not needed."""
    assert Unprintable is type(travelled(Unprintable("x")))


def test_an_exception_that_loads_in_the_worker_only_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class may be missing here; the notes are not lost."""
    error = TwoArguments(1, "x")
    error.add_note("by the way")
    codec = Pickled()
    record = codec.pack_error(error)
    monkeypatch.delattr(sys.modules[__name__], "TwoArguments")
    arrived = codec.load_error(record)
    assert RemoteError is type(arrived)
    assert ["by the way"] == arrived.__notes__


def test_a_worker_shows_none_of_its_own_frames() -> None:
    """The user sees his own code; but a folder whose name only begins like ours is his."""
    folder = ROOT / "poolmagic"
    scope: dict[str, Any] = {}
    for name in (str(folder / "anything.py"), f"{folder}_of_a_user/tasks.py"):
        exec(compile("def call(f=None):\n    return f() if f else 1 / 0", name, "exec"), scope)  # noqa: S102
        scope[name] = scope["call"]
    own, users = [value for name, value in scope.items() if name.startswith(str(folder))]
    text = shown(travelled(reraised(lambda: own(users))))
    assert "anything.py" not in text
    assert "poolmagic_of_a_user" in text


# In the kernel itself ----------------------------------------------------------------------------------------------


def test_nothing_is_copied_for_a_worker_in_the_kernel() -> None:
    """Functions, items, results and exceptions are the objects themselves."""
    codec = Direct()
    assert reraised is codec.load_function(codec.pack_function(reraised))
    values = [threading.Lock(), object()]
    packed, broken = codec.pack_values(values)
    assert {} == broken
    assert (values, None, ()) == codec.open_values(packed)
    error = WithLock("x")
    assert error is codec.load_error(codec.pack_error(error))


def test_what_would_end_the_kernel_is_told_of() -> None:
    """A task in a thread that calls `sys.exit` fails, and that is all."""
    arrived = Direct().pack_error(reraised(lambda: sys.exit(3)))
    assert RemoteError is type(arrived)
    assert "the task raised SystemExit: 3" == str(arrived)


# Texts -------------------------------------------------------------------------------------------------------------


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_any_value_can_be_described() -> None:
    """In one short line, whatever its `__repr__` does."""
    assert "[1, 2]" == describe_value([1, 2])
    assert "a b" == describe_value(type("R", (), {"__repr__": lambda self: "a\n   b"})())
    assert 80 == len(describe_value("x" * 1000))
    assert describe_value("x" * 1000).endswith("...")
    assert describe_value(Mute()).startswith("<")
