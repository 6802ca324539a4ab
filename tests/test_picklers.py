"""What a function captures, and what of it stays out of the pickle."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import poolmagic as pm
from poolmagic import payload
from poolmagic.payload import Pickled
from poolmagic.picklers import OUTSIDE, dumps, find_heavy

LARGE = 2 * OUTSIDE


def namespace(source: str, **values: Any) -> dict[str, Any]:
    """Run the source of a cell among these variables."""
    names: dict[str, Any] = {"__name__": "__main__", **values}
    exec(source, names)  # noqa: S102 - that is what a cell is for
    return names


# Buffers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outside"),
    [
        (np.zeros(OUTSIDE, dtype="u1"), [OUTSIDE]),
        (np.zeros(OUTSIDE - 1, dtype="u1"), []),
        (np.zeros((10, OUTSIDE), order="F"), [80 * OUTSIDE]),
        (np.zeros((10, OUTSIDE))[::2, ::2], []),
        (np.zeros((10, OUTSIDE))[3:], [56 * OUTSIDE]),
        (np.zeros((10, OUTSIDE))[3:, 1:], []),
        (np.array([object()] * 10, dtype=object), []),
        ([np.zeros(OUTSIDE), {"a": np.ones(OUTSIDE)}], [8 * OUTSIDE] * 2),
        ([np.zeros(OUTSIDE)] * 2, [8 * OUTSIDE]),
        (bytearray(LARGE), []),
    ],
    ids=["at", "below", "fortran", "strided", "rows", "columns", "objects", "nested", "twice", "bytearray"],
)
def test_large_buffers_in_one_piece_stay_out_of_the_pickle(value: Any, outside: list[int]) -> None:
    """The others are in it, and nothing is in both."""
    buffers: list[pickle.PickleBuffer] = []

    pickled = dumps(value, buffers)

    assert outside == [buffer.raw().nbytes for buffer in buffers]
    loaded = pickle.loads(pickled, buffers=buffers)
    if not isinstance(value, np.ndarray) or value.dtype != object:
        np.testing.assert_equal(loaded, value)


# Heavy variables ---------------------------------------------------------------------------------------------------


def test_what_is_heavy_is_found_by_its_name() -> None:
    """Wherever it is captured, and in whatever it is."""
    big = np.zeros(LARGE)
    names = namespace(
        """
def helper(x): return [text for _ in x]
def f(x): return table, small, helper(x), x.other
""",
        table={"a": [big]},
        text="x" * LARGE,
        small=[1],
        other=big,
    )

    def closure(x: int) -> object:
        return names["f"](x), big

    found = find_heavy(names["f"], LARGE)
    assert {("f", "table"), ("f -> helper", "text")} == set(found)
    assert 8 * LARGE <= found["f", "table"] < 9 * LARGE
    assert ("closure", "big") in find_heavy(closure, LARGE)
    assert {} == find_heavy(len, LARGE)
    assert {} == find_heavy(functools.partial(len, big), LARGE)


def test_looking_for_what_is_heavy_is_never_an_error() -> None:
    """Variables without a value, and those that refuse to travel alone, are passed by."""

    class Refuses:
        def __reduce__(self) -> Any:
            raise RuntimeError("not alone")

    refuses, big = Refuses(), np.zeros(LARGE)

    def f(x: int) -> object:
        return later, refuses, big

    assert {("f", "big"): pytest.approx(8 * LARGE, rel=0.01)} == find_heavy(f, LARGE)
    later = None


def test_what_is_shared_is_not_heavy() -> None:
    """Its user has done already what he would be advised to do."""
    shared = pm.share(np.zeros(LARGE))

    def f(x: int) -> object:
        return shared

    assert {} == find_heavy(f, LARGE)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user is told, with "heavy" set to what a test can afford."""
    told: list[str] = []
    monkeypatch.setattr(payload, "note_once", told.append)
    monkeypatch.setattr(payload, "HEAVY", 10 * LARGE)
    return told


def test_a_heavy_variable_is_told_of_once(reports: list[str]) -> None:
    """By its name, with its size, and with what to do; not again for the same function."""
    big = np.zeros(10 * LARGE)
    small = np.zeros(LARGE)

    def f(x: int) -> object:
        return big, small

    codec = Pickled()
    for _ in range(3):
        codec.pack_function(f)
        Pickled().pack_function(f)
    (text,) = reports
    assert "f captures 'big', 21 MB: it is compared or sent at each run; pm.share(big) does that once for all" == text


def test_light_and_shared_ones_are_not_told_of(reports: list[str]) -> None:
    """Nor is a function of many that are light."""
    shared = pm.share(np.zeros(10 * LARGE))
    light = [np.zeros(LARGE), "x" * LARGE]
    functions: list[Callable[[int], object]] = [lambda x: shared, lambda x: light]
    for function in functions:
        Pickled().pack_function(function)
    assert [] == reports
