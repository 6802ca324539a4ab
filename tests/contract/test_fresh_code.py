"""A module that was edited between two maps: the second one runs the new code, and one line says so."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated

Write = Callable[[str, str], None]
NAMES = ("fresh_main", "fresh_helper", "fresh_late", "fresh_package", "fresh_package.part", "fresh_package.other")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules into the folder of the notebook, where they are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    yield write
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Tell what was said about changes since the last time."""
    return lambda: [line for line in capsys.readouterr().err.splitlines() if "changed" in line]


def imported(name: str) -> Any:
    """Import a module in the kernel."""
    return importlib.import_module(name)


def counting(kind: str) -> Callable[[int], Any]:
    """Return a task of a cell that uses a module of the user's own, which uses another one."""
    fresh_main = imported("fresh_main")
    return for_kind(kind, lambda x: fresh_main.count(x))  # noqa: PLW0108 - a cell names the module


def ours(pool: pm.Pool) -> set[int | None]:
    """Return the processes of a pool."""
    return {worker.pid for worker in pool.snapshot().workers}


def run_cell(text: str, cell: dict[str, Any]) -> None:
    """Define what a cell defines."""
    exec(text, cell)  # noqa: S102 - the cell is ours


MAIN = "import fresh_helper\n\ndef count(x):\n    return {}, fresh_helper.VALUE, x\n"


def write_first(write: Write) -> None:
    """Write the module that `counting` names, and the one that this uses, as they are before anybody edits them."""
    write("fresh_helper", "VALUE = 1\n")
    write("fresh_main", MAIN.format(1))


def test_the_next_map_runs_what_was_edited_and_says_so(
    process_kind: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """The module that the function names, and one that only this module imports."""
    write_first(write)
    pool = make_pool(process_kind, 2)
    task = counting(process_kind)
    assert [(1, 1, 0), (1, 1, 1)] == pool.map(task, range(2))
    assert [] == lines()

    write("fresh_main", MAIN.format(2))
    assert [(2, 1, 0), (2, 1, 1)] == pool.map(task, range(2))
    assert ["poolmagic: fresh_main.py has changed: new workers run it"] == lines()

    write("fresh_helper", "VALUE = 2\n")
    assert [(2, 2, 0), (2, 2, 1)] == pool.map(task, range(2))
    assert ["poolmagic: fresh_helper.py has changed: new workers run it"] == lines()

    write("fresh_main", MAIN.format(3))
    write("fresh_helper", "VALUE = 3\n")
    assert [(3, 3, 0)] == list(pool.imap(task, [0]))
    [line] = lines()
    assert "fresh_main.py" in line
    assert "fresh_helper.py" in line
    assert line.endswith(" have changed: new workers run them")
    assert [(3, 3, 0)] == pool.map(task, [0])
    assert (3, 3, 5) == pool.submit(task, 5).result(30)
    assert [] == lines()


def test_a_module_that_only_the_task_imports_is_found(
    process_kind: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """The kernel has never seen it."""

    def task(x: int) -> Any:
        import fresh_late  # type: ignore[import-not-found]
        from fresh_package import part  # type: ignore[import-not-found]

        return fresh_late.VALUE, part.VALUE

    write("fresh_late", "VALUE = 1\n")
    write("fresh_package/__init__", "")
    write("fresh_package/part", "from .other import (  # far away\n    VALUE,\n)\n")
    write("fresh_package/other", "VALUE = 1\n")
    pool = make_pool(process_kind, 1)
    assert [(1, 1)] == pool.map(for_kind(process_kind, task), [0])

    write("fresh_late", "VALUE = 2\n")
    assert [(2, 1)] == pool.map(for_kind(process_kind, task), [0])
    write("fresh_package/other", "VALUE = 2\n")
    assert [(2, 2)] == pool.map(for_kind(process_kind, task), [0])

    names = ["fresh_late.py", f"fresh_package{os.sep}other.py"]
    assert [f"poolmagic: {name} has changed: new workers run it" for name in names] == lines()
    assert "fresh_late" not in sys.modules


def test_a_file_that_was_only_touched_is_no_change(
    process_kind: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """Its workers stay, whatever the file's date; and so they do when a change was taken back."""
    write_first(write)
    pool = make_pool(process_kind, 1)
    task = counting(process_kind)
    pool.map(task, [0])
    before = ours(pool)

    os.utime("fresh_main.py", ns=(1, 1))
    write("fresh_helper", "VALUE = 2\n")
    write("fresh_helper", "VALUE = 1\n")
    assert [(1, 1, 0)] == pool.map(task, [0])

    assert [] == lines()
    assert before == ours(pool)


def test_an_error_of_the_syntax_is_raised_once_by_the_map(
    process_kind: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """With its file and line; the workers stay, and run the module when it is repaired."""
    write_first(write)
    pool = make_pool(process_kind, 2)
    task = counting(process_kind)
    pool.map(task, range(8))
    before = ours(pool)

    write("fresh_main", "import fresh_helper\n\ndef count(x:\n    return x\n")
    for _ in range(2):
        with pytest.raises(SyntaxError) as caught:
            pool.map(task, range(8))
        assert ("fresh_main.py", 3) == (Path(caught.value.filename or "").name, caught.value.lineno)
        assert "fresh_main.py has changed" in caught.value.__notes__[0]
    assert [] == lines()
    assert before == ours(pool)
    assert [0] == pool.map(for_kind(process_kind, lambda x: x), [0])

    write("fresh_main", MAIN.format(2))
    assert [(2, 1, 0)] == pool.map(task, [0])
    assert ["poolmagic: fresh_main.py has changed: new workers run it"] == lines()


@pytest.mark.parametrize("some", ["prefork", "asyncio"])
def test_workers_that_go_from_pool_to_pool_are_fresh_too(
    some: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """What they have seen counts, not what their pool has; and after `restart` there is nothing to say."""
    write_first(write)
    task = counting(some)
    assert [(1, 1, 0)] == pm.Pool(some, 1).map(task, [0])

    write("fresh_helper", "VALUE = 2\n")
    pool = make_pool(some, 1)
    assert [(1, 2, 0)] == pool.map(task, [0])
    assert ["poolmagic: fresh_helper.py has changed: new workers run it"] == lines()

    write("fresh_helper", "VALUE = 3\n")
    pool.restart()
    assert [(1, 3, 0)] == pool.map(task, [0])
    assert [] == lines()


@pytest.mark.parametrize("some", ["prefork", "asyncio"])
def test_what_runs_goes_on_with_the_old_workers(
    some: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]], gate: Gate
) -> None:
    """Nothing is lost, and nobody waits."""
    write_first(write)
    pool = make_pool(some, 2)
    task = counting(some)
    pool.map(task, range(4))
    run = pool.start(gated(some, gate.port), range(2))
    gate.wait_for(2)

    write("fresh_main", MAIN.format(2))
    assert [(2, 1, 0)] == pool.map(task, [0])
    assert 1 == len(lines())
    gate.open()
    assert [0, 1] == run.result(30)
    assert ["0", "1"] == sorted(gate.arrived)


@pytest.mark.parametrize("some", ["prefork", "asyncio"])
def test_a_run_that_is_resumed_runs_the_repaired_module(
    some: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """Without being given its function again."""
    write("fresh_helper", "VALUE = 0\n")
    write("fresh_main", "import fresh_helper\ndef count(x):\n    return 1 // fresh_helper.VALUE, x\n")
    pool = make_pool(some, 1)
    run = pool.start(counting(some), range(3))
    with pytest.raises(ZeroDivisionError):
        run.result(30)

    write("fresh_helper", "VALUE = 1\n")
    assert [(1, 0), (1, 1), (1, 2)] == run.resume()
    assert ["poolmagic: fresh_helper.py has changed: new workers run it"] == lines()


@pytest.mark.parametrize("local", ["threads", "solo"])
def test_in_the_kernel_a_line_says_what_to_do_once_for_each_change(
    local: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """Its modules are the notebook's own, and nobody else may reload them."""
    write_first(write)
    pool = make_pool(local, None if local == "solo" else 2)
    task = counting(local)
    assert [(1, 1, 0)] == pool.map(task, [0])
    assert [] == lines()

    for value in (2, 3):
        write("fresh_helper", f"VALUE = {value}\n")
        for _ in range(2):
            assert [(1, 1, 0)] == pool.map(task, [0])
        [line] = lines()
        assert line.startswith(f"poolmagic: fresh_helper.py has changed; {local} run")
        assert line.endswith(" the version that this notebook has imported: importlib.reload(fresh_helper)")

    write("fresh_helper", "VALUE = 1\n")  # as it was
    pool.map(task, [0])
    assert [] == lines()
    write("fresh_helper", "VALUE = 4\n")
    importlib.reload(sys.modules["fresh_helper"])
    assert [(1, 4, 0)] == pool.map(task, [0])
    assert [] == lines()


@pytest.mark.parametrize("some", ["prefork", "asyncio"])
def test_a_file_that_is_gone_for_a_moment_harms_nobody(
    some: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """As when an editor replaces it."""
    write_first(write)
    pool = make_pool(some, 1)
    task = counting(some)
    pool.map(task, [0])

    Path("fresh_main.py").unlink()
    assert [(1, 1, 0)] == pool.map(task, [0])
    write("fresh_main", MAIN.format(5))
    assert [(5, 1, 0)] == pool.map(task, [0])
    assert 1 == len(lines())


@pytest.mark.parametrize("some", ["prefork", "asyncio"])
def test_a_module_that_the_function_does_not_use_may_change(
    some: str, make_pool: MakePool, write: Write, lines: Callable[[], list[str]]
) -> None:
    """Even for the worse."""
    write("fresh_helper", "VALUE = 1\n")
    imported("fresh_helper")
    pool = make_pool(some, 1)
    square = for_kind(some, lambda x: x * x)
    pool.map(square, [3])
    before = ours(pool)

    write("fresh_helper", "VALUE = (\n")
    assert [9] == pool.map(square, [3])
    wait_until(lambda: ours(pool) == before, "the workers are the same")
    assert [] == lines()


def test_functions_of_cells_are_always_the_latest(kind: str, make_pool: MakePool) -> None:
    """And so are those that they call."""
    pool = make_pool(kind)
    cell: dict[str, Any] = {"__name__": "__main__"}
    for version in range(3):
        run_cell(f"def helper(x): return {version}, x\ndef f(x): return helper(x)", cell)
        assert [(version, 0)] == pool.map(for_kind(kind, cell["f"]), [0])
        run_cell(f"def helper(x): return -{version}, x", cell)
        assert [(-version, 0)] == pool.map(for_kind(kind, cell["f"]), [0])
