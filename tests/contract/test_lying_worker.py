"""The kernel against a worker that lies: late, double, foreign, half and absurd messages. Nothing hangs or is wrong.

The worker is a thread of the test at the other end of a real socket pair. The first one of a pool lies when it gets
its first batch; those that come after it are honest.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import messages as ms
from poolmagic.board import DONE, LOOK, POSITION, RUN, SINCE, Board
from poolmagic.config import PoolConfig
from poolmagic.descriptors import receive, transmit
from poolmagic.launcher import Launcher, Loop, Reports, Surroundings
from poolmagic.memory import MemoryFile, Payload
from poolmagic.payload import Pickled
from poolmagic.processes import ProcessLink
from poolmagic.timings import pack
from poolmagic.wire import HEADER, Decoder, encode
from tests.conftest import MakePool
from tests.tasks import square

pytestmark = pytest.mark.faults

_unique = itertools.count(101)
COUNT = 30


class Liar(threading.Thread):
    """A worker of one slot that squares numbers, and lies once.

    Args:
        connection: Its end of the socket pair.
        board: Its status board.
        lie: Called with the worker and its first batch; returns whether it goes on to be honest about that batch.
    """

    def __init__(self, connection: socket.socket, board: Board, lie: Lie | None) -> None:
        super().__init__(name="liar", daemon=True)
        self.connection = connection
        self.board = board
        self.lie = lie
        self.codec = Pickled()

    def run(self) -> None:
        with suppress(OSError), self.connection:
            self.send(ms.Hello(1))
            for message in self.hear():
                if isinstance(message, ms.Batch):
                    lie, self.lie = self.lie, None
                    if lie is None or lie(self, message):
                        self.answer(message)
                elif isinstance(message, ms.Withdraw | ms.Cancel):
                    self.send(ms.Returned(message.run, ()))
                elif isinstance(message, ms.Stop):
                    return

    def hear(self) -> Iterator[ms.Message]:
        """Yield what the kernel says until it hangs up."""
        decoder = Decoder()
        while True:
            data, descriptors = receive(self.connection)
            if not data:
                return
            yield from decoder.feed(data, descriptors)

    def send(self, *messages: ms.Message) -> None:
        for message in messages:
            pieces, descriptors = encode(message)
            for piece in pieces:
                self.send_bytes(piece, descriptors)
                descriptors = []

    def send_bytes(self, data: bytes, descriptors: Iterable[int] = ()) -> None:
        rest, along = memoryview(data), list(descriptors)
        while rest:
            rest = rest[transmit(self.connection, [rest], along) :]
            along = []

    def values(self, batch: ms.Batch) -> list[int]:
        """Return the right results of a batch."""
        items, load, _ = self.codec.open_values(batch.payload)
        wanted = items[batch.first - batch.start : batch.stop - batch.start]
        found = [item if load is None else load(item) for item in wanted]
        return [square(item[0][0] if isinstance(item, tuple) else item) for item in found]  # a future's has arguments

    def pack(self, values: list[Any], errors: list[bytes] | None = None) -> Any:
        return self.codec.pack_values(values, errors or [])[0]

    def done(self, batch: ms.Batch, **changes: Any) -> ms.Done:
        """Return the honest answer to a batch, but for what is to be changed."""
        fields: dict[str, Any] = {
            "run": batch.run,
            "spans": ((batch.first, batch.stop),),
            "failed": (),
            "retriable": (),
            "seconds": 0.01,
            "timings": b"",
            "payload": self.pack(self.values(batch)),
        }
        return ms.Done(**fields | changes)

    def answer(self, batch: ms.Batch) -> None:
        self.send(self.done(batch))


Lie = Callable[[Liar, ms.Batch], bool | None]


class LiarLink(ProcessLink):
    """The kernel's hold on such a worker: that of a process, which can be killed."""

    def kill(self) -> None:
        """Report the end of what has no process."""
        if not self._killed:
            self._killed = True
            self._loop.call(self.over, -9, 0)


@dataclass
class LiarLauncher:
    """Starts one liar, and honest workers after it."""

    lie: Lie
    loop: Loop
    reports: Reports
    started: list[Liar] = field(default_factory=list)

    def prepare(self, modules: Iterable[str]) -> None:
        """Do nothing."""

    def start(self, worker: int, slots: int) -> ProcessLink:
        link = LiarLink(worker, self.loop, self.reports)
        self.started.append(Liar(link.theirs.dup(), link.board, None if self.started else self.lie))
        self.started[-1].start()
        self.loop.call(link.release)
        threading.Thread(target=self._report, args=(self.started[-1], link), daemon=True).start()
        return link

    def _report(self, liar: Liar, link: ProcessLink) -> None:
        liar.join()
        self.loop.call(link.over, 1, 0)

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def make_lying_pool(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Lie], pm.Pool]]:
    """Make a pool whose first worker tells a lie."""
    pools: list[pm.Pool] = []

    def make(lie: Lie) -> pm.Pool:
        def launcher_for(config: PoolConfig, surroundings: Surroundings) -> Callable[[Loop, Reports], Launcher]:
            return partial(LiarLauncher, lie)

        with monkeypatch.context() as patch:
            patch.setattr("poolmagic.engine._launcher_for", launcher_for)
            pools.append(pm.Pool("prefork", 1, inner_threads=next(_unique)))  # nobody else's warm workers
            pools[-1].snapshot()
            pools[-1]._lease()
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join(30)


def garbage(liar: Liar, batch: ms.Batch) -> bool:
    """Send what is no frame, and hang up."""
    liar.send_bytes(b"GET / HTTP/1.1\r\n\r\n" * 10)
    liar.connection.shutdown(socket.SHUT_RDWR)
    return False


def garbage_and_wait(liar: Liar, batch: ms.Batch) -> bool:
    """Send what is no frame, and stay on the line."""
    liar.send_bytes(b"GET / HTTP/1.1\r\n\r\n" * 10)
    return False


def half(liar: Liar, batch: ms.Batch) -> bool:
    """Hang up in the middle of a frame."""
    liar.send_bytes(b"".join(encode(liar.done(batch))[0])[:-3])
    liar.connection.shutdown(socket.SHUT_RDWR)
    return False


def in_crumbs(liar: Liar, batch: ms.Batch) -> bool:
    """Send the right answer byte by byte."""
    for byte in b"".join(encode(liar.done(batch))[0]):
        liar.send_bytes(bytes([byte]))
    return False


def double(liar: Liar, batch: ms.Batch) -> bool:
    """Send the answer three times, the later ones with other values."""
    liar.send(liar.done(batch), liar.done(batch, payload=liar.pack([-1] * COUNT)), liar.done(batch))
    return False


def foreign_runs(liar: Liar, batch: ms.Batch) -> bool:
    """Speak of runs that are others' or nobody's."""
    for run in (batch.run + 1000, batch.run - 1, -5, 2**62, 10**300):
        liar.send(liar.done(batch, run=run), ms.Returned(run, ((0, 5),)), ms.Output(run, 0, "stdout", "?"))
    return True


def foreign_positions(liar: Liar, batch: ms.Batch) -> bool:
    """Claim items that it never had."""
    spans = ((batch.stop + 100, batch.stop + 101), (-5, -4), (2**62, 2**62 + 1), (7, 3), (-1, -10))
    liar.send(liar.done(batch, spans=spans, payload=liar.pack([-1] * 3)))
    liar.send(liar.done(batch, spans=(), failed=(-1, 10**30, batch.stop + 5), payload=liar.pack([], [b""] * 3)))
    liar.send(ms.Returned(batch.run, spans))
    return True


def foreign_words(liar: Liar, batch: ms.Batch) -> bool:
    """Say what only a kernel, or only a zygote, says."""
    liar.send(
        ms.Function(batch.run, 0, 0.0, 0.0, 0, (), 0, False, False, b"no pickle"),
        ms.Batch(batch.run, 0, 0, 5, b"no pickle"),
        *(one(batch.run) for one in (ms.Withdraw, ms.Cancel, ms.Forget, ms.Resize, ms.Hello)),
        ms.Stop(),
        ms.Fork(1, 1),
        ms.Forked(1, -1),
        ms.Gone(1, 0, 0),
        ms.Preload("os"),
        ms.Preloaded("os", 5, "?"),
        *[ms.Hello(-1)] * 100,
    )
    return True


def absurd_output(liar: Liar, batch: ms.Batch) -> bool:
    """Print half a letter to a stream that is none."""
    liar.send(ms.Output(batch.run, -(10**30), "stdprn", "\udc80\0"), ms.Output(batch.run, 0, "", ""))
    return True


def absurd_seconds(liar: Liar, batch: ms.Batch) -> bool:
    """Have taken longer than there is time."""
    liar.send(liar.done(batch, seconds=10**400))
    return False


def given_back_and_done(liar: Liar, batch: ms.Batch) -> bool:
    """Give all back, twice, and do it all the same."""
    spans = ((batch.first, batch.stop),)
    liar.send(ms.Returned(batch.run, spans), ms.Returned(batch.run, spans), liar.done(batch))
    return False


def retriable_that_did_not_fail(liar: Liar, batch: ms.Batch) -> bool:
    """Say that something may be tried again which has a value, or is nobody's."""
    liar.send(liar.done(batch, retriable=(batch.first, -1, 10**30)))
    return False


def all_there_is(liar: Liar, batch: ms.Batch) -> bool:
    """Claim the whole world, with too few values."""
    liar.send(liar.done(batch, spans=((0, 2**62),)))
    return False


def too_few_values(liar: Liar, batch: ms.Batch) -> bool:
    liar.send(liar.done(batch, payload=liar.pack(liar.values(batch)[:-1])))
    return False


def too_many_values(liar: Liar, batch: ms.Batch) -> bool:
    liar.send(liar.done(batch, payload=liar.pack([*liar.values(batch), -1, -1])))
    return False


def too_few_errors(liar: Liar, batch: ms.Batch) -> bool:
    liar.send(liar.done(batch, spans=(), failed=tuple(range(batch.first, batch.stop)), payload=liar.pack([])))
    return False


def too_many_errors(liar: Liar, batch: ms.Batch) -> bool:
    liar.send(liar.done(batch, payload=liar.pack(liar.values(batch), [b"?", b"?"])))
    return False


def errors_that_are_none(liar: Liar, batch: ms.Batch) -> bool:
    positions = tuple(range(batch.first, batch.stop))
    liar.send(liar.done(batch, spans=(), failed=positions, payload=liar.pack([], [b"no record"] * len(positions))))
    return False


def both_done_and_failed(liar: Liar, batch: ms.Batch) -> bool:
    """Say of an item that it has a value, twice, and an error."""
    span = (batch.first, batch.first + 1)
    record = liar.codec.pack_error(ValueError("?"))
    payload = liar.pack([liar.values(batch)[0]] * 2, [record])
    liar.send(liar.done(batch, spans=(span, span), failed=(batch.first,), payload=payload))
    if batch.stop > batch.first + 1:
        liar.send(liar.done(batch, spans=((batch.first + 1, batch.stop),), payload=liar.pack(liar.values(batch)[1:])))
    return False


def payload_of(payload: bytes) -> Lie:
    """Return a lie that sends some other payload."""

    def lie(liar: Liar, batch: ms.Batch) -> bool:
        liar.send(liar.done(batch, payload=payload))
        return False

    return lie


def file_place(*place: int) -> Lie:
    """Return a lie that has the right values in a memory file, and says that they are elsewhere in it."""

    def lie(liar: Liar, batch: ms.Batch) -> bool:
        content = pickle.dumps((True, liar.values(batch), ()))
        file = MemoryFile.create([memoryview(content.ljust(1 << 20, b"\0"))], [0])
        liar.send(liar.done(batch, payload=Payload(pickle.dumps((b"", [place])), (file,))))
        return False

    return lie


@pytest.mark.parametrize(
    "timings",
    [
        b"",
        b"?",
        bytes(1000),
        pack(-1, [0, 1, 0.0, 1.0]),
        pack(0, [0, 2**62, 0.0, 1.0]),
        pack(0, [-(2**62), 2**62, 0.0, 1.0]),
        pack(0, [0, 1, math.nan, math.inf]),
        pack(0, [0, 1, 0.0, 1.0] * 1000),
    ],
    ids=lambda timings: f"{len(timings)} bytes",
)
def test_times_that_make_no_sense_do_no_harm(timings: bytes, make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """The results are right, and the run has a report and a table."""

    def lie(liar: Liar, batch: ms.Batch) -> bool:
        liar.send(liar.done(batch, timings=timings))
        return False

    run = make_lying_pool(lie).start(square, range(COUNT), chunksize=5)

    assert [x * x for x in range(COUNT)] == run.result(20)
    assert f"{COUNT}/{COUNT}" in run._repr_html_()
    assert {"done"} == set(run.to_frame().outcome)
    assert repr(run.durations())


MUST_BE_RIGHT: dict[str, Lie] = {
    lie.__name__: lie
    for lie in (
        garbage,
        garbage_and_wait,
        half,
        in_crumbs,
        double,
        foreign_runs,
        foreign_positions,
        foreign_words,
        absurd_output,
        absurd_seconds,
        given_back_and_done,
        retriable_that_did_not_fail,
    )
}
MUST_BE_TOLD: dict[str, Lie] = {
    lie.__name__: lie
    for lie in (
        all_there_is,
        too_few_values,
        too_many_values,
        too_few_errors,
        too_many_errors,
        errors_that_are_none,
        both_done_and_failed,
    )
} | {
    "no pickle": payload_of(b"no pickle"),
    "nothing": payload_of(b""),
    "not a list": payload_of(pickle.dumps(5)),
    "a list of nothing": payload_of(pickle.dumps((True, 5, None))),
    "ends the program when loaded": payload_of(b"cbuiltins\nexit\n(tR."),
    "right place": file_place(0, 0, 1 << 20),
    "negative place": file_place(0, -5, 10),
    "negative length": file_place(0, 5, -10),
    "huge place": file_place(0, 2**62, 10),
    "huge length": file_place(0, 0, 2**62),
    "no such file": file_place(7, 0, 10),
}


@pytest.mark.parametrize("name", MUST_BE_RIGHT)
def test_what_can_be_seen_through_does_no_harm(name: str, make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """All results are right, of this run and of the next."""
    pool = make_lying_pool(MUST_BE_RIGHT[name])

    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT), chunksize=5).result(20)
    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT)).result(20)


@pytest.mark.parametrize("name", MUST_BE_TOLD)
def test_what_makes_no_sense_is_an_error(name: str, make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """Never a hang, never a list that is too short or has a value in another's place; the next run is right."""
    pool = make_lying_pool(MUST_BE_TOLD[name])

    run = pool.start(square, range(COUNT), chunksize=5)
    with suppress(pm.PoolMagicError):
        assert [x * x for x in range(COUNT)] == run.result(20)
    assert run.results.items() <= {x: x * x for x in range(COUNT)}.items()
    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT)).result(20)


@pytest.mark.parametrize("name", MUST_BE_TOLD)
def test_a_future_and_an_iterator_tell_it_too(name: str, make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """In the thread that asks, and in the package's own words."""
    future = make_lying_pool(MUST_BE_TOLD[name]).submit(square, 7)
    with suppress(pm.PoolMagicError):
        future.result(20)
    assert future.done()

    with suppress(pm.PoolMagicError):
        results = list(make_lying_pool(MUST_BE_TOLD[name]).imap(square, range(COUNT), chunksize=5))
        assert [x * x for x in range(COUNT)] == results


def test_other_pools_do_not_notice(make_pool: MakePool, make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """A run that is under way beside all the lies is right."""
    honest = make_pool("threads", 2)
    neighbour = honest.start(square, range(5_000), chunksize=10)
    for lie in (*MUST_BE_RIGHT.values(), *MUST_BE_TOLD.values()):
        with suppress(pm.PoolMagicError, Exception):
            make_lying_pool(lie).start(square, range(10), chunksize=5).result(20)

    assert [x * x for x in range(5_000)] == neighbour.result(20)
    assert [x * x for x in range(100)] == honest.map(square, range(100))


@pytest.mark.parametrize("position", [-(2**62), -1, 0, 3, 2**62])
@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, -1e308, 0.0])
def test_a_board_that_makes_no_sense_does_no_harm(
    since: float, position: int, make_lying_pool: Callable[[Lie], pm.Pool]
) -> None:
    """What it says of an item of its own may be believed, so that one may be overdue, or lost with its worker."""

    def scribble(liar: Liar, batch: ms.Batch) -> bool:
        numbers, times = liar.board.record(0)
        numbers[RUN], numbers[POSITION], times[SINCE], numbers[DONE] = batch.run + 1, position, since, -(2**62)
        numbers[LOOK] = 2**62
        pool.snapshot()
        liar.answer(batch)
        liar.connection.shutdown(socket.SHUT_RDWR)
        return False

    pool = make_lying_pool(scribble)
    run = pool.start(square, range(COUNT), chunksize=5, time_limit=0.3, on_error="return", crash_retries=0)
    results = run.result(20)
    assert [x * x for x in range(COUNT) if x != position] == [
        result for x, result in enumerate(results) if x != position
    ]
    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT)).result(20)


def silence(liar: Liar, batch: ms.Batch) -> bool:
    """Send half an answer, and no more."""
    liar.send_bytes(b"".join(encode(liar.done(batch))[0])[:-3])
    return False


def test_a_worker_that_stops_in_the_middle_of_a_word_can_be_cancelled(
    make_lying_pool: Callable[[Lie], pm.Pool],
) -> None:
    """It can be at work still, for all that anybody knows; so it is the user who ends it."""
    pool = make_lying_pool(silence)
    run = pool.start(square, range(COUNT), chunksize=5)
    run.cancel()
    pool.terminate()

    with pytest.raises(pm.RunCancelled):
        run.result(20)
    pool.join(20)


def test_descriptors_that_belong_to_nothing_are_no_way_to_fill_the_kernel(
    make_lying_pool: Callable[[Lie], pm.Pool],
) -> None:
    """A worker that sends thousands of them is cut off, or they are closed."""
    sent: list[int] = []

    def flood(liar: Liar, batch: ms.Batch) -> bool:
        descriptor = os.memfd_create("flood")
        os.ftruncate(descriptor, 1 << 20)
        with suppress(OSError):
            for _ in range(40):
                liar.send_bytes(b"".join(encode(ms.Hello(1))[0]), [descriptor] * 250)
                sent.append(250)
        os.close(descriptor)
        return True

    def mapped() -> int:
        return Path("/proc/self/maps").read_text(errors="replace").count("memfd:flood")

    pool = make_lying_pool(flood)
    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT), chunksize=5).result(20)
    assert mapped() < 1_000, f"{mapped()} of {sum(sent)} are mapped"


def test_headers_that_promise_too_much_cut_the_line(make_lying_pool: Callable[[Lie], pm.Pool]) -> None:
    """Before any memory is spent on them."""

    def promise(liar: Liar, batch: ms.Batch) -> bool:
        liar.send_bytes(HEADER.pack(b"pm", 2, ms.MESSAGES.index(ms.Done), 0, 0, 1 << 62))
        return False

    pool = make_lying_pool(promise)
    assert [x * x for x in range(COUNT)] == pool.start(square, range(COUNT), chunksize=5).result(20)


if sys.platform != "linux":
    pytest.skip("memory files and their descriptors are told of in the way of Linux", allow_module_level=True)
