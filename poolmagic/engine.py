"""A crew as pools and runs use it: from any thread, through the supervisor.

An engine owns no state but the capacity that its pool gave it, and what it has told the crew already: telling it twice
does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psutil

from poolmagic.appetite import Limits
from poolmagic.cgroups import memory_limit
from poolmagic.client import Client
from poolmagic.config import PoolConfig
from poolmagic.core import events as ev
from poolmagic.core.books import PoolLimits
from poolmagic.core.state import PoolState
from poolmagic.crew import Crew, CrewState
from poolmagic.freshness import Sources, tell_of_changes
from poolmagic.inquiries import Inquiry
from poolmagic.launcher import Launcher, Loop, Reports, Surroundings, process_launcher
from poolmagic.local import LocalLauncher
from poolmagic.nesting import marks
from poolmagic.payload import Codec, Direct, Pickled
from poolmagic.references import find_modules, names_in
from poolmagic.snapshot import ItemSnapshot, PoolSnapshot, RunView
from poolmagic.supervisor import Supervisor, get_supervisor
from poolmagic.worker.tasks import inside

__all__ = ["CrewEngine", "picture"]

MOST_OF_IT: Final = 0.85
"""Part of the memory of the machine, or of the container, that the kernel and its workers may take together."""


class CrewEngine:
    """The engine of every kind but solo.

    Attributes:
        codec: How functions, items and outcomes travel to these workers.
        capacity: Workers, and slots of one.
        release: Give the crew back to the supervisor, which keeps it warm. May be called from any thread.
    """

    def __init__(self, supervisor: Supervisor, crew: Crew, config: PoolConfig) -> None:
        self.codec: Codec = Direct() if config.kind.start == "local" else Pickled()
        self.capacity = (config.workers, config.slots_of(0))
        self.release: Callable[[], None] = partial(supervisor.call, supervisor.release, crew)
        if config.setup is not None:  # no other pool could use its workers
            self.release = partial(supervisor.call, crew.handle, ev.Close())
        self._crew = crew
        self._supervisor = supervisor
        self._process = os.getpid()
        self._finds_modules = config.kind.start == "fork" and config.preload is None
        self._prepared: set[str] = set()
        self._sources = Sources.of(crew)

    @classmethod
    def lease(cls, config: PoolConfig) -> CrewEngine:
        """Return an engine for these settings in the kernel's present surroundings: warm, or not started yet."""
        supervisor, surroundings = get_supervisor(), Surroundings.now(marks(config))
        seats = [config.slots_of(seat) for seat in range(config.workers)]
        autoscale = (config.concurrency, config.least) if config.least else None
        rules = PoolLimits(config.max_tasks_per_child, autoscale, config.idle_timeout)
        make_state = partial(PoolState, seats, config.kind.scales or "slots", config.kind.cancels, rules)
        make_launcher, limits = _launcher_for(config, surroundings), _limits_of(config)
        crew: Crew = supervisor.ask(supervisor.lease, (config, surroundings), make_state, make_launcher, limits)
        supervisor.call(crew.prepare, ())  # helpers start while the function and the first items are packed
        return cls(supervisor, crew, config)

    def prepare(self, payload: Any) -> None:
        """Have workers made ready for a function that has been packed; does not block."""
        if self._finds_modules:
            new = set(find_modules(payload).installed) - self._prepared
            if new:
                self._prepared |= new
                self._supervisor.call(self._crew.prepare, tuple(sorted(new)))

    def resize(self, config: PoolConfig, event: ev.Event) -> None:
        """Take new settings; does not block."""
        self.capacity = (config.workers, config.slots_of(0))
        self.post(event)

    def restart(self, config: PoolConfig) -> None:
        """Replace the workers by new ones in the kernel's present surroundings; does not block."""
        self._sources.forget()
        self._renew(config)

    def refresh(self, function: Callable[..., Any] | None, payload: Any, config: PoolConfig) -> None:
        """Have new workers if a module has changed that a function needs, and say so; blocks to read it if it has.

        Args:
            function: The user's function; None if there is only its payload.
            payload: The same, packed.
            config: The settings.

        Raises:
            SyntaxError: A changed module has one; the workers are left as they are.
        """
        if config.kind.start == "local":
            tell_of_changes(names_in(function or payload), config.kind.name)
        else:
            names = names_in(function).union(find_modules(payload).own)
            self._sources.follow(names, partial(self._renew, config))

    def _renew(self, config: PoolConfig) -> None:
        self._supervisor.call(self._crew.restart, _launcher_for(config, Surroundings.now(marks(config))))

    @property
    def is_here(self) -> bool:
        """Whether this is the process that has the crew, and not one that was forked off it."""
        return self._process == os.getpid()

    def is_inside(self) -> bool:
        """Return whether the calling thread is one of this crew's slots: it would wait in vain for what it asks."""
        worker = inside.get()
        return worker is not None and worker.crew is self._crew

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Start a run; does not block."""
        self._supervisor.call(self._crew.add, client, event)

    def post(self, event: ev.Event) -> None:
        """Hand an event to the books; does not block. In a process forked off the kernel there are none."""
        if self.is_here:
            self._supervisor.call(self._crew.handle, event)

    def state(self) -> CrewState:
        """Return what the crew tells of itself; blocks for well under a millisecond."""
        if not self.is_here:
            return CrewState("closed", (), 0, 0, 0)
        state: CrewState = self._supervisor.ask(self._crew.state)
        return state

    def look(self, run: int, index: Callable[[int], int]) -> RunView:
        """Return what is known of a run; `index` tells the index of a position. Blocks for well under a millisecond."""
        state = self.state()
        busy, slots = sum(one.busy for one in state.workers), sum(one.slots for one in state.workers)
        running = tuple(
            ItemSnapshot(index(task.position), task.seconds, worker.id)
            for worker in state.workers
            for task in worker.running
            if task.run == run
        )
        return RunView(busy, slots, state.unreported.get(run, 0), running, run in state.paused)

    def inquire(self) -> Inquiry:
        """Ask the workers what their tasks do; blocks for well under a millisecond, the answers come later."""
        inquiry: Inquiry = self._supervisor.ask(self._crew.inquire)
        return inquiry

    def join(self, timeout: float | None) -> bool:
        """Wait for the end of the last worker; blocks at most `timeout` seconds. False if one is left."""
        return self._crew.finished.wait(timeout)


def _launcher_for(config: PoolConfig, surroundings: Surroundings) -> Callable[[Loop, Reports], Launcher]:
    if config.kind.start == "local":
        return LocalLauncher
    return partial(process_launcher, config, surroundings)


def _limits_of(config: PoolConfig) -> Limits:
    """Return how much memory the workers of a pool may take; threads take the kernel's own."""
    if config.kind.start == "local":
        return Limits()
    machine = 0 if config.memory_limit else int(MOST_OF_IT * (memory_limit() or 0))
    return Limits(config.max_memory_per_child, config.memory_limit, machine)


def picture(name: str, config: PoolConfig, state: CrewState, is_closed: bool) -> PoolSnapshot:
    """Return the snapshot of a pool from what its crew tells; asks the system for the memory of each worker."""
    phase = "closed" if is_closed and state.phase in ("new", "closed") else state.phase
    return PoolSnapshot(
        name=name,
        kind=config.kind.name,
        state="closing" if phase == "terminating" else phase,
        concurrency=config.concurrency,
        workers=state.workers,
        slots=sum(worker.slots for worker in state.workers),
        busy=sum(worker.busy for worker in state.workers),
        done=state.done,
        failed=state.failed,
        runs=state.runs,
        memory=0 if config.kind.start == "local" else sum(_memory_of(worker.pid) for worker in state.workers),
    )


def _memory_of(pid: int | None) -> int:
    """Return the resident bytes of a process, 0 if it has ended; does not block."""
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
