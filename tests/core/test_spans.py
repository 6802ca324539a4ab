"""A set of spans is a set of positions, whatever is added and removed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmagic.core.spans import SpanSet
from poolmagic.messages import Span

spans = st.tuples(st.integers(0, 40), st.integers(-3, 15)).map(lambda pair: (pair[0], pair[0] + pair[1]))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), spans), max_size=40)


def positions(some: list[Span]) -> list[int]:
    return [position for start, stop in some for position in range(start, stop)]


@given(steps)
def test_a_span_set_is_a_set_of_positions(steps: list[tuple[str, Span]]) -> None:
    """After any additions and removals it holds, counts and gives back what a plain set would."""
    books, model = SpanSet(), set[int]()
    for what, span in steps:
        named = set(range(*span))
        if what == "remove":
            assert sorted(named & model) == positions(books.remove(span))
            model -= named
        elif named and not named & model:
            books.add(span)
            model |= named
        else:
            with pytest.raises(ValueError, match="is empty or overlaps the set"):
                books.add(span)
        assert sorted(model) == positions(list(books))
        assert len(model) == books.count
        assert [position in model for position in range(-1, 60)] == [position in books for position in range(-1, 60)]


def test_a_refused_addition_changes_nothing() -> None:
    """A span that overlaps the set is refused as a whole."""
    books = SpanSet()
    books.add((5, 10))
    for span in [(4, 6), (9, 11), (6, 7), (0, 20), (5, 10), (7, 7), (12, 11)]:
        with pytest.raises(ValueError, match="overlaps"):
            books.add(span)
    assert [(5, 10)] == list(books)
    assert 5 == books.count


def test_neighbours_are_not_merged() -> None:
    """The border between two batches stays visible: a span that goes back to the queue never crosses it."""
    books = SpanSet()
    books.add((5, 10))
    books.add((0, 5))
    assert [(0, 5), (5, 10)] == list(books)
    assert [(3, 5), (5, 7)] == books.remove((3, 7))


def test_a_million_positions_are_two_numbers() -> None:
    """A long span costs no more than a short one, and a hole in it makes two."""
    books = SpanSet()
    books.add((0, 1_000_000))
    assert [(500_000, 500_001)] == books.remove((500_000, 500_001))
    assert [(0, 500_000), (500_001, 1_000_000)] == list(books)
    assert 999_999 == books.count


def test_removing_what_is_not_there_removes_nothing() -> None:
    """A late or double report takes nothing out."""
    books = SpanSet()
    assert [] == books.remove((0, 10))
    books.add((5, 10))
    assert [(5, 10)] == books.remove((0, 100))
    assert [] == books.remove((0, 100))
    assert 0 == books.count
