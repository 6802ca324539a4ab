"""Pools: what the user holds. A pool knows its settings; its workers are a crew that the supervisor owns.

Threads. A pool may be used from any number of threads at once. What they share (the crew it leased) is behind a lock;
all else is handed to the supervisor. The current pool (of the cell, of the session, the default) is process-wide.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

import poolmagic
from poolmagic.config import PoolConfig, count_option
from poolmagic.core import events as ev
from poolmagic.crew import CrewState
from poolmagic.current import cell_pool, choose, live_pools, set_session_pool
from poolmagic.engine import picture
from poolmagic.errors import UsageError
from poolmagic.feed import Feed
from poolmagic.futures import ResultIterator, TaskFuture
from poolmagic.inbox import next_number
from poolmagic.inline import run_at_once
from poolmagic.inputs import name_of, read
from poolmagic.launcher import check_platform
from poolmagic.nesting import fit
from poolmagic.options import PoolOptionsDict, RunOptions, RunOptionsDict, TaskOptionsDict, divide
from poolmagic.payload import Direct
from poolmagic.runs import OpenDisplay, Run
from poolmagic.snapshot import PoolSnapshot
from poolmagic.stacks import Stacks
from poolmagic.tenancy import Tenant

__all__ = ["Pool", "cell_pool", "live_pools", "set_session_pool"]

_TASK_OPTIONS = tuple(TaskOptionsDict.__annotations__)
_MAP_OPTIONS = ("on_error", "return_exceptions", "chunksize", "progress", *_TASK_OPTIONS)
_IMAP_OPTIONS = ("on_error", "return_exceptions", "chunksize", "buffersize", *_TASK_OPTIONS)
_numbers = itertools.count(1)


class Pool(Tenant):
    """Workers that run a notebook's functions. Making one is cheap: its workers start when they are first needed.

    ``with`` closes it, and waits: what was submitted is finished, iterators that are not at their end are closed.
    A pool that is thrown away is no error: its workers stay warm for a minute, for the next pool with equal settings.
    `close`, `terminate` and ``with`` end them at once.

    Args:
        kind: ``"prefork"`` (processes), ``"gevent"``, ``"eventlet"``, ``"threads"``, ``"asyncio"`` or ``"solo"``.
        concurrency: Tasks at once: processes or green threads, by kind. None: the number of usable CPUs.
        name: What the pool is called in tables; unique names are made up.
        settings: All of these are optional. ``workers``: for gevent, eventlet and asyncio, worker processes that share
            the concurrency. ``inner_threads``: how many threads BLAS and OpenMP may use in a worker process; if not
            given, the CPUs divided by the workers, but at least 1, and what you have set in the environment, such as
            ``OMP_NUM_THREADS``, stays. ``preload``: the name of a module, or names of modules, that are imported
            before the first task, for prefork once for all workers; if not given, what your functions need, and
            ``[]`` preloads nothing. ``autoscale=(most, fewest)``: tasks at once by need, instead of `concurrency`.
            ``max_tasks_per_child``: tasks that a worker process runs before it is replaced.
            ``max_memory_per_child``: bytes, or a text such as ``"2GB"``: a worker process that has taken more is
            replaced after the task it runs; one that goes a quarter beyond is ended. ``memory_limit``: bytes that all
            processes of the pool may take, 85 % of what the machine or the container has unless given; beyond
            that nothing more is started. ``idle_timeout``: seconds after which idle workers end, 300 unless given.
            ``initializer``: a function that each worker calls once, with the arguments ``initargs``, before its first
            task; threads and solo call it once in the kernel. What it assigns with ``global`` is there for the tasks.
            If it fails, the run that needed it ends with `InitializerError`. ``finalizer``: a function that a worker
            calls at its orderly end; one that is killed does not.
            And the options of a run that say how tasks are run, for all runs that say nothing else: ``time_limit``,
            ``soft_time_limit``, ``retries``, ``retry_on``, ``retry_backoff``, ``retry_backoff_max``,
            ``crash_retries``, ``rate_limit``, ``seed``, ``prefix``; see `map`.

    Attributes:
        config: The settings.
        name: The name.
        last_run: The last run that failed, was interrupted, or printed more than was shown; None if there is none.
        is_closed: Whether the pool takes no more work.

    Raises:
        UsageError: A setting is not possible; nothing was started.
    """

    def __init__(
        self,
        kind: str = "prefork",
        concurrency: int | None = None,
        *,
        name: str | None = None,
        **settings: Unpack[PoolOptionsDict],
    ) -> None:
        own, self._defaults = divide(settings)
        fit_kind, fit_concurrency, fit_own = fit(kind, concurrency, own)
        config = PoolConfig.make(fit_kind, fit_concurrency, **fit_own)
        check_platform(config)
        super().__init__(config, name or f"{config.kind.name}-{next(_numbers)}")
        self.last_run: Run | None = None
        self._iterators: weakref.WeakSet[ResultIterator] = weakref.WeakSet()
        self._submissions = itertools.count()
        if settings.get("preload") is not None:
            settings["preload"] = self.config.preload  # the user's may be an iterator, which can be read only once
        if config.setup is not None and "initargs" in settings:
            settings["initargs"] = config.setup.arguments  # likewise
        self._twin = partial(type(self), kind, concurrency, **settings)

    # Mapping -------------------------------------------------------------------------------------------------------

    def map(self, f: Callable[..., Any], /, *iterables: Iterable[Any], **options: Unpack[RunOptionsDict]) -> list[Any]:
        """Return ``[f(item) for item in iterable]``, computed by the workers; blocks, with a progress bar.

        Several iterables are walked in step, as with the builtin `map`. Results are in the order of the items.

        Args:
            f: Any function, lambdas and those of notebook cells included.
            iterables: The items.
            options: ``on_error="raise"`` (the default) stops at the first failure and raises it; ``"return"`` puts a
                `Failure` in its place, ``"skip"`` leaves it out, ``"collect"`` runs all items and then raises one
                `FailedItems` if any failed; ``return_exceptions=True`` puts the exception itself.
                ``chunksize`` is the number of items in a batch, sized by time if it is not given. ``progress`` is
                True, False or None (where a person looks on). ``time_limit`` and ``soft_time_limit`` are seconds from
                each item's own start: beyond the first it is stopped and fails with `TimeLimitExceeded`, at the second
                `SoftTimeLimitExceeded` is raised in it. ``retries`` is how often an item is tried again that fails
                with one of ``retry_on`` (any unless given), after waits of random length that grow from
                ``retry_backoff`` (1.0) to ``retry_backoff_max`` (600) seconds. ``crash_retries`` is how often an item
                is run again whose worker died, once unless given. ``rate_limit`` is how many items may start, per
                second or as ``"100/m"``. ``prefix`` puts the index of its item before each line that a task prints:
                True, False or None (where a person looks on). ``seed`` makes the random numbers of the items
                repeatable: those of `pm.rng`, and on prefork and solo those of `random` and `numpy.random`; unless
                given, a seed is drawn.

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
        engine, work = self._prepare(f, 2, self._defaults)
        index = next(self._submissions)
        feed = Feed(iter([(args, kwargs)]), 1, Direct() if engine is None else engine.codec, index=index)
        if engine is None:
            return run_at_once(work, (args, kwargs), index)
        pulled = feed.pull(1)
        for error in pulled.broken.values():
            raise error
        future = TaskFuture(next_number(), engine, work, feed, self)
        engine.add(future, ev.RunAdded(future.id, ((0, 1),), (), True, 1, False, None, work.policy))
        return future

    def start(self, f: Callable[..., Any], /, *iterables: Iterable[Any], **options: Unpack[RunOptionsDict]) -> Run:
        """Start a map and return its `Run`, which can be used while it goes on; does not block.

        On solo, which has no workers, it blocks and the run is over when it is returned. The items are read by a
        thread of the run's own. In a notebook a panel shows the run, and goes on when the cell has ended.

        Args:
            f: As for `map`.
            iterables: As for `map`.
            options: As for `map`.

        Raises:
            UsageError: The call cannot work; nothing was started.
        """
        run = self._make_run(f, read(iterables), 0 if len(iterables) == 1 else 1, options)
        display = self._open_display(options.get("progress"), background=True)
        if run.is_inline:
            run.drive(display)
        else:
            run.begin()
            drive = partial(run.origin.run, run.drive, display, begun=True)
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
        return picture(self.name, self.config, state, self.is_closed)

    def stacks(self) -> Stacks:
        """Return what every task does now, line by line; blocks for about a second at most, and disturbs no task."""
        if self.config.kind.start == "inline":
            what = "nothing runs: solo runs its tasks in the thread that asks for them, which is asking for this now"
            return Stacks(self.name, remark=what)
        with self._lock:
            engine = self._engine
        if engine is None or not engine.is_here:
            return Stacks(self.name, remark="no worker has been needed yet")
        return Stacks.ask(self.name, engine.inquire())

    def close(self) -> None:
        """Take no more work, finish what there is, then stop the workers; does not block. Twice equals once.

        Runs that are paused go on.
        """
        self._stop(ev.Close())

    def terminate(self) -> None:
        """Stop now: runs are cancelled and workers killed; does not block. Twice equals once."""
        self._stop(ev.Terminate())

    def join(self, timeout: float | None = None) -> None:
        """Wait until all workers of a closed pool have ended; blocks at most `timeout` seconds.

        Raises:
            UsageError: The pool is not closed.
            TimeoutError: Workers are left.
        """
        if not self.is_closed:
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
        return f"<Pool {self.name}: {self.config}{', closed' if self.is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        text = (
            f"the pool {self.name} cannot be sent to a worker: make a pool in the task, or use `poolmagic.pool` there"
        )
        raise TypeError(text)

    # Within the package --------------------------------------------------------------------------------------------

    def _make_run(
        self, f: Callable[..., Any], source: tuple[Iterator[Any] | range, int | None], stars: int, given: RunOptionsDict
    ) -> Run:
        options = RunOptions.make(given, _MAP_OPTIONS, self._defaults)
        engine, work = self._prepare(f, stars, options)
        feed = Feed(*source, Direct() if engine is None else engine.codec)
        return Run(self, engine, work, feed, name_of(f))

    def _blocking(
        self, f: Callable[..., Any], source: tuple[Iterator[Any] | range, int | None], stars: int, given: RunOptionsDict
    ) -> list[Any]:
        __tracebackhide__ = True
        run = self._make_run(f, source, stars, given)
        run.drive(self._open_display(given.get("progress")))
        return run.result()

    def _open_display(self, progress: bool | None, *, background: bool = False) -> OpenDisplay | None:
        found: OpenDisplay | None = poolmagic.find_display(progress, background)
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
        options = RunOptions.make(given, _IMAP_OPTIONS, self._defaults)
        if options.on_error == "collect":
            raise UsageError("on_error='collect': an iterator may have no end to raise at; use 'return', map or start")
        source = read(iterables)
        engine, work = self._prepare(f, 0 if len(iterables) == 1 else 1, options)
        feed = Feed(*source, Direct() if engine is None else engine.codec)
        results = ResultIterator(engine, work, feed, ordered=ordered, with_index=with_index, pool=self)
        self._iterators.add(results)
        return results
