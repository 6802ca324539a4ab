"""Items on their way out: what is pulled, packed, kept, and left over for a run that is resumed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmagic.feed import Feed, Pulled
from poolmagic.payload import Codec, Direct, Pickled

LOCK = threading.Lock()


def feed_of(items: Any, total: int | None = None, codec: Codec | None = None) -> Feed:
    return Feed(iter(items), total, codec or Direct())


def all_of(feed: Feed, size: int = 2) -> list[tuple[int, Any]]:
    """Pull everything; return each item with its index."""
    found: list[tuple[int, Any]] = []
    while not feed.exhausted:
        span = feed.pull(size).span
        if span is not None:
            found += zip(feed.indices(span), [feed.item(position) for position in range(*span)], strict=True)
    return found


def failing(items: Any, error: BaseException) -> Iterator[Any]:
    yield from items
    raise error


def test_items_come_in_batches_of_what_was_asked_for() -> None:
    """Positions follow one another; the last batch is as long as there are items."""
    feed = feed_of("abcde", 5)
    assert [Pulled((0, 2), {}, False), Pulled((2, 4), {}, False), Pulled((4, 5), {}, True)] == [
        feed.pull(2) for _ in range(3)
    ]
    assert feed.exhausted
    assert (2, (["c", "d"], ())) == feed.payload(3)
    assert "d" == feed.item(3)


def test_without_a_length_the_end_is_seen_when_it_is_met() -> None:
    """A batch that came out short is the last; so is one that came out empty."""
    feed = feed_of("abc")
    assert Pulled((0, 2), {}, False) == feed.pull(2)
    assert Pulled((2, 3), {}, True) == feed.pull(2)
    feed = feed_of("ab")
    assert Pulled((0, 2), {}, False) == feed.pull(2)
    assert Pulled(None, {}, True) == feed.pull(2)


def test_an_empty_input_is_exhausted_by_the_first_look() -> None:
    """Whether or not its length is known."""
    for total in (0, None):
        feed = feed_of("", total)
        assert Pulled(None, {}, True) == feed.pull(3)
        assert feed.exhausted


@pytest.mark.parametrize("claimed", [0, 1, 3, 4, 5, 9])
def test_a_length_that_is_wrong_does_no_harm(claimed: int) -> None:
    """All items come, no more and no fewer, and the length is corrected or forgotten."""
    feed = feed_of("abcd", claimed)
    assert list(enumerate("abcd")) == all_of(feed)
    assert feed.exhausted
    assert feed.total in (4, None, claimed)


def test_an_endless_input_is_read_no_further_than_asked() -> None:
    """Not one item more."""
    counter = itertools.count()
    feed = feed_of(counter)
    feed.pull(3)
    assert 3 == next(counter)


def test_an_error_of_the_iterator_ends_the_input() -> None:
    """What it gave before is pulled, and the error is kept for when that is done."""
    error = LookupError("no more")
    feed = feed_of(failing("abc", error), 10)
    assert Pulled((0, 2), {}, False) == feed.pull(2)
    assert Pulled((2, 3), {}, True) == feed.pull(2)
    assert error is feed.error
    assert feed.exhausted


def test_an_iterator_that_fails_at_once_ends_the_input_too() -> None:
    """There is nothing to pull first."""
    feed = feed_of(failing("", LookupError()))
    assert Pulled(None, {}, True) == feed.pull(2)
    assert isinstance(feed.error, LookupError)


class Interrupted:
    """An iterator of letters that is interrupted once before each of some places."""

    def __init__(self, letters: str, *places: int) -> None:
        self.letters = letters
        self.places = set(places)
        self.place = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.place in self.places:
            self.places.remove(self.place)
            raise KeyboardInterrupt
        if self.place == len(self.letters):
            raise StopIteration
        self.place += 1
        return self.letters[self.place - 1]


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("total", [None, 4, 2])
@pytest.mark.parametrize("place", range(5))
def test_an_interrupt_is_raised_and_nothing_is_lost(place: int, total: int | None, resumes: bool) -> None:
    """Whoever goes on, at once or by a resumed run, gets every item under its index."""
    feed = feed_of(Interrupted("abcd", place), total)
    found: list[tuple[int, Any]] = []
    for _ in range(2):
        try:
            found += all_of(feed)
        except KeyboardInterrupt:
            if resumes:
                feed, found = feed.rest([]), []
            else:
                found = [(feed.index(one), feed.item(one)) for one in range(feed.pulled)]
    assert list(enumerate("abcd")) == found


def test_an_item_that_cannot_be_packed_is_named_by_its_position() -> None:
    """The others of its batch travel."""
    feed = feed_of(["a", "b", LOCK, "c"], 4, Pickled())
    feed.pull(1)
    pulled = feed.pull(3)
    assert (1, 4) == pulled.span
    assert [2] == list(pulled.broken)
    assert "cannot pickle '_thread.lock' object" in str(pulled.broken[2])


def test_a_batch_is_kept_until_its_last_item_has_its_outcome() -> None:
    """Its neighbours may go before it."""
    feed = feed_of("abcdef", 6)
    for _ in range(3):
        feed.pull(2)
    feed.resolve((1, 4))
    assert "a" == feed.item(0)
    assert (4, (["e", "f"], ())) == feed.payload(5)
    assert [0, 4] == feed._starts
    feed.resolve((0, 1))
    feed.resolve((4, 6))
    assert [] == feed._starts


def test_the_rest_is_what_has_no_outcome() -> None:
    """It keeps its indices, wherever in the input they were; then comes what was never pulled."""
    feed = feed_of("abcdefgh", 8)
    for _ in range(3):
        feed.pull(2)
    feed.resolve((0, 1))
    feed.resolve((2, 5))
    rest = feed.rest([])
    assert 4 == rest.total
    assert [(1, "b"), (5, "f"), (6, "g"), (7, "h")] == all_of(rest)


def test_failed_items_are_run_again_in_their_place() -> None:
    """Those whose failure was final come back when the run is resumed."""
    feed = feed_of("abcd", 4)
    feed.pull(4)
    feed.resolve((0, 4))
    assert [(1, "b"), (3, "d")] == all_of(feed.rest([(3, "d"), (1, "b")]))


def test_indices_may_be_counted_across_the_leftovers_and_the_rest() -> None:
    """One batch can hold both."""
    feed = feed_of("abcdef")
    feed.pull(4)
    feed.resolve((1, 3))
    rest = feed.rest([])
    assert (0, 3) == rest.pull(3).span
    assert [0, 3, 4] == list(rest.indices((0, 3)))
    assert [3, 4] == list(rest.indices((1, 3)))
    assert range(4, 6) == rest.indices((2, 4))
    assert 5 == rest.index(3)


@pytest.mark.parametrize("total", [None, 3, 5])
def test_an_error_of_the_input_is_kept_in_the_rest(total: int | None) -> None:
    """A run that is resumed must not end as a list that is silently too short, and it must end."""
    feed = feed_of(failing("abc", LookupError("no more")), total)
    feed.pull(5)
    feed.resolve((0, 2))
    rest = feed.rest([])
    assert (0, 1) == rest.pull(1).span
    assert [2] == list(rest.indices((0, 1)))
    assert Pulled(None, {}, True) == rest.pull(1)
    assert rest.exhausted
    assert "no more" == str(rest.error)


steps = st.lists(st.tuples(st.sampled_from(["pull", "resolve", "rest"]), st.integers(1, 7), st.integers(0, 60)))


@given(steps, st.integers(0, 25), st.booleans())
def test_every_item_is_resolved_under_its_own_index(
    script: list[tuple[str, int, int]], length: int, known: bool
) -> None:
    """However a run is cut into batches, resolved and resumed, what is left over is what has no outcome."""
    feed = feed_of(range(100, 100 + length), length if known else None)
    left = set(range(length))
    pulled: list[int] = []
    for what, size, pick in script:
        if what == "pull" and not feed.exhausted:
            span = feed.pull(size).span
            pulled += range(*span) if span else ()
        elif what == "resolve" and pulled:
            position = pulled.pop(pick % len(pulled))
            assert 100 + feed.index(position) == feed.item(position)
            start, (items, _) = feed.payload(position)
            assert feed.item(position) == items[position - start]
            left.remove(feed.index(position))
            feed.resolve((position, position + 1))
        elif what == "rest":
            feed, pulled = feed.rest([]), []
    assert [(index, 100 + index) for index in sorted(left)] == all_of(feed.rest([]))
