"""Background work: a body of code in a thread of its own, with a number, a pool, and an end as a whole.

Whatever runs in that thread can ask which `Background` it works for: the current pool is looked up there, and each map
belongs to it, so that cancelling it ends them. Runs and background work are numbered by one counter: a number means one
thing in this kernel.

Threads. A `Background` is written by its own thread, and by `cancel`, which any thread may call; all may read. How many
`quiet` blocks of the foreground are open is changed by the thread that runs cells.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from poolmagic.errors import RunCancelled
from poolmagic.origin import Origin
from poolmagic.snapshot import RunSnapshot

__all__ = ["Background", "adopt", "here", "is_quiet", "next_number", "quiet"]

_numbers: Final = itertools.count(1)
# Weak: a context is copied and kept by much that outlives the work, such as the threads of pools.
_here: ContextVar[weakref.ref[Background] | None] = ContextVar("poolmagic_background", default=None)


class Cancellable(Protocol):
    """A run, an iterator of results or a future."""

    def cancel(self) -> object:
        """End it; does not block."""
        ...


class Background:
    """A body of code that runs beside the cells.

    Args:
        name: What it is called in tables.
        pool: The current pool inside of it.

    Attributes:
        id: Its number, which no run of this kernel has.
        state: ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
        pools: The pools chosen inside of it; the last one is the current one.
        quiet: How many reasons there are to show no progress inside of it.
        latest: Gives a picture of the last map that it began; None if there was none.
    """

    def __init__(self, name: str, pool: Any) -> None:
        self.id = next_number()
        self.name = name
        self.state = "running"
        self.pools = [pool]
        self.quiet = 0
        self.latest: Callable[[], RunSnapshot | None] | None = None
        self._pool_name, self._kind = pool.name, pool.config.kind.name
        self._began = time.monotonic()
        self._elapsed: float | None = None
        self._lock = threading.Lock()
        self._works: weakref.WeakSet[Cancellable] = weakref.WeakSet()
        self._is_cancelled = False
        self._over = threading.Event()
        self._value: Any = None
        self.error: BaseException | None = None

    @property
    def pool(self) -> Any:
        """The current pool inside of it."""
        return self.pools[-1]

    def start(self, body: Callable[[], Any], origin: Origin, at_end: Callable[[], None]) -> None:
        """Run the body in a thread of its own, which does not keep the kernel alive; does not block.

        Args:
            body: Returns its value, or raises.
            origin: The cell that its outputs belong to.
            at_end: Is called by its thread when its state says how it ended, before anybody who waits is woken.
        """
        name = f"poolmagic-background-{self.id}"
        threading.Thread(target=origin.run, args=(self._run, body, at_end), name=name, daemon=True).start()

    def _run(self, body: Callable[[], Any], at_end: Callable[[], None]) -> None:
        __tracebackhide__ = True
        _here.set(weakref.ref(self))  # in a context of this thread's own
        try:
            self._value = body()
            state = "done"
        except BaseException as error:  # it is kept for whoever asks for the result
            self.error = error
            state = "cancelled" if self.ends_by_cancel(error) else "failed"
        self._elapsed = time.monotonic() - self._began
        self.state = state
        try:
            at_end()
        finally:
            self._over.set()

    def ends_by_cancel(self, error: BaseException) -> bool:
        """Whether an error is what `cancel` led to."""
        return self._is_cancelled and isinstance(error, RunCancelled)

    def adopt(self, work: Cancellable) -> None:
        """Let `cancel` end this, too; does not block. Raises `RunCancelled` if it was called already."""
        with self._lock:
            if not self._is_cancelled:
                self._works.add(work)
                return
        raise RunCancelled(f"background cell {self.id} was cancelled: it starts nothing more")

    def cancel(self) -> None:
        """Cancel its maps, and refuse those that it begins later; does not block. Other code of it goes on."""
        with self._lock:
            self._is_cancelled = True
            works = list(self._works)
        for work in works:
            work.cancel()

    def done(self) -> bool:
        """Return whether it is over, however it ended. Does not block."""
        return self._over.is_set()

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is over, however it ended; raises `TimeoutError`."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"background cell {self.id} is not over after {timeout} s; it goes on")

    def result(self, timeout: float | None = None) -> Any:
        """Return the value of the body; blocks until it is over. Raises its error, or `TimeoutError`."""
        __tracebackhide__ = True
        self.wait(timeout)
        if self.error is not None:
            raise self.error
        return self._value

    def snapshot(self) -> RunSnapshot:
        """Return a picture of this moment, with the counts of the map that began last; does not block for long."""
        elapsed = time.monotonic() - self._began if self._elapsed is None else self._elapsed
        latest = None if self.latest is None else self.latest()
        done, failed, total = (0, 0, None) if latest is None else (latest.done, latest.failed, latest.total)
        return RunSnapshot(self.id, self.name, self._kind, self.state, done, failed, total, elapsed, 0, 0)


def next_number() -> int:
    """Return a number that neither a run nor background work of this kernel has; does not block."""
    return next(_numbers)


def here() -> Background | None:
    """Return the background work that this thread does; None in a cell that runs in the foreground, as most do."""
    found = _here.get()
    return None if found is None else found()


def adopt(work: Cancellable) -> None:
    """Make a run, an iterator or a future belong to the background work of this thread, if there is any.

    Raises:
        RunCancelled: That was cancelled, and starts nothing more.
    """
    background = here()
    if background is not None:
        background.adopt(work)


class _Foreground:
    """The cells that run in the foreground; like a `Background` as far as `quiet` goes."""

    quiet = 0


_foreground: Final = _Foreground()


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress inside the block, for all runs that do not ask for it with ``progress=True``.

    Inside of background work it is for that work alone, elsewhere for the cells in the foreground.
    """
    place = here() or _foreground
    place.quiet += 1
    try:
        yield
    finally:
        place.quiet -= 1


def is_quiet() -> bool:
    """Return whether this thread is in a `quiet` block; does not block."""
    return (here() or _foreground).quiet > 0
