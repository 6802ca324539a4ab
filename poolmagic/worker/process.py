"""A worker process: one socket to the supervisor, a control thread that reads it, and slots in the main thread.

The control thread is a real thread in every kind, green ones included: it hears the supervisor while a task holds the
interpreter's attention, hands back finished items every `TICK` while a long task runs, and ends the process when
the kernel is gone (the socket then is at its end).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from poolmagic.board import Board
from poolmagic.descriptors import READ_SIZE, receive, transmit
from poolmagic.errors import WireError
from poolmagic.messages import Hello, Message
from poolmagic.payload import KEPT_FILE, Pickled
from poolmagic.wire import Decoder, encode
from poolmagic.worker.native import POLLIN, poll, socket, start_new_thread
from poolmagic.worker.output import TaskStream
from poolmagic.worker.slots import InlineSlots, SlotRunner
from poolmagic.worker.tasks import TICK, Worker

__all__ = ["make_runner", "run_worker"]


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


def run_worker(link: int, board: int, runner: SlotRunner) -> None:
    """Be a worker; returns never, the process ends with it.

    Args:
        link: The descriptor of the worker's end of the socket pair.
        board: The descriptor of its status board.
        runner: The slots.
    """
    # A process group of its own: the kernel's Stop button signals the kernel's group, and what it means for the
    # workers is the supervisor's decision.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the kernel may have started us with it ignored
    connection = socket(fileno=link)
    connection.setblocking(True)
    os.register_at_fork(after_in_child=connection.close)  # a child of a task must not keep the line open

    def send(message: Message) -> None:
        pieces, descriptors = encode(message)
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[transmit(connection, [rest], descriptors) :]
                descriptors = []

    worker = Worker(send, Pickled(KEPT_FILE), Board.attach(board), runner)
    os.close(board)
    sys.stdout = TaskStream(worker, "stdout", sys.stdout)
    sys.stderr = TaskStream(worker, "stderr", sys.stderr)
    start_new_thread(_control, (connection, worker))
    worker.send(Hello(os.getpid()))
    code = 1
    try:
        runner.serve(worker)
        code = 0
    except BaseException:  # a bug in a runner; the supervisor sees the process end and reports its items
        traceback.print_exc()
    finally:
        _flush_streams()
        os._exit(code)  # a forked worker must not run the zygote's exit handlers


def _control(connection: socket, worker: Worker) -> None:
    """Read messages until the supervisor is gone; then end the process, whatever runs in it."""
    try:
        poller = poll()
        poller.register(connection.fileno(), POLLIN)
        decoder = Decoder()
        buffer = bytearray(READ_SIZE)
        while True:
            ready = poller.poll(1000 * TICK if worker.active else None)
            worker.tick()
            if not ready:
                continue
            data, descriptors = receive(connection, buffer)
            if not data:
                os._exit(1)
            for message in decoder.feed(data, descriptors):
                worker.receive(message)
    except (OSError, WireError):  # the line to the supervisor is gone, or is no line to a supervisor
        os._exit(1)
    except BaseException:  # a bug; better a dead worker, which is replaced, than a deaf one
        traceback.print_exc()
        os._exit(1)


def _flush_streams() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()
