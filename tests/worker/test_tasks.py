"""A worker: batches in, outcomes out, whoever runs the tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from poolmagic.board import Board
from poolmagic.errors import RunCancelled, TaskCancelled
from poolmagic.messages import Batch, Cancel, Done, Forget, Function, Message, Resize, Returned, Stop, Withdraw
from poolmagic.payload import Direct, Pickled
from poolmagic.worker.outbox import Row
from poolmagic.worker.stacks import SlotStack
from poolmagic.worker.tasks import Worker


class ByHand:
    """Slots whose tasks run when the test says so."""

    def __init__(self) -> None:
        self.told: list[str] = []

    records = 1

    def serve(self, worker: Worker) -> None:
        """Do nothing."""

    def wake(self, count: int) -> None:
        """Note it."""
        self.told.append(f"wake {count}")

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush at once."""
        flush()

    def cancel(self, run: int) -> None:
        """Note it."""
        self.told.append(f"cancel {run}")

    def strike(self, run: int, position: int, error: BaseException) -> None:
        """Note it."""
        self.told.append(f"strike {run} {position}")

    def insist(self) -> bool:
        """Do nothing."""
        return False

    def stacks(self) -> Iterator[SlotStack]:
        """Have none."""
        yield from ()

    def resize(self, slots: int) -> None:
        """Note it."""
        self.told.append(f"resize {slots}")

    def stop(self) -> None:
        """Note it."""
        self.told.append("stop")


class Bench:
    """A worker on the bench: with a list instead of a supervisor."""

    def __init__(self, codec: Any = None) -> None:
        self.codec = codec or Direct()
        self.sent: list[Message] = []
        self.board = Board()
        self.slots = ByHand()
        self.worker = Worker(self.sent.append, self.codec, self.board, self.slots)

    def introduce(self, run: int, function: Callable[..., Any], stars: int = 0) -> None:
        self.worker.receive(Function(run, stars, 0.0, 0.0, 0, (), 0, False, False, self.codec.pack_function(function)))

    def batch(self, run: int, items: list[Any], first: int = 0, start: int = 0) -> None:
        payload, broken = self.codec.pack_values(items)
        assert not broken
        self.worker.receive(Batch(run, start, first, start + len(items), payload))

    def run(self, count: int = 1000) -> None:
        while count and (portion := self.worker.front()) is not None:
            row = Row(portion.out)
            for position, raw in islice(portion.tasks, count):
                self.board.start(0, portion.run, position)
                try:
                    row.keep(position, portion.callable()(raw))
                except BaseException as error:
                    self.worker.fail(portion, position, error)
                count -= 1
            row.close()
            if not portion.waiting:
                self.worker.drop(portion)
        self.board.clear(0)

    def outcomes(self) -> tuple[dict[int, Any], dict[int, BaseException]]:
        values: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        for done in self.sent:
            if isinstance(done, Done):
                raw, load, records = self.codec.open_values(done.payload)
                positions = [position for start, stop in done.spans for position in range(start, stop)]
                values |= {
                    position: value if load is None else load(value)
                    for position, value in zip(positions, raw, strict=True)
                }
                errors |= {
                    position: self.codec.load_error(record)
                    for position, record in zip(done.failed, records, strict=True)
                }
        return values, errors


@pytest.fixture(params=[Direct, Pickled])
def bench(request: pytest.FixtureRequest) -> Bench:
    """A worker with either codec."""
    return Bench(request.param())


def test_a_batch_becomes_outcomes(bench: Bench) -> None:
    """In one report, with contiguous positions as one span."""
    bench.introduce(1, lambda x: x + 1)
    bench.batch(1, [10, 20, 30], start=5, first=5)
    bench.run()
    bench.worker.idle()

    [done] = bench.sent
    assert isinstance(done, Done)
    assert ((5, 8),) == done.spans
    assert ({5: 11, 6: 21, 7: 31}, {}) == bench.outcomes()


def test_only_the_wanted_part_of_a_batch_is_run(bench: Bench) -> None:
    """Its payload may travel whole with each part."""
    bench.introduce(1, lambda x: x)
    payload, _ = bench.codec.pack_values(["a", "b", "c", "d"])
    bench.worker.receive(Batch(1, 10, 11, 13, payload))
    bench.run()
    bench.worker.idle()

    assert {11: "b", 12: "c"} == bench.outcomes()[0]


@pytest.mark.parametrize(("stars", "item"), [(1, (2, 5)), (2, ((2,), {"y": 5}))])
def test_items_become_arguments_as_the_run_says(bench: Bench, stars: int, item: Any) -> None:
    """Spread, or spread with keywords."""
    bench.introduce(1, lambda x, y: x**y, stars)
    bench.batch(1, [item])
    bench.run()
    bench.worker.idle()

    assert {0: 32} == bench.outcomes()[0]


def test_failures_and_values_that_cannot_travel_are_told_apart_from_the_rest(bench: Bench) -> None:
    """Each fails alone."""

    def task(x: int) -> Any:
        if x == 1:
            raise KeyError(x)
        return (n for n in range(3)) if x == 2 else x

    bench.introduce(1, task)
    bench.batch(1, [0, 1, 2, 3])
    bench.run()
    bench.worker.idle()

    values, errors = bench.outcomes()
    assert {0: 0, 3: 3}.items() <= values.items()
    assert isinstance(errors[1], KeyError)
    assert (2 in errors) == isinstance(bench.codec, Pickled)


def test_what_has_not_started_is_given_back_and_never_runs(bench: Bench) -> None:
    """An empty answer is an answer, too."""
    bench.introduce(1, lambda x: x)
    bench.introduce(2, lambda x: -x)
    bench.batch(1, [0, 1, 2, 3])
    bench.batch(2, [1])
    bench.run(1)
    bench.worker.receive(Withdraw(1))
    bench.worker.receive(Withdraw(1))
    bench.run()
    bench.worker.idle()

    assert [Returned(1, ((1, 4),)), Returned(1, ())] == [one for one in bench.sent if isinstance(one, Returned)]
    assert {0} == {start for one in bench.sent if isinstance(one, Done) for start, _ in one.spans}
    assert not bench.worker.active


def test_a_worker_with_unreported_outcomes_is_active() -> None:
    """Or nobody would hand them back while its other slots are busy."""
    bench = Bench()
    bench.introduce(1, lambda x: x)
    bench.batch(1, [0])
    bench.run()

    assert 0 == bench.worker.waiting
    assert bench.worker.active
    bench.worker.flush()
    assert not bench.worker.active


def test_a_cancel_reaches_the_slots(bench: Bench) -> None:
    """After what has not started was given back."""
    bench.introduce(1, lambda x: x)
    bench.batch(1, [0, 1])
    bench.worker.receive(Cancel(1))

    assert [Returned(1, ((0, 2),))] == bench.sent
    assert ["wake 2", "cancel 1"] == bench.slots.told


def test_a_task_that_was_stopped_says_so(bench: Bench) -> None:
    """So that the run does not take it for a failure."""

    def task(x: int) -> None:
        raise TaskCancelled

    bench.introduce(1, task)
    bench.batch(1, [0])
    bench.run()
    bench.worker.idle()

    error = bench.outcomes()[1][0]
    assert isinstance(error, RunCancelled)
    assert error.struck


def test_the_board_says_what_runs(bench: Bench) -> None:
    """From before the item is unpickled to after its outcome is kept."""
    seen: list[Any] = []
    bench = Bench()
    bench.introduce(7, lambda x: seen.append(bench.board.running(1)))
    bench.batch(7, [0, 0], start=40, first=40)
    bench.run()
    bench.worker.idle()

    assert [((7, 40),), ((7, 41),)] == seen
    assert () == bench.board.running(1)


def test_a_function_that_cannot_be_loaded_fails_its_items(bench: Bench) -> None:
    """With what went wrong, and without trying it again for each."""
    if isinstance(bench.codec, Direct):
        bench.introduce(1, functools.partial(int, base="x"))
    else:
        bench.worker.receive(Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, b"no pickle"))
    bench.batch(1, ["0", "1"])
    bench.run()
    bench.worker.idle()

    values, errors = bench.outcomes()
    assert not values
    assert {0, 1} == errors.keys()


def test_resize_forget_and_stop_are_passed_on(bench: Bench) -> None:
    """To the slots."""
    bench.introduce(1, lambda x: x)
    bench.worker.receive(Resize(3))
    bench.worker.receive(Forget(1))
    bench.worker.receive(Stop())

    assert ["resize 3", "stop"] == bench.slots.told
    assert bench.worker.stopping


def test_what_is_given_back_is_told_whatever_its_order() -> None:
    """Batches that were queued again come before others."""
    bench = Bench()
    bench.introduce(1, lambda x: x)
    for position in (5, 9, 7):
        bench.batch(1, [0], start=position, first=position)
    bench.worker.receive(Withdraw(1))

    assert [Returned(1, ((5, 6), (7, 8), (9, 10)))] == bench.sent


def test_what_is_finished_is_reported_before_the_rest_is_given_back() -> None:
    """Or it would look like something that was begun."""
    bench = Bench()
    bench.introduce(1, lambda x: x)
    bench.batch(1, [0, 1, 2])
    bench.run(2)
    bench.worker.receive(Withdraw(1))

    done, returned = bench.sent
    assert isinstance(done, Done)
    assert (((0, 2),), ((2, 3),)) == (done.spans, returned.spans if isinstance(returned, Returned) else None)
