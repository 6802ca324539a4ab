"""The slot of a prefork worker: a tight loop in which no item is lost, run twice or blamed for another."""

from __future__ import annotations

import contextvars
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmagic.board import Board
from poolmagic.messages import Batch, Done, Function, Message, Output, Returned, Stop, Withdraw
from poolmagic.payload import Direct, Pickled
from poolmagic.worker import slots as slots_module
from poolmagic.worker import tasks as tasks_module
from poolmagic.worker.output import TaskStream
from poolmagic.worker.slots import InlineSlots
from poolmagic.worker.tasks import Worker
from tests.conftest import wait_until


class Bench:
    """A worker with the slot of a prefork worker, and a list instead of a supervisor."""

    def __init__(self, function: Callable[[Any], Any], codec: Any = None, board: Board | None = None) -> None:
        self.codec = codec or Direct()
        self.sent: list[Message] = []
        self.board = board or Board()
        self.slots = InlineSlots()
        self.worker = Worker(self.sent.append, self.codec, self.board, self.slots)
        self.introduce(1, function)

    def introduce(self, run: int, function: Callable[[Any], Any]) -> None:
        self.worker.receive(Function(run, 0, 0.0, 0.0, 0, (), 0, False, False, self.codec.pack_function(function)))

    def batch(self, first: int, items: list[Any], run: int = 1) -> None:
        payload, _ = self.codec.pack_values(items)
        self.worker.receive(Batch(run, first, first, first + len(items), payload))

    def serve(self) -> None:
        """Run all there is."""
        self.worker.receive(Stop())
        contextvars.copy_context().run(self.slots.serve, self.worker)

    def values(self, run: int = 1) -> dict[int, Any]:
        """What was reported, by position; nothing may be reported twice."""
        found: dict[int, Any] = {}
        for done in self.sent:
            if isinstance(done, Done) and done.run == run:
                raw, load, records = self.codec.open_values(done.payload)
                values = list(raw) if load is None else [load(value) for value in raw]
                positions = [position for start, stop in done.spans for position in range(start, stop)]
                pairs = [*zip(positions, values, strict=True), *zip(done.failed, records, strict=True)]
                assert not found.keys() & {position for position, _ in pairs}
                found |= dict(pairs)
        return found

    def returned(self, run: int = 1) -> list[int]:
        """The positions that were given back."""
        return [
            position
            for one in self.sent
            if isinstance(one, Returned) and one.run == run
            for start, stop in one.spans
            for position in range(start, stop)
        ]


@pytest.fixture(params=[Direct, Pickled])
def codec(request: pytest.FixtureRequest) -> Any:
    """Either codec."""
    return request.param()


def test_values_of_many_batches_are_one_span(codec: Any) -> None:
    """However fast they are, and however many looks at the clock there were."""
    bench = Bench(lambda x: -x, codec)
    for first in range(0, 5000, 1000):
        bench.batch(first, list(range(first, first + 1000)))
    bench.serve()

    assert {x: -x for x in range(5000)} == bench.values()
    assert all(1 == len(one.spans) for one in bench.sent if isinstance(one, Done))
    assert not bench.worker.active


def test_batches_in_any_order_are_reported_in_the_order_of_their_positions(codec: Any) -> None:
    """A report has its values in the order of its spans."""
    bench = Bench(lambda x: x, codec)
    for first in (30, 10, 20, 0, 50):
        bench.batch(first, list(range(first, first + 10)))
    bench.serve()

    assert {x: x for x in (*range(40), *range(50, 60))} == bench.values()
    assert all(one.spans == tuple(sorted(one.spans)) for one in bench.sent if isinstance(one, Done))


@pytest.mark.parametrize("bad", [{0}, {99}, {0, 1, 2}, {50}, set(range(100)), set(range(0, 100, 2))])
def test_failures_are_apart_from_their_neighbours_values(bad: set[int], codec: Any) -> None:
    """The loop goes on with the next item."""

    def task(x: int) -> int:
        if x in bad:
            raise KeyError(x)
        return x

    bench = Bench(task, codec)
    bench.batch(100, list(range(100)))
    bench.serve()

    failed = [position for one in bench.sent if isinstance(one, Done) for position in one.failed]
    assert sorted(100 + x for x in bad) == sorted(failed)
    assert {100 + x: x for x in range(100) if x not in bad} == {
        position: value for position, value in bench.values().items() if position not in failed
    }


def test_what_would_end_a_program_is_the_items_failure(codec: Any) -> None:
    """And an interrupt is the failure of the item in which it comes."""

    def task(x: int) -> int:
        if x % 2:
            raise (SystemExit, KeyboardInterrupt, GeneratorExit)[x % 3]
        return x

    bench = Bench(task, codec)
    bench.batch(0, list(range(20)))
    bench.serve()

    failed = [position for one in bench.sent if isinstance(one, Done) for position in one.failed]
    assert list(range(1, 20, 2)) == failed


class Interrupting(set[str]):
    """Stands in for what the loop asks after each item; an interrupt comes just then, now and again."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __bool__(self) -> bool:
        self.asked += 1
        if self.asked % 7 == 0:
            raise KeyboardInterrupt
        return False


def test_an_interrupt_between_two_items_costs_none(codec: Any) -> None:
    """What has its value keeps it: nothing is reported both ways, or not at all."""
    bench = Bench(lambda x: x, codec)
    bench.worker.nudges = Interrupting()
    bench.batch(10, list(range(1000)))
    bench.serve()

    assert {10 + x: x for x in range(1000)} == bench.values()


def test_an_item_given_back_is_never_run_and_one_that_ran_is_never_given_back() -> None:
    """A thread takes back, again and again, what the loop is running through."""
    ran: list[int] = []
    bench = Bench(ran.append)
    total, size = 400_000, 2000
    over = threading.Event()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def take_back() -> None:
        while not over.is_set():
            bench.worker.receive(Withdraw(1))

    thread = threading.Thread(target=take_back)
    serving = threading.Thread(target=bench.slots.serve, args=(bench.worker,))
    try:
        serving.start()
        thread.start()
        for first in range(0, total, size):
            bench.batch(first, list(range(first, first + size)))
        bench.worker.receive(Stop())
        serving.join(60)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before)

    returned = bench.returned()
    assert sorted([*ran, *returned]) == list(range(total))
    assert bench.values().keys() == set(ran)
    assert returned, "the race took place"
    assert ran, "the race took place"


def test_a_batch_is_given_back_whole_even_if_the_garbage_collector_runs_meanwhile() -> None:
    """It runs Python code, and so lets other threads run: here one that takes the next item."""
    bench = Bench(lambda x: x)
    bench.batch(0, list(range(5000)))
    taken: list[int] = []

    def collecting(phase: str, info: dict[str, int]) -> None:
        portion = bench.worker.front()
        if portion is not None:
            taken.extend(position for position, _ in itertools.islice(portion.tasks, 1))

    before = gc.get_threshold()
    gc.callbacks.append(collecting)
    try:
        gc.set_threshold(1)
        bench.worker.receive(Withdraw(1))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collecting)

    assert list(range(5000)) == [*taken, *bench.returned()]


def test_what_is_finished_is_reported_before_the_rest_is_given_back() -> None:
    """Though it is in the middle of a stretch of short items."""
    bench = Bench(lambda x: bench.worker.receive(Withdraw(1)) if x == 700 else x)
    bench.batch(0, list(range(1000)))
    bench.serve()

    done, returned, last = bench.sent
    assert isinstance(done, Done)
    assert isinstance(last, Done)
    assert ((0, 700),) == done.spans
    assert Returned(1, ((701, 1000),)) == returned
    assert ((700, 701),) == last.spans


def test_short_items_are_reported_while_others_of_their_batch_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here after each look at the clock."""
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.0)
    bench = Bench(lambda x: len(bench.sent))
    bench.batch(0, [0] * 10_000)
    bench.serve()

    seen = bench.values()
    assert 10_000 // slots_module.MOST_STEPS <= seen[9_999]
    assert max(later - sooner for sooner, later in itertools.pairwise(seen.values())) <= 1


def test_every_slow_item_is_followed_by_a_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its result is not held up by the items after it, and the board's time is that of the item itself."""
    now = itertools.count()
    for module in (slots_module, tasks_module):
        monkeypatch.setattr(module, "perf_counter", lambda: float(next(now)))
    exact: list[bool] = []

    def task(x: int) -> None:
        exact.extend(mark.exact for mark in bench.board.look(1)[0])

    bench = Bench(task)
    bench.batch(0, [0] * 100)
    bench.serve()

    assert [True] * 100 == exact
    assert 90 < len([one for one in bench.sent if isinstance(one, Done)])


def test_a_tick_finds_its_way_into_a_series_that_turned_slow() -> None:
    """Short items are run with few looks at the clock; the control thread notices when they are not short any more."""
    exact: dict[int, bool] = {}

    def task(x: int) -> None:
        if x >= 1500:
            [mark] = bench.board.look(1)[0]
            exact[x] = mark.exact
            bench.worker.since -= 1  # a second goes by
            bench.worker.tick()

    bench = Bench(task)
    bench.batch(0, list(range(2000)))
    bench.serve()

    assert all(exact[x] for x in range(1501, 1503))
    assert dict.fromkeys(range(2000)) == bench.values()


def test_the_board_says_which_item_runs_and_how_many_are_over() -> None:
    """For each of them, though the time and the count are stored for one of many only."""
    seen: list[tuple[int, int, int]] = []

    def task(x: int) -> None:
        [mark], done = bench.board.look(1)
        seen.append((mark.run, mark.position, done))
        if x == 50:
            raise ValueError

    bench = Bench(task)
    bench.introduce(2, task)
    bench.batch(40, list(range(100)))
    bench.batch(7, [0, 0, 0], run=2)
    bench.batch(1000, list(range(100, 1100)))
    bench.serve()

    positions = [
        *((1, 40 + x) for x in range(100)),
        *((2, 7 + x) for x in range(3)),
        *((1, 1000 + x) for x in range(1000)),
    ]
    assert [(run, position, done) for done, (run, position) in enumerate(positions)] == seen
    assert ([], 1103) == bench.board.look(1)
    assert () == bench.board.running(1)


def test_nobody_is_blamed_for_what_comes_before_a_batchs_first_item() -> None:
    """Neither that item nor the last one of the batch before."""
    bench = Bench(lambda x: x)
    bench.batch(3, ["a"])
    bench.batch(5, ["b"])
    _, second = bench.worker._portions
    seen: list[Any] = []

    def items() -> Iterator[tuple[int, str]]:
        seen.append(bench.board.running(1))
        yield 5, "b"

    second.tasks = items()
    bench.serve()

    assert [()] == seen
    assert {3: "a", 5: "b"} == bench.values()


CRASH = """
import os, signal, sys
from poolmagic.board import Board
from poolmagic.messages import Batch, Function, Stop
from poolmagic.payload import Direct
from poolmagic.worker.slots import InlineSlots
from poolmagic.worker.tasks import Worker
board, log, victim = Board.attach(int(sys.argv[1])), Board.attach(int(sys.argv[2])), int(sys.argv[3])
begun, _ = log.record(0)
over, _ = log.record(1)
def task(x):
    begun[0] = x + 1
    if x == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    over[0] = x + 1
slots = InlineSlots()
worker = Worker(lambda message: None, Direct(), board, slots)
worker.receive(Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, task))
for first in range(0, 3_000_000, 100_000):
    worker.receive(Batch(1, first, first, first + 100_000, (range(first, first + 100_000), [])))
worker.receive(Stop())
slots.serve(worker)
"""


@pytest.mark.parametrize("victim", [0, 1, 777, 100_000, 123_456])
def test_an_item_that_kills_its_process_is_the_one_on_the_board(victim: int) -> None:
    """Exactly that one, in the middle of a stretch or at its ends."""
    board, _, running = crash(victim)

    assert ((1, victim),) == running
    assert victim == board.look(1)[1]


def test_whoever_kills_the_process_at_any_moment_finds_the_item_that_ran() -> None:
    """It is the last one that was begun, or the one that was just about to be."""
    for moment in random.Random(5).sample(range(1, 400_000), 8):
        board, log, running = crash(-1, moment)
        [(_, position)] = running or ((1, log.running(2)[1][0] + 1),)
        begun, over = (log.record(slot)[0][0] - 1 for slot in (0, 1))

        assert begun in (position, position - 1)
        assert over in (position, position - 1)
        # Of the count LOOK and DONE are two halves, stored one after the other.
        assert -1 <= position - board.look(1)[1] <= slots_module.MOST_STEPS or not running


def crash(victim: int, moment: int | None = None) -> tuple[Board, Board, tuple[tuple[int, int], ...]]:
    """Run items in a process until it dies: of itself, or killed once about `moment` of them are over."""
    (board, descriptor), (log, log_descriptor) = Board.create(), Board.create()
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, str(descriptor), str(log_descriptor), str(victim)],
        pass_fds=(descriptor, log_descriptor),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    os.close(descriptor)
    os.close(log_descriptor)
    if moment is not None:
        wait_until(lambda: board.look(1)[1] >= moment, "it is time")
        process.kill()
    assert -signal.SIGKILL == process.wait(60)
    return board, log, board.running(1)


class Terminal:
    """A stream that is somewhere else."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """There is nothing to do."""


def test_what_a_task_prints_has_its_name_on_it() -> None:
    """In the order in which it is printed, lines without an end included."""
    terminal = Terminal()

    def task(x: int) -> None:
        stream.write(f"{x} begins\n")
        if x % 3 == 0:
            stream.write(f"{x} has no end")
        if x == 6:
            raise ValueError

    bench = Bench(task)
    stream = TaskStream(bench.worker.printer, "stdout", terminal)  # type: ignore[arg-type]
    bench.batch(100, list(range(9)))

    bench.serve()

    outputs = [(one.position, one.text) for one in bench.sent if isinstance(one, Output)]
    expected = [[(100 + x, f"{x} begins\n"), *([(100 + x, f"{x} has no end")] if x % 3 == 0 else [])] for x in range(9)]
    assert [pair for pairs in expected for pair in pairs] == outputs
    assert "" == terminal.text
    assert not bench.worker.printer.calls
