"""One item again under the debugger, in a real kernel that asks over stdin, and in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.notebook.conftest import SECONDS, plain
from tests.test_magics import forks, terminal

if TYPE_CHECKING:
    import pexpect

    from tests.notebook.conftest import Kernel
    from tests.tasks import Gate

pytestmark = pytest.mark.notebook

__all__ = ["terminal"]  # a fixture

CELLS = ("scale = 10\ndef inner(x):\n    y = scale * x\n    return y / (x - 1)", "outer = lambda x: inner(x)")
"""A function of one cell that is called by a function of another, and fails for item 1."""


def talk(kernel: Kernel, cell: str, *answers: str) -> str:
    """Run a cell that asks, give it these answers, and return what a person then sees, the questions included.

    A question comes on a line of its own, and so now and then before what was printed before it.
    """
    seen: list[str] = []
    left = list(answers)

    def asked(message: dict[str, Any]) -> None:
        answer = left.pop(0) if left else "q"
        seen.append(f"{message['content']['prompt']}{answer}\n")
        kernel.client.input(answer)

    def said(message: dict[str, Any]) -> None:
        content = message["content"]
        seen.append(content.get("text") or "\n".join(content.get("traceback", [])))
        seen.append(content.get("data", {}).get("text/plain", ""))

    kernel.client.execute_interactive(cell, stdin_hook=asked, output_hook=said, timeout=SECONDS)
    assert not left, "".join(seen)
    return plain("".join(seen))


def fail(kernel: Kernel, pool: str, *cells: str) -> None:
    """Have item 1 of a map fail."""
    for cell in cells or CELLS:
        assert kernel.run(cell).status == "ok"
    reply = kernel.run(f"import poolmagic as pm\npool = {pool}\npool.map(outer, range(3))")
    assert reply.status == "error"
    assert "Cell In" in reply.traceback, reply.traceback


def test_the_item_that_failed_first_is_run_again_where_it_can_be_looked_at(kernel: Kernel) -> None:
    """The debugger is at the user's line, with the values that the function had captured when it was sent."""
    fail(kernel, "pm.Pool('prefork', 2)")
    kernel.run("scale = 99")
    text = talk(kernel, "%pool debug", "p x, y, scale", "u", "p x", "q")
    assert "item 1 of <lambda> raises ZeroDivisionError" in text
    assert "----> 4     return y / (x - 1)" in text
    assert "(1, 10, 10)" in text
    assert "----> 1 outer = lambda x: inner(x)" in text
    assert "poolmagic" not in text
    assert kernel.run("scale").result == "99"


@pytest.mark.parametrize("of_kind", ["gevent", "threads", "solo"])
def test_it_works_on_each_kind(of_kind: str, kernel: Kernel) -> None:
    """Green threads, threads, and solo."""
    fail(kernel, f"pm.Pool('{of_kind}', 1)")
    text = talk(kernel, "%pool debug 1", "p x", "q")
    assert "----> 4     return y / (x - 1)" in text
    assert "ipdb> p x" in text


def test_a_coroutine_is_run_in_a_loop(kernel: Kernel) -> None:
    """The debugger shows the lines of the coroutines, and none of the loop's."""
    cells = (
        "import asyncio\nasync def inner(x):\n    await asyncio.sleep(0)\n    return 1 / (x - 1)",
        "async def outer(x):\n    return await inner(x)",
    )
    fail(kernel, "pm.Pool('asyncio', 2)", *cells)
    text = talk(kernel, "%pool debug", "p x", "u", "q")
    assert "----> 4     return 1 / (x - 1)" in text
    assert "----> 2     return await inner(x)" in text
    assert "base_events" not in text
    assert "UsageError: --step cannot go through an async def" in talk(kernel, "%pool debug --step")


def test_an_error_in_a_library_is_looked_at_from_the_users_line(kernel: Kernel) -> None:
    """The library's frames are further down."""
    fail(kernel, "pm.Pool('prefork', 2)", "import json\ndef outer(x):\n    return json.loads('1' * (x != 1) or '[')")
    text = talk(kernel, "%pool debug 1", "p x", "d", "q")
    first, further_down, _ = text.partition("json/__init__.py")
    assert "----> 3     return json.loads" in first
    assert further_down
    assert "decoder.py" not in first


def test_random_numbers_are_those_that_the_item_had(kernel: Kernel) -> None:
    """`pm.rng()`, and with `seed=` the global generator."""
    cell = (
        "import random, poolmagic as pm\n"
        "def outer(x):\n"
        "    if x == 1:\n"
        "        raise ValueError(f'{pm.rng().random()} {random.random()}')"
    )
    kernel.run(cell)
    reply = kernel.run("pool = pm.Pool('prefork', 2)\npool.map(outer, range(3), seed=7)")
    assert reply.error == "ValueError"
    assert f"ValueError('{reply.text}')" in talk(kernel, "%pool debug", "q")


def test_an_item_that_does_not_fail_here_gives_its_value(kernel: Kernel) -> None:
    """What went wrong had to do with the worker."""
    cell = "import os\nhome = os.getpid()\ndef outer(x):\n    assert x != 1 or os.getpid() == home\n    return 'fine'"
    fail(kernel, "pm.Pool('prefork', 2)", cell)
    reply = kernel.run("%pool debug")
    assert reply.stream("stdout") == "item 1 of outer returned 'fine'\n"
    assert reply.result == "'fine'"


def test_stepping_begins_at_the_first_line_of_the_function(kernel: Kernel) -> None:
    """Before anything has happened; and it can be left."""
    fail(kernel, "pm.Pool('prefork', 2)", "def outer(x):\n    y = x - 1\n    z = 1 / y\n    return z")
    text = talk(kernel, "%pool debug 1 --step", "n", "p y", "q")
    assert "----> 2     y = x - 1" in text
    assert "----> 3     z = 1 / y" in text
    assert "ipdb> p y\n0" in text or "0\n" in text
    assert "item 1 of outer was left before its end" in text
    assert kernel.run("1 + 1").result == "2"


def test_the_initializer_of_the_pool_is_run_first(kernel: Kernel) -> None:
    """What it made is there for the item."""
    cells = (
        "def prepare(value):\n    global table\n    table = {'one': value}",
        "def outer(x):\n    return table['one' if x != 1 else 'none']",
    )
    fail(kernel, "pm.Pool('prefork', 2, initializer=prepare, initargs=(42,))", *cells)
    text = talk(kernel, "%pool debug", "p table", "q")
    assert "KeyError('none')" in text
    assert "{'one': 42}" in text


def test_what_cannot_be_debugged_is_refused_in_one_line(kernel: Kernel) -> None:
    """No failure; words that nobody knows; an item that is not kept; one that would end the kernel."""
    assert kernel.run("%pool debug").stream("stderr").startswith("UsageError: no run has failed")
    fail(kernel, "pm.Pool('prefork', 1)")
    for words, what in (
        ("x", "UsageError: unknown word 'x'; use %pool debug [ITEM] [--run N] [--step]"),
        ("0", "UsageError: item 0 of <lambda> returned, and what has returned is not kept to be run again"),
        ("77", "UsageError: item 77 of <lambda> is not here"),
        ("--run 999", "UsageError: no run or background cell is number 999"),
    ):
        said = kernel.run(f"%pool debug {words}").stream("stderr")
        assert said.startswith(what)
        assert said.count("\n") == 1
    kernel.run("import os\ndef leave(x):\n    os._exit(3)")
    kernel.run("pm.Pool('prefork', 1).map(leave, [1], crash_retries=0)")
    assert "item 0 ended its worker, and would end this kernel" in kernel.run("%pool debug").stream("stderr")
    assert kernel.run("1 + 1").result == "2"


def test_the_run_that_ended_last_is_meant_or_the_one_that_is_named(kernel: Kernel) -> None:
    """A run that is resumed ends again; one of which failures are returned has failed items, too."""
    fail(kernel, "pm.Pool('solo')")
    kernel.run("second = lambda x: [][x]\nother = pm.Pool('solo').start(second, [8, 9], on_error='return')")
    assert "item 0 of <lambda> raises IndexError" in talk(kernel, "%pool debug", "q")
    assert "item 1 of <lambda> raises IndexError" in talk(kernel, "%pool debug 1", "q")
    assert kernel.run("pool.last_run.resume()").error == "ZeroDivisionError"
    assert "item 1 of <lambda> raises ZeroDivisionError" in talk(kernel, "%pool debug 1", "q")
    number = kernel.run("other.id").result
    assert "item 1 of <lambda> raises IndexError" in talk(kernel, f"%pool debug --run {number} 1", "q")


def test_where_nobody_can_be_asked_it_says_so(kernel: Kernel) -> None:
    """As when a notebook is run by a program."""
    fail(kernel, "pm.Pool('prefork', 1)")
    reply = kernel.run("%pool debug", front_end="nbclient")
    assert "UsageError: nobody can be asked here" in reply.stream("stderr")


def test_stacks_name_the_lines_of_the_cell(kernel: Kernel, gate: Gate) -> None:
    """With the item, and the text of the line, while the run goes on in the background."""
    kernel.run(
        "import socket\ndef wait(item):\n"
        f"    with socket.create_connection(('127.0.0.1', {gate.port})) as line:\n"
        "        line.sendall(f'{item}\\n'.encode())\n"
        "        return line.recv(1)"
    )
    kernel.run("run = pool.start(wait, range(2))")
    gate.wait_for(1)
    text = kernel.run("%pool stacks").result
    assert text is not None
    assert "item" in text
    assert "Cell In[2], line 5, in wait\n    return line.recv(1)" in text
    gate.open()
    assert kernel.run("run.result()").result == "[b'!', b'!']"


@forks
def test_the_debugger_of_a_terminal_is_used_in_a_terminal(terminal: pexpect.spawn[str]) -> None:
    """It asks there."""
    terminal.send("import poolmagic as pm; pm.Pool('prefork', 1).map(lambda x: 1 / x, [1, 0])\r")
    terminal.expect_exact("ZeroDivisionError: division by zero")
    terminal.expect_exact("In [4]:")
    terminal.send("%pool debug\r")
    terminal.expect_exact("item 1 of <lambda> raises ZeroDivisionError")
    terminal.expect_exact("ipdb>")
    terminal.send("p x + 4700 + 11\r")
    terminal.expect_exact("4711")
    terminal.send("q\r")
    terminal.expect_exact("In [5]:")
