"""The clients of a crew: the runs, and the futures of single tasks, that it works for, and what they are told.

Everything belongs to the supervisor's loop thread. What the books command says which item is concerned; what there is
to tell of it (the report that a worker sent, how a worker was lost, what a task printed at last) is known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from poolmagic.client import Client
from poolmagic.core import events as ev
from poolmagic.errors import PoolMagicError, RunCancelled, TimeLimitExceeded, WorkerLostError
from poolmagic.losses import Loss
from poolmagic.messages import Done, Output

__all__ = ["Clientele"]

LAST_LINES: Final = 10
"""How many of the last lines of a worker are kept, to tell what a task said before it took its worker with it."""
LAST_EXITS: Final = 5
"""Of so many workers it is told how they ended, if none can be started."""


class Clientele:
    """Those whom one crew works for, by the number of their run. None of its methods blocks."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        self._pids: dict[int, int] = {}
        self._printed: dict[int, deque[Output]] = {}
        self._exits: deque[str] = deque(maxlen=LAST_EXITS)
        self._report: Done | None = None
        self._loss: Loss | None = None
        self._was_alone = True
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __getitem__(self, run: int) -> Client:
        return self._clients[run]

    def add(self, client: Client) -> None:
        """Take a new client."""
        self._clients[client.id] = client

    def indices(self) -> dict[int, Callable[[int], int | None]]:
        """Return for each run what tells the index of a position."""
        return {client.id: client.index for client in self}

    def dismiss(self, error: PoolMagicError) -> None:
        """Tell all that nothing more can be done for them, and know them no more."""
        clients, self._clients = list(self), {}
        for client in clients:
            client.settle(ev.Verdict.BROKEN, error)

    # What is heard of workers --------------------------------------------------------------------------------------

    def meet(self, worker: int, pid: int) -> None:
        """Take note of the process of a worker."""
        self._pids[worker] = pid

    def inherit(self, worker: int, running: tuple[tuple[int, int], ...], texts: Iterable[tuple[str, str]]) -> None:
        """Hand on what a worker had written when it ended, as the output of the task that it ran, or of one of them."""
        for stream, text in texts:
            for run in {run for run, _ in running}:
                self.output(worker, Output(run, running[0][1] if len(running) == 1 else -1, stream, text))

    def part(self, worker: int, running: tuple[tuple[int, int], ...], how: str) -> tuple[int | None, str]:
        """Take note of the end of a worker; return its process, and what the tasks that it ran printed at last.

        Its name has its process in it until `losing` is left.
        """
        self._exits.append(how)
        printed = "".join(part.text for part in self._printed.pop(worker, ()) if (part.run, part.position) in running)
        return self._pids.get(worker), "".join(printed.splitlines(keepends=True)[-LAST_LINES:])

    def _label(self, worker: int) -> str:
        """Return what a worker is called."""
        pid = self._pids.get(worker)
        return f"worker {worker}" if pid is None else f"worker {worker} (pid {pid})"

    def output(self, worker: int, message: Output) -> None:
        """Hand on what a task printed."""
        if message.run in self._clients:
            if message.stream != "display":
                self._printed.setdefault(worker, deque(maxlen=LAST_LINES)).append(message)
            self._clients[message.run].output(message)

    @contextmanager
    def reporting(self, report: Done) -> Iterator[None]:
        """Have this report at hand for `accept`."""
        self._report = report
        yield
        self._report = None  # its results belong to whoever took them, who may drop them

    @contextmanager
    def losing(self, loss: Loss, *, alone: bool) -> Iterator[None]:
        """Have this loss at hand for `lose` and `rerun`; `alone` says whether the worker ran one item at most."""
        self._loss, self._was_alone = loss, alone
        yield
        self._loss = None
        self._told.clear()
        self._pids.pop(loss.worker, None)

    # Commands of the books -----------------------------------------------------------------------------------------

    def ask(self, command: ev.Ask) -> None:
        """Order the next items."""
        self._clients[command.run].ask(command.size)

    def accept(self, command: ev.Accept) -> None:
        """Hand on a part of the report."""
        assert self._report is not None
        self._clients[command.run].accept(self._report, command, self._label(command.worker))

    def lose(self, command: ev.Lose) -> None:
        """Tell of an item that is lost with its worker."""
        assert self._loss is not None
        error = self._loss.error(self._was_alone)
        self._clients[command.run].lose(command.position, error, self._label(command.worker))

    def rerun(self, command: ev.Rerun) -> None:
        """Tell of an item that was lost with its worker, and is run again."""
        assert self._loss is not None
        if command.blamed:
            error = self._loss.error(self._was_alone)
        else:
            what = f"worker {command.worker} was ended for what another task did; what else it ran is run again"
            error = WorkerLostError(what, pid=self._loss.pid)
            if command.run not in self._told:
                self._told.add(command.run)
                self._clients[command.run].tell(what)
        self._clients[command.run].rerun(command.position, error, self._label(command.worker))

    def expire(self, command: ev.Expire) -> None:
        """Tell of an item that reached its time limit and did not stop."""
        client = self._clients[command.run]
        what = f"the task ran for longer than its time limit of {client.time_limit:g} s and did not stop by itself"
        client.lose(command.position, TimeLimitExceeded(what, limit=client.time_limit), self._label(command.worker))

    def settle(self, command: ev.Settle) -> None:
        """Tell a client of the end of its run, and know it no more."""
        client = self._clients.pop(command.run)
        error: PoolMagicError | None = None
        if command.verdict is ev.Verdict.BROKEN:
            how = ", ".join(sorted(set(self._exits))) or "none could be started"
            error = WorkerLostError(f"the workers of this pool die as soon as they start (the last ones: {how})")
        elif command.verdict is ev.Verdict.CANCELLED:
            error = RunCancelled("the run was cancelled before all of its items were done")
        client.settle(command.verdict, error)
