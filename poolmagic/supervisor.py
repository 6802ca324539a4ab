"""The supervisor: one event-loop thread in the kernel that owns every pool's workers, books and sockets.

    asking threads --call()--> [ loop thread ] <--frames--> workers
                                  |        ^
                          events  v        |  commands
                                 [ pure core ]

Threads. One runs everything below `_loop`; the others only `call` into it. It blocks in exactly one place, the
selector, until a socket, a call or the next deadline. It never runs the user's code.

Order. In each turn sockets are read before calls are made: a result that beat the death of its worker is kept.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Final

from poolmagic.appetite import Limits
from poolmagic.channel import Channel
from poolmagic.core import events as ev
from poolmagic.core.state import PoolState
from poolmagic.crew import Crew, MakeLauncher

__all__ = ["Supervisor", "get_supervisor"]

WARM_SECONDS: Final = 60.0
"""How long the workers of a dropped pool wait for the next one: longer than from one cell to the next."""
EXIT_SECONDS: Final = 2.0
"""How long the end of the interpreter waits for its workers' end; they have been killed before."""


class Supervisor:
    """The loop thread, started when it is made. There is one in a process; see `get_supervisor`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._watched: dict[Channel, Callable[[], None]] = {}
        self._unwritten: list[Channel] = []
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._crews: set[Crew] = set()
        self._parked: dict[Hashable, list[Crew]] = {}
        threading.Thread(target=self._loop, name="poolmagic-supervisor", daemon=True).start()

    # Any thread ----------------------------------------------------------------------------------------------------

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called in the loop thread; does not block. For any thread, and for finalizers."""
        self._calls.append((function, args))
        try:
            self._ringer.send(b"!")
        except BlockingIOError:  # the bell rings already
            return

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the loop thread and return what it returns; blocks for a moment."""
        answer: Future[Any] = Future()

        def answered() -> None:
            try:
                answer.set_result(function(*args))
            except Exception as error:  # it belongs to who asked
                answer.set_exception(error)

        self.call(answered)
        return answer.result()

    # Loop thread ---------------------------------------------------------------------------------------------------

    def lease(
        self, key: Hashable, make_state: Callable[[], PoolState], make_launcher: MakeLauncher, limits: Limits
    ) -> Crew:
        """Return a crew: a warm one that a dropped pool with the same key left behind, or a new one."""
        parked = self._parked.get(key, [])
        while parked:
            crew = parked.pop()
            if crew.is_reusable:
                return crew
            crew.handle(ev.Close())
        crew = Crew(make_state(), make_launcher, self, key, limits)
        self._crews = {one for one in self._crews if not one.finished.is_set()} | {crew}
        return crew

    def release(self, crew: Crew) -> None:
        """Take back the crew of a dropped pool: keep it warm for a while, then close it."""
        if not crew.is_reusable:
            crew.handle(ev.Close())
            return
        self._parked.setdefault(crew.key, []).append(crew)
        self.call_at(time.monotonic() + WARM_SECONDS, lambda: self._cool(crew))

    def _cool(self, crew: Crew) -> None:
        parked = self._parked.get(crew.key, [])
        if crew in parked:
            parked.remove(crew)
            crew.handle(ev.Close())

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Have a function called at a time of `time.monotonic`."""
        heapq.heappush(self._deadlines, (when, next(self._numbers), function))

    def watch(self, channel: Channel, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the channel can be read; what is backed up in it is written as it can be."""
        self._watched[channel] = ready
        self._selector.register(channel, selectors.EVENT_READ, channel)
        channel.wake = self._will_write

    def _will_write(self, channel: Channel) -> None:
        self._unwritten.append(channel)

    def unwatch(self, channel: Channel) -> None:
        """Undo `watch`. Calling it twice equals once."""
        if self._watched.pop(channel, None) is not None:
            self._selector.unregister(channel)

    def _loop(self) -> None:
        while True:
            self._write()
            timeout = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None
            for key, mask in self._selector.select(timeout):
                if key.data is None:
                    self._bell.recv(4096)
                elif key.data in self._watched:
                    self._serve(key.data, mask)
            for _ in range(len(self._calls)):
                function, args = self._calls.popleft()
                self._guard(function, *args)
                del function, args  # or this frame would keep a run and its results alive until the next call
            while self._deadlines and self._deadlines[0][0] <= time.monotonic():
                self._guard(heapq.heappop(self._deadlines)[2])

    def _write(self) -> None:
        """Write what was sent in this turn: once for each channel, however many messages there are for it."""
        channels, self._unwritten = self._unwritten, []
        for channel in channels:
            channel.write()
            if channel.is_backed_up and channel in self._watched:
                self._selector.modify(channel, selectors.EVENT_READ | selectors.EVENT_WRITE, channel)

    def _serve(self, channel: Channel, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            channel.write()
            if not channel.is_backed_up:
                self._selector.modify(channel, selectors.EVENT_READ, channel)
        if mask & selectors.EVENT_READ:
            self._guard(self._watched[channel])

    def _guard(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function; whatever goes wrong in it must not end the loop that all pools live by."""
        try:
            function(*args)
        except Exception:  # a bug; the crew that it is in has told its runs already
            traceback.print_exc()

    def _terminate(self) -> list[Crew]:
        crews = [crew for crew in self._crews if not crew.finished.is_set()]
        for crew in crews:
            crew.handle(ev.Terminate())
        return crews

    def abandon(self) -> None:
        """Close our copies of the lines, in a process forked off the kernel: workers must see the kernel end."""
        for channel in list(self._watched):
            channel.close()
        self._selector.close()
        self._bell.close()
        self._ringer.close()

    def shut_down(self) -> None:
        """End every worker of every pool; blocks until they have ended, but not for ever."""
        until = time.monotonic() + EXIT_SECONDS
        for crew in self.ask(self._terminate):
            crew.finished.wait(max(0.0, until - time.monotonic()))


_supervisor: Supervisor | None = None
_lock = threading.Lock()


def get_supervisor() -> Supervisor:
    """Return the supervisor of this process; starts it at the first call. May be called from any thread."""
    global _supervisor
    with _lock:
        if _supervisor is None:
            _supervisor = Supervisor()
            atexit.register(_supervisor.shut_down)
        return _supervisor


def _forget() -> None:
    """In a process forked off the kernel there is no loop thread: let it have one of its own, should it need it."""
    global _supervisor, _lock
    if _supervisor is not None:
        atexit.unregister(_supervisor.shut_down)
        _supervisor.abandon()
    _supervisor = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
