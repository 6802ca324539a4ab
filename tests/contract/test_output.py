"""Whatever a task writes, in whatever way, is its run's output, and nobody else's: on every kind of worker process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from tests.conftest import MakePool, wait_until
from tests.tasks import Gate, for_kind, gated

WAYS: dict[str, Callable[[Any], object]] = {
    "print": lambda x: print("said", x),
    "print without a newline": lambda x: print("said", x, end=""),
    "print to stderr": lambda x: print("said", x, file=sys.stderr),
    "the first stdout": lambda x: print("said", x, file=sys.__stdout__),
    "os.write": lambda x: os.write(1, f"said {x}\n".encode()),
    "os.write to stderr": lambda x: os.write(2, f"said {x}".encode()),
    "a shell": lambda x: os.system(f"echo said {x}"),  # noqa: S605 - so people do
    "a shell that opens /dev/stderr": lambda x: subprocess.run(
        ["sh", "-c", f"echo said {x} > /dev/stderr"], check=True
    ),
    "a program": lambda x: subprocess.run([sys.executable, "-c", f"print('said', {x!r})"], check=True),
    "printf": lambda x: ctypes.CDLL(None).printf(b"said %d\n", ctypes.c_int(x)),
    "printf without a newline": lambda x: ctypes.CDLL(None).printf(b"said %d", ctypes.c_int(x)),
    "logging": lambda x: logging.getLogger("of a task").warning("said %s", x),
}


def _warn(x: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"said {x}", stacklevel=2)


def _say_in_fork(x: int) -> None:
    pid = os.fork()
    if pid == 0:
        print("said", x)
        os._exit(0)
    os.waitpid(pid, 0)


WAYS["warnings"] = _warn
WAYS["a forked process"] = _say_in_fork


def done_with(pool: pm.Pool, kind: str, f: Callable[[Any], Any], items: Any) -> pm.Run:
    """Run a task on each item; return the run, which has ended."""
    run = pool.start(for_kind(kind, f), items, progress=False)
    run.result(60)
    return run


@pytest.mark.parametrize("way", WAYS)
def test_whatever_an_item_writes_is_its_output(process_kind: str, way: str, make_pool: MakePool) -> None:
    """From Python, from C, from a program or a logger, with or without an end of the line."""
    run = done_with(make_pool(process_kind, 1), process_kind, WAYS[way], [17, 42])

    assert "said 17" in run.outputs[0]
    assert "said 42" in run.outputs[1]
    assert 2 == (run.outputs[0] + run.outputs[1]).count("said ")
    assert "" == run.outputs.rest


QUIET = """
import io, sys
real, sys.stdout, sys.stderr = sys.stderr, io.StringIO(), io.StringIO()
import poolmagic as pm
from tests.contract.test_output import WAYS
from tests.tasks import for_kind

pool = pm.Pool(sys.argv[1], 1)  # two shells that open /dev/stderr at once would cut each other's output
for way, say in WAYS.items():
    run = pool.start(for_kind(sys.argv[1], say), range(3))
    run.result(60)
    if 3 != "".join(map(run.outputs.__getitem__, (-1, 0, 1, 2))).count("said "):
        print(way, dict(run.outputs), file=real)
if any(pool.map(for_kind(sys.argv[1], lambda x: "IPython" in sys.modules), range(3))):
    print("IPython is loaded", file=real)
pool.close()
pool.join()
"""


def test_nothing_goes_to_the_log_of_the_server(process_kind: str) -> None:
    """Which is what the kernel's own descriptors are: they belong to nobody's cell. Nor does that take IPython."""
    done = subprocess.run(
        [sys.executable, "-c", QUIET, process_kind],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert ("", "") == (done.stdout, done.stderr)
    assert 0 == done.returncode


def test_short_items_that_write_beside_python_have_each_its_own(make_pool: MakePool) -> None:
    """Fifty of them, in a process that runs many without a look at what they write."""
    run = done_with(make_pool("prefork", 2), "prefork", lambda x: os.write(1, f"item {x}\n".encode()), range(50))

    assert {x: f"item {x}\n" for x in range(50)} == run.outputs


def test_the_order_is_kept(process_kind: str, make_pool: MakePool) -> None:
    """Of what Python and others write in turn."""

    def task(x: int) -> None:
        print("1")
        os.system("echo 2")  # noqa: S605
        print("3", file=sys.stderr)
        os.write(2, b"4\n")
        print("5")

    assert "1\n2\n3\n4\n5\n" == done_with(make_pool(process_kind, 1), process_kind, task, [0]).outputs[0]


def test_c_code_that_holds_the_interpreter_may_write_a_lot(process_kind: str, make_pool: MakePool) -> None:
    """Nobody could empty a pipe meanwhile."""

    def task(x: int) -> int:
        return int(ctypes.PyDLL(None).write(1, b"x" * 999_999 + b"\n", 1_000_000))

    run = done_with(make_pool(process_kind, 1), process_kind, task, [0])

    assert [1_000_000] == run.result()
    assert "x" * 999_999 + "\n" == run.outputs[0]


def test_a_long_task_is_heard_while_it_runs(process_kind: str, make_pool: MakePool, gate: Gate) -> None:
    """Also what it writes beside Python's streams."""
    wait = gated(process_kind, gate.port)

    def task(x: int) -> Any:
        os.write(1, b"half way\n")
        return wait(x)

    async def coroutine(x: int) -> Any:
        os.write(1, b"half way\n")
        return await wait(x)

    run = make_pool(process_kind, 1).start(coroutine if process_kind == "asyncio" else task, [0], progress=False)
    gate.wait_for(1)
    wait_until(lambda: run.outputs[0] == "half way\n", "the line is there")
    gate.open()
    assert [0] == run.result(30)


def test_the_last_words_of_a_worker_arrive(process_kind: str, make_pool: MakePool) -> None:
    """Although it had no time to send them."""

    def task(x: int) -> None:
        os.write(1, b"from C, at the end\n")
        os.kill(os.getpid(), signal.SIGSEGV)

    pool = make_pool(process_kind, 1)
    run = pool.start(for_kind(process_kind, task), [0], progress=False, crash_retries=0)
    with pytest.raises(pm.WorkerLostError) as caught:
        run.result(60)

    assert "from C, at the end\n" == run.outputs[0]
    assert "from C, at the end" in caught.value.printed


def test_what_may_be_of_several_tasks_is_nobodys(make_pool: MakePool, gate: Gate) -> None:
    """Green threads share the descriptors; it is in the output of the run."""
    wait = gated("gevent", gate.port)

    def task(x: int) -> Any:
        os.write(1, b"one of us\n")
        return wait(x)

    run = make_pool("gevent", 3).start(task, range(3), progress=False)
    gate.wait_for(3)
    gate.open()
    run.result(30)

    outputs = [*run.outputs.values(), run.outputs.rest]
    assert 3 == "".join(outputs).count("one of us\n")
    assert "one of us\n" in run.outputs.rest


def test_a_logger_made_while_a_module_is_imported_reaches_the_task(
    process_kind: str, make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that imports it for many workers, or in the worker itself."""
    lines = "import logging\nlogger = logging.getLogger(__name__)\nlogger.addHandler(logging.StreamHandler())\n"
    (tmp_path / "logs_early.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)

    def task(x: int) -> None:
        import logs_early  # type: ignore[import-not-found]

        logs_early.logger.warning("logged %d", x)

    run = done_with(make_pool(process_kind, 1, preload="logs_early"), process_kind, task, [7, 8])

    assert {0: "logged 7\n", 1: "logged 8\n"} == run.outputs


class Rich:
    """Has more than a text to show."""

    def _repr_html_(self) -> str:
        return "<b>rich</b>"


def test_display_shows_what_a_kernel_would_show(process_kind: str, make_pool: MakePool) -> None:
    """By the builtin, and by IPython's own function, whether it was imported here or there."""
    from IPython.display import HTML, display

    def task(x: int) -> None:
        import builtins

        import IPython.display as there
        import pandas as pd

        builtins.display(Rich())  # type: ignore[attr-defined]
        display(HTML("<i>here</i>"), pd.DataFrame({"a": [x]}))
        handle = there.display(1, display_id=True)
        there.clear_output()
        handle.update(2)
        there.publish_display_data({"text/x-own": "own"}, {"text/x-own": {"wide": True}})

    run = done_with(make_pool(process_kind, 1, preload=["pandas", "IPython"]), process_kind, task, [123])

    rich, here, frame, first, second, own = run.outputs.displays(0)
    assert "<b>rich</b>" == rich[0]["text/html"]
    assert "Rich" in rich[0]["text/plain"]
    assert "<i>here</i>" == here[0]["text/html"]
    assert "<td>123</td>" in frame[0]["text/html"]
    assert ["1", "2"] == [first[0]["text/plain"], second[0]["text/plain"]]
    assert ({"text/x-own": "own"}, {"text/x-own": {"wide": True}}) == own
    assert "" == run.outputs[0]


def test_an_image_is_shown_as_one(make_pool: MakePool) -> None:
    """Bytes travel as a kernel sends them."""
    from IPython.display import Image, display

    image = Image(data=b"\x89PNG\r\n\x1a\n and so on", format="png")
    run = done_with(make_pool("prefork", 1), "prefork", display, [image])

    [(data, _)] = run.outputs.displays(0)
    assert data["image/png"].startswith("iVBORw0KGgog")


def test_what_is_too_large_to_be_shown_is_refused_with_a_line(make_pool: MakePool) -> None:
    """The item goes on."""
    from IPython.display import HTML, display

    def task(size: int) -> int:
        display(HTML("x" * size))
        return size

    run = done_with(make_pool("prefork", 1), "prefork", task, [20_000_000])

    assert [20_000_000] == run.result()
    assert [] == run.outputs.displays(0)
    assert "a task displays 20 MB" in run.outputs[0]


def test_plots_are_drawn_without_a_screen(process_kind: str, make_pool: MakePool, monkeypatch: Any) -> None:
    """Unless the user has chosen something else."""
    monkeypatch.delenv("MPLBACKEND", raising=False)
    run = done_with(make_pool(process_kind, 1), process_kind, lambda x: os.environ.get("MPLBACKEND"), [0])

    assert ["Agg"] == run.result()


def test_what_a_module_prints_when_it_is_imported_belongs_to_the_run(
    process_kind: str, make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item that imports it has it."""
    (tmp_path / "prints_early.py").write_text("import os\nprint('hello')\nos.write(1, b'world\\n')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def task(x: int) -> None:
        __import__("prints_early")

    run = done_with(make_pool(process_kind, 1, preload=[]), process_kind, task, [7])

    assert {0: "hello\nworld\n"} == run.outputs
