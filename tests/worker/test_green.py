"""The slots of green pools, in processes of their own: the library patches what it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = """
import sys
from poolmagic.worker import native
from poolmagic.worker.__main__ import _patch
_patch(sys.argv[1])
import threading, time
from poolmagic.board import Board
from poolmagic.errors import RunCancelled, SoftTimeLimitExceeded, TaskOverdue, TimeLimitExceeded
from poolmagic.messages import *
from poolmagic.payload import Direct
from poolmagic.worker import green
from poolmagic.worker.process import make_runner
from poolmagic.worker.tasks import Worker

class Bench:
    def __init__(self, slots):
        self.sent, self.board, self.slots = [], Board(), make_runner(sys.argv[1], slots)
        self.worker = Worker(self.sent.append, Direct(), self.board, self.slots)
    def batch(self, run, function, first, stop):
        if first == 0:
            self.worker.receive(Function(run, 0, 0.0, 0.0, 0, (), 0, False, False, function))
        self.worker.receive(Batch(run, first, first, stop, (list(range(first, stop)), [])))
    def serve(self):
        self.worker.receive(Stop())
        self.slots.serve(self.worker)
        values, errors = {}, {}
        for done in self.sent:
            if isinstance(done, Done):
                positions = [position for start, stop in done.spans for position in range(start, stop)]
                assert not values.keys() & set(positions), "reported twice"
                values |= dict(zip(positions, done.payload[0], strict=True))
                errors |= dict(zip(done.failed, done.payload[1], strict=True))
        return values, errors
"""

SCENES = {
    "values stay with their positions in any order of ends": """
def task(x):
    for _ in range(x % 4):
        time.sleep(0)
    return -x
for slots in (1, 3, 50):
    bench = Bench(slots)
    bench.batch(1, task, 0, 500)
    bench.batch(1, task, 500, 700)
    assert ({x: -x for x in range(700)}, {}) == bench.serve()
    assert ([], 700) == bench.board.look(slots)
""",
    "tasks that never wait are reported while they run, and let each other run": """
green.TURN_SECONDS = green.FLUSH_SECONDS = green.SHORT = 0.0
bench = Bench(20)
seen = []
def task(x):
    seen.append(len(bench.board.look(20)[0]))
    return len(bench.sent)
bench.batch(1, task, 0, 2000)
values, errors = bench.serve()
assert values[1999] > 100, values[1999]
assert {1} == set(seen), "a slot that only waits for its turn runs nothing"
""",
    "a cancel strikes the tasks of its run and costs no slot": """
bench = Bench(10)
def doomed(x):
    if x == 9:
        bench.worker.receive(Cancel(1))
    try:
        time.sleep(60)
    except BaseException:
        if x == 3:
            return "deaf"
        raise
def healthy(x):
    time.sleep(0)
    return x
bench.batch(1, doomed, 0, 100)
bench.batch(2, healthy, 0, 1)
bench.batch(2, healthy, 1000, 1100)
values, errors = bench.serve()
returned = [span for one in bench.sent if isinstance(one, Returned) for span in one.spans]
assert [(10, 100)] == returned, returned
assert all(isinstance(error, RunCancelled) and error.struck for error in errors.values()), errors
assert set(range(10)) - {3, 0} <= errors.keys()
assert "deaf" == values[3]
assert {x: x for x in range(1000, 1100)}.items() <= values.items()
assert 0 == len(bench.board.look(10)[0])
""",
    "slots that are taken away end after their task, and the rest goes on": """
bench = Bench(8)
most = []
def task(x):
    if x == 20:
        bench.worker.receive(Resize(2))
    time.sleep(0.001)
    if x > 60:
        most.append(len(bench.board.running(8)))
    return x
bench.batch(1, task, 0, 200)
values, errors = bench.serve()
assert list(range(200)) == sorted(values), len(values)
assert max(most) <= 2, max(most)
""",
    "a failure is apart from its neighbours, whatever is raised": """
def task(x):
    if x % 3 == 0:
        raise (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit)[x % 4]
    return x
bench = Bench(4)
bench.batch(1, task, 0, 300)
values, errors = bench.serve()
assert {x: x for x in range(300) if x % 3} == values
assert set(range(0, 300, 3)) == errors.keys()
""",
    "a strike hits the task that is meant, softly or for good, and its slot goes on": """
bench = Bench(4)
def task(x):
    if x == 3:
        bench.slots.strike(1, 0, TaskOverdue(1.5))
        bench.slots.strike(1, 1, SoftTimeLimitExceeded("late", limit=2.5))
        bench.slots.strike(1, 2, SoftTimeLimitExceeded("late", limit=3.5))
        bench.slots.strike(1, 77, TaskOverdue(1.5))
        bench.slots.strike(2, 3, TaskOverdue(1.5))
    try:
        time.sleep(60 if x < 3 else 0.001)
    except SoftTimeLimitExceeded as error:
        if x == 1:
            return error.limit
        raise
    return x
bench.batch(1, task, 0, 50)
values, errors = bench.serve()
assert {0: TimeLimitExceeded, 2: SoftTimeLimitExceeded} == {x: type(error) for x, error in errors.items()}, errors
assert (1.5, 3.5) == (errors[0].limit, errors[2].limit)
assert {1: 2.5, **{x: x for x in range(3, 50)}} == values
""",
    "a task that keeps the hub to itself is struck by a signal, and no other": """
bench = Bench(3)
def control():
    began_at.acquire()
    for position in (1, 0):
        bench.slots.strike(1, position, TaskOverdue(1.5))
    while bench.slots.insist():
        native.poll().poll(10)
began_at = native.allocate_lock()
began_at.acquire()
native.start_new_thread(control, ())
def task(x):
    if x == 0:
        time.sleep(0)
        began_at.release()
        while True:
            pass
    if x == 2:
        for _ in range(20):
            time.sleep(0.001)
    return x
bench.batch(1, task, 0, 20)
values, errors = bench.serve()
assert isinstance(errors[0], TimeLimitExceeded), errors
assert {x: x for x in range(2, 20)}.items() <= values.items(), values
assert set(range(20)) == values.keys() | errors.keys()
""",
    "the user is told of a task that lets no other run": """
from poolmagic.worker import blocking
bench = Bench(3)
release = native.allocate_lock()
release.acquire()
def control():
    released, now = False, native.perf_counter()
    while not released:
        bench.worker.hub_watch and bench.worker.hub_watch.look(now)
        now += blocking.LOOK_SECONDS
        if any(isinstance(one, Output) for one in bench.sent) or now > native.perf_counter() + 1000:
            released = True
            release.release()
        native.poll().poll(5)
def crunch(x):
    with release:
        return x
def task(x):
    time.sleep(0)
    return crunch(x) if x == 1 else x
native.start_new_thread(control, ())
bench.batch(1, task, 0, 10)
values, errors = bench.serve()
assert not errors and 10 == len(values), errors
[output] = [one for one in bench.sent if isinstance(one, Output)]
assert (1, 1, "stderr") == (output.run, output.position, output.stream)
assert "item 1 has let no other task" in output.text, output.text
assert "in crunch" in output.text and "poolmagic/worker" not in output.text, output.text
assert "prefork" in output.text
""",
    "the board says when each of many tasks began": """
bench = Bench(5)
began = {}
def task(x):
    began[x] = native.perf_counter()
    time.sleep(0.002 * (5 - x % 5))
    for mark in bench.board.look(5)[0]:
        assert mark.exact
        if mark.position in began:
            assert -0.001 < began[mark.position] - mark.since < 0.05, (mark, began[mark.position])
    return x
bench.batch(1, task, 0, 50)
values, errors = bench.serve()
assert not errors, errors
assert 50 == len(values)
""",
}


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("scene", SCENES)
def test_in_green_slots(scene: str, library: str) -> None:
    """What the name of the scene says."""
    done = subprocess.run(
        [sys.executable, "-c", BENCH + SCENES[scene], library],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
