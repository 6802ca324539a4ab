"""What every task does now can be seen at any time, and no task is disturbed by the look."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from poolmagic.stacks import Stacks, TaskStack
from tests.conftest import MakePool, wait_until
from tests.tasks import KINDS, Gate, for_kind, gated, pass_gate, pass_gate_async, square

OWN_CODE = f"{Path(pm.__file__).parent}{os.sep}"
HERE = Path(__file__).name


def outer(port: int, item: int) -> Any:
    """Wait, with a line of its own for each of two items."""
    if item == 1:
        return pass_gate(port, item)  # line of item 1
    return inner(port, item)


def inner(port: int, item: int) -> Any:
    """Wait one function further."""
    return pass_gate(port, item)  # line of the others


async def outer_async(port: int, item: int) -> Any:
    """Wait, with a line of its own for each of two items."""
    if item == 1:
        return await pass_gate_async(port, item)  # line of item 1
    return await inner_async(port, item)


async def inner_async(port: int, item: int) -> Any:
    """Wait one function further, in a task of asyncio's."""
    import asyncio

    return await asyncio.create_task(pass_gate_async(port, item))  # line of the others


def tasks_of(kind: str, port: int) -> functools.partial[Any]:
    """Return the function for a kind."""
    return functools.partial(outer_async if kind == "asyncio" else outer, port)


def test_each_task_is_shown_with_its_item_and_its_lines(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """The innermost line is where it waits; ours are not among them, and all goes on afterwards."""
    pool = make_pool(working_kind, 3)
    run = pool.start(tasks_of(working_kind, gate.port), range(3))
    gate.wait_for(3)
    stacks = pool.stacks()
    assert [0, 1, 2] == sorted(task.index for task in stacks.tasks if task.index is not None)
    for task in stacks.tasks:
        assert task.places
        assert not [file for file, _, _ in task.places if file.startswith(OWN_CODE)]
        names = [name for _, name, _ in task.places]
        assert [name for name in names if name.startswith(("outer", "inner", "pass_gate"))] == (
            ["outer", "pass_gate"] if task.index == 1 else ["outer", "inner", "pass_gate"]
        ) or working_kind == "asyncio"
        assert names[0].startswith("outer")
        assert any(name.startswith("pass_gate") for name in names)
        assert 0 <= task.seconds < 60
    gate.open()
    assert [0, 1, 2] == run.result(30)


def test_tasks_that_do_the_same_are_told_together(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """With their number, some items, and the text of the lines."""
    pool = make_pool(working_kind, 8)
    run = pool.start(tasks_of(working_kind, gate.port), range(8))
    gate.wait_for(8)
    alike = "7 tasks like this, e.g. items 0, 2, 3"
    wait_until(lambda: alike in repr(pool.stacks()), "all of them have sent what they had to say, and wait")
    text = repr(pool.stacks())
    assert "8 tasks run" in text
    assert "item 1," in text
    assert 1 == text.count("# line of item 1")
    assert 1 == text.count("# line of the others")
    assert HERE in text
    gate.open()
    run.result(30)


def test_when_nothing_runs_it_says_so(kind: str, make_pool: MakePool) -> None:
    """Before the first map, and after it; solo cannot be asked at all while it runs something."""
    pool = make_pool(kind, 1, name="quiet")
    before = "nothing runs: solo" if kind == "solo" else "no worker has been needed yet"
    assert repr(pool.stacks()).startswith(f"quiet: {before}")
    pool.map(for_kind(kind, square), range(4))
    wait_until(lambda: () == pool.stacks().tasks, "the slot has found that there is nothing more to do")
    assert "nothing runs" in repr(pool.stacks())


def test_a_submitted_task_has_no_index(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """It is in no input."""
    pool = make_pool(working_kind, 1)
    future = pool.submit(gated(working_kind, gate.port), "alone")
    gate.wait_for(1)
    stacks = pool.stacks()
    assert [None] == [task.index for task in stacks.tasks]
    assert "a submitted task" in repr(stacks)
    gate.open()
    assert "alone" == future.result(30)


def test_items_of_a_resumed_run_keep_their_index(working_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """What is left over comes first in the books, but not in the input."""
    pool = make_pool(working_kind, 1)
    with pytest.raises(ZeroDivisionError):
        pool.map(for_kind(working_kind, fail_at_two), range(3), chunksize=1)
    run = pool.last_run
    assert run is not None
    resuming = threading.Thread(target=run.resume, args=(gated(working_kind, gate.port),))
    resuming.start()
    gate.wait_for(1)
    assert [2] == [task.index for task in pool.stacks().tasks]
    gate.open()
    resuming.join(30)
    assert [-0.5, -1.0, 2] == run.result(30)


def fail_at_two(item: int) -> float:
    """Fail at item 2."""
    return 1 / (item - 2)


def hold_the_interpreter(path: str, port: int) -> None:
    """Wait in C code that lets no other thread of the process run Python."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    library, buffer = ctypes.PyDLL(None), ctypes.create_string_buffer(1)
    pass_gate(port, "about to")
    library.poll(ctypes.byref((ctypes.c_int * 2)(descriptor, 1)), 1, -1)
    library.read(descriptor, buffer, 1)


async def hold_the_interpreter_async(path: str, port: int) -> None:
    """Do the same in a coroutine."""
    hold_the_interpreter(path, port)


@pytest.mark.parametrize("of_kind", [kind for kind in KINDS if kind in ("prefork", "gevent", "asyncio")])
def test_a_worker_that_cannot_answer_is_told_of_by_its_board(
    of_kind: str, make_pool: MakePool, gate: Gate, tmp_path: Path
) -> None:
    """C code that holds the GIL keeps its control thread from it; that is said, within about a second."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = make_pool(of_kind, 1)
    hold = hold_the_interpreter_async if of_kind == "asyncio" else hold_the_interpreter
    gate.open()
    run = pool.start(hold, [str(fifo)], [gate.port])
    try:
        gate.wait_for(1)
        wait_until(lambda: [None] == [task.places for task in pool.stacks().tasks], "it does not answer")
        stacks = pool.stacks()
        assert [0] == [task.index for task in stacks.tasks]
        assert "no answer: C code holds the interpreter" in repr(stacks)
    finally:
        with fifo.open("wb") as file:
            file.write(b"!")
    assert [None] == run.result(30)
    wait_until(lambda: () == pool.stacks().tasks, "the slot has found that there is nothing more to do")


def test_the_text_is_escaped_in_a_notebook() -> None:
    """The name of a file or of a function may hold anything."""
    stacks = Stacks("<script>", (TaskStack(1, 2, 3, 4.0, (("<i>.py", "<lambda>", 1),)),))
    assert "<script>" not in stacks._repr_html_()
    assert "&lt;lambda&gt;" in stacks._repr_html_()
