"""Green slots: greenlets that pull tasks, on gevent's hub or eventlet's.

Everything here runs in the hub's thread but `wake`, `cancel`, `resize` and `stop`, which the control thread calls; they
only wake the hub and leave the work to `_pump` there. The two libraries differ in five small functions (`Hub`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from poolmagic.errors import TaskCancelled
from poolmagic.worker.native import perf_counter, read, write

if TYPE_CHECKING:
    from poolmagic.worker.tasks import Task, Worker

__all__ = ["EventletHub", "GeventHub", "GreenSlots", "Hub"]

TURN_SECONDS: Final = 0.01
"""After so long without a switch a greenlet lets the others run: tasks that never wait would starve the rest."""


class Hub(Protocol):
    """What green slots need of a green thread library."""

    def listen(self, callback: Callable[[], None]) -> None:
        """Let `notify` have `callback` called in the hub's thread."""
        ...

    def notify(self) -> None:
        """Wake the hub; may be called from any thread."""
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the hub's own greenlet, where it may not wait."""
        ...

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet."""
        ...

    def pause(self) -> None:
        """Let other greenlets run."""
        ...

    def wait_for_end(self) -> None:
        """Block the main greenlet until `end`."""
        ...

    def end(self) -> None:
        """Let `wait_for_end` return."""
        ...


class GeventHub:
    """gevent's hub."""

    def __init__(self) -> None:
        import gevent
        import gevent.event

        self._gevent = gevent
        self._hub = gevent.get_hub()
        _answer_numbers_at_once(self._hub)
        self._loop = self._hub.loop
        self._async = self._loop.async_()
        self._ended = gevent.event.Event()

    def listen(self, callback: Callable[[], None]) -> None:
        """Let `notify` have `callback` called in the hub's thread."""
        # The callback runs in the hub's own greenlet, which may not wait; a greenlet may.
        self._async.start(lambda: self._gevent.spawn(callback))

    def notify(self) -> None:
        """Wake the hub; may be called from any thread."""
        self._async.send()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the hub's own greenlet, where it may not wait."""
        self._loop.run_callback(callback)

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet."""
        return self._gevent.spawn(function, *args)

    def pause(self) -> None:
        """Let other greenlets run."""
        self._loop.run_callback(self._gevent.getcurrent().switch)
        self._hub.switch()

    def wait_for_end(self) -> None:
        """Block the main greenlet until `end`."""
        self._ended.wait()

    def end(self) -> None:
        """Let `wait_for_end` return."""
        self._ended.set()


def _answer_numbers_at_once(hub: Any) -> None:
    """Let gevent look up an address that is a number without a real thread: that takes a fifth off a short request."""
    import _socket

    from gevent.resolver.thread import Resolver

    class NumbersAtOnce(Resolver):  # type: ignore[misc]  # gevent has no types
        def getaddrinfo(
            self,
            host: Any,
            port: Any,
            family: int = 0,
            type: int = 0,  # noqa: A002 - so it is called in the standard library
            proto: int = 0,
            flags: int = 0,
        ) -> Any:
            try:
                return _socket.getaddrinfo(host, port, family, type, proto, flags | _socket.AI_NUMERICHOST)
            except _socket.gaierror:  # a name
                return super().getaddrinfo(host, port, family, type, proto, flags)

    if type(hub.resolver) is Resolver:  # another one is the user's choice
        hub.resolver = NumbersAtOnce(hub)


class EventletHub:
    """eventlet's hub. Other threads wake it through a pipe, the only way that it has."""

    def __init__(self) -> None:
        import eventlet
        import eventlet.event
        import eventlet.hubs

        self._eventlet = eventlet
        self._hub = eventlet.hubs.get_hub()
        self._trampoline = eventlet.hubs.trampoline
        self._ended = eventlet.event.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def listen(self, callback: Callable[[], None]) -> None:
        """Let `notify` have `callback` called in the hub's thread."""
        self._eventlet.spawn(self._listen, callback)

    def _listen(self, callback: Callable[[], None]) -> None:
        while True:
            self._trampoline(self._reader, read=True)
            read(self._reader, 65_536)
            callback()

    def notify(self) -> None:
        """Wake the hub; may be called from any thread."""
        try:
            write(self._writer, b"!")
        except BlockingIOError:  # the pipe is full of wake-ups: one of them will do
            return

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the hub's own greenlet, where it may not wait."""
        self._hub.schedule_call_global(0, callback)

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet."""
        return self._eventlet.spawn(function, *args)

    def pause(self) -> None:
        """Let other greenlets run."""
        self._hub.schedule_call_global(0, self._eventlet.getcurrent().switch)
        self._hub.switch()

    def wait_for_end(self) -> None:
        """Block the main greenlet until `end`."""
        self._ended.wait()

    def end(self) -> None:
        """Let `wait_for_end` return."""
        if not self._ended.ready():
            self._ended.send()


@dataclass
class _Slot:
    """A slot with a greenlet; `task` is None for the moment between two tasks."""

    number: int
    task: Task | None
    greenlet: Any = None
    started: bool = False
    cancelled: bool = False


class GreenSlots:
    """Greenlets that pull tasks: a greenlet lives as long as there is a next task for it, not for one task only."""

    def __init__(self, hub: Hub, slots: int) -> None:
        self._hub = hub
        self._slots = self._wanted = slots
        self._free = list(range(slots - 1, -1, -1))
        self._busy: dict[int, _Slot] = {}
        self._cancelled: list[int] = []
        self._flush_is_due = False
        self._worker: Worker | None = None

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        self._worker = worker
        self._hub.listen(self._pump)
        self._hub.notify()  # for what came before we listened
        self._hub.wait_for_end()

    def wake(self, count: int) -> None:
        """Say that more tasks wait."""
        self._hub.notify()

    def cancel(self, run: int) -> None:
        """Throw `TaskCancelled` into the running tasks of a run, once the hub gets to it."""
        self._cancelled.append(run)
        self._hub.notify()

    def resize(self, slots: int) -> None:
        """Have this many slots from now on; tasks that run go on."""
        self._wanted = slots
        self._hub.notify()

    def stop(self) -> None:
        """Let `serve` return once no task is left."""
        self._hub.notify()

    def defer(self, flush: Callable[[], None]) -> None:
        """Flush once for all greenlets that are ready now: a thousand may wake in one go."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self._hub.spawn(self._flush, flush)

    def _flush(self, flush: Callable[[], None]) -> None:
        self._flush_is_due = False
        flush()

    def _pump(self) -> None:
        """Do what the control thread asked for: cancel, and start greenlets for waiting tasks."""
        assert self._worker is not None
        while self._cancelled:
            run = self._cancelled.pop()
            for slot in self._busy.values():
                if slot.task is not None and slot.task.run == run:
                    self._hub.soon(partial(self._strike, slot, slot.task))
        if self._slots != self._wanted:
            self._slots = self._wanted
            self._free = [number for number in range(self._slots - 1, -1, -1) if number not in self._busy]
        while self._free and self._worker.has_batches:
            number = self._free.pop()
            task = self._worker.next()
            if task is None:
                self._free.append(number)
                self.defer(self._worker.flush)  # nothing more is coming: what is finished should not wait
                break
            slot = self._busy[number] = _Slot(number, task)
            slot.greenlet = self._hub.spawn(self._serve, slot)
        self._end_if_idle()

    def _strike(self, slot: _Slot, task: Task) -> None:
        """Cancel a task, unless its greenlet has gone on to another by now."""
        if slot.task is not task:
            return
        slot.cancelled = True
        if slot.started:  # one that has not started would never run; it sees the mark when it does
            slot.greenlet.throw(TaskCancelled)

    def _serve(self, slot: _Slot) -> None:
        """Run tasks in one slot until there is none."""
        worker = self._worker
        assert worker is not None
        slot.started = True
        turn = perf_counter()
        while (task := slot.task) is not None:
            try:
                if slot.cancelled:
                    raise TaskCancelled
                worker.run(task, slot.number)
                slot.task = None
                if perf_counter() - turn > TURN_SECONDS:
                    self._hub.pause()
                    turn = perf_counter()
            except TaskCancelled as error:  # before the task began, or while its outcome was put away
                worker.fail(task, error)
            slot.cancelled = False
            slot.task = worker.next() if slot.number < self._slots else None
        del self._busy[slot.number]
        if slot.number < self._slots:
            self._free.append(slot.number)
        worker.idle(slot.number)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        worker = self._worker
        if worker is not None and worker.stopping and not self._busy and not worker.has_batches:
            worker.flush()
            self._hub.end()
