"""What tasks print and display appears in the cell that started their run, on every version of the kernel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest

from tests.notebook.conftest import SECONDS, Kernel
from tests.notebook.kernels import VERSIONS, start_kernel
from tests.tasks import Gate

pytestmark = pytest.mark.notebook


class Cells:
    """Cells of a kernel as a front end shows them: each has what the kernel says belongs to it, whenever that comes."""

    def __init__(self, kernel: Kernel) -> None:
        self._client = kernel.client
        self._messages: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self._answered: set[str] = set()

    def start(self, code: str) -> str:
        """Start a cell; return what it is known by."""
        return str(self._client.execute(code))

    def run(self, code: str) -> str:
        """Run a cell to its end; return what it is known by."""
        cell = self.start(code)
        self.wait(lambda: self.is_over(cell))
        assert not self.of(cell, "error"), self.of(cell, "error")
        return cell

    def wait(self, condition: Callable[[], bool]) -> None:
        """Take messages until a condition holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            try:
                message = self._client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                shown = {cell: self.text(cell) for cell in self._messages}
                raise AssertionError(f"it did not come; there is {shown}") from None
            parent = message["parent_header"].get("msg_id", "")
            self._messages[parent].append((message["msg_type"], message["content"]))

    def is_over(self, cell: str) -> bool:
        """Whether a cell has run to its end, and the kernel has said so on all its lines.

        ipykernel 7.3 may stop for ever at a request that comes between the two, as soon as its threads print.
        """
        if not any(content["execution_state"] == "idle" for content in self.of(cell, "status")):
            return False
        while cell not in self._answered:
            self._answered.add(self._client.get_shell_msg(timeout=SECONDS)["parent_header"].get("msg_id", ""))
        return True

    def of(self, cell: str, kind: str) -> list[dict[str, Any]]:
        """Return the contents of messages of one kind."""
        return [content for name, content in self._messages[cell] if name == kind]

    def text(self, cell: str, stream: str = "stdout") -> str:
        """Return what was written to a stream in a cell."""
        return "".join(content["text"] for content in self.of(cell, "stream") if content["name"] == stream)

    def lines(self, cell: str, stream: str = "stdout") -> list[str]:
        """Return the same, line by line, in order of the alphabet: items run beside each other."""
        return sorted(self.text(cell, stream).splitlines())


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version or "installed")
def versions_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel of each version, for all tests of it."""
    with start_kernel(request.param) as kernel:
        yield kernel


@pytest.fixture
def cells(versions_kernel: Kernel) -> Cells:
    """The cells of a kernel whose names are those of this test alone."""
    cells = Cells(versions_kernel)
    cells.run(
        "%reset -f\n%load_ext poolmagic\nimport sys, logging, warnings, poolmagic as pm\nfrom tests.tasks import *"
    )
    return cells


KINDS = ("prefork", "threads", "gevent")

TALK = """
def talk(item):
    print("begin", item)
    pass_gate({port}, item)
    print("end", item)
    print("error", item, file=sys.stderr)
    return item
"""


@pytest.mark.parametrize("one_kind", KINDS)
def test_two_runs_at_once_print_only_into_their_own_cells(cells: Cells, gate: Gate, one_kind: str) -> None:
    """Both cells have ended when most of it is printed, and a third one runs."""
    cells.run(f"pools = [pm.Pool({one_kind!r}, 2), pm.Pool({one_kind!r}, 2)]" + TALK.format(port=gate.port))
    first = cells.run("one = pools[0].start(talk, ['a', 'b'])")
    second = cells.run("two = pools[1].start(talk, ['c', 'd'])")
    gate.wait_for(4)
    third = cells.start(f"print('third'); pass_gate({gate.port}, 'kernel'); print('over')")
    gate.wait_for(5)
    gate.open()
    last = cells.run("one.result(), two.result()")
    cells.wait(lambda: all(cells.text(cell, "stderr").count("error") == 2 for cell in (first, second)))
    assert ["[0] begin a", "[0] end a", "[1] begin b", "[1] end b"] == cells.lines(first)
    assert ["[0] begin c", "[0] end c", "[1] begin d", "[1] end d"] == cells.lines(second)
    assert ["[0] error a", "[1] error b"] == cells.lines(first, "stderr")
    assert ["[0] error c", "[1] error d"] == cells.lines(second, "stderr")
    assert "third\nover\n" == cells.text(third)
    assert "" == cells.text(last)


def test_what_a_blocking_map_prints_is_there_when_its_cell_ends(cells: Cells) -> None:
    """Before the cell's own next line, and without names if that is asked for."""
    cell = cells.run(
        "pool = pm.Pool('prefork', 2)\npool.map(print, range(3), prefix=False, progress=False)\nprint('done')"
    )
    lines = cells.text(cell).splitlines()
    assert ["0", "1", "2"] == sorted(lines[:3])
    assert ["done"] == lines[3:]


def test_a_cell_says_that_it_wants_no_names(cells: Cells) -> None:
    """In its first line."""
    cell = cells.run("%%pool prefork -c 2 --no-prefix -q\npm.pool.map(print, range(3))")
    assert ["0", "1", "2"] == cells.lines(cell)


@pytest.mark.parametrize("one_kind", KINDS)
def test_a_table_that_a_task_displays_is_a_table_in_its_cell(cells: Cells, gate: Gate, one_kind: str) -> None:
    """It arrives as HTML, in the cell that has ended, and the run has it, too."""
    cells.run(
        f"""
pool = pm.Pool({one_kind!r}, 1)
def show(item):
    import pandas as pd
    pass_gate({gate.port}, item)
    display(pd.DataFrame({{"price": [item]}}))
"""
    )
    first = cells.run("run = pool.start(show, [4711])")
    gate.wait_for(1)
    second = cells.start(f"pass_gate({gate.port}, 'kernel')")
    gate.wait_for(2)
    gate.open()
    cells.wait(lambda: bool(cells.of(first, "display_data")))
    data = cells.of(first, "display_data")[0]["data"]
    assert "<table" in data["text/html"]
    assert "4711" in data["text/plain"]
    cells.wait(lambda: cells.is_over(second))
    assert [] == cells.of(second, "display_data")
    cells.run("run.result()\nassert 'text/html' in run.outputs.displays(0)[0][0]\nassert not run.outputs.displays(1)")


def test_logs_and_warnings_of_tasks_in_threads_come_into_their_cell(cells: Cells, gate: Gate) -> None:
    """Also from a handler that has kept the stream of the kernel, while another cell runs."""
    cells.run(
        f"""
logging.basicConfig(force=True, format="%(message)s")
pool = pm.Pool("threads", 1)
def task(item):
    pass_gate({gate.port}, item)
    logging.warning("a log")
    warnings.warn("a warning")
"""
    )
    first = cells.run("run = pool.start(task, [1])")
    gate.wait_for(1)
    second = cells.start(f"pass_gate({gate.port}, 'kernel')")
    gate.wait_for(2)
    gate.open()
    cells.wait(lambda: "a warning" in cells.text(first, "stderr") and "a log" in cells.text(first, "stderr"))
    cells.wait(lambda: cells.is_over(second))
    assert "" == cells.text(second, "stderr")


def test_what_is_submitted_prints_into_its_cell(cells: Cells, gate: Gate) -> None:
    """Without a name: there is no index."""
    cells.run("pool = pm.Pool('prefork', 1)" + TALK.format(port=gate.port))
    first = cells.run("future = pool.submit(talk, 'a')")
    gate.wait_for(1)
    second = cells.start(f"pass_gate({gate.port}, 'kernel')")
    gate.wait_for(2)
    gate.open()
    cells.wait(lambda: "end a" in cells.text(first))
    cells.wait(lambda: cells.is_over(second))
    assert ["begin a", "end a"] == cells.lines(first)
    assert "" == cells.text(second)


def test_what_an_iterator_prints_comes_into_the_cell_that_asks_for_its_results(cells: Cells) -> None:
    """Nothing has run before."""
    first = cells.run("pool = pm.Pool('prefork', 1)\nresults = pool.imap(print, range(2))")
    second = cells.run("list(results)")
    assert ["[0] 0", "[1] 1"] == cells.lines(second)
    assert "" == cells.text(first)


def test_the_kernels_streams_are_its_own_again_after_a_run_on_threads(cells: Cells) -> None:
    """They were taken for its time only."""
    cells.run(
        """
before = sys.stdout, sys.stderr
pool = pm.Pool("threads", 2)
pool.map(print, range(3), progress=False)
pool.submit(print, 3).result()
pool.terminate()
pool.join(30)
assert before == (sys.stdout, sys.stderr), (sys.stdout, sys.stderr)
"""
    )


@pytest.fixture(scope="module")
def newest() -> Iterator[Kernel]:
    """A kernel of the installed version."""
    with start_kernel() as kernel:
        yield kernel


FLOOD = """
line = "x" * 99 + "\\n"
def flood(item):
    for _ in range({lines} // 10_000):
        sys.stdout.write(line * 10_000)
    return item
"""


@pytest.mark.parametrize("one_kind", ["prefork", "threads"])
def test_a_task_that_prints_200_megabytes_stalls_nothing_and_loses_nothing(newest: Kernel, one_kind: str) -> None:
    """Its cell gets what it can take, and one line that says where the rest is; the item beside it is not held up."""
    cells = Cells(newest)
    cells.run(f"import sys, poolmagic as pm\npool = pm.Pool({one_kind!r}, 2)" + FLOOD.format(lines=2_000_000))
    began = time.monotonic()
    cell = cells.run("results = pool.map(lambda item: flood(item) if item == 1 else item, range(20), progress=False)")
    assert time.monotonic() - began < SECONDS / 2
    shown = cells.text(cell)
    assert 1000 < len(shown) < 1_100_000
    assert {"[1] " + "x" * 99} == set(shown.splitlines())
    hidden = 2_000_000 - shown.count("\n")
    assert cells.text(cell, "stderr").startswith(f"[poolmagic: {hidden:,} lines (19")
    assert "MB) of item 1 not shown; all of it is in .outputs[1] of the run, pool.last_run]" in cells.text(
        cell, "stderr"
    )
    assert 1 == cells.text(cell, "stderr").count("\n")
    assert len(cells.of(cell, "stream")) < 200
    cells.run(
        """
assert results == list(range(20))
text = pool.last_run.outputs[1]
assert len(text) == 200_000_000 and text == line * 2_000_000
del text
"""
    )


def test_what_is_printed_before_an_interrupt_is_shown(newest: Kernel, gate: Gate) -> None:
    """Also what is not a whole line yet."""
    cells = Cells(newest)
    cells.run(
        f"""
import poolmagic as pm
from tests.tasks import *
pool = pm.Pool("prefork", 1)
def task(item):
    print("a line")
    print("an open line", end="", flush=True)
    pass_gate({gate.port}, item)
"""
    )
    cell = cells.start("pool.map(task, [1], progress=False)")
    gate.wait_for(1)
    newest.manager.interrupt_kernel()
    cells.wait(lambda: cells.is_over(cell))
    assert "KeyboardInterrupt" == cells.of(cell, "error")[0]["ename"]
    assert ["[0] a line", "[0] an open line"] == cells.text(cell).splitlines()
    cells.run("assert pool.last_run.outputs[0] == 'a line\\nan open line'")


def test_a_progress_bar_of_a_task_moves_in_one_line(newest: Kernel) -> None:
    """What tqdm prints in a task looks as it does in the kernel."""
    cells = Cells(newest)
    cell = cells.run(
        """
import sys, poolmagic as pm
pool = pm.Pool("prefork", 1)
def task(item):
    from tqdm import tqdm
    for _ in tqdm(range(1000), mininterval=0, file=sys.stdout):
        pass
pool.map(task, [1], progress=False)
"""
    )
    text = cells.text(cell)
    assert 1 == text.count("\n")
    last = text.splitlines()[-1].rpartition("\r")[2]
    assert "100%" in last
    assert "1000/1000" in last
