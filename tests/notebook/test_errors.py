"""An error shows the lines of the cells that it came through, and none of ours, whichever way one comes to see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import poolmagic
from tests.test_magics import forks, terminal

if TYPE_CHECKING:
    import pexpect

    from tests.notebook.conftest import Kernel

pytestmark = pytest.mark.notebook

__all__ = ["terminal"]  # a fixture

OWN = str(Path(poolmagic.__file__).parent)
LIBRARY = ("concurrent/futures", "asyncio/", "threading.py")

INNER = "{a}def inner(item):\n    below = item - 1\n    return 1 / below"
OUTER = {
    "": "outer = lambda item: inner(item)",
    "async ": "async def outer(item): return await inner(item)",
}
WAYS = {
    "map": "pool.map(outer, [2, 1])",
    "starmap": "pool.starmap(outer, [(2,), (1,)])",
    "imap": "list(pool.imap(outer, [2, 1]))",
    "imap_unordered": "for value in pool.imap_unordered(outer, [1]): pass",
    "submit": "future = pool.submit(outer, 1); future.result()",
    "submit again": "future.result()",
    "start": "run = pool.start(outer, [2, 1]); run.result()",
    "start again": "run.result()",
    "resume": "run.resume()",
    "await": "run = pool.start(outer, [2, 1]); await run",
    "iterate": "list(pool.start(outer, [2, 1]))",
    "failure": "run = pool.start(outer, [1], on_error='return'); raise run.result()[0].exception",
}


@pytest.mark.parametrize("of_kind", ["prefork", "gevent", "threads", "asyncio", "solo"])
def test_each_way_to_an_error_shows_both_cells(of_kind: str, kernel: Kernel) -> None:
    """A function of one cell, called through a lambda of another: right lines, arrows, a note, and nothing else."""
    a = "async " if of_kind == "asyncio" else ""
    kernel.run(INNER.format(a=a))
    kernel.run(OUTER[a])
    kernel.run(f"import poolmagic as pm\npool = pm.Pool('{of_kind}', 1)")
    for way, cell in WAYS.items():
        reply = kernel.run(cell)
        text = reply.traceback
        assert reply.error == "ZeroDivisionError", (way, text)
        assert "Cell In[2], line 3, in inner(" in text, (way, text)
        assert "----> 3     return 1 / below" in text, (way, text)
        assert "Cell In[3], line 1, in " in text, (way, text)
        assert f"----> 1 {OUTER[a]}" in text, (way, text)
        assert text.count("Cell In[") == 3, (way, text)
        assert not [word for word in (OWN, *LIBRARY) if word in text], (way, text)
        who = "the kernel (solo)" if of_kind == "solo" else "worker 1 (pid "
        first = way in ("imap_unordered", "failure")
        what = "the task failed" if way.startswith("submit") else f"item {0 if first else 1} ("
        assert what in text, (way, text)
        assert f"failed on {who}" in text, (way, text)


CHAIN = """def cause(item):
    raise KeyError(item)

def chained(item):
    try:
        cause(item)
    except KeyError as error:
        raise ValueError("outer") from error

def grouped(item):
    errors = []
    for function in (cause, chained):
        try:
            function(item)
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)
"""


@pytest.mark.parametrize("of_kind", ["prefork", "gevent"])
def test_causes_and_the_members_of_groups_are_shown_with_their_own_lines(of_kind: str, kernel: Kernel) -> None:
    """All of them were raised in another process."""
    kernel.run(CHAIN)
    reply = kernel.run(f"import poolmagic as pm\npool = pm.Pool('{of_kind}', 1)\npool.map(chained, [5])")
    text = reply.traceback
    assert reply.error == "ValueError"
    assert "----> 2     raise KeyError(item)" in text
    assert "----> 6         cause(item)" in text
    assert "The above exception was the direct cause of the following exception" in text
    assert '----> 8         raise ValueError("outer") from error' in text
    reply = kernel.run("pool.map(grouped, [5])")
    text = reply.traceback
    assert reply.error == "ExceptionGroup"
    assert '---> 17     raise ExceptionGroup("several", errors)' in text
    assert "item 0 (5) of grouped failed on worker" in text
    assert "1 of 2" in text
    assert "| KeyError: 5" in text
    assert "2 of 2" in text
    assert "| ValueError: outer" in text
    assert text.count("---> 14             function(item)") == 2
    assert text.count("----> 2     raise KeyError(item)") == 2
    assert OWN not in text
    assert OWN not in reply.stream("stderr")


def test_a_group_that_has_nothing_to_do_with_pools_is_shown_as_before(kernel: Kernel) -> None:
    """And one that is handled in a cell is not shown at all."""
    reply = kernel.run("raise ExceptionGroup('mine', [ValueError('one')])")
    assert reply.status == "error"
    assert "ExceptionGroup: mine (1 sub-exception)" in reply.stream("stderr") + reply.traceback
    assert (
        kernel.run("try:\n    raise ExceptionGroup('mine', [ValueError('one')])\nexcept* ValueError: pass").status
        == "ok"
    )


def test_many_failures_are_one_error_with_its_members(kernel: Kernel) -> None:
    """As `on_error="collect"` raises it."""
    kernel.run(INNER.format(a=""))
    reply = kernel.run(
        "import poolmagic as pm\npm.Pool('prefork', 1).map(lambda item: inner(1), range(40), on_error='collect')"
    )
    text = reply.traceback
    assert reply.error == "FailedItems"
    assert "40 of 40 items failed" in text
    assert text.count("----> 3     return 1 / below") == 1
    assert OWN not in text


def test_an_error_of_ours_ends_at_the_line_that_asked(kernel: Kernel) -> None:
    """The frames that raised it say nothing about it."""
    kernel.run("import os, poolmagic as pm\npool = pm.Pool('prefork', 1)")
    for cell, error in (
        ("pool.map(lambda item: os._exit(3), [1], crash_retries=0)", "WorkerLostError"),
        ("pool.map(3, [1])", "UsageError"),
        (
            "run = pool.start(abs, [1]); run.result(); pool.start(abs, iter(int, 1)).result(timeout=0.01)",
            "TimeoutError",
        ),
    ):
        reply = kernel.run(cell)
        assert reply.error == error
        assert "----> 1 " in reply.traceback
        if error != "TimeoutError":
            assert OWN not in reply.traceback
    assert kernel.run("pool.terminate()").status == "ok"


@forks
def test_a_terminal_shows_the_lines_of_its_inputs(terminal: pexpect.spawn[str]) -> None:
    """Which are called cells there, too."""
    terminal.send("inner = lambda item: 1 / (item - 1)\r")
    terminal.expect_exact("In [4]:")
    terminal.send("pool.map(lambda item: inner(item), [2, 1])\r")
    terminal.expect(r"Cell In\[4\], line 1, in <lambda>\(\)")
    terminal.expect(r"Cell In\[3\], line 1, in <lambda>\(\)")
    terminal.expect_exact("----> 1 inner = lambda item: 1 / (item - 1)")
    terminal.expect_exact("ZeroDivisionError: division by zero")
    terminal.expect(r"item 1 \(1\) of <lambda> failed on worker \d \(pid \d+\)")
