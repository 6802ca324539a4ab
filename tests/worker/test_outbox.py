"""What is finished and not handed back yet."""

from __future__ import annotations

import sys
import threading
from typing import Any

from poolmagic.worker.outbox import Outbox, Row, spans_of


def test_what_is_taken_is_in_the_order_of_positions() -> None:
    """Whoever finished it, and whenever."""
    outbox = Outbox()
    first = outbox.open(10)
    first.values += ["ten", "eleven"]
    other = outbox.open(3)
    other.values += ["three"]
    outbox.failed.append((5, "error", True))
    second = outbox.open(12, first)
    second.values += ["twelve"]

    assert outbox
    assert ([(3, 4), (10, 13)], ["three", "ten", "eleven", "twelve"], [(5, "error", True)]) == outbox.take()
    assert not outbox
    assert ([], [], []) == outbox.take()


def test_a_stretch_goes_on_after_it_was_taken_from() -> None:
    """As long as it is open; then nothing of it stays."""
    outbox = Outbox()
    stretch = outbox.open(0)
    for expected in range(5):
        stretch.values.append(expected)
        assert ([(expected, expected + 1)], [expected], []) == outbox.take()
    outbox.open(100, stretch)
    outbox.take()

    assert 1 == len(outbox._stretches)


def test_a_single_value_is_a_stretch_of_its_own() -> None:
    """Neighbours become one span all the same."""
    outbox = Outbox()
    for position in (4, 2, 3, 9):
        row = Row(outbox)
        row.keep(position, -position)
        row.close()

    assert ([(2, 5), (9, 10)], [-2, -3, -4, -9], []) == outbox.take()


def test_nothing_is_lost_or_doubled_while_a_slot_puts_in_and_another_thread_takes_out() -> None:
    """However often, and at whatever moment."""
    outbox, total = Outbox(), 100_000
    found: dict[int, Any] = {}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def put_in() -> None:
        stretch = None
        for position in range(total):
            if stretch is None or position % 50 == 0:
                stretch = outbox.open(position, stretch)
            stretch.values.append(-position)

    thread = threading.Thread(target=put_in)
    try:
        thread.start()
        alive = True
        while alive or outbox:
            alive = thread.is_alive()
            spans, values, _ = outbox.take()
            positions = [position for start, stop in spans for position in range(start, stop)]
            assert not found.keys() & set(positions)
            found |= dict(zip(positions, values, strict=True))
    finally:
        thread.join()
        sys.setswitchinterval(before)

    assert {position: -position for position in range(total)} == found


def test_positions_as_spans() -> None:
    """The shortest list of them."""
    assert [] == spans_of([])
    assert [(0, 1)] == spans_of([0])
    assert [(3, 7)] == spans_of([3, 4, 5, 6])
    assert [(1, 3), (5, 6), (8, 10)] == spans_of([1, 2, 5, 8, 9])
