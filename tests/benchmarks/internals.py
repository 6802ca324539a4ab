"""Workloads for poolmagic alone: its memory, its progress bar, and the speed of its parts."""

from __future__ import annotations

import socket
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Final

from tests.benchmarks.workload import Figure, Job, Workload

__all__ = ["WORKLOADS"]

TASK: Final = 0.001
"""Seconds of a task under the progress bar."""


def _time_stream(job: Job) -> dict[str, float]:
    """Go through a long `imap`, and see by how much this process has grown at its highest."""
    pool = job.adapter.start_ours()
    total = sum(pool.imap(job.cell.square, range(10_000)))
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    began = time.perf_counter()
    total = count = 0
    for value in pool.imap(job.cell.square, range(job.items)):
        total += value
        count += 1
    seconds = time.perf_counter() - began
    n = job.items - 1
    assert (count, total) == (job.items, n * (n + 1) * (2 * n + 1) // 6), "wrong results"
    return {"memory": _memory("VmHWM") - before, "seconds": seconds}


def _memory(field: str) -> float:
    """Return a figure of this process in megabytes. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def _time_progress(job: Job) -> dict[str, float]:
    """Run the same map in turns with and without a progress bar."""
    pool = job.adapter.start_ours()
    work = [TASK] * job.items
    seconds: dict[bool, list[float]] = {False: [], True: []}
    pool.map(job.cell.busy, work[:200], progress=False)
    pool.map(job.cell.busy, work[:1200], progress=True)  # long enough for it to be shown, and loaded
    for _ in range(2):
        for progress, times in seconds.items():
            began = time.perf_counter()
            pool.map(job.cell.busy, work, progress=progress)
            times.append(time.perf_counter() - began)
    without, shown = statistics.median(seconds[False]), statistics.median(seconds[True])
    return {"cost": 100 * (shown / without - 1), "without": without, "shown": shown}


def _time_core(job: Job) -> dict[str, float]:
    """Drive the state machine with a run whose workers answer at once, an item at a time."""
    from poolmagic.core import events as ev
    from poolmagic.core.state import PoolState

    state = PoolState([1, 1], "workers", "worker")
    events: deque[ev.Event] = deque([ev.RunAdded(1, ((0, job.items),), (), True, job.items, True, 1)])
    count = answered = 0
    began = time.perf_counter()
    while events:
        count += 1
        for command in state.handle(events.popleft(), count * 1e-4):
            if isinstance(command, ev.Spawn):
                events.append(ev.WorkerReady(command.worker))
            elif isinstance(command, ev.Dispatch):
                events.append(ev.WorkerDone(command.worker, command.run, (command.span,), (), 1e-4))
            elif isinstance(command, ev.Accept):
                answered += sum(stop - start for start, stop in command.spans)
    seconds = time.perf_counter() - began
    assert answered == job.items, f"{answered} answers for {job.items} items"
    return {"events": count / seconds / 1000}


def _time_wire(job: Job) -> dict[str, float]:
    """Send frames through a pair of channels in this process: small ones, then large ones."""
    small = _send_frames(job.items, 100)
    large = _send_frames(max(1, job.items // 500), 1_000_000)
    return {"frames": small / 1000, "megabytes": large * 1_000_000 / 1e6}


def _send_frames(number: int, size: int) -> float:
    """Return how many frames with a payload of so many bytes go through in a second."""
    from poolmagic.channel import Channel
    from poolmagic.messages import Done

    ours, theirs = socket.socketpair()
    source, target = Channel(ours), Channel(theirs)
    payload = bytes(size)
    sent = received = 0
    began = time.perf_counter()
    while received < number:
        while sent < number and not source.is_backed_up:
            source.send(Done(1, ((sent, sent + 1),), (), (), 1e-4, b"", payload))
            sent += 1
        source.write()
        messages, goes_on = target.read()
        assert goes_on, "the line broke"
        received += len(messages)
    seconds = time.perf_counter() - began
    source.close()
    target.close()
    return number / seconds


WORKLOADS: Final = (
    Workload(
        name="stream",
        title="imap over 10 million items",
        what="A task that takes no time, on 2 processes; the results are added up as they come. The memory is what "
        "the notebook's process has at its highest above what it had before.",
        target="below 50 MB, however long the input is",
        figures=(Figure("memory", "more memory", "MB"), Figure("seconds", "time", "s", scales=True)),
        items=10_000_000,
        peers=("poolmagic",),
        measure=_time_stream,
        rounds=1,
        timeout=240,
    ),
    Workload(
        name="progress",
        title="the price of the progress bar",
        what="4,000 tasks of 1 ms on 2 processes, in turns with and without a progress bar: 2 s at best.",
        target="at most 3 %",
        figures=(
            Figure("cost", "more time", "%"),
            Figure("without", "without", "s", scales=True),
            Figure("shown", "shown", "s", scales=True),
        ),
        items=4000,
        peers=("poolmagic",),
        measure=_time_progress,
        cell="busy",
        rounds=2,
    ),
    Workload(
        name="core",
        title="the state machine alone",
        what="Events of a run on two imagined workers that answer item by item.",
        target="50,000 events in a second",
        figures=(Figure("events", "thousands a second", "", is_smaller_better=False),),
        items=50_000,
        peers=("poolmagic",),
        measure=_time_core,
    ),
    Workload(
        name="wire",
        title="the channel alone",
        what="Frames through a socket pair within one process: with 100 bytes, and with a megabyte.",
        target="50,000 frames and 1,000 MB in a second",
        figures=(
            Figure("frames", "thousand frames a second", "", is_smaller_better=False),
            Figure("megabytes", "MB a second", "", is_smaller_better=False),
        ),
        items=50_000,
        peers=("poolmagic",),
        measure=_time_wire,
    ),
)
