"""The crew of a pool: its workers and its books, and the carrying out of what the books command.

Everything belongs to the supervisor's loop thread but `finished`, an event that any thread may wait for. A crew
translates: messages and exits into events for the pure core, the core's commands into messages, signals and news for
its clients (see `clientele`). It decides nothing, and never looks into a payload.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

from poolmagic.appetite import Appetite, Limits
from poolmagic.board import Mark
from poolmagic.client import Client
from poolmagic.clientele import Clientele
from poolmagic.core import events as ev
from poolmagic.core.books import PoolPhase, WorkerBook, WorkerPhase
from poolmagic.core.state import PoolState
from poolmagic.deadlines import Alarm, Deadlines
from poolmagic.errors import InternalError, PoolMagicError
from poolmagic.inquiries import Inquiry
from poolmagic.launcher import Launcher, Link, Loop, Reports, explain_exit
from poolmagic.losses import Loss, count_oom_kills
from poolmagic.messages import (
    Batch,
    Cancel,
    Done,
    Dump,
    Dumped,
    Forget,
    Hello,
    Message,
    Output,
    Resize,
    Returned,
    Stop,
    Withdraw,
)
from poolmagic.quantities import show_size
from poolmagic.snapshot import TaskSnapshot, WorkerSnapshot

__all__ = ["Crew", "CrewState", "MakeLauncher"]

MakeLauncher: TypeAlias = Callable[[Loop, Reports], Launcher]
NO_LIMITS: Final = Limits()


@dataclass(frozen=True)
class CrewState:
    """What a crew tells of itself.

    Attributes:
        done: Items that returned. Those not reported yet are among them, though some may turn out to have failed.
        failed: Items that are known to have failed.
        unreported: By run, how many items are over and not reported yet, as far as it is clear whose they are.
        paused: The runs that are paused.
    """

    phase: str
    workers: tuple[WorkerSnapshot, ...]
    done: int
    failed: int
    runs: int
    unreported: Mapping[int, int] = field(default_factory=dict)
    paused: frozenset[int] = frozenset()


class Crew:
    """The workers of one pool.

    Args:
        state: The books, new.
        make_launcher: Makes what starts the workers.
        loop: The supervisor.
        key: Pools with equal keys may take over each other's crews.
        limits: How much memory the workers may take.
    """

    def __init__(
        self, state: PoolState, make_launcher: MakeLauncher, loop: Loop, key: Hashable, limits: Limits = NO_LIMITS
    ) -> None:
        self.key = key
        self.finished = threading.Event()
        self._state = state
        self._first_seats = list(state.seats)
        self._loop = loop
        self._launchers = [make_launcher(loop, self)]
        self._links: dict[int, Link] = {}
        self._clients = Clientele()
        self._events: deque[ev.Event] = deque()
        self._burst: dict[int, int] = {}
        self._oom_kills = count_oom_kills()
        self._failure: PoolMagicError | None = None
        self._modules: set[str] = set()
        self._inquiries: WeakValueDictionary[int, Inquiry] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._alarm = Alarm(loop, lambda: self.handle(ev.Tick()))
        self._deadlines = Deadlines(loop, self._look, self._overdue)
        self._limits = limits
        self._appetite = Appetite(loop, limits, self, lambda: bool(self._clients))

    @property
    def is_reusable(self) -> bool:
        """Whether another pool with the same settings would find what it expects."""
        is_running = self._state.phase is PoolPhase.RUNNING and self._failure is None
        return is_running and self._state.seats == self._first_seats

    def prepare(self, modules: tuple[str, ...]) -> None:
        """Get ready for workers that will need these modules."""
        self._modules.update(modules)
        self._launchers[-1].prepare(modules)

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Take a new run."""
        self._clients.add(client)
        if client.time_limit:
            self._deadlines.add(client.id, client.time_limit)
        self._appetite.wake()
        self.handle(event)

    def restart(self, make_launcher: MakeLauncher) -> None:
        """Replace the workers by such as a new launcher starts."""
        self._launchers.append(make_launcher(self._loop, self))
        self._launchers[-1].prepare(sorted(self._modules))
        self.handle(ev.Restart())
        self._close_old_launchers()

    def handle(self, event: ev.Event) -> None:
        """Apply an event and carry out what follows from it. A bug ends the crew, not the supervisor."""
        if self._failure is not None:
            if isinstance(event, ev.RunAdded):
                self._clients.dismiss(self._failure)
            return
        self._events.append(event)
        if len(self._events) > 1:  # a command led to it, and those that follow the command come first
            return
        try:
            while self._events:
                for command in self._state.handle(self._events[0], time.monotonic()):
                    _COMMANDS[type(command)](self, command)
                self._events.popleft()
            self._alarm.set(self._state.due)
        except Exception as error:
            self._break(error)
            raise

    def state(self) -> CrewState:
        """Return what there is to tell."""
        now = time.perf_counter()
        workers = tuple(
            self._snapshot(book, link, now)
            for book in self._state.workers.values()
            if (link := self._links.get(book.id)) is not None
        )
        unreported: dict[int, int] = {}
        for worker in workers:
            runs = self._state.workers[worker.id].assigned
            if len(runs) == 1:
                [run] = runs
                unreported[run] = unreported.get(run, 0) + worker.unreported
        done = self._state.done + sum(worker.unreported for worker in workers)
        phase, failed, runs_now = self._state.phase.value, self._state.failed, len(self._state.runs)
        paused = frozenset(run.id for run in self._state.runs.values() if run.is_paused)
        return CrewState(phase, workers, done, failed, runs_now, unreported, paused)

    def inquire(self) -> Inquiry:
        """Ask the workers that run something what their tasks do; the answers come to the inquiry while it lives."""
        inquiry = Inquiry(self.state().workers, self._clients.indices())
        number = next(self._numbers)
        self._inquiries[number] = inquiry
        for worker in inquiry.awaited:
            self._links[worker].send(Dump(number))
        return inquiry

    def _snapshot(self, book: WorkerBook, link: Link, now: float) -> WorkerSnapshot:
        marks, done = link.board.look(book.most_slots + link.spare)
        # What a worker has not reported is in its hands still, so it cannot be more than that.
        unreported = min(max(0, done - book.done), book.load)
        running = tuple(TaskSnapshot(mark.run, mark.position, max(0.0, now - mark.since)) for mark in marks)
        return WorkerSnapshot(
            book.id, link.pid, book.phase.value, book.slots, len(marks), book.done + unreported, running, unreported
        )

    def _break(self, error: Exception) -> None:
        """End everything, with everybody told: after a bug the books cannot be trusted."""
        self._failure = InternalError(f"a bug in poolmagic, please report it: {type(error).__name__}: {error}")
        self._clients.dismiss(self._failure)
        for link in self._links.values():
            link.kill()
        for launcher in self._launchers:
            launcher.close()
        self.finished.set()

    # Reports of the launcher ---------------------------------------------------------------------------------------

    def received(self, worker: int, message: Message) -> None:
        """Take a message of a worker."""
        match message:
            case Done():
                event = ev.WorkerDone(
                    worker, message.run, message.spans, message.failed, message.seconds, message.retriable
                )
                with self._clients.reporting(message):
                    self.handle(event)
            case Returned():
                self.handle(ev.WorkerReturned(worker, message.run, message.spans))
            case Output():
                self._clients.output(worker, message)
            case Dumped() if (inquiry := self._inquiries.get(message.request)) is not None:
                inquiry.answer(worker, message.payload)
            case Hello():
                self._clients.meet(worker, message.pid)
                self.handle(ev.WorkerReady(worker))

    def ended(self, worker: int, exitcode: int | None, peak: int) -> None:
        """Take the end of a worker, whose last messages have been received; `peak` is the most memory it ever had."""
        link, burst = self._links[worker], self._burst.pop(worker, 0)
        running = self._running(worker)
        self._clients.inherit(worker, running, link.leftover())
        oom_kills, self._oom_kills = self._oom_kills, count_oom_kills()
        pid, printed = self._clients.part(worker, running, link.trouble or explain_exit(exitcode))
        loss = Loss(
            worker,
            pid,
            exitcode,
            peak=max(peak, burst),
            stack=link.board.stack(),
            printed=printed,
            oom_killed=self._oom_kills > oom_kills,
            limit=self._limits.worker if burst else 0,
            is_cut=link.is_cut,
        )
        is_known = loss.oom_killed or burst or link.is_cut or link.board.has_confessed
        event = ev.WorkerExited(worker, running, killed=exitcode == -signal.SIGKILL and not is_known)
        with self._clients.losing(loss, alone=len(running) < 2):
            self.handle(event)
        for inquiry in self._inquiries.values():
            inquiry.answer(worker, None)
        del self._links[worker]
        self._close_old_launchers()

    def _running(self, worker: int) -> tuple[tuple[int, int], ...]:
        """Return the (run, position) of what a worker runs, by its board."""
        book, link = self._state.workers.get(worker), self._links[worker]
        return () if book is None else link.board.running(book.most_slots + link.spare)

    def _close_old_launchers(self) -> None:
        """After a restart, let go of the launchers whose workers have ended."""
        old = (WorkerPhase.DRAINING, WorkerPhase.STOPPING)
        if not any(book.phase in old for book in self._state.workers.values()):
            *outdated, newest = self._launchers
            self._launchers = [newest]
            for launcher in outdated:
                launcher.close()

    # The clock and the memory ---------------------------------------------------------------------------------------

    def _look(self) -> Iterator[tuple[int, Mark]]:
        """Return what runs now, by worker."""
        for number, book in self._state.workers.items():
            if book.assigned and (link := self._links.get(number)) is not None:
                for mark in link.board.look(book.most_slots + link.spare)[0]:
                    yield number, mark

    def _overdue(self, worker: int, mark: Mark) -> None:
        self.handle(ev.Overdue(worker, mark.run, mark.position))

    def pids(self) -> dict[int, int]:
        """Return the processes of the workers."""
        return {number: link.pid for number, link in self._links.items() if link.pid is not None}

    def outgrown(self, worker: int, size: int) -> None:
        """Replace a worker that takes more memory than it may when it has ended what it runs."""
        self.handle(ev.Recycle(worker))

    def burst(self, worker: int, size: int) -> None:
        """End a worker that takes far more memory than it may; what it runs is to blame."""
        if worker not in self._burst:
            self._burst[worker] = size
            self._links[worker].kill()

    def hold(self, on: bool, size: int) -> None:
        """Start nothing while the workers take too much memory together; say so."""
        what = "nothing more is started until it is less" if on else "it is less now: the pool goes on"
        for client in self._clients:
            client.tell(f"the workers take {show_size(size)} of memory, near the limit; {what}" if on else what)
        self.handle(ev.Hold(on))

    # Commands ------------------------------------------------------------------------------------------------------

    def _spawn(self, command: ev.Spawn) -> None:
        self._links[command.worker] = self._launchers[-1].start(command.worker, command.slots)

    def _stop_worker(self, command: ev.StopWorker) -> None:
        self._links[command.worker].send(Stop())

    def _kill_worker(self, command: ev.KillWorker) -> None:
        link = self._links[command.worker]
        if command.run is not None and all(run != command.run for run, _ in self._running(command.worker)):
            return
        self.handle(ev.WorkerDoomed(command.worker))
        link.kill()

    def _resize_worker(self, command: ev.ResizeWorker) -> None:
        self._links[command.worker].send(Resize(command.slots))

    def _introduce(self, command: ev.Introduce) -> None:
        self._links[command.worker].send(self._clients[command.run].function())

    def _dispatch(self, command: ev.Dispatch) -> None:
        first, stop = command.span
        start, payload = self._clients[command.run].payload(first)
        self._links[command.worker].send(Batch(command.run, start, first, stop, payload))

    def _withdraw_items(self, command: ev.WithdrawItems) -> None:
        self._links[command.worker].send(Withdraw(command.run))

    def _cancel_items(self, command: ev.CancelItems) -> None:
        self._links[command.worker].send(Cancel(command.run))

    def _drop(self, command: ev.Drop) -> None:
        self._links[command.worker].send(Forget(command.run))

    def _kill_task(self, command: ev.KillTask) -> None:
        link = self._links.get(command.worker)
        if link is not None and not link.abandon(command.run, command.position):
            self.handle(ev.WorkerDoomed(command.worker))
            link.kill()

    def _settle(self, command: ev.Settle) -> None:
        self._deadlines.remove(command.run)
        self._clients.settle(command)

    def _finish(self, command: ev.Finish) -> None:
        for launcher in self._launchers:
            launcher.close()
        self.finished.set()


def _told(tell: Callable[[Clientele, Any], None]) -> Callable[[Crew, Any], None]:
    """Return what carries out a command that is news for a client."""
    return lambda crew, command: tell(crew._clients, command)


_COMMANDS: Final[dict[type, Callable[[Crew, Any], None]]] = {
    ev.Spawn: Crew._spawn,
    ev.StopWorker: Crew._stop_worker,
    ev.KillWorker: Crew._kill_worker,
    ev.ResizeWorker: Crew._resize_worker,
    ev.Introduce: Crew._introduce,
    ev.Dispatch: Crew._dispatch,
    ev.WithdrawItems: Crew._withdraw_items,
    ev.CancelItems: Crew._cancel_items,
    ev.Drop: Crew._drop,
    ev.Ask: _told(Clientele.ask),
    ev.Accept: _told(Clientele.accept),
    ev.Lose: _told(Clientele.lose),
    ev.Rerun: _told(Clientele.rerun),
    ev.Expire: _told(Clientele.expire),
    ev.KillTask: Crew._kill_task,
    ev.Settle: Crew._settle,
    ev.Finish: Crew._finish,
}
