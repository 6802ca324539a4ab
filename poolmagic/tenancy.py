"""A pool's hold on its workers: the crew that it leases, the functions that it hands over, and the end of it.

Threads. A pool may be used from any number of threads at once. What they share (the crew it leased, whether it is
closed) is behind a lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from poolmagic.asking import Engine
from poolmagic.config import PoolConfig, check_function
from poolmagic.core import events as ev
from poolmagic.current import register
from poolmagic.engine import CrewEngine
from poolmagic.equipped import Equipped
from poolmagic.errors import UsageError
from poolmagic.freshness import tell_of_changes
from poolmagic.inbox import Work
from poolmagic.interrupts import hold
from poolmagic.options import RunOptions
from poolmagic.preparation import Preparation
from poolmagic.randomness import Numbers, choose
from poolmagic.references import names_in
from poolmagic.sharing import share

__all__ = ["Tenant"]


class Tenant:
    """What has workers, or will have them when they are first needed: a pool, without what its user calls.

    Attributes:
        config: The settings.
        name: The name.
        is_closed: Whether it takes no more work.
    """

    def __init__(self, config: PoolConfig, name: str) -> None:
        self.config = config
        self.name = name
        self.is_closed = False
        self._lock = threading.Lock()
        self._engine: CrewEngine | None = None
        self._release: weakref.finalize[[], Tenant] | None = None
        self._process = os.getpid()
        self._preparation = Preparation()
        setup = config.setup
        self._setup = None if setup is None else replace(setup, initargs=share(setup.arguments))

    def sever(self) -> None:
        """Be closed, in a process forked off the one that has the workers; have nothing to do with them any more."""
        self._lock = threading.Lock()
        self.is_closed = True
        self._engine = None
        if self._release is not None:
            self._release.detach()

    def _lease(self) -> CrewEngine:
        """Return the engine, and get a crew for it first if there is none."""
        if self._process != os.getpid():
            raise UsageError(f"{self.name} belongs to the process that made it: make a new Pool in this one")
        with hold(), self._lock:
            if self.is_closed:
                raise UsageError(f"{self.name} is closed: make a new Pool")
            if self._engine is None:
                self._engine = CrewEngine.lease(self.config)
                self._release = weakref.finalize(self, self._engine.release)
                self._release.atexit = False
                register(self)
            return self._engine

    def _own_engine(self) -> CrewEngine | None:
        """Return the engine; None where the calling thread runs the tasks: on solo, and in a slot of this very pool.

        On solo it runs the pool's initializer, unless that is done.
        """
        if self.config.kind.start == "inline":
            if self.is_closed:
                raise UsageError(f"{self.name} is closed: make a new Pool")
            if self._setup is not None:
                self._preparation.prepare(self._setup)
            return None
        engine = self._lease()
        return None if engine.is_inside() else engine

    def _prepare(
        self, f: Callable[..., Any], stars: int, options: RunOptions, numbers: Numbers | None = None
    ) -> tuple[CrewEngine | None, Work]:
        """Check and pack a function; see `_own_engine`."""
        kind = self.config.kind
        check_function(kind, f)
        engine = self._own_engine()
        numbers = numbers or choose(options.seed, kind.name, alone=kind.runs_alone)
        if engine is None:
            tell_of_changes(names_in(f), kind.name)
            return None, Work(f, stars, options, numbers)
        setup, retry_on = self._setup, options.retry_on if options.retries else ()
        payload = engine.codec.pack_function(Equipped(f, retry_on, setup) if retry_on or setup else f)
        engine.refresh(f, payload, self.config)
        engine.prepare(payload)
        return engine, Work(payload, stars, options, numbers, setup is not None)

    def _work_again(self, work: Work, f: Callable[..., Any] | None) -> tuple[Engine | None, Work]:
        """Return what a resumed run needs: the same function or a repaired one."""
        if f is None:
            engine = self._own_engine()
            if engine is None:
                tell_of_changes(names_in(work.payload), self.config.kind.name)
            else:
                engine.refresh(None, work.payload, self.config)
                engine.prepare(work.payload)
            return engine, work
        return self._prepare(f, work.stars, work.options, work.numbers)

    def _stop(self, event: ev.Event) -> None:
        """Take no more work, and have the workers end as the event says."""
        with self._lock:
            self.is_closed = True
            if self._release is not None:
                self._release.detach()
            if self._engine is not None:
                self._engine.post(event)
        if isinstance(event, ev.Close):  # on solo, where no worker does it
            self._preparation.finish()
