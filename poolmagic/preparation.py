"""Whether a place where tasks run, a worker or the kernel, has been prepared for them by the pool's initializer.

A `Preparation` belongs to its place, and its methods may be called from any of the threads there, green ones and
coroutines included.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from poolmagic.anatomy import name_of
from poolmagic.errors import InitializerError, note
from poolmagic.records import below_own_code
from poolmagic.setup import Setup

__all__ = ["Preparation"]

_ABSENT: Final = object()


class Preparation:
    """Whether a worker, or the kernel of a solo pool, has been prepared for the pool's tasks."""

    def __init__(self) -> None:
        # Made when a green worker has been patched: then it is a green lock, at which only green threads wait.
        self._lock = threading.Lock()
        self._is_done = False
        self._made: dict[str, Any] = {}
        self._finalizer: Callable[[], Any] | None = None
        self._failure: tuple[int | None, InitializerError | None] = None, None

    def prepare(self, setup: Setup, run: int | None = None) -> None:
        """Run the initializer unless that is done; whoever comes meanwhile blocks until it is.

        Args:
            setup: That of the pool, as it came with the function of a run.
            run: Number of the run, in which a failed initializer is not run again here; None always runs it again.

        Raises:
            InitializerError: The initializer failed.
        """
        with self._lock:
            if self._is_needed(setup, run):
                with self._attempt(setup, run):
                    setup.begin()

    async def prepare_async(self, setup: Setup, run: int, lock: Any) -> None:
        """Do the same in an event loop, where the initializer may be an ``async def``; `lock` is one of the loop's."""
        async with lock:
            if self._is_needed(setup, run):
                with self._attempt(setup, run):
                    value = setup.begin()
                    if inspect.isawaitable(value):
                        await value

    def _is_needed(self, setup: Setup, run: int | None) -> bool:
        failed_run, failure = self._failure
        if failure is not None and run is not None and run == failed_run:
            raise failure
        if self._is_done and self._made:
            namespace = _own_namespace(setup.initializer)
            if namespace is not None:
                namespace.update(self._made)
        return not self._is_done

    @contextmanager
    def _attempt(self, setup: Setup, run: int | None) -> Iterator[None]:
        namespace = _own_namespace(setup.initializer)
        before = dict(namespace or {})
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # one that exits has failed, too
            failure = InitializerError(_told(setup.initializer, "initializer", error), refuses=True)
            failure.__cause__ = error.with_traceback(below_own_code(error.__traceback__))
            self._failure = run, failure
            raise failure from error
        # The function of each run comes with globals of its own, those that the initializer has in that run. What it
        # has assigned here is theirs, too.
        self._made = {
            name: value for name, value in (namespace or {}).items() if before.get(name, _ABSENT) is not value
        }
        self._finalizer = setup.finalizer
        self._failure = None, None
        self._is_done = True

    def finish(self, *more: Callable[[], Any]) -> None:
        """Run the finalizer, if there is one and the initializer was run, and `more`; what they raise is only told."""
        for step in (*self._take_finalizer(), *more):
            with _telling(step):
                step()

    async def finish_async(self, *more: Callable[[], Any]) -> None:
        """Do the same in an event loop, where they may be ``async def``."""
        for step in (*self._take_finalizer(), *more):
            with _telling(step):
                value = step()
                if inspect.isawaitable(value):
                    await value

    def _take_finalizer(self) -> list[Callable[[], Any]]:
        finalizer, self._finalizer = self._finalizer, None
        self._is_done = False
        return [] if finalizer is None else [finalizer]


def _own_namespace(function: Any) -> dict[str, Any] | None:
    """Return the globals of a function that came with it; None if they are those of a module, which all share."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__globals__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004 - its function, not whether it has one
    namespace: dict[str, Any] | None = getattr(function, "__globals__", None)
    if namespace is None:
        return None
    module = sys.modules.get(namespace.get("__name__", ""))
    return None if getattr(module, "__dict__", None) is namespace else namespace


@contextmanager
def _telling(step: Callable[[], Any]) -> Iterator[None]:
    """Tell of what a step at the end raises: there is nobody left whose error it could be."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # one that exits must not keep the rest from being done
        note(_told(step, "finalizer", error))


def _told(function: Any, what: str, error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a broken __str__ must not hide the error that is being told
        text = ""
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"the pool's {what} {name_of(function)}() raised {said}"
