"""What the tasks of a worker print, on its way home: in order, whole lines at once, and with the task's name on it.

A printer may be used from any thread of the worker. Two ways lead here. Python's streams say which task prints. What C
code and other programs write beside them is found on the tapes of `capture`: after each item of a run that prints in
this way, now and then otherwise. It belongs to the task that runs at the time; if it may be another's, to none:
position -1, some task of this run.

A message for each line would make a loop that prints ten times slower, so after `CREDIT` of them a worker waits for the
next tick, or for `PART` letters. What is printed is put into a queue as it is; who takes it out finds the lines in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from operator import itemgetter
from typing import Final, Protocol, TypeAlias

from poolmagic.board import Board
from poolmagic.messages import Output
from poolmagic.worker.capture import Capture
from poolmagic.worker.limits import Limits
from poolmagic.worker.native import allocate_lock, get_ident, perf_counter
from poolmagic.worker.signals import held_back

__all__ = ["DISPLAY", "PART", "Printer", "Task"]

Task: TypeAlias = tuple[int, int]
"""Run and position; -1 stands for some position."""

PART: Final = 1 << 16
"""Most letters in a message of text, and of a line without an end that is kept."""
CREDIT: Final = 100
"""So many messages are sent at once between two ticks; what is printed after them waits."""
EARLY: Final = 1 << 16
"""Most letters that are kept of what is printed before there is any run."""
DISPLAY: Final = "display"
"""The stream of rich results: JSON of a MIME bundle, which is sent in one piece."""

LOOK_GAP: Final = 20e-6
"""Seconds after which a print looks first what was written beside it, to keep the order: a loop that does nothing but
print would take half as long again."""
WATCHED: Final = 10
"""So many of the first items of a run are watched one by one for what they write beside Python's streams; if one of
them does, so are all others."""
FOR_EVER: Final = 1 << 62
END: Final = ""
"""A text that says: what came before is all, whether its line ends or not."""

UNFINISHED: Final = "a line that has not ended"
UNSEEN: Final = "what may be written beside Python's streams"
BESIDE: Final = (-1, 0)
"""Stands among the tasks that `calls` holds: something was written beside Python's streams."""


_key: Final = itemgetter(0)


class Slots(Protocol):
    """What a printer needs of the slots."""

    @property
    def records(self) -> int:
        """How many records of the board the slots use."""
        ...


class Printer:
    """Collects what is printed, and sends it.

    Attributes:
        calls: Why `end` must be called after an item: tasks whose last line may not have ended, or `BESIDE`. Empty as
            a rule.
        is_left: Whether this is another process, forked off the worker: it has no line home.

    Args:
        send: Sends a message home; blocks while the line is full.
        is_sending: Whether the present thread is sending something already: then what is printed must wait.
        board: The worker's board.
        slots: Its slots.
        limits: Their limits, at which tasks are struck.
        nudges: See `Worker`.
    """

    def __init__(
        self,
        send: Callable[[Output], None],
        is_sending: Callable[[], bool],
        board: Board,
        slots: Slots,
        limits: Limits,
        nudges: set[str],
    ) -> None:
        self.calls: set[Task] = set()
        self.is_left = False
        self._send = send
        self._is_sending = is_sending
        self._board = board
        self._slots = slots
        self._limits = limits
        self._nudges = nudges
        self._capture: Capture | None = None
        self._lock = allocate_lock()
        self._holder = 0
        self._looked = 0.0
        self._pending: deque[tuple[tuple[Task, str], str]] = deque()
        self._unfinished: dict[tuple[Task, str], str] = {}
        self._size = 0
        self._credit = CREDIT
        self._latest: int | None = None
        self._early: list[tuple[str, str]] = []
        self._watched = 0

    def attach(self, capture: Capture | None) -> None:
        """Take what is written beside Python's streams, too."""
        self._capture = capture

    def leave(self) -> None:
        """Be in a forked process from now on: what is printed there goes where C code prints."""
        self.is_left = True
        self._capture = None

    # What is printed -----------------------------------------------------------------------------------------------

    def write(self, task: Task | None, stream: str, text: str) -> None:
        """Take a text; its whole lines are sent before long, the rest when the line, or the task, ends."""
        now = perf_counter()
        if now - self._looked > LOOK_GAP:
            self.look()
        self._looked = now
        if task is None:
            task = self._whose()
        if task is None:
            self._keep(stream, text)
        elif text:
            self._put(task, stream, text)
            if self._size >= PART or (self._credit > 0 and "\n" in text):
                self._send_some()

    def flush(self, task: Task | None) -> None:
        """Send what a task wrote since its last line ended."""
        owner = task or self._whose()
        if owner in self.calls:
            self.look()
            self._finish(owner)
            self._send_some()

    def show(self, task: Task | None, bundle: str) -> None:
        """Take a rich result, as JSON; without any run yet there is nobody to see it."""
        self.look()
        owner = task or self._whose()
        if owner is not None:
            self._finish(owner)
            self._put(owner, DISPLAY, bundle)
            self._send_some()

    # When things happen --------------------------------------------------------------------------------------------

    def expect(self, run: int) -> None:
        """Say that tasks of a run may begin: what is nobody's from now on belongs to it, and so does what was early."""
        if run != self._latest and self._capture is not None:
            self._watch(WATCHED)
        self._latest = run
        early, self._early = self._early, []
        for stream, text in early:
            self._put((run, -1), stream, text)

    def forget(self, run: int) -> None:
        """Say that a run is over."""
        self.calls.discard(BESIDE)

    def end(self, task: Task) -> None:
        """See to what a task printed, whose time is over, while the board still says that it runs."""
        if self._capture is not None:
            self._capture.flush()
        self.look()
        if task in self.calls:
            self._finish(task)
        if BESIDE in self.calls:
            self._nudges.add(UNSEEN)
            self._watched -= 1
            if self._watched <= 0:
                self.calls.discard(BESIDE)
        if self._pending:
            self._send_some()

    def tick(self) -> None:
        """Send all that waits; for the control thread."""
        self._credit = CREDIT
        self.deliver()

    def deliver(self) -> None:
        """Send all that waits, in order; nothing if this thread is sending already, or there is nothing."""
        self.look()
        for task in [one for one in tuple(self.calls) if one[1] == -1]:
            self._finish(task)
        self._drain()

    def look(self) -> None:
        """Take what was written beside Python's streams."""
        try:
            if self._capture is not None and self._capture.has_more:
                with self._alone() as is_alone:
                    if is_alone:
                        self._collect(self._capture)
        except OSError:  # a task has closed all descriptors that it found
            self._capture = None

    def close(self) -> None:
        """Send all that there is: the worker ends."""
        if self._capture is not None:
            self._capture.flush()
        self.look()
        for task in tuple(self.calls):
            self._finish(task)
        self.deliver()

    # Inside --------------------------------------------------------------------------------------------------------

    def _whose(self) -> Task | None:
        """Return the one task that runs; or only its run, if there are several; or the latest run."""
        marks, _ = self._board.look(self._slots.records)
        if len(marks) == 1 and marks[0].exact:
            return marks[0].run, marks[0].position
        run = marks[0].run if marks else self._latest
        return None if run is None else (run, -1)

    def _collect(self, capture: Capture) -> None:
        """Put what was written beside Python's streams into the queue."""
        task = self._whose()
        for stream, text in capture.take():
            if task is None:
                self._keep(stream, text)
                continue
            end = text.rfind("\r") + 1  # programs draw bars that go back to the beginning of the line
            if end:
                self._put(task, stream, text[:end])
                self._put(task, stream, END)
            if end < len(text):
                self._put(task, stream, text[end:])
            if self._size >= PART:
                self._send_all()
        self._watch(FOR_EVER)

    def _watch(self, items: int) -> None:
        """Have `end` called after so many items, each of which may write beside Python's streams."""
        self._watched = items
        self.calls.add(BESIDE)
        self._nudges.add(UNSEEN)

    def _keep(self, stream: str, text: str) -> None:
        """Keep what is printed before there is any run."""
        if sum(len(part) for _, part in self._early) < EARLY:
            self._early.append((stream, text[:EARLY]))

    def _put(self, task: Task, stream: str, text: str) -> None:
        self._pending.append(((task, stream), text))
        self._size += len(text)
        if text[-1:] != "\n" and stream != DISPLAY and text:
            self.calls.add(task)
            self._nudges.add(UNFINISHED)

    def _finish(self, task: Task) -> None:
        """Say that nothing more comes for the last line of a task."""
        self.calls.discard(task)
        self._put(task, "stdout", END)
        self._put(task, "stderr", END)

    def _send_some(self) -> None:
        """Send what waits if that may be now."""
        if self._credit > 0 or self._size >= PART:
            self._credit -= 1
            self._drain()

    def _drain(self) -> None:
        if self._pending:
            with self._alone() as is_alone:
                if is_alone:
                    self._send_all()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Keep other threads out, and strikes; False if this very thread is inside already.

        That can be: an object that prints when it dies may die while anything is done, and so may a signal come.
        """
        if self._is_sending() or (self._holder == get_ident() and self._lock.locked()):
            yield False
            return
        with held_back() if self._limits.are_set else nullcontext(), self._lock:
            self._holder = get_ident()
            try:
                yield True
            finally:
                self._holder = 0

    def _send_all(self) -> None:
        """Send what waits, but for lines that have not ended."""
        while self._pending:
            self._size = 0
            parts = [self._pending.popleft() for _ in range(len(self._pending))]
            for key, group in groupby(parts, _key):
                (run, position), stream = key
                texts = [text for _, text in group]
                if stream != DISPLAY:
                    whole = self._whole(key, texts)
                    texts = [whole[start : start + PART] for start in range(0, len(whole), PART)]
                for text in texts:
                    self._send(Output(run, position, stream, text))

    def _whole(self, key: tuple[Task, str], texts: list[str]) -> str:
        """Return what can be sent of these texts, and of what was kept before; keep the rest."""
        text = self._unfinished.pop(key, "") + "".join(texts)
        if texts[-1] is END:
            return text
        # Whatever came before the last END is whole.
        rest = "".join(texts[len(texts) - texts[::-1].index(END) :]) if END in texts else text
        end = len(text) - len(rest) + rest.rfind("\n") + 1
        if len(text) - end > PART:
            return text
        if end < len(text):
            self._unfinished[key] = text[end:]
        return text[:end]
