"""Background cells in real kernels: what they show stays in their cell, while other cells run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.notebook.conftest import Kernel, plain
from tests.notebook.kernels import VERSIONS, start_kernel
from tests.notebook.test_output import Cells
from tests.tasks import Gate

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version or "installed")
def versions_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel of each version, for all tests of it."""
    with start_kernel(request.param) as kernel:
        yield kernel


@pytest.fixture
def cells(versions_kernel: Kernel, gate: Gate) -> Cells:
    """The cells of a kernel whose names are those of this test alone; `wait` stops at the gate."""
    cells = Cells(versions_kernel)
    cells.run(
        "%reset -f\nimport sys, poolmagic as pm\nfrom poolmagic import pool\nfrom functools import partial\n"
        f"from tests.tasks import *\nwait = partial(pass_gate, {gate.port})"
    )
    return cells


def number_of(cells: Cells, cell: str) -> int:
    """The number that a background cell said it has."""
    found = re.search(r"%pool wait (\d+)", cells.text(cell))
    assert found is not None, cells.text(cell)
    return int(found[1])


def shown(cells: Cells, cell: str) -> list[str]:
    """The texts of the values that a cell shows."""
    return [content["data"]["text/plain"] for content in cells.of(cell, "execute_result")]


def failed(cells: Cells, code: str) -> str:
    """Run a cell that fails; return its traceback, without colours."""
    cell = cells.start(code)
    cells.wait(lambda: cells.is_over(cell))
    return plain("\n".join("\n".join(content["traceback"]) for content in cells.of(cell, "error")))


def test_a_cell_runs_beside_the_others(cells: Cells, gate: Gate) -> None:
    """It returns at once; what it prints, shows and assigns comes later, in its own cell, on its own pool."""
    first = cells.run(
        "%%pool threads -c 3 -b -o names\nprint('begun', file=sys.stderr)\nwait('first')\nmine = pool.config\n"
        "print(mine)\npool.map(str.upper, ['a', 'b'])"
    )
    gate.wait_for(1)
    second = cells.run("names")
    other = cells.run("%%pool solo\nprint(pool.config.kind.name)")
    third = cells.start("wait('second')\nprint('third')")
    gate.wait_for(2)
    gate.open()
    cells.wait(lambda: cells.is_over(third) and bool(shown(cells, first)))
    assert "begun\n" == cells.text(first, "stderr")
    assert "threads -c 3" == cells.text(first).splitlines()[-1]
    assert ["['A', 'B']"] == shown(cells, first)
    (handle,) = shown(cells, second)
    assert re.fullmatch(r"<names: running since [0-9.]+ s; %pool wait \d+>", handle)
    assert "solo\n" == cells.text(other)
    assert "third\n" == cells.text(third)
    last = cells.run("%pool wait\nnames, pool.config.kind.name, mine.concurrency")
    assert ["(['A', 'B'], 'prefork', 3)"] == shown(cells, last)
    assert "" == cells.text(last)


def test_a_value_keeps_the_number_of_its_cell(cells: Cells, gate: Gate) -> None:
    """It is shown under the number of the cell that it was computed in, and `Out` has it; a semicolon silences it."""
    first = cells.run("%%pool solo -b\nwait('first')\n6 * 7")
    silent = cells.run("%%pool solo -b\nwait('second')\n6 * 9;")
    gate.wait_for(2)
    gate.open()
    last = cells.run("%pool wait\nlen(Out)")
    count = cells.of(first, "execute_input")[0]["execution_count"]
    cells.wait(lambda: bool(shown(cells, first)))
    assert count == cells.of(first, "execute_result")[0]["execution_count"]
    assert [] == shown(cells, silent)
    assert shown(cells, last) != ["0"]
    assert ["42"] == shown(cells, cells.run(f"Out[{count}]"))


def test_two_at_once_keep_their_own_pools(cells: Cells, gate: Gate) -> None:
    """Each has the pool of its line from its beginning to its end, and prints into its own cell."""
    body = (
        "print(pool.config)\nwait('{0}')\npool.map(print, ['{0}'], prefix=False, progress=False)\nprint(pool.config);"
    )
    first = cells.run("%%pool threads -c 2 -b\n" + body.format("a"))
    second = cells.run("%%pool threads -c 5 -b\n" + body.format("b"))
    gate.wait_for(2)
    gate.open()
    cells.run("%pool wait")
    cells.wait(lambda: all(cells.text(cell).count("threads -c") == 2 for cell in (first, second)))
    assert ["threads -c 2", "a", "threads -c 2"] == cells.text(first).splitlines()[-3:]
    assert ["threads -c 5", "b", "threads -c 5"] == cells.text(second).splitlines()[-3:]


def test_an_error_is_shown_in_its_cell_with_the_cells_own_lines(cells: Cells, gate: Gate) -> None:
    """As IPython shows errors, and without our frames; the handle keeps it, and waiting raises it."""
    first = cells.run("%%pool threads -c 2 -b -o ratio\n\nwait('first')\ntop = 1\ntop / 0")
    count = cells.of(first, "execute_input")[0]["execution_count"]
    gate.wait_for(1)
    second = cells.start("wait('second')")
    gate.wait_for(2)
    gate.open()
    cells.wait(lambda: cells.is_over(second) and bool(cells.of(first, "error")))
    (error,) = cells.of(first, "error")
    text = plain("\n".join(error["traceback"]))
    assert ("ZeroDivisionError", "division by zero") == (error["ename"], error["evalue"])
    assert f"Cell In[{count}], line 5" in text
    assert "----> 5 top / 0" in text
    assert "poolmagic/" not in text
    assert [] == cells.of(second, "error")
    assert ["1"] == shown(cells, cells.run("top"))
    assert "failed after" in shown(cells, cells.run("ratio"))[0]
    for code in ("ratio.result()", f"%pool wait {number_of(cells, first)}"):
        assert f"Cell In[{count}], line 5" in failed(cells, code)


def test_an_error_of_a_task_is_shown_in_the_cell_that_mapped_it(cells: Cells, gate: Gate) -> None:
    """With the line of the function in another cell."""
    cells.run("def invert(item):\n    wait(item)\n    return 1 / item")
    first = cells.run("%%pool threads -c 2 -b\npool.map(invert, [1, 0])")
    gate.wait_for(2)
    second = cells.start("wait('second')")
    gate.wait_for(3)
    gate.open()
    cells.wait(lambda: cells.is_over(second) and bool(cells.of(first, "error")))
    text = plain("\n".join(cells.of(first, "error")[0]["traceback"]))
    assert re.search(r"Cell In\[\d+\], line 3, in invert\(", text)
    assert "----> 2 pool.map(invert, [1, 0])" in text
    assert [] == cells.of(second, "error")


@pytest.mark.parametrize("wrong", ["x = (", "break", "return 1"])
def test_a_syntax_error_is_found_before_the_body_begins(cells: Cells, wrong: str) -> None:
    """It looks as it does without the magic."""
    cell = cells.start(f"%%pool threads -b\nstarted = True\n\n{wrong}")
    cells.wait(lambda: cells.is_over(cell))
    (content,) = cells.of(cell, "error")
    assert "SyntaxError" == content["ename"]
    said = plain("\n".join(content["traceback"]))
    assert "line 4" in said
    assert "poolmagic/" not in said
    assert "in the background" not in cells.text(cell)
    assert ["False"] == shown(cells, cells.run("'started' in globals()"))


def test_await_is_refused_before_the_body_begins(cells: Cells) -> None:
    """In one line, which says what to do instead."""
    cell = cells.start("%%pool threads -b\nimport asyncio\nstarted = True\nawait asyncio.sleep(0)")
    cells.wait(lambda: cells.is_over(cell))
    said = cells.text(cell, "stderr")
    assert said.startswith("UsageError: -b: await")
    assert 1 == said.count("\n")
    assert "" == cells.text(cell)
    assert ["False"] == shown(cells, cells.run("'started' in globals()"))


def test_cancelling_ends_the_maps_of_a_cell_and_refuses_its_next(cells: Cells, gate: Gate) -> None:
    """The cell says so in a line; a body that goes on all the same can map nothing more."""
    cell = cells.run(
        "%%pool prefork -c 2 -b -o pages\ntry:\n    pool.map(wait, ['a', 'b'])\nexcept pm.RunCancelled:\n"
        "    print('the first')\npool.map(print, ['never'])"
    )
    gate.wait_for(2)
    number = number_of(cells, cell)
    cells.run(f"%pool cancel {number}")
    cells.run(f"%pool wait {number}")
    cells.wait(lambda: "was cancelled" in cells.text(cell, "stderr"))
    assert "the first" == cells.text(cell).splitlines()[-1]
    assert f"background cell {number} was cancelled\n" == cells.text(cell, "stderr")
    assert [] == cells.of(cell, "error")
    assert "<pages: cancelled after" in shown(cells, cells.run("pages"))[0]


def test_stop_ends_the_waiting_and_nothing_else(cells: Cells, versions_kernel: Kernel, gate: Gate) -> None:
    """The background cell goes on, and its result comes."""
    cells.run("%%pool threads -c 2 -b -o pages\npool.map(wait, ['a'])")
    gate.wait_for(1)
    waiting = cells.start("import threading\nprint('waits', flush=True)\n%pool wait")
    cells.wait(lambda: "waits" in cells.text(waiting))
    versions_kernel.manager.interrupt_kernel()
    cells.wait(lambda: cells.is_over(waiting))
    assert "KeyboardInterrupt" == cells.of(waiting, "error")[0]["ename"]
    gate.open()
    assert ["['a']"] == shown(cells, cells.run("%pool wait\npages"))


def test_pmap_runs_in_the_background_too(cells: Cells, gate: Gate) -> None:
    """The list comes into the variable behind the arrow, and nothing else into the user's namespace."""
    cells.run("%%pmap -b -P threads -c 2 x in ['a', 'b'] -> names\ny = wait(x)\ny.upper()")
    gate.wait_for(2)
    assert "<names: running since" in shown(cells, cells.run("names"))[0]
    gate.open()
    last = cells.run("%pool wait\nnames, {'x', 'y', '_pmap'} & set(globals())")
    assert ["(['A', 'B'], set())"] == shown(cells, last)


def test_magics_and_shell_commands_work_inside(cells: Cells) -> None:
    """They are lines of the body as any other."""
    cell = cells.run("%%pool threads -c 2 -b\nname = 'out' + 'side'\n!echo {name}\nlines = !echo one\n%pool runs")
    cells.run("%pool wait")
    cells.wait(lambda: bool(shown(cells, cell)))
    assert "outside" == cells.text(cell).splitlines()[-1].strip()
    assert "running" in shown(cells, cell)[0]
    assert ["['one']"] == shown(cells, cells.run("list(lines)"))


def test_a_panel_goes_on_in_its_cell(cells: Cells, gate: Gate) -> None:
    """A map of a background cell shows its progress under the cell that began it, while another one runs."""
    first = cells.run("%%pool threads -c 2 -b\npool.map(lambda x: wait(x), range(4), progress=True)[-1]")
    gate.wait_for(2)
    second = cells.start("wait('second')")
    gate.wait_for(3)
    gate.open()
    cells.wait(lambda: cells.is_over(second) and bool(shown(cells, first)))
    assert ["3"] == shown(cells, first)
    assert "" == cells.text(second) + cells.text(second, "stderr")
    assert [] == cells.of(second, "display_data")


def test_nothing_hangs_at_the_end(gate: Gate) -> None:
    """Unloading cancels what goes on; a kernel that is shut down does not wait for it."""
    with start_kernel() as kernel:
        cells = Cells(kernel)
        cells.run(f"from functools import partial\nfrom tests.tasks import *\nwait = partial(pass_gate, {gate.port})")
        first = cells.run("%%pool prefork -c 2 -b\npool.map(wait, ['a', 'b'])")
        gate.wait_for(2)
        cells.run("%unload_ext poolmagic")
        cells.wait(lambda: "was cancelled" in cells.text(first, "stderr"))
        cells.run("%load_ext poolmagic")
        cells.run("%%pool threads -c 2 -b\nwait('c')")
        gate.wait_for(3)
