"""A crew as pools and runs use it: from any thread, through the supervisor.

An engine owns no state but the capacity that its pool gave it, and what it has told the crew already: telling it twice
does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

from poolmagic.config import PoolConfig
from poolmagic.core import events as ev
from poolmagic.core.state import PoolState
from poolmagic.crew import Client, Crew, CrewState
from poolmagic.launcher import Launcher, Loop, Reports, Surroundings, process_launcher
from poolmagic.local import LocalLauncher
from poolmagic.payload import Codec, Direct, Pickled
from poolmagic.references import find_modules
from poolmagic.supervisor import Supervisor, get_supervisor

__all__ = ["CrewEngine", "memory_of"]


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
        self._crew = crew
        self._supervisor = supervisor
        self._finds_modules = config.kind.start == "fork" and config.preload is None
        self._prepared: set[str] = set()

    @classmethod
    def lease(cls, config: PoolConfig) -> CrewEngine:
        """Return an engine for these settings in the kernel's present surroundings: warm, or not started yet."""
        supervisor, surroundings = get_supervisor(), Surroundings.now()
        seats = [config.slots_of(seat) for seat in range(config.workers)]
        make_state = partial(PoolState, seats, config.kind.scales or "slots", config.kind.cancels)
        make_launcher = _launcher_for(config, surroundings)
        crew: Crew = supervisor.ask(supervisor.lease, (config, surroundings), make_state, make_launcher)
        supervisor.call(crew.prepare, ())  # helpers start while the function and the first items are packed
        return cls(supervisor, crew, config)

    def prepare(self, payload: Any) -> None:
        """Have workers made ready for a function that has been packed; does not block."""
        if self._finds_modules:
            new = set(find_modules(payload)) - self._prepared
            if new:
                self._prepared |= new
                self._supervisor.call(self._crew.prepare, tuple(sorted(new)))

    def resize(self, config: PoolConfig, event: ev.Event) -> None:
        """Take new settings; does not block."""
        self.capacity = (config.workers, config.slots_of(0))
        self.post(event)

    def restart(self, config: PoolConfig) -> None:
        """Replace the workers by new ones in the kernel's present surroundings; does not block."""
        self._supervisor.call(self._crew.restart, _launcher_for(config, Surroundings.now()))

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Start a run; does not block."""
        self._supervisor.call(self._crew.add, client, event)

    def post(self, event: ev.Event) -> None:
        """Hand an event to the books; does not block."""
        self._supervisor.call(self._crew.handle, event)

    def state(self) -> CrewState:
        """Return what the crew tells of itself; blocks for well under a millisecond."""
        state: CrewState = self._supervisor.ask(self._crew.state)
        return state

    def busy(self, run: int) -> tuple[int, int, int]:
        """Return how many slots run something, how many there are, and how many items of a run are not reported yet.

        Blocks for well under a millisecond.
        """
        state = self.state()
        busy, slots = sum(one.busy for one in state.workers), sum(one.slots for one in state.workers)
        return busy, slots, state.unreported.get(run, 0)

    def join(self, timeout: float | None) -> bool:
        """Wait for the end of the last worker; blocks at most `timeout` seconds. False if one is left."""
        return self._crew.finished.wait(timeout)


def _launcher_for(config: PoolConfig, surroundings: Surroundings) -> Callable[[Loop, Reports], Launcher]:
    if config.kind.start == "local":
        return LocalLauncher
    return partial(process_launcher, config, surroundings)


def memory_of(pid: int | None) -> int:
    """Return the resident bytes of a process, 0 if it has ended; does not block."""
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
