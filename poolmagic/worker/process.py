"""A worker process: one socket to the supervisor, a control thread that reads it, and slots in the main thread.

The control thread is a real thread in every kind, green ones included: it hears the supervisor while a task holds the
interpreter's attention, hands back finished items every `TICK` while a long task runs, and ends the process, with
all that its tasks started, when the kernel is gone (the socket then is at its end, or the parent is another process).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Final, NoReturn

from poolmagic.board import Board
from poolmagic.descriptors import READ_SIZE, receive, transmit
from poolmagic.errors import WireError
from poolmagic.lifelines import end_own_group
from poolmagic.messages import Done, Hello, Message
from poolmagic.payload import Pickled
from poolmagic.wire import Decoder, encode
from poolmagic.worker.capture import Capture
from poolmagic.worker.confession import confess_on
from poolmagic.worker.native import POLLIN, poll, socket, start_new_thread
from poolmagic.worker.output import TaskStream
from poolmagic.worker.showing import show_at_home
from poolmagic.worker.slots import InlineSlots, SlotRunner
from poolmagic.worker.tasks import Worker

__all__ = ["make_runner", "run_worker"]

HEARTBEAT: Final = 1.0
"""Seconds after which an idle worker looks whether its parent is there: somebody else may hold the other end of the
socket, so that it does not end."""


def make_runner(kind: str, slots: int) -> SlotRunner:
    """Return the slots of a worker of this kind; imports what they need, for green ones after monkey-patching."""
    if kind == "prefork":
        return InlineSlots()
    if kind == "asyncio":
        from importlib import import_module

        runner: SlotRunner = import_module("poolmagic.worker.coroutines").CoroutineSlots(slots)
        return runner
    from poolmagic.worker import green

    return green.GreenSlots(green.GeventHub() if kind == "gevent" else green.EventletHub(), slots)


def run_worker(descriptors: Sequence[int], runner: SlotRunner, remarks: str = "") -> None:
    """Be a worker; returns never, the process ends with it.

    Args:
        descriptors: Those of its end of the socket pair, of its status board, and of its tapes for stdout and stderr.
        runner: The slots.
        remarks: What the user is to read who sees what the first task prints.
    """
    link, board, *tapes = descriptors
    # A process group of its own: the kernel's Stop button signals the kernel's group, and what it means for the
    # workers is the supervisor's decision.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the kernel may have started us with it ignored
    connection = socket(fileno=link)
    connection.setblocking(True)
    for descriptor in (link, board):  # a program that a task starts, or becomes, must not keep the line open
        os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=connection.close)  # a child of a task must not keep the line open

    marks = Board.attach(board)
    Board.write_stack_at_crash(board)
    confess_on(marks)

    def send(message: Message) -> None:
        pieces, descriptors = encode(message)
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[transmit(connection, [rest], descriptors) :]
                    descriptors = []
        except OSError as error:
            if isinstance(message, Done):  # the task that has closed our descriptors may be one of these
                for slot in range(runner.records):
                    marks.clear(slot)
            _end_without_line(error)

    worker = Worker(send, Pickled(in_worker=True), marks, runner)
    _take_output(worker, *tapes)
    sys.stderr.write(remarks)
    start_new_thread(_control, (connection, worker, parent))
    worker.send(Hello(os.getpid()))
    code = 1
    try:
        runner.serve(worker)
        code = 0
    except BaseException:  # a bug in a runner; the supervisor sees the process end and reports its items
        _check_line(connection)
        traceback.print_exc()
    finally:
        _flush_streams()
        worker.printer.close()
        os._exit(code)  # a forked worker must not run the zygote's exit handlers


def _take_output(worker: Worker, out: int, err: int) -> None:
    """Send home whatever is printed or shown in this process from now on."""
    printer = worker.printer
    printer.attach(Capture.begin(out, err))
    sys.stdout = TaskStream(printer, "stdout", sys.stdout)
    sys.stderr = TaskStream(printer, "stderr", sys.stderr)
    show_at_home(printer)
    os.register_at_fork(after_in_child=printer.leave)


def _control(connection: socket, worker: Worker, parent: int) -> None:
    """Read messages until the supervisor is gone; then end the process, whatever runs in it."""
    try:
        poller = poll()
        poller.register(connection.fileno(), POLLIN)
        decoder = Decoder()
        buffer = bytearray(READ_SIZE)
        while True:
            ready = poller.poll(1000 * min(worker.patience(), HEARTBEAT))
            if os.getppid() != parent:
                end_own_group()
            worker.tick()
            if not ready:
                continue
            data, descriptors = receive(connection, buffer)
            if not data:
                end_own_group()
            for message in decoder.feed(data, descriptors):
                worker.receive(message)
    except (OSError, WireError) as error:  # the line to the supervisor is gone, or is no line to a supervisor
        _end_without_line(error)
    except BaseException:  # a bug; better a dead worker, which is replaced, than a deaf one
        traceback.print_exc()
        os._exit(1)


def _end_without_line(error: Exception) -> NoReturn:
    """End this process, whose line does not work any more.

    If that is a task's doing the supervisor is there, and sees it as well. Let it end the process: then it knows why.
    """
    if not isinstance(error, BrokenPipeError | ConnectionResetError):
        poll().poll(1000 * HEARTBEAT)
    end_own_group()


def _check_line(connection: socket) -> None:
    """End this process if a task has closed its descriptors: then no more can be expected of a runner either."""
    try:
        os.fstat(connection.fileno())
    except OSError as error:
        _end_without_line(error)


def _flush_streams() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()
