"""What the storm counts and checks: that every item has one outcome and that it is right, and what is left behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

import poolmagic as pm
from tests.chaos.acts import CRASHES, ERRORS, OVERDUE, VALUES, Item, value_of
from tests.tasks import PROCESS_KINDS

__all__ = ["MISSING", "Books", "Residue"]

MISSING: Final = object()
PERMANENT: Final = ("poolmagic-supervisor", "poolmagic-callbacks")
"""Threads that live as long as the process, once they have been needed."""


class Books:
    """The counts of a storm. May be used from any thread."""

    def __init__(self, patience: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.verdict: Counter[str] = Counter()
        self.pools: Callable[[], list[pm.Pool]] = list
        self._patience = patience
        self._lock = threading.Lock()
        self._doing: dict[int, tuple[str, float]] = {}
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="storm-watch", daemon=True).start()

    def fault(self, name: str) -> None:
        """Count a fault."""
        with self._lock:
            self.faults[name] += 1

    def count(self, outcome: str, number: int = 1) -> None:
        """Count items with an outcome that is right."""
        with self._lock:
            self.outcomes[outcome] += number

    def complain(self, verdict: str, text: str) -> None:
        """Count what must not be, and keep what there is to say about it."""
        with self._lock:
            self.verdict[verdict] += 1
            if len(self.problems) < 50:
                self.problems.append(f"{verdict}: {text}"[:600])

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Watch over an operation: one that takes too long ends the storm with the stacks of all threads."""
        ident = threading.get_ident()
        with self._lock:
            self._doing[ident] = what, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._doing[ident]

    def _watch(self) -> None:
        while not self._over.wait(1):
            with self._lock:
                now = time.monotonic()
                hung = [f"{what} for {now - since:.0f} s" for what, since in self._doing.values()]
                late = [since for _, since in self._doing.values() if now - since > self._patience]
            if late:
                faulthandler.dump_traceback(2, all_threads=True)
                self.verdict["hung"] += len(late)
                print("hung:", *hung, sep="\n    ", file=sys.__stdout__, flush=True)
                print(self.summary(), file=sys.__stdout__, flush=True)
                teller = threading.Thread(target=self._tell_of_pools, daemon=True)  # it may hang, too
                teller.start()
                teller.join(5)
                os._exit(1)

    def _tell_of_pools(self) -> None:
        """Print what the pools know of themselves; blocks for ever if the supervisor hangs."""
        for pool in self.pools():
            print(repr(pool.snapshot())[:3000], file=sys.__stdout__, flush=True)
            if pool._engine is not None:
                state = pool._engine._crew._state
                for book in (*state.runs.values(), *state.workers.values()):
                    print("   ", repr(book)[:600], file=sys.__stdout__, flush=True)

    def close(self) -> None:
        """Stop watching."""
        self._over.set()

    # Outcomes ------------------------------------------------------------------------------------------------------

    def judge(self, kind: str, what: str, item: Item, outcome: Any, *, limited: bool = False) -> None:
        """Check the outcome of one item: its value or its exception, `MISSING` if it has none."""
        act = item[0]
        if outcome is MISSING:
            self.complain("lost", f"{what}: {item} has no outcome")
        elif not isinstance(outcome, BaseException):
            if act in VALUES and outcome == value_of(item):
                self.count("values")
            else:
                self.complain("wrong", f"{what}: {item} has the value {str(outcome)[:80]!r}")
        elif ERRORS.get(act) == type(outcome).__name__:
            self.count("failed as they must")
        elif isinstance(outcome, pm.WorkerLostError) and kind in PROCESS_KINDS:
            self.count("crashed as they must" if act in CRASHES else "lost to the storm")
        elif isinstance(outcome, _OVERDUE) and limited:
            self.count("overdue as they must" if act in OVERDUE else "too slow in the storm")
        else:
            self.complain("wrong", f"{what}: {item} has the error {outcome!r}")

    def judge_all(
        self, kind: str, what: str, items: Sequence[Item], results: Sequence[Any], *, limited: bool = False
    ) -> None:
        """Check a list of results or failures."""
        if len(items) != len(results):
            self.complain("lost", f"{what}: {len(results)} results of {len(items)} items")
            return
        for item, result in zip(items, results, strict=True):
            outcome = result.exception if isinstance(result, pm.Failure) else result
            self.judge(kind, what, item, outcome, limited=limited)

    def judge_run(self, kind: str, what: str, items: Sequence[Item], run: Any) -> None:
        """Check what a run has that was ended early: what is finished is right, and nothing is finished twice."""
        results, failures = run.results, {failure.index: failure.exception for failure in run.failures}
        for index in results.keys() & failures.keys():
            self.complain("wrong", f"{what}: {items[index]} has a value and an error")
        for index, outcome in (failures | results).items():
            self.judge(kind, what, items[index], outcome)
        self.count("given up with their run", len(items) - len(results) - len(failures))

    def summary(self) -> str:
        """Return the counts in a few lines."""
        items = sum(self.outcomes.values())
        lines = [
            f"items   {items:,}: " + ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common()),
            f"faults  {sum(self.faults.values()):,}: "
            + ", ".join(f"{count:,} {name}" for name, count in self.faults.most_common()),
            ", ".join(f"{name} {self.verdict[name]}" for name in ("lost", "wrong", "hung", "orphans")),
        ]
        return "\n".join([*self.problems, *lines])


_OVERDUE: Final = (pm.TimeLimitExceeded, pm.SoftTimeLimitExceeded)


class Residue:
    """What this process has: processes, descriptors, memory files and threads. To be compared with later."""

    def __init__(self) -> None:
        gc.collect()
        self.processes = {
            process.pid: " ".join(_safely(process)) for process in psutil.Process().children(recursive=True)
        }
        self.descriptors = psutil.Process().num_fds()
        maps = Path("/proc/self/maps")
        self.files = maps.read_text(errors="replace").count("memfd:poolmagic") if maps.exists() else 0
        self.threads = [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith("poolmagic") and thread.name not in PERMANENT
        ]

    def beyond(self, before: Residue) -> list[str]:
        """Return what there is more of than before."""
        found = [f"process {pid}: {words}" for pid, words in self.processes.items() if pid not in before.processes]
        if self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors: {_descriptors()}")
        if self.files > before.files:
            found.append(f"{self.files - before.files} memory files")
        if len(self.threads) > len(before.threads):
            found.append(f"threads {self.threads}")
        return found


def _safely(process: psutil.Process) -> list[str]:
    try:
        return [process.status(), *process.cmdline()[:6]]
    except psutil.Error:
        return ["?"]


def _descriptors() -> list[str]:
    folder = Path("/proc/self/fd")
    found = []
    for entry in folder.iterdir() if folder.exists() else ():
        try:
            found.append(str(entry.readlink()))
        except OSError:  # the one of the folder itself
            continue
    return found
