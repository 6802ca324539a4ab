"""The crew of a pool: its workers and its books, and the carrying out of what the books command.

Everything belongs to the supervisor's loop thread but `finished`, an event that any thread may wait for. A crew
translates: messages and exits into events for the pure core, the core's commands into messages, signals and calls of
the runs. It decides nothing, and never looks into a payload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from poolmagic.core import events as ev
from poolmagic.core.books import PoolPhase, WorkerBook, WorkerPhase
from poolmagic.core.state import PoolState
from poolmagic.errors import InternalError, PoolMagicError, RunCancelled, WorkerLostError
from poolmagic.launcher import Launcher, Link, Loop, Reports, explain_exit
from poolmagic.messages import (
    Batch,
    Cancel,
    Done,
    Forget,
    Function,
    Hello,
    Message,
    Output,
    Resize,
    Returned,
    Span,
    Stop,
    Withdraw,
)
from poolmagic.snapshot import TaskSnapshot, WorkerSnapshot

__all__ = ["Client", "Crew", "CrewState", "MakeLauncher"]

MakeLauncher: TypeAlias = Callable[[Loop, Reports], Launcher]


class Client(Protocol):
    """A run, as the loop thread sees it. None of these may block or run the user's code."""

    id: int

    def function(self) -> tuple[int, Any]:
        """Return how items become arguments (see `messages.Function`), and the function's payload."""
        ...

    def payload(self, position: int) -> tuple[int, Any]:
        """Return the batch that holds an item: the position that it starts at, and its payload."""
        ...

    def ask(self, size: int) -> None:
        """Take the order for the next `size` items; the answer is an `events.Filled`."""
        ...

    def accept(self, message: Done, spans: tuple[Span, ...], failed: tuple[int, ...], worker: str) -> None:
        """Take this part of what a worker finished."""
        ...

    def lose(self, position: int, error: PoolMagicError, worker: str) -> None:
        """Take the loss of an item."""
        ...

    def output(self, message: Output) -> None:
        """Take what a task printed."""
        ...

    def settle(self, verdict: ev.Verdict, error: PoolMagicError | None) -> None:
        """Take the end of the run; the last call."""
        ...


@dataclass(frozen=True)
class CrewState:
    """What a crew tells of itself.

    Attributes:
        done: Items that returned. Those not reported yet are among them, though some may turn out to have failed.
        failed: Items that are known to have failed.
        unreported: By run, how many items are over and not reported yet, as far as it is clear whose they are.
    """

    phase: str
    workers: tuple[WorkerSnapshot, ...]
    done: int
    failed: int
    runs: int
    unreported: Mapping[int, int] = field(default_factory=dict)


class Crew:
    """The workers of one pool.

    Args:
        state: The books, new.
        make_launcher: Makes what starts the workers.
        loop: The supervisor.
        key: Pools with equal keys may take over each other's crews.
    """

    def __init__(self, state: PoolState, make_launcher: MakeLauncher, loop: Loop, key: Hashable) -> None:
        self.key = key
        self.finished = threading.Event()
        self._state = state
        self._first_seats = list(state.seats)
        self._loop = loop
        self._launchers = [make_launcher(loop, self)]
        self._links: dict[int, Link] = {}
        self._clients: dict[int, Client] = {}
        self._report: Done | None = None
        self._exits: dict[int, int | None] = {}
        self._failure: PoolMagicError | None = None
        self._modules: set[str] = set()

    @property
    def is_reusable(self) -> bool:
        """Whether another pool with the same settings would find what it expects."""
        return self._state.phase is PoolPhase.RUNNING and self._state.seats == self._first_seats

    def prepare(self, modules: tuple[str, ...]) -> None:
        """Get ready for workers that will need these modules."""
        self._modules.update(modules)
        self._launchers[-1].prepare(modules)

    def add(self, client: Client, event: ev.RunAdded) -> None:
        """Take a new run."""
        self._clients[client.id] = client
        self.handle(event)

    def restart(self, make_launcher: MakeLauncher) -> None:
        """Replace the workers by such as a new launcher starts."""
        self._launchers.append(make_launcher(self._loop, self))
        self._launchers[-1].prepare(sorted(self._modules))
        self.handle(ev.Restart())
        self._close_old_launchers()

    def handle(self, event: ev.Event) -> None:
        """Apply an event and carry out what follows from it. A bug ends the crew, not the supervisor."""
        try:
            for command in self._state.handle(event, time.monotonic()):
                _COMMANDS[type(command)](self, command)
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
        return CrewState(phase, workers, done, failed, runs_now, unreported)

    def _snapshot(self, book: WorkerBook, link: Link, now: float) -> WorkerSnapshot:
        marks, done = link.board.look(book.most_slots)
        # What a worker has not reported is in its hands still, so it cannot be more than that.
        unreported = min(max(0, done - book.done), book.load)
        running = tuple(TaskSnapshot(mark.run, mark.position, max(0.0, now - mark.since)) for mark in marks)
        return WorkerSnapshot(
            book.id, link.pid, book.phase.value, book.slots, len(marks), book.done + unreported, running, unreported
        )

    def _break(self, error: Exception) -> None:
        """End everything, with everybody told: after a bug the books cannot be trusted."""
        self._failure = InternalError(f"a bug in poolmagic, please report it: {type(error).__name__}: {error}")
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.settle(ev.Verdict.BROKEN, self._failure)
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
                self._report = message
                self.handle(ev.WorkerDone(worker, message.run, message.spans, message.failed, message.seconds))
                self._report = None  # its results belong to whoever took them, who may drop them
            case Returned():
                self.handle(ev.WorkerReturned(worker, message.run, message.spans))
            case Output() if message.run in self._clients:
                self._clients[message.run].output(message)
            case Hello():
                self.handle(ev.WorkerReady(worker))

    def ended(self, worker: int, exitcode: int | None) -> None:
        """Take the end of a worker, whose last messages have been received."""
        self._exits[worker] = exitcode
        self.handle(ev.WorkerExited(worker, self._links[worker].board.running(self._slots_of(worker))))
        del self._links[worker]
        self._close_old_launchers()

    def _slots_of(self, worker: int) -> int:
        book = self._state.workers.get(worker)
        return book.most_slots if book is not None else 0

    def _close_old_launchers(self) -> None:
        """After a restart, let go of the launchers whose workers have ended."""
        old = (WorkerPhase.DRAINING, WorkerPhase.STOPPING)
        if not any(book.phase in old for book in self._state.workers.values()):
            *outdated, newest = self._launchers
            self._launchers = [newest]
            for launcher in outdated:
                launcher.close()

    # Commands ------------------------------------------------------------------------------------------------------

    def _spawn(self, command: ev.Spawn) -> None:
        self._links[command.worker] = self._launchers[-1].start(command.worker, command.slots)

    def _stop_worker(self, command: ev.StopWorker) -> None:
        self._links[command.worker].send(Stop())

    def _kill_worker(self, command: ev.KillWorker) -> None:
        link = self._links[command.worker]
        if command.run is not None:
            running = link.board.running(self._slots_of(command.worker))
            if all(run != command.run for run, _ in running):
                return
        self.handle(ev.WorkerDoomed(command.worker))
        link.kill()

    def _resize_worker(self, command: ev.ResizeWorker) -> None:
        self._links[command.worker].send(Resize(command.slots))

    def _introduce(self, command: ev.Introduce) -> None:
        stars, payload = self._clients[command.run].function()
        self._links[command.worker].send(Function(command.run, stars, payload))

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

    def _ask(self, command: ev.Ask) -> None:
        self._clients[command.run].ask(command.size)

    def _accept(self, command: ev.Accept) -> None:
        assert self._report is not None
        self._clients[command.run].accept(self._report, command.spans, command.failed, self._label(command.worker))

    def _lose(self, command: ev.Lose) -> None:
        exitcode = self._exits.get(command.worker)
        pid = self._links[command.worker].pid
        what = (
            f"worker {command.worker} {explain_exit(exitcode)} while it ran this item; its other items go on elsewhere"
        )
        error = WorkerLostError(what, pid=pid, exitcode=exitcode)
        self._clients[command.run].lose(command.position, error, self._label(command.worker))

    def _settle(self, command: ev.Settle) -> None:
        client = self._clients.pop(command.run)
        error: PoolMagicError | None = None
        if command.verdict is ev.Verdict.BROKEN:
            how = ", ".join(sorted({explain_exit(code) for code in self._exits.values()})) or "none could be started"
            error = WorkerLostError(f"the workers of this pool die as soon as they start (the last ones: {how})")
        elif command.verdict is ev.Verdict.CANCELLED:
            error = RunCancelled("the run was cancelled before all of its items were done")
        client.settle(command.verdict, error)

    def _finish(self, command: ev.Finish) -> None:
        for launcher in self._launchers:
            launcher.close()
        self.finished.set()

    def _label(self, worker: int) -> str:
        link = self._links.get(worker)
        return f"worker {worker} (pid {link.pid})" if link is not None and link.pid is not None else f"worker {worker}"


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
    ev.Ask: Crew._ask,
    ev.Accept: Crew._accept,
    ev.Lose: Crew._lose,
    ev.Settle: Crew._settle,
    ev.Finish: Crew._finish,
}
