"""The storm itself: drivers that use pools in every way, each in a thread of its own, while harm is done to them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, Final

import poolmagic as pm
from tests.chaos.acts import CRASHES, ERRORS, OVERDUE, VALUES, Item, task_of
from tests.chaos.books import Books
from tests.tasks import PROCESS_KINDS

__all__ = ["Driver", "Interrupted"]

SIZES: Final = {"prefork": 3, "gevent": 8, "eventlet": 8, "threads": 4, "asyncio": 8, "solo": None}
LIMIT: Final = 0.5
"""The time limit, in seconds, of the maps that have one."""
MOST_ITEMS: Final = 200
MOST_CRASHES: Final = 2
"""Of one map: each costs the start of three workers, one after the other."""


class Driver:
    """Uses one pool after the other of a kind, in every way that there is.

    Args:
        kind: Of the pools.
        books: Where outcomes are counted.
        random: Chooses.
        until: The time, of `time.monotonic`, after which nothing is begun.

    Attributes:
        pool: The present one.
    """

    def __init__(self, kind: str, books: Books, random: Random, until: float) -> None:
        self.kind = kind
        self._books = books
        self._random = random
        self.pool = self._new_pool()
        self._until = until
        self._task = task_of(kind)

    def _new_pool(self) -> pm.Pool:
        """Return one of many settings."""
        options: dict[str, Any] = {"crash_retries": 2}
        size = SIZES[self.kind]
        if self.kind in ("gevent", "eventlet", "asyncio"):
            options["workers"] = 2
        if self.kind in PROCESS_KINDS and self._random.random() < 0.3:
            options["max_tasks_per_child"] = self._random.randint(20, 200)
        if size is not None and "workers" not in options and self._random.random() < 0.3:
            options["autoscale"], size = (size, 1), None
        return pm.Pool(self.kind, size, **options)

    def run(self) -> None:
        """Use pools until the time is over, and close the last; returns then."""
        ways: list[Callable[[], None]] = [self._map, self._start, self._cancel, self._imap, self._fail_and_resume]
        ways += [self._replace, self._retry]
        if self.kind != "solo":  # which runs them in this thread, where no signal comes to end them
            ways += [self._submit, self._overrun]
        while time.monotonic() < self._until:
            self._go(self._random.choice(ways))
        with self._books.doing(f"{self.kind}: the end"):
            (self.pool.close if self._random.random() < 0.5 else self.pool.terminate)()
            self.pool.join()

    def _go(self, way: Callable[[], None]) -> None:
        """Do one thing. That workers die as soon as they start is the storm's doing, and no mistake."""
        what = f"{self.kind}{way.__name__}"
        with self._books.doing(what):
            try:
                way()
            except pm.InternalError as error:
                self._books.complain("wrong", f"{what}: {error}")
                self._renew()
            except pm.WorkerLostError:
                self._books.fault("broken pool")
                if self.pool.is_closed:  # it was being replaced
                    self._renew()
                else:
                    self.pool.restart()
            except Exception as error:
                self._books.complain("wrong", f"{what} raised {type(error).__name__}: {error}")
                self._renew()

    def _renew(self) -> None:
        """Take another pool in place of one that cannot be trusted."""
        self.pool.terminate()
        self.pool = self._new_pool()

    # Items ---------------------------------------------------------------------------------------------------------

    def _items(self, *, bad: float = 0.03, endless: int = 0) -> list[Item]:
        """Return some items: of quick ones many, of slow ones and of bad ones few."""
        random = self._random
        count = random.randint(1, MOST_ITEMS)
        items = [(random.choices(VALUES, (30, 6, 6, 0.3, 1, 1))[0], random.randrange(1_000_000)) for _ in range(count)]
        errors = [act for act in ERRORS if self.kind in PROCESS_KINDS or ERRORS[act] != "PayloadError"]
        if self.kind in PROCESS_KINDS:
            errors += CRASHES
        crashes = 0
        for index in range(count):
            if random.random() < bad:
                act = random.choice(errors)
                crashes += act in CRASHES
                items[index] = act if crashes <= MOST_CRASHES else "raise", index
        for _ in range(endless):
            items[random.randrange(count)] = random.choice(self._endless()), 0
        return items

    def _endless(self) -> Sequence[str]:
        return OVERDUE if self.kind in PROCESS_KINDS else OVERDUE[:2]

    def _chunksize(self) -> int | None:
        return self._random.choice((None, None, 1, 7))

    # Ways ----------------------------------------------------------------------------------------------------------

    def _map(self) -> None:
        items = self._items()
        results = self.pool.map(self._task, items, on_error="return", chunksize=self._chunksize(), progress=False)
        self._books.judge_all(self.kind, "map", items, results)

    def _start(self) -> None:
        """Two maps at once on one pool."""
        several = [self._items(), self._items(bad=0)]
        runs = [self.pool.start(self._task, items, on_error="return") for items in several]
        for items, run in zip(several, runs, strict=True):
            self._books.judge_all(self.kind, "start", items, run.result())

    def _cancel(self) -> None:
        items = self._items()
        run = self.pool.start(self._task, items, on_error="return", chunksize=self._chunksize())
        with suppress(TimeoutError):
            run.result(self._random.uniform(0, 0.3))
        run.cancel()
        self._books.fault("cancel")
        with suppress(pm.RunCancelled):
            run.result()
        self._books.judge_run(self.kind, "cancel", items, run)

    def _imap(self) -> None:
        items = self._items()
        ordered = self._random.random() < 0.5
        results = self.pool.imap if ordered else self.pool.imap_unordered
        found: dict[int, Any] = {}
        stop = self._random.choice((len(items), len(items), self._random.randint(0, len(items))))
        more = {} if ordered else {"with_index": True}
        iterator = results(self._task, items, on_error="return", **more)  # type: ignore[arg-type]
        for number, result in enumerate(iterator if stop else ()):
            index, value = (number, result) if ordered else result
            if index in found:
                self._books.complain("wrong", f"imap: {items[index]} came twice")
            found[index] = value
            if len(found) == stop:
                break
        else:
            if stop and len(found) != len(items):
                self._books.complain("lost", f"imap: {len(found)} results of {len(items)} items")
        if stop < len(items):
            iterator.close()
            self._books.fault("iterator closed half-way")
        indices = sorted(found)
        self._books.judge_all(self.kind, "imap", [items[one] for one in indices], [found[one] for one in indices])

    def _submit(self) -> None:
        items = self._items()[:50]
        futures = [self.pool.submit(self._task, item) for item in items]
        for future in futures:
            if self._random.random() < 0.2:
                future.cancel()
        self._books.fault("futures cancelled")
        for item, future in zip(items, futures, strict=True):
            try:
                outcome = future.exception() or future.result()
            except CancelledError:
                self._books.count("cancelled")
                continue
            self._books.judge(self.kind, "submit", item, outcome)

    def _fail_and_resume(self) -> None:
        """A map that stops at the first failure, and goes on until nothing is left of it."""
        items = [item if item[0] in VALUES or item[0] == "raise" else ("raise", item[1]) for item in self._items()]
        try:
            self._books.judge_all(self.kind, "map", items, self.pool.map(self._task, items, progress=False))
        except (ValueError, pm.WorkerLostError) as error:
            run = getattr(error, "run", None)
            if run is None:
                self._books.complain("wrong", f"{error!r} has no run")
                return
            self._books.fault("resume")
            done = len(run.results)
            try:
                run.resume(self._task, progress=False)
            except (ValueError, pm.WorkerLostError):
                self._books.judge_run(self.kind, "resume", items, run)
            else:
                self._books.judge_all(self.kind, "resume", items, run.result())
            if len(run.results) < done:
                self._books.complain("lost", f"resume: {len(run.results)} results, and {done} before")

    def _overrun(self) -> None:
        """Map some items that never end: the limit is what ends them."""
        items = self._items(bad=0, endless=2)
        soft = self._random.choice((None, LIMIT / 2))
        results = self.pool.map(
            self._task, items, on_error="return", time_limit=LIMIT, soft_time_limit=soft, progress=False
        )
        self._books.fault("time limits")
        self._books.judge_all(self.kind, "limits", items, results, limited=True)

    def _retry(self) -> None:
        """Try failures again, in vain, beside what is well."""
        items = self._items(bad=0.1)
        tries: dict[str, Any] = {"retries": 2, "retry_on": (ValueError, OSError), "retry_backoff": 0.02}
        if self._random.random() < 0.3:
            tries["rate_limit"] = 1000
        results = self.pool.map(self._task, items, on_error="return", progress=False, **tries)
        self._books.fault("retries")
        self._books.judge_all(self.kind, "retries", items, results)

    def _replace(self) -> None:
        """End a pool, in one way or the other, with a run under way; go on with another."""
        items = self._items()
        run = self.pool.start(self._task, items, on_error="return")
        if self._random.random() < 0.5:
            self.pool.close()
        else:
            self.pool.terminate()
        self._books.fault("pool ended")
        with suppress(pm.RunCancelled):
            run.result()
        self.pool.join()
        self._books.judge_run(self.kind, "replace", items, run)
        self.pool = self._new_pool()


class Interrupted(Driver):
    """A driver of the main thread, whose maps and loops are interrupted as by the Stop button."""

    _armed = False

    def run(self) -> None:
        """Map, be interrupted and resume until the time is over; then close the pool."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            while time.monotonic() < self._until:
                self._go(self._random.choice((self._interrupt_map, self._interrupt_map, self._interrupt_imap)))
                if self._random.random() < 0.1:
                    self._go(self._replace)
        finally:
            signal.signal(signal.SIGINT, before)
        with self._books.doing(f"{self.kind}: the end"):
            self.pool.close()
            self.pool.join()

    def _handle(self, number: int, frame: object) -> None:
        if self._armed:
            raise KeyboardInterrupt

    @contextmanager
    def _interrupts(self, count: int) -> Iterator[list[KeyboardInterrupt]]:
        """Interrupt what is done within so many times, at random moments; the list holds what came of it.

        The second may come while the first is on its way out, so what is within may be left in any state but one: the
        interrupt ends here.
        """
        caught: list[KeyboardInterrupt] = []
        first = self._random.uniform(0, 0.25)
        waits = [first, first + self._random.uniform(0, 0.2)][:count]
        timers = [threading.Timer(wait, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)) for wait in waits]
        try:
            for timer in timers:
                timer.start()
            self._armed = True
            yield caught
            self._armed = False
        except KeyboardInterrupt as stop:
            self._armed = False
            caught.append(stop)
        finally:
            self._armed = False
            for timer in timers:
                timer.cancel()
                timer.join()

    def _interrupt_map(self) -> None:
        """Whatever was finished is kept, and `resume` does the rest."""
        items = self._items(bad=0)
        count = self._random.choice((1, 1, 2))
        lists: list[list[Any]] = []
        with self._interrupts(count) as caught:
            lists.append(self.pool.map(self._task, items, on_error="return", progress=False))
        run = getattr(caught[0], "run", None) if caught else None
        self._books.fault("interrupt" if count == 1 else "double interrupt")
        if caught and run is None:
            self._books.fault("interrupt before there was a run")
        if not lists and run is not None:
            before = run.results
            if not run.done():
                self._books.complain("wrong", f"interrupt: the run goes on after {count}")
            lists.append(run.resume(progress=False))
            if any(index not in run.results for index in before):
                self._books.complain("lost", "interrupt: a result that was there is gone after resume()")
        for results in lists:
            self._books.judge_all(self.kind, "interrupt", items, results)

    def _interrupt_imap(self) -> None:
        """What the loop has been given is right, each item once."""
        items = self._items(bad=0)
        found: list[Any] = []
        with self._interrupts(1):
            for result in self.pool.imap(self._task, items, on_error="return"):
                found.append(result)  # noqa: PERF402 - what came before an interrupt is kept
        self._books.fault("interrupt of a loop")
        self._books.judge_all(self.kind, "interrupted imap", items[: len(found)], found)
