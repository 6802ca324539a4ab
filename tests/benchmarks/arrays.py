"""Workloads with large arrays: one that all tasks share, and many that travel."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final, Self

from tests.benchmarks.computing import PROCESS_PEERS
from tests.benchmarks.family import memory_of_family
from tests.benchmarks.workload import Figure, Job, Workload

__all__ = ["WORKLOADS"]

CAPTURED_BYTES: Final = 400_000_000
ARRAY_BYTES: Final = 8_000_000


def _time_captured(job: Job) -> dict[str, float]:
    """Map a function with a large array twice; then see by how much all processes together have grown."""
    job.cell.make_big(CAPTURED_BYTES)
    parts = list(range(job.items))
    expected = [CAPTURED_BYTES / 8 // job.cell.PARTS] * job.items
    job.adapter.start()
    job.adapter.map(abs, parts)
    before = memory_of_family()
    seconds = []
    with _Highest() as highest:
        for _ in range(2):
            began = time.perf_counter()
            results = job.adapter.map(job.cell.part_sum, parts)
            seconds.append(time.perf_counter() - began)
            assert results == expected, "wrong results"
    after = memory_of_family()
    return {
        "first": seconds[0],
        "second": seconds[1],
        "memory": after - before,
        "peak": max(after, *highest.seen) - before,
    }


class _Highest:
    """Looks at the memory now and then, in a thread, as seldom as this does not disturb what it looks at."""

    def __init__(self) -> None:
        self.seen = [0.0]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._is_over.wait(0.25):
            self.seen.append(memory_of_family())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()


def _time_travelling(job: Job) -> dict[str, float]:
    """Map over arrays, and get as many back."""
    numpy = job.cell.np
    arrays = [numpy.full(ARRAY_BYTES // 8, float(index)) for index in range(job.items)]
    job.adapter.start()
    job.adapter.map(job.cell.next_array, [numpy.zeros(1)] * 4)
    began = time.perf_counter()
    results = job.adapter.map(job.cell.next_array, arrays)
    seconds = time.perf_counter() - began
    assert [float(result[-1]) for result in results] == [index + 1 for index in range(job.items)], "wrong results"
    return {"seconds": seconds}


WORKLOADS: Final = (
    Workload(
        name="captured",
        title="a function with an array of 400 MB",
        what="64 tasks sum up a part each of a global array, which the function captures, twice; the memory is by "
        "how much all processes together have grown, and the shared memory of the system with them. The pools are "
        "made after the array, so those that fork the notebook have it already; loky is given batches of 32.",
        target="0.25 s, then 0.1 s, and one copy more in memory",
        figures=(
            Figure("first", "first map", "s", scales=True),
            Figure("second", "second map", "s", scales=True),
            Figure("memory", "more memory after", "MB"),
            Figure("peak", "meanwhile", "MB"),
        ),
        items=64,
        peers=PROCESS_PEERS,
        measure=_time_captured,
        cell="arrays",
        chunk=32,
        reduced={"ipyparallel": 2, "dask": 2},
        rounds=2,
    ),
    Workload(
        name="travelling",
        title="64 arrays of 8 MB there and back",
        what="Each task gets an array of 8 MB and returns another one, on warm pools of 2 processes.",
        target="half the time of joblib",
        figures=(Figure("seconds", "", "s", scales=True),),
        items=64,
        peers=PROCESS_PEERS,
        measure=_time_travelling,
        cell="arrays",
    ),
)
