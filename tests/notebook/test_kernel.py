"""The magics, errors and progress in a real kernel."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from tests.notebook.conftest import Kernel, Reply

pytestmark = pytest.mark.notebook

SLOW = """%%pool threads -c 4
import time
def nap(item):
    time.sleep(0.1)
    return item
pool.map(nap, range(60))[-1]
"""
"""A cell that takes longer than half a second, so that progress is shown."""


def opened_widgets(reply: Reply) -> set[str]:
    """The widgets that a cell made."""
    return {content["comm_id"] for content in reply.of("comm_open")}


def bar_values(reply: Reply) -> list[float]:
    """The lengths that the bar had, from 0 to 1."""
    states = [content["data"].get("state", {}) for content in reply.of("comm_msg")]
    bars = [re.search(r'aria-valuemax="(\d+)" aria-valuenow="(\d+)"', state.get("value", "")) for state in states]
    return [int(bar[2]) / int(bar[1]) for bar in bars if bar]


def test_a_cell_runs_on_the_pool_of_its_first_line(kernel: Kernel) -> None:
    """A function, a closure and a class of the notebook work on a gevent pool, for this cell only."""
    kernel.run("base = 10\ndef add(item):\n    return base + item")
    reply = kernel.run("%%pool gevent -c 20\npool.config.kind.name, pool.map(add, range(3))")
    assert reply.result == "('gevent', [10, 11, 12])"
    assert kernel.run("pool.config.kind.name").result == "'prefork'"


def test_the_same_line_again_finds_the_warm_pool(kernel: Kernel) -> None:
    """A second %%pool with equal settings runs in the same process."""
    cell = "%%pool gevent -c 20\nimport os\npool.map(lambda item: os.getpid(), [1])[0]"
    assert kernel.run(cell).result == kernel.run(cell.replace("gevent -c 20", "--pool=gevent --concurrency=20")).result


def test_an_error_names_the_line_of_the_cell(kernel: Kernel) -> None:
    """The traceback shows the function's own line in the cell, and a note names the item."""
    kernel.run("def invert(item):\n    top = 1\n    return top / (item - 36)")
    reply = kernel.run("%%pool prefork -c 2\n\npool.map(invert, range(100))")
    assert reply.status == "error"
    assert reply.error == "ZeroDivisionError"
    assert "Cell In[3], line 3" in reply.traceback
    assert "Cell In[2], line 3, in invert(" in reply.traceback
    assert "36" in reply.traceback.rpartition("ZeroDivisionError")[2]


def test_the_cell_itself_may_fail(kernel: Kernel) -> None:
    """An error in the cell has its own line, and the pool of the cell is left."""
    reply = kernel.run("%%pool gevent -c 20\n\n1 / 0")
    assert "Cell In[2], line 3" in reply.traceback
    assert kernel.run("pool.config.kind.name").result == "'prefork'"


@pytest.mark.parametrize("body", ["x = (1\n", "def f(:\n    pass", "  x = 1\n y = 2", "return 1"])
def test_a_syntax_error_looks_as_without_the_magic(kernel: Kernel, body: str) -> None:
    """A syntax error shows the same lines with %%pool and without, and nothing of IPython's inside."""
    plain = kernel.run(f"pass\n{body}")
    pooled = kernel.run(f"%%pool solo\n{body}")
    assert plain.error == pooled.error
    file_name = re.compile(r"\d+\.py")  # made of the text of the whole cell
    assert file_name.sub("", plain.text) == file_name.sub("", pooled.text)
    assert plain.traceback.count("\n") == pooled.traceback.count("\n")


def test_await_works_at_the_top_of_a_cell(kernel: Kernel) -> None:
    """A cell with %%pool may await."""
    reply = kernel.run("%%pool threads -c 2\nimport asyncio\nawait asyncio.sleep(0, pool.config.kind.name)")
    assert reply.result == "'threads'"
    assert kernel.run("pool.config.kind.name").result == "'prefork'"


def test_a_wrong_option_is_one_line(kernel: Kernel) -> None:
    """A bad option is an error reply without a traceback, which names the value and what is allowed."""
    reply = kernel.run("%%pool gevent -c many\nprint('never')")
    assert reply.status == "error"
    assert reply.error == "UsageError"
    assert reply.stream("stderr") == f"UsageError: {reply.text}\n"
    assert "'many'" in reply.text
    assert "whole number" in reply.text
    assert "\n" not in reply.text
    assert reply.traceback + reply.stream("stdout") == ""


def test_pmap_runs_the_cell_for_each_item(kernel: Kernel) -> None:
    """The body of %%pmap is the function; errors name its own lines."""
    kernel.run("factor = 3")
    assert kernel.run("%%pmap x in range(4) -> tripled\ny = x * factor\ny").status == "ok"
    assert kernel.run("tripled, 'y' in globals(), 'x' in globals()").result == "([0, 3, 6, 9], False, False)"
    reply = kernel.run("%%pmap -P threads -c 2 i, j in [(1, 1), (1, 0)]\ntop = i\n\ntop / j")
    assert reply.error == "ZeroDivisionError"
    assert "Cell In[5], line 4" in reply.traceback
    assert "----> 4 top / j" in reply.traceback


def test_pmap_with_await_runs_on_asyncio(kernel: Kernel) -> None:
    """An await in the body makes the task asynchronous."""
    reply = kernel.run("%%pmap x in range(3)\nimport asyncio\nawait asyncio.sleep(0.01)\nx + 1")
    assert reply.result == "[1, 2, 3]"


def test_stop_reaches_a_pmap_with_await(kernel: Kernel) -> None:
    """Interrupting the kernel ends a %%pmap whose body awaits, and does not wait for its tasks."""

    def interrupt(kind: str, content: dict[str, Any]) -> None:
        if kind == "stream" and "pmap" in content["text"]:  # the bar: the map is on its way
            kernel.manager.interrupt_kernel()

    cell = "%%pmap x in range(1000)\nimport asyncio\nawait asyncio.sleep(0.2)\nx"
    start = time.monotonic()
    reply = kernel.run(cell, on_message=interrupt)
    assert reply.error == "KeyboardInterrupt"
    assert time.monotonic() - start < 50


def test_completion_offers_kinds_and_options(kernel: Kernel) -> None:
    """Tab after %%pool offers kinds, and after a dash the options."""
    assert kernel.complete("%%pool ge") == ["gevent"]
    assert "--concurrency" in kernel.complete("%%pool gevent --")
    assert kernel.complete("%pool gr") == ["grow"]


def test_help_is_written_for_a_person(kernel: Kernel) -> None:
    """%pool? and %%pmap? print what to type."""
    client = kernel.client
    for line, word in [("%pool?", "%%pool gevent -c 200"), ("%%pmap?", "%%pmap url in urls -> pages")]:
        request = client.execute(line)
        payload: list[dict[str, Any]] = []
        while not payload:
            answer = client.get_shell_msg(timeout=60)
            if answer["parent_header"].get("msg_id") == request:
                payload = answer["content"]["payload"]
        assert word in payload[0]["data"]["text/plain"]


def test_a_notebook_sees_a_widget_that_ends_as_text(kernel: Kernel) -> None:
    """In a front end with widgets the bar moves, at most ten times a second, and leaves static HTML and no model."""
    stamps: list[float] = []

    def stamp(kind: str, content: dict[str, Any]) -> None:
        if kind == "comm_msg" and "value" in content["data"].get("state", {}):
            stamps.append(time.monotonic())

    reply = kernel.run(SLOW, front_end="lab", on_message=stamp)
    values = bar_values(reply)
    assert reply.result == "59"
    assert len(set(values)) >= 3
    assert values == sorted(values)
    assert len(values) <= 10 * (stamps[-1] - stamps[0]) + 2
    (shown,) = reply.of("display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    (update,) = reply.of("update_display_data")
    assert update["transient"]["display_id"] == shown["transient"]["display_id"]
    assert set(update["data"]) == {"text/plain", "text/html"}
    assert "60/60" in update["data"]["text/plain"]
    assert opened_widgets(reply) == {content["comm_id"] for content in reply.of("comm_close")}
    assert reply.stream("stderr") == ""


def test_a_failed_map_leaves_its_summary_too(kernel: Kernel) -> None:
    """After a failure the bar is replaced by a line that says so; a name with angles in it stays text."""
    cell = SLOW.replace("return item", "return 1 / (item - 50)").replace("map(nap", "map(lambda item: nap(item)")
    reply = kernel.run(cell, front_end="lab")
    assert reply.status == "error"
    (update,) = reply.of("update_display_data")
    assert "failed" in update["data"]["text/plain"]
    texts = [str(content["data"]) for content in (*reply.of("comm_open"), *reply.of("comm_msg"), update)]
    assert sum("&lt;lambda&gt;" in text for text in texts) >= 3
    assert not any("<lambda>" in text for text in texts[:-1])
    assert "<lambda>" not in update["data"]["text/html"]
    assert opened_widgets(reply) == {content["comm_id"] for content in reply.of("comm_close")}


def test_a_console_sees_text(kernel: Kernel) -> None:
    """A front end that cannot show widgets gets a line of text at stderr."""
    reply = kernel.run(SLOW)
    assert reply.of("comm_open") == []
    assert "60/60" in reply.stream("stderr")


def test_text_takes_the_place_of_missing_widgets(kernel: Kernel) -> None:
    """Without ipywidgets the bar is text, in a notebook too."""
    kernel.run("import sys; sys.modules['ipywidgets'] = None")
    reply = kernel.run(SLOW, front_end="lab")
    assert reply.result == "59"
    assert "60/60" in reply.stream("stderr")


@pytest.mark.parametrize(
    "cell",
    [
        SLOW.replace("-c 4", "-c 4 -q"),
        SLOW.replace("range(60)", "range(60), progress=False"),
        "import os; os.environ['POOLMAGIC_NONINTERACTIVE'] = '1'",
    ],
    ids=["-q", "progress=False", "POOLMAGIC_NONINTERACTIVE"],
)
def test_progress_can_be_turned_off(kernel: Kernel, cell: str) -> None:
    """-q, progress=False and the environment turn progress off."""
    reply = kernel.run(cell, front_end="lab")
    if reply.result is None:
        reply = kernel.run(SLOW, front_end="lab")
    assert reply.result == "59"
    assert {name for name, _ in reply.messages} == {"status", "execute_input", "execute_result"}


def test_quiet_ends_with_its_cell(kernel: Kernel) -> None:
    """-q is for one cell."""
    kernel.run("%%pool threads -q\n1 / 0")
    assert kernel.run(SLOW, front_end="lab").of("display_data") != []


def test_nobody_looks_on_in_nbclient() -> None:
    """A notebook that nbclient runs has results in it, and no progress."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("%load_ext poolmagic", SLOW)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = notebook.cells[1].outputs
    assert [output["output_type"] for output in outputs] == ["execute_result"]
    assert outputs[0]["data"]["text/plain"] == "59"


def test_reload_and_unload_leave_nothing(bare_kernel: Kernel) -> None:
    """After %unload_ext the shell is as it was, and the pools of the magics have ended."""
    look = (
        "import IPython; shell = IPython.get_ipython()\n"
        "print([len(x) for x in (shell.ast_transformers, shell.input_transformers_cleanup,"
        " shell.Completer.custom_matchers, *shell.events.callbacks.values())], 'pool' in globals(),"
        " sorted(name for kind in shell.magics_manager.magics.values() for name in kind if 'p' + 'ool' in name"
        " or 'pma' + 'p' in name))"
    )
    kernel = bare_kernel
    before = kernel.run(look).stream("stdout")
    assert "False []" in before
    kernel.run("%load_ext poolmagic")
    assert kernel.run(look).stream("stdout") != before
    assert kernel.run("%reload_ext poolmagic").stream("stderr") == ""
    assert kernel.run("%%pool gevent -c 20\npool.map(abs, [-1])").result == "[1]"
    kernel.run("%unload_ext poolmagic")
    assert kernel.run(look).stream("stdout") == before
    assert kernel.run("%%pool solo\n1").error == "UsageError"
    assert kernel.run("import poolmagic; poolmagic.pools.live_pools()").result == "[]"


def test_stop_ends_the_processes(kernel: Kernel) -> None:
    """%pool stop ends the workers of all pools."""
    cell = "%%pool gevent -c 20\nimport os\npool.map(lambda item: os.getpid(), [1])[0]"
    worker = psutil.Process(int(kernel.run(cell).result or 0))
    assert "gevent" in kernel.run("%pool stop").stream("stdout")
    worker.wait(timeout=60)
    assert kernel.run("%pool").result == "no pool is alive; the first map starts one"


def test_an_interrupt_leaves_the_pool_of_the_cell(kernel: Kernel) -> None:
    """Stop ends a slow cell, its bar becomes a summary, and the next cell is back on the usual pool."""
    interrupted: list[None] = []

    def interrupt(kind: str, _: dict[str, Any]) -> None:
        if kind == "comm_msg" and not interrupted:
            interrupted.append(kernel.manager.interrupt_kernel())

    reply = kernel.run(SLOW.replace("range(60)", "range(6000)"), front_end="lab", on_message=interrupt)
    assert reply.error == "KeyboardInterrupt"
    assert "/6,000" in reply.of("update_display_data")[0]["data"]["text/plain"]
    assert opened_widgets(reply) == {content["comm_id"] for content in reply.of("comm_close")}
    assert kernel.run("pool.config.kind.name").result == "'prefork'"
