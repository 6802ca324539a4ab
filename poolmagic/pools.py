"""Pools: what the user holds. A pool knows its settings; its workers are a crew that the supervisor owns.

Threads. A pool may be used from any number of threads at once. What they share (the crew it leased) is behind a lock;
all else is handed to the supervisor. The current pool (of the cell, of the session, the default) is process-wide.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

import poolmagic
from poolmagic.asking import Engine, Work, next_number
from poolmagic.config import PoolConfig, RunOptions, RunOptionsDict, check_function, count_option
from poolmagic.core import events as ev
from poolmagic.crew import CrewState
from poolmagic.current import cell_pool, choose, live_pools, register, set_session_pool
from poolmagic.engine import CrewEngine, memory_of
from poolmagic.errors import UsageError
from poolmagic.feed import Feed
from poolmagic.futures import ResultIterator, TaskFuture
from poolmagic.inline import run_at_once
from poolmagic.inputs import name_of, read
from poolmagic.launcher import check_platform
from poolmagic.payload import Direct
from poolmagic.runs import Display, Run
from poolmagic.snapshot import PoolSnapshot, RunSnapshot

__all__ = ["Pool", "cell_pool", "live_pools", "set_session_pool"]

_MAP_OPTIONS = ("on_error", "return_exceptions", "chunksize", "progress")
_IMAP_OPTIONS = ("on_error", "return_exceptions", "chunksize", "buffersize")
_numbers = itertools.count(1)


class Pool:
    """Workers that run a notebook's functions. Making one is cheap: its workers start when they are first needed.

    ``with`` closes it, and waits: what was submitted is finished, iterators that are not at their end are closed.
    A pool that is thrown away is no error: its workers stay warm for a minute, for the next pool with equal settings.
    `close`, `terminate` and ``with`` end them at once.

    Args:
        kind: ``"prefork"`` (processes), ``"gevent"``, ``"eventlet"``, ``"threads"``, ``"asyncio"`` or ``"solo"``.
        concurrency: Tasks at once: processes or green threads, by kind. None: the number of usable CPUs.
        workers: For gevent, eventlet and asyncio: worker processes that share the concurrency.
        inner_threads: How many threads BLAS and OpenMP may use in a worker process. None: the CPUs divided by the
            workers, but at least 1; what you have set in the environment, such as ``OMP_NUM_THREADS``, stays.
        preload: The name of a module, or names of modules, that are imported before the first task. For prefork this
            is done once for all workers; None finds out what your functions need, and ``[]`` preloads nothing.
        name: What the pool is called in tables; unique names are made up.

    Attributes:
        config: The settings.
        name: The name.
        last_run: The last run that failed or was interrupted; None if there is none.

    Raises:
        UsageError: A setting is not possible; nothing was started.
    """

    def __init__(
        self,
        kind: str = "prefork",
        concurrency: int | None = None,
        *,
        workers: int | None = None,
        inner_threads: int | None = None,
        preload: str | Iterable[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.config = PoolConfig.make(kind, concurrency, workers, inner_threads, preload)
        check_platform(self.config)
        self.name = name or f"{self.config.kind.name}-{next(_numbers)}"
        self.last_run: Run | None = None
        self._lock = threading.Lock()
        self._engine: CrewEngine | None = None
        self._release: weakref.finalize[[], Pool] | None = None
        self._closed = False
        self._process = os.getpid()
        self._iterators: weakref.WeakSet[ResultIterator] = weakref.WeakSet()
        self._twin = partial(
            type(self),
            kind,
            concurrency,
            workers=workers,
            inner_threads=inner_threads,
            preload=self.config.preload,
        )

    # Mapping -------------------------------------------------------------------------------------------------------

    def map(self, f: Callable[..., Any], /, *iterables: Iterable[Any], **options: Unpack[RunOptionsDict]) -> list[Any]:
        """Return ``[f(item) for item in iterable]``, computed by the workers; blocks, with a progress bar.

        Several iterables are walked in step, as with the builtin `map`. Results are in the order of the items.

        Args:
            f: Any function, lambdas and those of notebook cells included.
            iterables: The items.
            options: ``on_error="raise"`` (the default) stops at the first failure and raises it; ``"return"`` puts a
                `Failure` in its place, ``"skip"`` leaves it out; ``return_exceptions=True`` puts the exception itself.
                ``chunksize`` is the number of items in a batch, sized by time if it is not given. ``progress`` is
                True, False or None (where a person looks on).

        Raises:
            UsageError: The call cannot work; nothing was started.
            Exception: The first failed item's own exception, with the remote traceback. Its attribute ``run`` holds
                what was finished.
        """
        __tracebackhide__ = True
        return self._blocking(f, read(iterables), 0 if len(iterables) == 1 else 1, options)

    def starmap(
        self, f: Callable[..., Any], iterable: Iterable[Iterable[Any]], /, **options: Unpack[RunOptionsDict]
    ) -> list[Any]:
        """Return ``[f(*item) for item in iterable]``; otherwise as `map`."""
        __tracebackhide__ = True
        return self._blocking(f, read((iterable,)), 1, options)

    def imap(
        self, f: Callable[..., Any], /, *iterables: Iterable[Any], **options: Unpack[RunOptionsDict]
    ) -> ResultIterator:
        """Return an iterator of the results, in the order of the items; nothing runs before the first is asked for.

        Endless inputs work: items are read only as the consumer goes on.

        Args:
            f: As for `map`.
            iterables: As for `map`.
            options: As for `map`, but for `progress`; and ``buffersize``, the most items that are read ahead.

        Raises:
            UsageError: The call cannot work.
        """
        return self._lazy(f, iterables, options, ordered=True, with_index=False)

    def imap_unordered(
        self,
        f: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        with_index: bool = False,
        **options: Unpack[RunOptionsDict],
    ) -> ResultIterator:
        """Return an iterator of the results as they come; with `with_index`, of pairs (index of the item, result)."""
        return self._lazy(f, iterables, options, ordered=False, with_index=with_index)

    def submit(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start ``f(*args, **kwargs)`` and return its future; does not block, but on solo, which runs it at once.

        Raises:
            UsageError: The pool is closed, or the function is not one for this kind.
            PayloadError: The function or an argument cannot be pickled.
        """
        engine, work = self._prepare(f, 2, RunOptions())
        feed = Feed(iter([(args, kwargs)]), 1, Direct() if engine is None else engine.codec)
        if engine is None:
            return run_at_once(work, (args, kwargs))
        pulled = feed.pull(1)
        for error in pulled.broken.values():
            raise error
        future = TaskFuture(next_number(), engine, work, feed, self)
        engine.add(future, ev.RunAdded(future.id, ((0, 1),), (), True, 1, False, None))
        return future

    def start(self, f: Callable[..., Any], /, *iterables: Iterable[Any], **options: Unpack[RunOptionsDict]) -> Run:
        """Start a map and return its `Run`, which can be used while it goes on; does not block.

        On solo, which has no workers, it blocks and the run is over when it is returned. The items are read by a
        thread of the run's own.

        Args:
            f: As for `map`.
            iterables: As for `map`.
            options: As for `map`.

        Raises:
            UsageError: The call cannot work; nothing was started.
        """
        run = self._make_run(f, read(iterables), 0 if len(iterables) == 1 else 1, options)
        if self.config.kind.start == "inline":
            run._drive(None)
        else:
            run.begin()
            drive = partial(run._drive, None, begun=True)
            threading.Thread(target=drive, name=f"poolmagic-run-{run.id}", daemon=True).start()
        return run

    # Workers -------------------------------------------------------------------------------------------------------

    def grow(self, n: int = 1) -> None:
        """Have `n` more processes (prefork) or slots (the other kinds); does not block."""
        self._resize(ev.Grow(count_option("n", n)), n)

    def shrink(self, n: int = 1) -> None:
        """Have `n` processes or slots less, but at least one; does not block. Running tasks are finished."""
        self._resize(ev.Shrink(count_option("n", n)), -n)

    def _resize(self, event: ev.Event, by: int) -> None:
        if self.config.kind.scales is None:
            raise UsageError("a solo pool has one slot, whatever happens")
        engine = self._lease()
        concurrency = max(
            self.config.workers if self.config.kind.scales == "slots" else 1, self.config.concurrency + by
        )
        workers = concurrency if self.config.kind.scales == "workers" else self.config.workers
        self.config = replace(self.config, concurrency=concurrency, workers=workers)
        engine.resize(self.config, event)

    def restart(self) -> None:
        """Replace the workers by new ones, which see the kernel's environment as it is now; does not block.

        Tasks that run are finished by the old workers.
        """
        with self._lock:
            engine = self._engine
        if engine is not None:
            engine.restart(self.config)

    def snapshot(self) -> PoolSnapshot:
        """Return a picture of this moment; blocks for about a millisecond."""
        with self._lock:
            engine = self._engine
        state = CrewState("new", (), 0, 0, 0) if engine is None else engine.state()
        phase = "closed" if self._closed and state.phase in ("new", "closed") else state.phase
        return PoolSnapshot(
            name=self.name,
            kind=self.config.kind.name,
            state="closing" if phase == "terminating" else phase,
            concurrency=self.config.concurrency,
            workers=state.workers,
            slots=sum(worker.slots for worker in state.workers),
            busy=sum(worker.busy for worker in state.workers),
            done=state.done,
            failed=state.failed,
            runs=state.runs,
            memory=sum(memory_of(worker.pid) for worker in state.workers) if self.config.kind.start != "local" else 0,
        )

    def close(self) -> None:
        """Take no more work, finish what there is, then stop the workers; does not block. Twice equals once."""
        self._stop(ev.Close())

    def terminate(self) -> None:
        """Stop now: runs are cancelled and workers killed; does not block. Twice equals once."""
        self._stop(ev.Terminate())

    def _stop(self, event: ev.Event) -> None:
        with self._lock:
            self._closed = True
            if self._release is not None:
                self._release.detach()
            if self._engine is not None:
                self._engine.post(event)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all workers of a closed pool have ended; blocks at most `timeout` seconds.

        Raises:
            UsageError: The pool is not closed.
            TimeoutError: Workers are left.
        """
        if not self._closed:
            raise UsageError("join() waits for the end of a closed pool: call close() or terminate() first")
        if self._engine is not None and not self._engine.join(timeout):
            raise TimeoutError(f"workers of {self.name} are still there after {timeout} s")

    @classmethod
    def current(cls) -> Pool:
        """Return the pool that ``%%pool`` or ``%pool`` chose, else a shared default, ``Pool()``; does not block."""
        return choose(partial(cls, name="default"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for results in list(self._iterators):  # nobody will consume them any more, and they would never end
            results.close()
        if kind is None:
            self.close()
        else:
            self.terminate()
        self.join()

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {self.config}{', closed' if self._closed else ''}>"

    # Within the package --------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the pool takes no more work."""
        return self._closed

    def _lease(self) -> CrewEngine:
        """Return the engine, and get a crew for it first if there is none."""
        if self._process != os.getpid():
            raise UsageError(f"{self.name} belongs to the process that made it: make a new Pool in this one")
        with self._lock:
            if self._closed:
                raise UsageError(f"{self.name} is closed: make a new Pool")
            if self._engine is None:
                self._engine = CrewEngine.lease(self.config)
                self._release = weakref.finalize(self, self._engine.release)
                self._release.atexit = False
                register(self)
            return self._engine

    def _prepare(self, f: Callable[..., Any], stars: int, options: RunOptions) -> tuple[CrewEngine | None, Work]:
        """Check and pack a function; the engine is None on solo."""
        check_function(self.config.kind, f)
        if self.config.kind.start == "inline":
            if self._closed:
                raise UsageError(f"{self.name} is closed: make a new Pool")
            return None, Work(f, stars, options)
        engine = self._lease()
        payload = engine.codec.pack_function(f)
        engine.prepare(payload)
        return engine, Work(payload, stars, options)

    def _work_again(self, work: Work, f: Callable[..., Any] | None) -> tuple[Engine | None, Work]:
        """Return what a resumed run needs: the same function or a repaired one."""
        if f is None:
            if self.config.kind.start == "inline":
                return None, work
            engine = self._lease()
            engine.prepare(work.payload)
            return engine, work
        return self._prepare(f, work.stars, work.options)

    def _make_run(
        self, f: Callable[..., Any], source: tuple[Iterator[Any] | range, int | None], stars: int, given: RunOptionsDict
    ) -> Run:
        options = RunOptions.make(dict(given), _MAP_OPTIONS)
        engine, work = self._prepare(f, stars, options)
        feed = Feed(*source, Direct() if engine is None else engine.codec)
        return Run(self, engine, work, feed, name_of(f))

    def _blocking(
        self, f: Callable[..., Any], source: tuple[Iterator[Any] | range, int | None], stars: int, given: RunOptionsDict
    ) -> list[Any]:
        __tracebackhide__ = True
        run = self._make_run(f, source, stars, given)
        run._drive(self._open_display(given.get("progress")))
        return run.result()

    def _open_display(self, progress: bool | None) -> Callable[[RunSnapshot], Display] | None:
        found: Callable[[RunSnapshot], Display] | None = poolmagic.find_display(progress)
        return found

    def _lazy(
        self,
        f: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        given: RunOptionsDict,
        *,
        ordered: bool,
        with_index: bool,
    ) -> ResultIterator:
        options = RunOptions.make(dict(given), _IMAP_OPTIONS)
        source = read(iterables)
        engine, work = self._prepare(f, 0 if len(iterables) == 1 else 1, options)
        feed = Feed(*source, Direct() if engine is None else engine.codec)
        results = ResultIterator(engine, work, feed, ordered=ordered, with_index=with_index, pool=self)
        self._iterators.add(results)
        return results
