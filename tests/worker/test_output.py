"""What is printed in a worker: whose it is, in what order it goes home, and that it costs little."""

from __future__ import annotations

import contextvars
import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolmagic.messages import Done, Output
from poolmagic.tapes import MOST, Tape
from poolmagic.worker import printing
from poolmagic.worker.output import TaskStream
from tests.worker.test_slots import Bench


class Beside:
    """A tape for each stream, as a process has them at its descriptors 1 and 2."""

    def __init__(self) -> None:
        self.tapes = {"stdout": Tape.create(), "stderr": Tape.create()}

    def write(self, text: str, stream: str = "stdout") -> None:
        """Write as C code does."""
        os.write(self.tapes[stream].descriptor, text.encode())

    def flush(self) -> None:
        """There is nothing to do."""

    @property
    def has_more(self) -> bool:
        return any(tape.has_more for tape in self.tapes.values())

    def take(self) -> Any:
        for stream, tape in self.tapes.items():
            for data in tape.take():
                yield stream, data.decode()

    def close(self) -> None:
        for tape in self.tapes.values():
            tape.close()


class Desk(Bench):
    """A bench whose tasks print to `out` and `err`, and beside these to `beside`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(function)
        self.beside = Beside()
        self.worker.printer.attach(self.beside)  # type: ignore[arg-type]
        self.out = TaskStream(self.worker.printer, "stdout", sys.__stdout__)  # type: ignore[arg-type]
        self.err = TaskStream(self.worker.printer, "stderr", sys.__stderr__)  # type: ignore[arg-type]

    def outputs(self) -> list[tuple[int, str, str]]:
        """Position, stream and text of all that was sent; what belongs together as one."""
        found: list[tuple[int, str, str]] = []
        for one in self.sent:
            if isinstance(one, Output):
                if found and found[-1][:2] == (one.position, one.stream):
                    one_text = found.pop()[2] + one.text
                    found.append((one.position, one.stream, one_text))
                else:
                    found.append((one.position, one.stream, one.text))
        return found


def test_a_tape_gives_what_was_written_once() -> None:
    """In the order of the writers, whoever they are."""
    tape = Tape.create()
    os.write(tape.descriptor, b"one ")
    subprocess.run(["echo", "two"], stdout=tape.descriptor, check=True)

    has, taken, still_has = tape.has_more, list(tape.take()), tape.has_more
    assert (True, [b"one two\n"], False) == (has, taken, still_has)
    assert [] == list(tape.take())
    os.write(tape.descriptor, b"three")
    assert [b"three"] == list(tape.take())
    tape.close()


def test_what_a_dead_process_left_on_its_tape_is_found() -> None:
    """By whoever has it too; what had been taken is not found again."""
    tape = Tape.create()
    os.write(tape.descriptor, b"taken\n" * 20_000)
    list(tape.take())
    assert "" == tape.rest()

    os.write(tape.descriptor, b"left\n")

    assert "left\n" == Tape(os.dup(tape.descriptor)).rest()
    tape.close()


def test_a_tape_gives_back_the_memory_of_what_was_taken() -> None:
    """So that gigabytes may go over it."""
    tape = Tape.create()
    for _ in range(20):
        os.write(tape.descriptor, b"x" * MOST)
        assert MOST == sum(map(len, tape.take()))

    assert os.fstat(tape.descriptor).st_blocks * 512 <= 8192
    tape.close()


def test_a_program_may_open_its_output_anew() -> None:
    """Shells do so for > /dev/stdout, and cut the file."""
    tape = Tape.create()
    os.write(tape.descriptor, b"a line\n")
    list(tape.take())

    taken: list[bytes] = []
    for text in ("a line", "b line", "longer than that", "short"):
        subprocess.run(["sh", "-c", f"echo {text} > /dev/stdout"], stdout=tape.descriptor, check=True)
        assert tape.has_more
        taken += tape.take()
        assert not tape.has_more

    assert [b"a line\n", b"b line\n", b"longer than that\n", b"short\n"] == taken
    tape.close()


def test_lines_of_an_item_come_before_its_outcome() -> None:
    """However many there are, and also if the last of them does not end."""

    def task(x: int) -> None:
        for number in range(300):
            desk.out.write(f"{number}\n")
        desk.out.write("no end")

    desk = Desk(task)
    desk.batch(0, [0, 1])
    desk.serve()

    text = "".join(f"{number}\n" for number in range(300)) + "no end"
    assert [(0, "stdout", text), (1, "stdout", text)] == desk.outputs()
    assert isinstance(desk.sent[-1], Done)


def test_the_streams_of_a_task_keep_their_order() -> None:
    """Python's and those beside them."""

    def task(x: int) -> None:
        desk.out.write("1\n")
        desk.err.write("2\n")
        desk.beside.write("3\n", "stdout")
        desk.out.write("4\n")
        desk.beside.write("5\n", "stderr")
        desk.out.write("6\n")

    desk = Desk(task)
    desk.batch(0, [0])
    desk.serve()

    assert [
        (0, "stdout", "1\n"),
        (0, "stderr", "2\n"),
        (0, "stdout", "3\n4\n"),
        (0, "stderr", "5\n"),
        (0, "stdout", "6\n"),
    ] == desk.outputs()


def test_what_is_written_beside_the_streams_belongs_to_the_item_that_ran() -> None:
    """From the first one on, if that one writes, too; one that writes nothing has nothing."""
    desk = Desk(lambda x: desk.beside.write(f"item {x}\n") if x % 3 == 0 else None)
    for first in range(0, 200, 50):
        desk.batch(first, list(range(first, first + 50)))
    desk.slots._step = 1
    desk.serve()

    assert [(x, "stdout", f"item {x}\n") for x in range(0, 200, 3)] == desk.outputs()


def test_no_item_is_named_that_may_be_the_wrong_one() -> None:
    """Short items run without a look at what they write: the first that writes is one of many."""
    desk = Desk(lambda x: desk.beside.write(f"item {x}\n") if x >= 500 else None)
    desk.batch(0, list(range(600)))
    desk.slots._step = 128
    desk.serve()

    position, _, text = desk.outputs()[0]
    assert -1 == position
    assert text.startswith("item 500\n")
    rest = [(x, "stdout", f"item {x}\n") for x in range(500 + text.count("\n"), 600)]
    assert rest == desk.outputs()[1:]


def test_a_thread_of_a_task_prints_as_the_task() -> None:
    """Where just one runs, it is known which."""

    def task(x: int) -> None:
        thread = threading.Thread(target=desk.out.write, args=(f"a thread of {x}\n",))
        thread.start()
        thread.join()

    desk = Desk(task)
    desk.slots._step = 1
    desk.batch(7, [7])
    desk.serve()

    assert [(7, "stdout", "a thread of 7\n")] == desk.outputs()


def test_threads_that_print_at_once_lose_nothing() -> None:
    """Each line is there once."""

    def say(name: str) -> None:
        for number in range(500):
            print(name, number, file=desk.out)

    def task(x: int) -> None:
        threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    desk = Desk(task)
    desk.batch(0, [0])
    desk.serve()

    printed = "".join(text for _, _, text in desk.outputs())
    assert 4 * 500 == printed.count("\n")
    assert all(printed.count(name) == 500 for name in "abcd")


def test_what_is_printed_outside_of_a_task_belongs_to_the_latest_run() -> None:
    """Before there is one it is kept, and not without end."""
    desk = Desk(lambda x: None)
    desk.out.write("early\n")
    for _ in range(1000):
        desk.err.write("x" * 1000 + "\n")
    assert [] == desk.outputs()

    desk.batch(0, [0])
    desk.serve()
    desk.out.write("late\n")
    desk.beside.write("later")
    desk.worker.printer.close()

    (_, _, first), (_, _, kept), (_, _, last) = desk.outputs()
    assert ("early\n", "late\nlater") == (first, last)
    assert printing.EARLY / 2 < len(kept) < 2 * printing.EARLY
    assert {-1} == {position for position, _, _ in desk.outputs()}


def test_a_bar_is_seen_while_it_moves() -> None:
    """`flush` sends a line that has no end; beside Python's streams going back does."""

    def task(x: int) -> None:
        desk.err.write("\r10 %")
        desk.err.flush()
        seen.append(desk.outputs()[-1])
        desk.beside.write("\r20 %\r30 %", "stderr")
        desk.worker.tick()
        seen.append(desk.outputs()[-1])

    seen: list[Any] = []
    desk = Desk(task)
    desk.batch(0, [0])
    desk.serve()

    assert [(0, "stderr", "\r10 %"), (0, "stderr", "\r10 %\r20 %\r")] == seen
    assert [(0, "stderr", "\r10 %\r20 %\r30 %")] == desk.outputs()


def test_a_flood_travels_in_large_messages() -> None:
    """Two hundred thousand lines are not as many messages, and none is missing."""
    desk = Desk(lambda x: [print("x" * 99, file=desk.out) for _ in range(200_000)] and None)
    desk.batch(0, [0])
    desk.serve()

    sent = [one for one in desk.sent if isinstance(one, Output)]
    assert 20_000_000 == sum(len(one.text) for one in sent)
    assert len(sent) < 2 * 20_000_000 / printing.PART + printing.CREDIT
    assert max(len(one.text) for one in sent) <= printing.PART


def test_the_first_lines_of_a_task_are_sent_at_once() -> None:
    """Its worker may be dead at the next moment."""
    seen: list[int] = []

    def task(x: int) -> None:
        for number in range(50):
            print(number, file=desk.out)
            seen.append(sum(one.text.count("\n") for one in desk.sent if isinstance(one, Output)))

    desk = Desk(task)
    desk.batch(0, [0])
    desk.serve()

    assert list(range(1, 51)) == seen


class Noisy:
    """Says something when it dies; it knows itself, so that it dies when garbage is collected."""

    def __init__(self, stream: TaskStream) -> None:
        self.stream = stream
        self.me = self

    def __del__(self) -> None:
        self.stream.write("dead\n")


def test_an_object_may_print_when_it_dies_while_something_is_sent() -> None:
    """Its line comes later, and nothing waits for itself for ever."""

    def task(x: int) -> None:
        Noisy(desk.out)
        desk.out.write("a line\n")

    desk = Desk(task)

    def send(message: Any) -> None:
        gc.collect()
        desk.sent.append(message)

    desk.worker._send = send
    desk.batch(0, [0])
    done = threading.Thread(target=contextvars.Context().run, args=(desk.serve,), daemon=True)
    done.start()
    done.join(20)

    assert not done.is_alive()
    assert [(0, "stdout", "a line\ndead\n")] == desk.outputs() or ["a line\n", "dead\n"] == [
        o[2] for o in desk.outputs()
    ]


PROCESS = """
import ctypes, os, sys
sys.path.insert(0, {root!r})
from poolmagic.tapes import Tape
from poolmagic.worker.capture import Capture
log = os.dup(2)
capture = Capture((Tape.create(), Tape.create()))
{code}
capture.flush()
taken = dict.fromkeys(("stdout", "stderr"), "")
for stream, text in capture.take():
    taken[stream] += text
os.write(log, repr(taken).encode())
os._exit(0)
"""


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        ("os.write(1, b'hello'); os.write(2, b'error')", "hello", "error"),
        ("ctypes.CDLL(None).printf(b'no end')", "no end", ""),
        ("ctypes.CDLL(None).printf(b'line\\n'); os.write(1, b'after\\n')", "line\nafter\n", ""),
        ("os.system('echo one; echo two >&2')", "one\n", "two\n"),
        ("print('as ever'); os.write(1, b'after\\n')", "as ever\nafter\n", ""),
        ("ctypes.PyDLL(None).write(1, b'x' * 3_000_000, 3_000_000)", "x" * 3_000_000, ""),
        ("os.write(1, b'\\xe2\\x82'); list(capture.take()); os.write(1, b'\\xac')", "\u20ac", ""),
    ],
)
def test_all_that_a_process_writes_is_captured(code: str, out: str, err: str) -> None:
    """From Python, from C, from programs, whether lines end or not, and more than a pipe could hold."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROCESS.format(root=root, code=code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "" == done.stdout
    assert repr({"stdout": out, "stderr": err}) == done.stderr


def test_c_code_that_holds_the_interpreter_is_not_held_up() -> None:
    """`PyDLL` calls with the GIL held: nobody else could read what it writes."""
    desk = Desk(lambda x: ctypes.PyDLL(None).write(desk.beside.tapes["stdout"].descriptor, b"x" * 1_000_000, 1_000_000))
    desk.batch(0, [0])
    desk.serve()

    assert {0: 1_000_000} == desk.values()
    assert [(0, "stdout", "x" * 1_000_000)] == desk.outputs()
