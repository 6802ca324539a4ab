"""Green slots: greenlets that pull tasks, on gevent's hub or eventlet's.

Everything here runs in the hub's thread but `Hub.notify`. The two libraries differ in a few small functions (`Hub`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Protocol

from poolmagic.board import DONE, POSITION, RUN, SINCE
from poolmagic.errors import SoftTimeLimitExceeded, TaskCancelled
from poolmagic.perworker import closers
from poolmagic.timings import SHORT
from poolmagic.worker.native import perf_counter, read, write
from poolmagic.worker.outbox import Row
from poolmagic.worker.places import enter_slot
from poolmagic.worker.portions import Portion
from poolmagic.worker.preparing import prepare
from poolmagic.worker.slots import task_of
from poolmagic.worker.stacks import called_from
from poolmagic.worker.tasks import FLUSH_SECONDS, Worker, current
from poolmagic.worker.waves import TURN_SECONDS, Slot, WaveSlots

__all__ = ["EventletHub", "GeventHub", "GreenSlots", "Hub"]


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

    def spawn_later(self, seconds: float, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet after some time."""
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

    def spawn_later(self, seconds: float, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet after some time."""
        return self._gevent.spawn_later(seconds, function, *args)

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

    def spawn_later(self, seconds: float, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet after some time."""
        return self._eventlet.spawn_after(seconds, function, *args)

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


class _Slot(Slot):
    """A slot with a greenlet."""

    greenlet: Any = None


class GreenSlots(WaveSlots[_Slot]):
    """Slots with greenlets."""

    def __init__(self, hub: Hub, slots: int) -> None:
        super().__init__(slots)
        self._hub = hub
        self._made: dict[int, _Slot] = {}

    def serve(self, worker: Worker) -> None:
        """Run tasks as they come; blocks until `stop` and the last task's end."""
        with self._serving(worker, GreenSlots._run.__code__, GreenSlots._pause.__code__):
            self._hub.listen(self._pump)
            self._hub.notify()  # for what came before we listened
            self._hub.wait_for_end()
            worker.preparation.finish(*closers())

    def _notify(self) -> None:
        self._hub.notify()

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._hub.spawn_later(seconds, function, *args)

    def _end(self) -> None:
        self._hub.end()

    def _begin(self, worker: Worker, number: int) -> None:
        slot = self._made.get(number) or _Slot(number, *worker.board.record(number))
        self._made[number] = self._busy[number] = slot
        slot.greenlet = self._hub.spawn(self._serve, slot)

    def _waiting_frames(self, slot: _Slot) -> list[FrameType]:
        """Return the frames of a task that waits, outermost first; for the control thread."""
        return called_from(GreenSlots._run.__code__, getattr(slot.greenlet, "gr_frame", None))

    def _throw(self, slot: _Slot, run: int, position: int, error: BaseException) -> None:
        self._hub.soon(partial(self._throw_now, slot, run, position, error))

    def _throw_now(self, slot: _Slot, run: int, position: int, error: BaseException) -> None:
        if slot.has(run, position):  # or its greenlet has gone on by now
            slot.greenlet.throw(error)

    def _serve(self, slot: _Slot) -> None:
        """Run tasks in one slot until there is none."""
        worker = self._worker
        assert worker is not None
        self._begun(worker)
        current.set(partial(task_of, slot.record))
        enter_slot(worker, slot.record)
        while slot.number < self._slots and (portion := worker.front()) is not None:
            if portion.call.prepares:
                prepare(worker, portion, slot.record)
            try:
                if self._run(worker, portion, slot):
                    worker.drop(portion)
            except (TaskCancelled, SoftTimeLimitExceeded) as error:  # while the outcome of a task was put away
                slot.record[DONE] += 1
                worker.fail(portion, slot.record[POSITION], error)
        self._release(worker, slot)
        if worker.waiting:  # the slot was taken away: another one may be free
            self._hub.notify()
        self._end_if_idle()

    def _run(self, worker: Worker, portion: Portion, slot: _Slot) -> bool:
        """Run tasks of a batch in one slot; return True if there are no more, False if the slot was taken away."""
        record, times, calls = slot.record, slot.times, worker.printer.calls
        call = portion.limited(times) if portion.call.limited else portion.callable()
        done = record[DONE]
        record[RUN] = 0  # while the record is of two runs
        record[POSITION] = position = -1
        record[RUN] = portion.run + 1
        now = perf_counter()
        row, is_empty = Row(portion.out, done, now, portion.call), True
        look_at, turn_ends = now + SHORT, now + TURN_SECONDS
        for position, raw in portion.tasks:
            # First: the task before may look younger, but this one must not look older than it is.
            times[SINCE] = since = now
            record[POSITION] = position
            self._latest = slot
            try:
                value = call(raw)
            except BaseException as error:  # a task's SystemExit is its failure, not the worker's end
                worker.fail(portion, position, error)
            else:
                row.keep(position, value)
            if calls:
                worker.printer.end((portion.run, position))
            done += 1
            record[DONE] = done
            now = perf_counter()
            if self._latest is not slot or now > look_at:
                row.look(position, done, since, now)
                if self._latest is not slot or now > turn_ends:
                    now = self._pause(worker, slot, now)
                    turn_ends = now + TURN_SECONDS
                row.began, look_at = now, now + SHORT
                if slot.number >= self._slots:
                    is_empty = False
                    break
        row.end(position, done, now)
        row.close()
        return is_empty

    def _pause(self, worker: Worker, slot: _Slot, now: float) -> float:
        """Hand back what is due, and let other greenlets run if none did since the slot's task began."""
        worker.printer.look()
        if now - worker.since > FLUSH_SECONDS:
            self.defer(worker.flush)
        if self._latest is slot:
            slot.record[POSITION] = -1
            self._flush_if_due(worker.flush)  # who waits for its turn behind a hundred others may wait for long
            self._hub.pause()
        return perf_counter()
