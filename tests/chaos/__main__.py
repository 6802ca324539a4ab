"""Run a storm: ``python -m tests.chaos --seconds 60 --seed 1 [--kinds prefork gevent]``.

Pools of all kinds work, each in the hands of a thread that maps, cancels, resumes and ends them, while their processes
are killed, stopped and replaced, and the main thread is interrupted. At the end every item must have had exactly one
outcome, every finished item its right value, nothing may have hung, and nothing of ours may be left. The exit code is 1
if it is otherwise. The seed decides what is done; when it happens is the machine's business.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from random import Random

import poolmagic as pm
from tests.chaos.books import Books, Residue
from tests.chaos.faults import Injector
from tests.chaos.storm import Driver, Interrupted
from tests.tasks import KINDS, square

CALM: float = 15.0
"""Seconds in which everything must have gone after the end."""


def settle(before: Residue, seconds: float) -> list[str]:
    """Wait until nothing is left that was not there before; return what is."""
    until = time.monotonic() + seconds
    while (left := Residue().beyond(before)) and time.monotonic() < until:
        threading.Event().wait(0.2)
    return left


def storm(seconds: float, seed: int, kinds: list[str], patience: float) -> Books:
    """Run a storm; returns its books."""
    books = Books(patience)
    with pm.Pool("threads", 1) as pool:  # what stays for good, such as the supervisor, is there from now on
        future = pool.submit(square, 2)
        future.add_done_callback(lambda _: None)
        future.result()
    before = Residue()
    until = time.monotonic() + seconds
    drivers = [Driver(kind, books, Random(f"{seed} {kind}"), until) for kind in kinds]
    main_kind = Random(seed).choice([kind for kind in kinds if kind != "solo"] or kinds)
    interrupted = Interrupted(main_kind, books, Random(f"{seed} main"), until)
    threads = [threading.Thread(target=one.run, name=f"storm-{one.kind}", daemon=True) for one in drivers]
    drivers_now = [*drivers, interrupted]
    books.pools = lambda: [one.pool for one in drivers_now]
    injector = Injector(books.pools, books, Random(f"{seed} faults"), until)
    for thread in threads:
        thread.start()
    interrupted.run()
    for thread in threads:
        thread.join()
    injector.stop()
    books.pools = list
    drivers_now.clear()
    del drivers, interrupted, threads, injector
    for left in settle(before, CALM):
        books.complain("orphans", left)
    books.close()
    return books


def main() -> int:
    """Read the arguments, run the storm and print what came of it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="a storm on real processes")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--patience", type=float, default=90.0, help="seconds after which an operation hangs")
    given = parser.parse_args()
    seed = int.from_bytes(os.urandom(3), "big") if given.seed is None else given.seed
    faulthandler.enable()
    print(f"storm   of {given.seconds:g} s, seed {seed}, {' '.join(given.kinds)}", flush=True)
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):  # what tasks print
        books = storm(given.seconds, seed, given.kinds, given.patience)
    print(books.summary(), flush=True)
    if sum(books.verdict.values()):
        print(f"again   python -m tests.chaos --seconds {given.seconds:g} --seed {seed}")
    return 1 if sum(books.verdict.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
