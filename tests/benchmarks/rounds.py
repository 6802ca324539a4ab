"""Runs measurements, each in a process of its own, round after round, and leaves nothing running behind.

A round is one measurement of each peer. What makes the machine slower for a while so befalls all of them alike.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.family import MARK, end_family
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import Row
from tests.benchmarks.workload import Workload

__all__ = ["measure", "run"]

ROOT: Final = Path(__file__).parents[2]
GRACE: Final = 10.0
"""Seconds that a process has to end after its answer."""

_numbers = itertools.count(1)


def run(
    workload: Workload,
    peers: Sequence[str],
    rounds: int,
    say: Callable[[str], None],
    items: int | None = None,
) -> list[Row]:
    """Measure a workload, round after round, and return a row for each peer; blocks until all is done.

    A peer that failed is not asked again.

    Args:
        workload: What to do.
        peers: Who does it, by name, in the order of the rows.
        rounds: How often, at most.
        say: Is told of every measurement, in a line.
        items: How many items, if not the workload's own number.
    """
    rows = {peer: Row.of(workload, peer, items) for peer in peers}
    for number in range(min(rounds, workload.rounds)):
        for peer, row in rows.items():
            if row.failure or number >= PEERS[peer].rounds:
                continue
            answer, seconds = measure(workload, peer, row.items)
            row.failure = answer.get("failure", "")
            row.add(workload, answer.get("figures", {}))
            say(f"{workload.name}, {peer}, round {number + 1}: {_short(answer)} (all of it {seconds:.1f} s)")
    return list(rows.values())


def measure(workload: Workload, peer: str, items: int) -> tuple[dict[str, Any], float]:
    """Measure once; return either ``figures`` or a ``failure``, and how long all of it took.

    Whatever the measurement has started has ended when this returns.
    """
    mark = f"{os.getpid()}-{next(_numbers)}"
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        folder = Path(scratch)
        places = {"TMPDIR": scratch, "IPYTHONDIR": scratch, "PYTHONPATH": str(ROOT), "no_proxy": "*", MARK: mark}
        began = time.perf_counter()
        with (folder / "answer").open("wb") as answer, (folder / "noise").open("wb") as noise:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.one", workload.name, peer, str(items)],
                cwd=ROOT,
                env=os.environ | places,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=noise,
                start_new_session=True,
            )
        try:
            is_over = _wait(process, folder / "answer", workload.timeout)
        finally:
            end_family(mark)
            process.wait()
        seconds = time.perf_counter() - began
        if lines := (folder / "answer").read_text().splitlines():
            found: dict[str, Any] = json.loads(lines[-1])
            return found, seconds
        reason = f"ended with status {process.returncode}" if is_over else f"not done in {workload.timeout:.0f} s"
        return {"failure": reason}, seconds


def _wait(process: subprocess.Popen[bytes], answer: Path, timeout: float) -> bool:
    """Wait for the end of a measurement, and only a little longer once it has answered; return whether it ended."""
    deadline = time.monotonic() + timeout
    has_answered = False
    while time.monotonic() < deadline:
        try:
            process.wait(0.2)  # as seldom as this does not disturb it
        except subprocess.TimeoutExpired:
            if not has_answered and answer.stat().st_size:
                has_answered, deadline = True, time.monotonic() + GRACE
        else:
            return True
    return False


def _short(answer: dict[str, Any]) -> str:
    if "failure" in answer:
        return f"failed: {answer['failure']}"
    return ", ".join(f"{name} {value:.4g}" for name, value in answer["figures"].items())
