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
from poolmagic.errors import RunCancelled
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
            self.worker.receive(Function(run, 0, function))
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
green.TURN_SECONDS = green.FLUSH_SECONDS = 0.0
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
