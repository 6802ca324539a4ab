"""The magics in an IPython shell, and in a terminal."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import IPython.core.error
import pexpect
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import poolmagic as pm
from poolmagic import pools
from poolmagic.config import PoolConfig
from poolmagic.errors import UsageError
from poolmagic.magics.arguments import OPTIONS, PoolLine, parse_pmap_line, parse_pool_line, spellings
from poolmagic.magics.cells import CellRewriter, transform_first_line
from poolmagic.magics.completion import complete
from poolmagic.magics.verbs import VERBS, find_verb, read_change, read_name, read_run
from tests.conftest import wait_until
from tests.tasks import Gate, gated


@pytest.fixture
def bare_shell() -> Iterator[Any]:
    """A fresh IPython shell without a history on disk; untyped, as its parts are."""
    config = Config()
    config.HistoryManager.enabled = False
    shell: Any = InteractiveShell.instance(config=config, colors="nocolor")
    yield shell
    shell.extension_manager.unload_extension("poolmagic")
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(bare_shell: Any) -> Any:
    """A fresh IPython shell with the extension loaded."""
    bare_shell.extension_manager.load_extension("poolmagic")
    return bare_shell


def run(shell: Any, cell: str) -> Any:
    """Run a cell and return its value; raises what it raises."""
    with capture_output():
        result = shell.run_cell(cell, store_history=True)
    result.raise_error()
    return result.result


def refusal(shell: Any, cell: str) -> str:
    """Run a cell that is refused, and return the line that says why."""
    with capture_output() as shown:
        result = shell.run_cell(cell, store_history=True)
    error = result.error_in_exec
    assert type(error) is IPython.core.error.UsageError
    assert shown.stderr == f"UsageError: {error}\n"
    assert "\n" not in str(error)
    return str(error)


# The first line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "gevent -c 200",
        "-c 200 gevent",
        "--pool=gevent --concurrency=200",
        "--pool gevent --concurrency 200",
        "-P gevent -c200",
    ],
)
def test_every_spelling_of_celery_means_the_same(line: str) -> None:
    """The kind and the concurrency may be given in all of Celery's ways, in any order."""
    assert parse_pool_line(line) == PoolLine(kind="gevent", concurrency=200)


def test_all_options_of_a_cell() -> None:
    """Each option has a short and a long form; quotes hold a name together."""
    short = parse_pool_line("asyncio -c 8 -w 2 -n 'my pool' -q -o rows")
    assert short == PoolLine("asyncio", 8, {"workers": 2}, "my pool", quiet=True, out="rows")
    assert short == parse_pool_line("asyncio --concurrency 8 --workers 2 --name='my pool' --quiet --out rows")


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("--preload numpy", ("numpy",)),
        ("--preload=numpy,pandas", ("numpy", "pandas")),
        ("--preload 'numpy, pandas'", ("numpy", "pandas")),
        ("--preload=", ()),
        ("--preload ''", ()),
    ],
)
def test_modules_are_named_with_commas(line: str, modules: tuple[str, ...]) -> None:
    """Nothing means none."""
    options = parse_pool_line(line)
    assert options.settings["preload"] == modules == options.config()[0].preload


def test_inner_threads_is_a_number() -> None:
    """As every count."""
    config, _ = parse_pool_line("prefork -c 2 --inner-threads 3").config()
    assert config == PoolConfig.make("prefork", 2, inner_threads=3)
    assert parse_pmap_line("--inner-threads 3 x in xs").options.settings == {"inner_threads": 3}


def test_limits_are_spelled_as_for_a_celery_worker() -> None:
    """Those of the pool, and those of its runs."""
    line = "--max-tasks-per-child 100 --max-memory-per-child 2GB --memory-limit 8GB --idle-timeout 5"
    config, _ = parse_pool_line(f"prefork --autoscale 8,2 {line}").config()
    assert (config.concurrency, config.least, config.max_tasks_per_child) == (8, 2, 100)
    assert (config.max_memory_per_child, config.memory_limit, config.idle_timeout) == (2 << 30, 8 << 30, 5.0)
    line = "--time-limit 5 --soft-time-limit 2.5 --retries 2 --crash-retries 0 --rate-limit 120/m --seed 0 --no-prefix"
    _, options = parse_pool_line(f"gevent -c 4 {line}").config()
    assert (options.time_limit, options.soft_time_limit, options.rate_limit) == (5.0, 2.5, 2.0)
    assert (options.retries, options.crash_retries) == (2, 0)
    assert (options.seed, options.prefix) == (0, False)
    assert parse_pool_line("gevent -c 4").config()[1].prefix is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prefork --inner-threads 0", ["'0'", "at least 1"]),
        ("threads --inner-threads 2", ["inner_threads=2", "kernel"]),
        ("solo --preload json", ["preload=", "kernel"]),
        ("--preload a-b", ["'a-b'", "not the name of a module"]),
        ("threads --max-tasks-per-child 3", ["max_tasks_per_child=3", "kernel"]),
        ("prefork --autoscale 2,8", ["autoscale='2,8'", "the most and the fewest"]),
        ("prefork -c 2 --autoscale 8,2", ["autoscale='8,2'", "concurrency=2"]),
        ("prefork --time-limit soon", ["'soon'", "seconds"]),
        ("prefork --rate-limit 5/d", ["rate_limit='5/d'", "100/m"]),
        ("prefork --memory-limit much", ["memory_limit='much'", "2GB"]),
        ("gevnt", ["'gevnt'", "gevent", "prefork"]),
        ("gevent -c many", ["'many'", "whole number"]),
        ("gevent -c 0", ["'0'", "at least 1"]),
        ("gevent --concurency 3", ["'--concurency'", "--concurrency"]),
        ("gevent prefork", ["'prefork'"]),
        ("gevent -P prefork", ["'gevent'", "'prefork'"]),
        ("prefork -w 2", ["workers=2"]),
        ("gevent -o 2x", ["'2x'", "variable"]),
        ("gevent -n 'x", ["quotation"]),
        ("solo -c 4", ["concurrency=4", "solo"]),
        ("gevent -c", ["-c/--concurrency"]),
    ],
)
def test_a_wrong_line_is_refused_with_what_is_allowed(line: str, words: list[str]) -> None:
    """A bad option is a one-line error that names the value and what is allowed."""
    with pytest.raises(UsageError) as caught:
        parse_pool_line(line)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("option", ["-o rows", "--out rows", "-b", "--background"])
def test_the_line_magic_runs_no_cell(option: str) -> None:
    """What is for cells, %pool refuses, and says where to write it."""
    with pytest.raises(UsageError, match=f"^{option.split(maxsplit=1)[0]} is for one cell.*%%pool"):
        parse_pool_line(f"gevent {option}", "%pool")
    assert parse_pool_line("gevent -b -o rows") == PoolLine("gevent", out="rows", background=True)


def test_a_line_is_a_verb_or_describes_a_pool() -> None:
    """The first word decides; quotes hold a name together."""
    assert find_verb("stop 'my web'") == (VERBS["stop"].act, ["my web"])
    assert find_verb("gevent -c 2") is None
    assert find_verb("") is None


@pytest.mark.parametrize(
    ("words", "change"),
    [([], (1, None)), (["3"], (3, None)), (["2", "web"], (2, "web")), (["web"], (1, "web"))],
)
def test_grow_and_shrink_take_a_number_and_a_name(words: list[str], change: tuple[int, str | None]) -> None:
    """Both may be left out."""
    assert read_change("grow", words) == change
    assert read_change("shrink", words) == change


@pytest.mark.parametrize("line", ["grow 0", "grow -1", "grow 1.5", "grow 1 2 3", "grow web 3"])
def test_a_wrong_change_is_refused(line: str) -> None:
    """A number that makes no sense or a word too many is an error of one line."""
    verb, *words = line.split()
    with pytest.raises(UsageError) as caught:
        read_change(verb, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "text"), [([], "shows the numbers"), (["many"], "'many'"), (["0"], "'0'"), (["1", "2"], "'2'")]
)
def test_a_wrong_number_of_a_run_is_refused(words: list[str], text: str) -> None:
    """In one line."""
    with pytest.raises(UsageError, match=text) as caught:
        read_run("cancel", words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["a", "b"], ["--all"]])
def test_a_wrong_name_is_refused(words: list[str]) -> None:
    """The refusal says what the verb takes."""
    with pytest.raises(UsageError, match=r"%pool stop \[NAME\]"):
        read_name("stop", words)


@pytest.mark.parametrize(
    ("line", "target", "items", "out"),
    [
        ("url in urls -> pages", "url", "urls", "pages"),
        ("url in urls", "url", "urls", None),
        ("i, row in df.iterrows() -> rows", "(i, row)", "df.iterrows()", "rows"),
        ("(a, (b, *c)) in x -> y", "(a, (b, *c))", "x", "y"),
        ("x in ['a -> b', 'c'] -> y", "x", "['a -> b', 'c']", "y"),
        ("x in ['a -> b']", "x", "['a -> b']", None),
        ("x in a if b else c -> y", "x", "a if b else c", "y"),
        ("-o y x in 1, 2", "x", "(1, 2)", "y"),
        ('x in open("a -c 3").read().split("in") -> y', "x", "open('a -c 3').read().split('in')", "y"),
    ],
)
def test_the_header_of_pmap(line: str, target: str, items: str, out: str | None) -> None:
    """The header reads like a for statement, and may end with the name of the results."""
    header = parse_pmap_line(line)
    assert (ast.unparse(header.target), ast.unparse(header.items)) == (target, items)
    assert header.options == PoolLine(out=out)


@pytest.mark.parametrize(
    "options", ["-P gevent -c 200", "-Pgevent -c200", "--pool=gevent --concurrency=200", "--pool gevent -c 200"]
)
def test_pmap_takes_the_options_of_pool(options: str) -> None:
    """Options stand before the header, in all spellings."""
    header = parse_pmap_line(f"{options} -q -n 'a b' url in urls -> pages")
    assert header.options == PoolLine("gevent", 200, name="a b", quiet=True, out="pages")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "url of urls -> pages",
        "urls -> pages",
        "url in -> pages",
        "url in urls -> my pages",
        "url in urls -> class",
        "url in urls ->",
        "x.y in urls",
        "x[0] in urls",
        "x in y: z",
        "x in y:\n z\nif z",
        "-o a x in y -> b",
        "-P gevnt x in y",
        "gevent x in y",
        "-c x in y",
    ],
)
def test_a_wrong_header_is_refused(line: str) -> None:
    """A header that is no header is an error of one line."""
    with pytest.raises(UsageError) as caught:
        parse_pmap_line(line)
    assert "\n" not in str(caught.value)


def test_only_line_one_is_replaced() -> None:
    """The transformer leaves everything but a first line with one of the magics as it is."""
    lines = ["%%pool gevent\n", "%%pool gevent\n", "x\n"]
    assert transform_first_line(lines)[1:] == lines[1:]
    for line in ("%%pool?\n", "%%pool??\n", "%%pools\n", "%pool gevent\n", "%%time\n", "x\n"):
        assert transform_first_line([line]) == [line]
    assert transform_first_line([]) == []


def test_the_rewriter_leaves_other_cells_alone() -> None:
    """A cell that is not ours comes out of the AST transformer as it went in."""
    for source in ("", "x", "return f(x)", "get_ipython().run_line_magic('time', 'x')\nx", "_pool(1)"):
        tree = ast.parse(source)
        before = ast.dump(tree, include_attributes=True)
        assert ast.dump(CellRewriter().visit(tree), include_attributes=True) == before


def test_a_pmap_body_keeps_its_positions() -> None:
    """All that the user wrote has the line and column in the function that it has in the cell."""
    body = "with open(x) as f:\n    if f:\n        f.read(1)\n    else:\n        x + 1\n"
    (line,) = transform_first_line(["%%pmap x in xs -> ys\n"])
    tree = CellRewriter().visit(ast.parse(line + body))
    assert ast.unparse(tree).splitlines()[0] == "def _pmap(x):"
    places = {
        (ast.unparse(node), node.lineno, node.col_offset) for node in ast.walk(tree) if isinstance(node, ast.expr)
    }
    for node in ast.walk(ast.parse("\n" + body)):
        if isinstance(node, ast.expr):
            assert (ast.unparse(node), node.lineno, node.col_offset) in places
    compile(ast.fix_missing_locations(tree), "cell", "exec")


# Cells ---------------------------------------------------------------------------------------------------------------


def test_a_cell_has_its_pool_and_the_next_has_not(shell: Any) -> None:
    """%%pool is for one cell, also if the cell fails."""
    usual = run(shell, "pool.name")
    assert run(shell, "%%pool threads -c 3\npool.config.kind.name, pool.config.concurrency") == ("threads", 3)
    assert run(shell, "pool.name") == usual
    with pytest.raises(ZeroDivisionError):
        run(shell, "%%pool threads -c 3\n1 / 0")
    assert run(shell, "pool.name") == usual


def test_equal_lines_mean_one_pool(shell: Any) -> None:
    """The same settings in another spelling find the same pool; other settings and names find others."""
    one = run(shell, "%%pool threads -c 3\npool.name")
    assert run(shell, "%%pool --pool=thread --concurrency=3\npool.name") == one
    assert run(shell, "%%pool threads -c 4\npool.name") != one
    assert run(shell, "%%pool threads -c 3 -n mine\npool.name") == "mine"
    assert run(shell, "%%pool -n mine\npool.config.concurrency") == 3
    assert run(shell, "%%pool threads -c 5 -n mine\npool.config.concurrency") == 5


def test_a_pool_has_the_settings_of_its_line(shell: Any) -> None:
    """All of them; another number of inner threads is another pool."""
    settings = "(pool.config.inner_threads, pool.config.preload)"
    assert run(shell, f"%%pool gevent -c 3 --inner-threads 2 --preload json\n{settings}") == (2, ("json",))
    assert run(shell, f"%%pool gevent -c 3 -w 1\n{settings}") == (None, None)


def test_a_closed_pool_is_not_found_again(shell: Any) -> None:
    """After a pool was closed the same line makes a new one."""
    one = run(shell, "%%pool threads -c 3\npool.close()\npool.name")
    assert run(shell, "%%pool threads -c 3\npool.map(abs, [-1]), pool.name")[0] == [1]
    assert run(shell, "%%pool threads -c 3\npool.name") != one


def test_the_value_of_a_cell_is_kept(shell: Any) -> None:
    """-o keeps the last value, and the cell shows it, unless a semicolon says no."""
    assert run(shell, "%%pool solo -o rows\npool.map(abs, [-1, -2])") == [1, 2]
    assert run(shell, "rows") == [1, 2]
    assert run(shell, "%%pool solo -o rows\npool.map(abs, [-3]);") is None
    assert run(shell, "rows") == [3]
    assert refusal(shell, "%%pool solo -o rows\nx = 1\ny = 2").startswith("-o rows")
    assert "x" not in shell.user_ns


def test_nested_cells_keep_their_pools(shell: Any) -> None:
    """A cell that runs a cell with a pool of its own comes back to its own pool."""
    inner = "get_ipython().run_cell('%%pool threads -c 2\\nseen = pool.config.concurrency')"
    run(shell, f"%%pool threads -c 3\n{inner}\nafter = pool.config.concurrency")
    assert (shell.user_ns["seen"], shell.user_ns["after"]) == (2, 3)
    assert run(shell, "%%capture\n%%pool threads -c 4\nseen = pool.config.concurrency") is None
    assert run(shell, "seen") == 4


def test_time_on_top(shell: Any) -> None:
    """%%time may stand above %%pool and %%pmap."""
    assert run(shell, "%%time\n%%pool threads -c 2\nx = 1\npool.config.kind.name") == "threads"
    assert run(shell, "%%time\n%%pmap -P threads x in [1, 2] -> ys\ny = x\ny + 1") is None
    assert run(shell, "ys") == [2, 3]


def test_called_from_code(shell: Any) -> None:
    """run_cell_magic returns the last value and raises what the cell raises, once."""
    assert shell.run_cell_magic("pool", "threads -c 2", "x = 1\npool.config.kind.name") == "threads"
    assert shell.run_cell_magic("pmap", "-P solo x in [1, 2]", "x + 1") == [2, 3]
    assert shell.run_cell_magic("pmap", "-P solo x in [1, 2] -> zs", "x + 2") is None
    assert shell.user_ns["zs"] == [3, 4]
    with pytest.raises(ZeroDivisionError) as caught:
        shell.run_cell_magic("pool", "solo", "\n1 / 0")
    last = caught.value.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    assert last is not None
    assert last.tb_lineno == 3  # the line of the magic counts, as in a cell


def test_await_in_a_cell(shell: Any) -> None:
    """Top-level await works, and the pool is left after it."""
    cell = "%%pool threads -c 2\nimport asyncio\nawait asyncio.sleep(0, pool.config.kind.name)"
    assert run(shell, cell) == "threads"
    assert run(shell, "pool.config.kind.name") == "prefork"


def test_pmap_is_a_function(shell: Any) -> None:
    """The body sees the notebook's names and keeps its own to itself; return works."""
    run(shell, "factor = 3\ndef times(x):\n    return x * factor")
    body = "if x == 2:\n    return 'two'\ny = times(x)\ny"
    assert run(shell, f"%%pmap -P threads -c 2 x in range(4) -> found\n{body}") is None
    assert run(shell, "found") == [0, 3, "two", 9]
    assert not {"x", "y", "_pmap"} & set(shell.user_ns)


def test_pmap_without_a_name_shows_the_results(shell: Any) -> None:
    """Without an arrow the list is the cell's value, and a semicolon hides it."""
    assert run(shell, "%%pmap -P solo x in 'ab'\nx.upper()") == ["A", "B"]
    assert run(shell, "%%pmap -P solo x in 'ab'\nx.upper();") is None


def test_pmap_may_give_its_results_the_name_of_its_items(shell: Any) -> None:
    """The items are read before the results take their name."""
    run(shell, "numbers = [1, 2]")
    run(shell, "%%pmap -P solo n in numbers -> numbers\nn + 1")
    assert shell.user_ns["numbers"] == [2, 3]


def test_pmap_unpacks(shell: Any) -> None:
    """Several variables take an item apart, rows of a frame for example."""
    run(shell, "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': [3, 4]})")
    run(shell, "%%pmap -P threads i, row in df.iterrows() -> rows\nint(i + row.a * row.b)")
    assert shell.user_ns["rows"] == [3, 9]


@pytest.mark.parametrize(
    ("body", "results"),
    [
        ("with memoryview(b'ab') as view:\n    view[x]", [97, 98]),
        ("if x:\n    'yes'\nelse:\n    'no'", ["no", "yes"]),
        ("try:\n    1 // x\nexcept ZeroDivisionError:\n    None", [None, 1]),
        ("y = x", [None, None]),
        ("for _ in 'a':\n    x", [None, None]),
        ("def f():\n    return x\nf()", [0, 1]),
        ("[x + i for i in (1, 2)]", [[1, 2], [2, 3]]),
        ("'''Text, not a docstring'''", ["Text, not a docstring"] * 2),
    ],
)
def test_the_last_expression_of_pmap(shell: Any, body: str, results: list[Any]) -> None:
    """The last expression is the value, inside a last with, if or try too; other last statements have none."""
    assert run(shell, f"%%pmap -P solo x in range(2)\n{body}") == results


def test_pmap_with_await(shell: Any) -> None:
    """An await in the body makes an asynchronous task, which the current pool or an asyncio pool runs."""
    body = "import asyncio\nawait asyncio.sleep(0)\nx + 1"
    assert run(shell, f"%%pmap -P solo x in [1, 2]\n{body}") == [2, 3]
    assert run(shell, f"%%pmap x in [1, 2]\n{body}") == [2, 3]
    assert run(shell, "%%pmap -P solo x in [1]\nasync def f():\n    await g()\nx") == [1]
    assert "asyncio" in refusal(shell, f"%%pmap -P threads x in [1, 2]\n{body}")


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("%%pmap x of xs -> ys\nx", "x of xs"),
        ("%%pmap x in xs", "no body"),
        ("%%pmap x in xs\n# nothing", "no body"),
        ("%%pmap x in [1]\nyield x", "yield"),
        ("%%pmap -P gevnt x in [1]\nx", "gevnt"),
        ("%pool grow 1 nobody", "nobody"),
        ("%pool frobnicate", "frobnicate"),
    ],
)
def test_what_cannot_work_is_one_line(shell: Any, cell: str, word: str) -> None:
    """A refusal names what is wrong, and nothing of the cell runs."""
    assert word in refusal(shell, cell)


def test_errors_show_the_lines_of_the_pmap_cell(shell: Any) -> None:
    """The traceback of a %%pmap cell names the line of the body, and for bad items the first line."""
    with capture_output() as shown:
        shell.run_cell("%%pmap -P solo x in [1, 0] -> ys\n\ny = 1\ny / x", store_history=True)
    assert "----> 4 y / x" in shown.stdout
    with capture_output() as shown:
        shell.run_cell("%%pmap -P solo x in nothing -> ys\nx", store_history=True)
    assert "line 1" in shown.stdout
    assert "NameError" in shown.stdout


def test_a_syntax_error_in_pmap_is_clean(shell: Any) -> None:
    """A syntax error in the body has the cell's own line, and the transformers stay in place."""
    for body in ("x = (1", "break", "nonlocal x", "global x"):
        with capture_output() as shown:
            result = shell.run_cell(f"%%pmap x in [1]\n\n{body}", store_history=True)
        assert isinstance(result.error_before_exec, SyntaxError)
        assert result.error_before_exec.lineno == 3
        assert "poolmagic" not in shown.stdout
    assert run(shell, "%%pmap -P solo x in [1]\nx") == [1]


# Cells in the background ---------------------------------------------------------------------------------------------


def ended(shell: Any) -> list[str]:
    """Wait until all background cells are over; return the lines that were shown meanwhile."""
    with capture_output() as shown:
        shell.run_cell("%pool wait", store_history=True)
    return [*shown.stdout.splitlines(), *shown.stderr.splitlines()]


def test_a_handle_stands_in_for_the_value(shell: Any, gate: Gate) -> None:
    """Until the cell is over it says how it is doing, and refuses to be used; then there is the value."""
    shell.user_ns["task"] = gated("threads", gate.port)
    run(shell, "%%pool threads -c 2 -b -o names\npool.map(lambda item: item if item < 3 else task(item), range(4))")
    gate.wait_for(1)
    handle = shell.user_ns["names"]
    wait_until(lambda: "3/4" in repr(handle), "three of four are done")
    assert re.fullmatch(r"<names: running since [0-9.]+ s, 3/4; %pool wait \d+>", repr(handle))
    for use in ("len(names)", "list(names)", "names[0]", "names + names", "'a' in names", "if names: pass", "names()"):
        assert re.fullmatch(r"names is not there: running since .*; %pool wait \d+", refusal(shell, use))
    with pytest.raises(AttributeError, match="names is not there: running since"):
        _ = handle.shape
    assert not hasattr(handle, "_repr_html_")
    gate.open()
    assert handle.result(30) == [0, 1, 2, "3"] or handle.result() == [0, 1, 2, 3]
    ended(shell)
    assert run(shell, "names") == handle.result()
    assert handle.done()


def test_a_variable_that_was_set_again_stays(shell: Any, gate: Gate) -> None:
    """What the user put there meanwhile is newer than what the cell computes."""
    shell.user_ns["task"] = gated("threads", gate.port)
    run(shell, "%%pool threads -b -o found\ntask('a')")
    gate.wait_for(1)
    run(shell, "found = 'mine'")
    gate.open()
    ended(shell)
    assert run(shell, "found") == "mine"


def test_a_background_cell_shows_what_a_cell_shows(shell: Any) -> None:
    """Its last expression, unless it is None or ends with a semicolon, and one line about itself, unless with -q."""
    for body, options, shows in [
        ("x = 1\nx + 1", "-q", [r"Out\[\d+\]: 2"]),
        ("x = 1\nx + 1;", "-q", []),
        ("x = 1", "-q", []),
        ("None", "-q", []),
        ("'a\\n' * 2", "", [r"in the background: %pool wait (\d+) .* %pool cancel \1 cancels it", r"Out\[\d+\]: 'a.*"]),
    ]:
        with capture_output() as shown:
            shell.run_cell(f"%%pool solo -b {options}\n{body}", store_history=True)
            pm.list_runs()[-1].wait(30)
        lines = shown.stdout.splitlines()
        assert len(lines) == len(shows)
        assert all(re.fullmatch(pattern, line) for pattern, line in zip(shows, lines, strict=True))


def test_an_error_of_a_background_cell_is_shown_and_kept(shell: Any) -> None:
    """Its traceback has the cell's own lines and none of ours; waiting raises the error, and so does the handle."""
    with capture_output() as shown:
        shell.run_cell("%%pool solo -b -o ratio\n\ntop = 1\ntop / 0", store_history=True)
        shell.user_ns["ratio"]._work.wait(30)
    assert "----> 4 top / 0" in shown.stdout
    assert "poolmagic/" not in shown.stdout
    assert run(shell, "top") == 1
    text = repr(shell.user_ns["ratio"])
    assert "failed after" in text
    assert "ZeroDivisionError: division by zero; ratio.result() raises it" in text
    assert "ZeroDivisionError" in refusal(shell, "len(ratio)")
    with pytest.raises(ZeroDivisionError):
        run(shell, "ratio.result()")
    with pytest.raises(ZeroDivisionError):
        run(shell, f"%pool wait {shell.user_ns['ratio']._work.id}")


def test_a_wrong_use_in_the_background_is_one_line(shell: Any) -> None:
    """As in any cell."""
    with capture_output() as shown:
        shell.run_cell("%%pool solo -b -q\n%pool grow 0", store_history=True)
        with pytest.raises(IPython.core.error.UsageError):
            run(shell, f"%pool wait {pm.list_runs()[-1].number}")
    assert shown.stderr.splitlines()[0] == "UsageError: grow '0': use a whole number of at least 1"


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("%%pool threads -b", "no body"),
        ("%%pool threads -b -o x\ny = 1", "not an expression"),
        ("%%pool threads -b\nawait f()", "await"),
        ("%%pool threads -b\n[x async for x in y]", "await"),
        ("%%pmap -b x in xs\n# nothing", "no body"),
        ("%pool wait 999999", "999999"),
        ("%pool cancel 999999", "999999"),
        ("%pool runs all", "'all'"),
        ("%pool threads -b", "%%pool"),
    ],
)
def test_what_cannot_run_in_the_background_is_one_line(shell: Any, cell: str, word: str) -> None:
    """And nothing of it runs."""
    assert word in refusal(shell, cell)


def test_a_background_cell_may_await_inside_of_its_functions(shell: Any) -> None:
    """It is only at the top that there is no loop."""
    run(shell, "%%pool solo -b -o got\nimport asyncio\nasync def f():\n    return 5\nasyncio.run(f())")
    ended(shell)
    assert run(shell, "got") == 5


def test_time_on_top_of_a_background_cell(shell: Any) -> None:
    """It measures how long the start takes."""
    run(shell, "%%time\n%%pool solo -b -o got\n5 + 1")
    ended(shell)
    assert run(shell, "got") == 6


def test_a_background_cell_called_from_code(shell: Any) -> None:
    """It returns at once, as from a cell."""
    assert shell.run_cell_magic("pool", "solo -b -o got", "2 * 3") is None
    ended(shell)
    assert run(shell, "got") == 6


def test_cells_inside_of_a_background_cell_have_its_pool(shell: Any) -> None:
    """Until they choose one, which they leave again."""
    inner = "get_ipython().run_cell_magic('pool', 'threads -c 2', 'seen = pool.config.concurrency')"
    run(shell, f"%%pool threads -c 3 -b -o after\n{inner}\npool.config.concurrency")
    ended(shell)
    assert (shell.user_ns["seen"], shell.user_ns["after"]) == (2, 3)


def test_the_table_of_runs(shell: Any) -> None:
    """It shows background cells and runs by number, as text and as HTML, with the user's text escaped."""
    run(shell, "%%pool threads -c 2 -b -o firsts -n '<mine>'\npool.map(lambda x: x, range(1200))")
    ended(shell)
    table = run(shell, "%pool runs")
    head, *_, cell, inner = repr(table).splitlines()
    assert head.split() == ["number", "name", "what", "pool", "state", "done", "failed", "time"]
    number = pm.list_runs()[-2].number
    assert cell.split()[:7] == [str(number), "firsts", "cell", "<mine>", "done", "1,200/1,200", "0"]
    assert inner.split()[:8] == [str(number + 1), "<lambda>", "run", "of", str(number), "<mine>", "done", "1,200/1,200"]
    assert "<lambda>" not in table._repr_html_()
    assert "&lt;lambda&gt;" in table._repr_html_()
    assert "<mine>" not in table._repr_html_()


def test_waiting_and_cancelling_by_number(shell: Any, gate: Gate) -> None:
    """Of runs and of background cells; what was cancelled is no error, and cancelling what is over changes nothing."""
    shell.user_ns["task"] = gated("prefork", gate.port)
    run(shell, "%%pool prefork -c 2 -b\npool.map(task, ['a', 'b'])")
    gate.wait_for(2)
    cell = pm.list_runs()[-2]
    assert complete("%pool", "cancel ", list) == [str(cell.number), str(cell.number + 1)]
    with capture_output() as shown:
        shell.run_cell(f"%pool cancel {cell.number}")
    assert shown.stdout == f"{cell.number} ({cell.name}) is cancelled; its other code goes on to its end\n"
    with capture_output() as shown:
        shell.run_cell(f"%pool wait {cell.number}\n%pool cancel {cell.number}")
    assert shown.stdout.splitlines() == [
        f"{cell.number} ({cell.name}): cancelled",
        f"{cell.number} ({cell.name}) is over: cancelled",
    ]


# %pool ---------------------------------------------------------------------------------------------------------------


def test_the_session_pool(shell: Any) -> None:
    """%pool chooses the pool of all later cells, until it is stopped."""
    with capture_output() as shown:
        shell.run_cell("%pool threads -c 3 -n mine")
    assert shown.stdout == "mine (threads -c 3) is the pool of all later cells\n"
    assert run(shell, "pool.name") == "mine"
    assert run(shell, "%%pool threads -c 2\npool.config.concurrency") == 2
    assert run(shell, "pool.map(abs, [-1]), pool.name") == ([1], "mine")
    run(shell, "%pool grow 2")
    assert run(shell, "pool.config.concurrency") == 5
    run(shell, "%pool shrink 1 mine")
    assert run(shell, "pool.config.concurrency") == 4
    run(shell, "%pool restart mine")
    run(shell, "%pool stop mine")
    assert run(shell, "pool.name") != "mine"


def test_the_table(shell: Any) -> None:
    """Bare %pool shows the pools that are alive, as text and as HTML, with the user's text escaped."""
    run(shell, "%%pool threads -c 3 -n '<mine>'\npool.map(abs, [-1, -2])")
    table = run(shell, "%pool")
    lines = repr(table).splitlines()
    assert lines[0].split() == ["name", "kind", "workers", "x", "slots", "state", "busy", "done", "failed", "memory"]
    (mine,) = [line for line in lines if line.startswith("<mine>")]
    assert mine.split()[1:] == ["threads", "-c", "3", "1", "x", "3", "running", "0", "2", "0", "0", "B"]
    markup = table._repr_html_()
    assert "&lt;mine&gt;" in markup
    assert "<mine>" not in markup


def test_stop_ends_them_all(shell: Any) -> None:
    """%pool stop without a name ends all pools, and is no error when there is none."""
    run(shell, "%%pool threads -c 3\npool.map(abs, [-1])")
    run(shell, "%pool threads -c 2")
    run(shell, "%pool stop")
    assert pools.live_pools() == []
    with capture_output() as shown:
        shell.run_cell("%pool stop")
    assert shown.stdout == "no pool is alive\n"
    assert "no pool is alive" in repr(run(shell, "%pool"))


# The extension -------------------------------------------------------------------------------------------------------


def everything(shell: Any) -> list[Any]:
    """All places where an extension may leave something."""
    return [
        list(shell.ast_transformers),
        list(shell.input_transformers_cleanup),
        list(shell.input_transformers_post),
        list(shell.Completer.custom_matchers),
        {name: list(callbacks) for name, callbacks in shell.events.callbacks.items()},
        {kind: set(magics) for kind, magics in shell.magics_manager.magics.items()},
        set(vars(shell.magics_manager.user_magics)),
        set(shell.user_ns) - {"_exit_code"},
        set(shell.user_ns_hidden),
    ]


def test_unloading_leaves_nothing(bare_shell: Any) -> None:
    """After %unload_ext, and after %reload_ext and another, the shell is as it was, and the pools have ended."""
    before = everything(bare_shell)
    manager = bare_shell.extension_manager
    manager.load_extension("poolmagic")
    assert bare_shell.user_ns["pool"] is pm.pool
    assert manager.load_extension("poolmagic") == "already loaded"
    bare_shell.run_cell_magic("pool", "threads -c 3 -n gone", "pool.map(abs, [-1])")
    manager.unload_extension("poolmagic")
    assert everything(bare_shell) == before
    assert "gone" not in [pool.name for pool in pools.live_pools()]
    manager.load_extension("poolmagic")
    manager.reload_extension("poolmagic")
    assert bare_shell.run_cell_magic("pool", "solo", "pool.map(abs, [-1])") == [1]
    manager.unload_extension("poolmagic")
    assert everything(bare_shell) == before


def test_a_variable_of_the_user_stays(bare_shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable `pool` of the user's own is neither replaced nor removed; one line says how to get ours."""
    bare_shell.user_ns["pool"] = "mine"
    bare_shell.extension_manager.load_extension("poolmagic")
    assert bare_shell.user_ns["pool"] == "mine"
    assert capsys.readouterr().err.count("\n") <= 1  # none, if it was said before in this process
    bare_shell.extension_manager.unload_extension("poolmagic")
    assert bare_shell.user_ns["pool"] == "mine"


LOAD = """
import asyncio, sys, time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
start = time.process_time()  # what other processes take is no fault of it
shell.extension_manager.load_extension("poolmagic")
heavy = ("ipywidgets", "cloudpickle", "gevent", "tqdm")
print(time.process_time() - start, *(name for name in heavy if name in sys.modules))
"""


def test_loading_is_fast(tmp_path: Path) -> None:
    """%load_ext takes under 100 ms of a CPU, with the modules compiled, and leaves what is heavy to its first use."""
    env = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    seconds = []
    for _ in range(6):  # the first one compiles; the best one is the one that nothing else disturbed
        command = [sys.executable, "-c", LOAD]
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
        seconds.append(float(told[0]))
        assert told[1:] == []
    assert min(seconds) < 0.1


# Completion and help -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("magic", "line", "offered"),
    [
        ("%%pool", "", "gevent"),
        ("%%pool", "gevent -", "--out"),
        ("%%pool", "gevent --", "--inner-threads"),
        ("%%pool", "-P ", "prefork"),
        ("%%pool", "--pool=", "threads"),
        ("%pool", "", "stop"),
        ("%pool", "stop ", "mine"),
        ("%pool", "wa", "wait"),
        ("%%pool", "gevent -", "-b"),
        ("%%pool", "gevent --", "--seed"),
        ("%%pmap", "--", "--no-prefix"),
        ("%pool", "-n ", "mine"),
        ("%%pmap", "-", "--quiet"),
    ],
)
def test_completion_offers(magic: str, line: str, offered: str) -> None:
    """Kinds, options, verbs and names are offered where they may stand."""
    words = complete(magic, line, lambda: ["mine"])
    assert words is not None
    assert offered in words


@pytest.mark.parametrize(("magic", "line"), [("%%pmap", "x in ra"), ("%%pool", "-c "), ("%%pool", "-o ")])
def test_completion_leaves_the_rest_to_others(magic: str, line: str) -> None:
    """Python, numbers and new names are not ours to complete."""
    assert complete(magic, line, list) is None


def test_tab_in_the_shell(shell: Any) -> None:
    """Tab offers our words and no others on our lines, and Python on the others."""

    def tab(text: str) -> list[str]:
        with provisionalcompleter():
            return [completion.text for completion in shell.Completer.completions(text, len(text))]

    assert tab("%%pool ge") == ["gevent"]
    assert tab("%pool --co") == ["--concurrency"]
    assert tab("%%pool --pool=ev") == ["eventlet"]
    assert "range" in tab("%%pmap x in ran")
    assert "gevent" not in tab("%%pool gevent\nge")


def test_a_person_finds_help(shell: Any) -> None:
    """%pool? and %%pmap? show text with the lines to type."""
    words = [("%pool", f"%pool {verb} {VERBS[verb].takes}".strip()) for verb in VERBS]
    words += [("%%pool", name) for option in OPTIONS for name in spellings(option)]
    for name, word in [*words, ("%%pool", "%%pool gevent -c 200"), ("%%pmap", "-> pages")]:
        with capture_output() as shown:
            shell.run_cell(f"{name}?")
        assert word in shown.stdout


# In a terminal -------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    """IPython in a terminal of its own, with the extension loaded."""
    settings = {"IPYTHONDIR": str(tmp_path), "TERM": "xterm", "POOLMAGIC_NONINTERACTIVE": ""}
    env = os.environ | settings | {"PROMPT_TOOLKIT_NO_CPR": "1"}  # pexpect does not tell where its cursor is
    options = ["-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=nocolor"]
    child = pexpect.spawn(sys.executable, options, env=env, encoding="utf-8", timeout=60, dimensions=(40, 120))
    child.expect_exact("In [1]:")
    child.send("%load_ext poolmagic\r")
    child.expect_exact("In [2]:")
    child.send("import time; nap = lambda item: time.sleep(0.1) or item\r")
    child.expect_exact("In [3]:")
    yield child
    child.close(force=True)


forks = pytest.mark.filterwarnings(
    "ignore:.*forkpty.*:DeprecationWarning"
)  # pexpect has no other way to get a terminal


@forks
def test_a_cell_in_a_terminal_ends_with_an_empty_line(terminal: pexpect.spawn[str]) -> None:
    """IPython waits for the lines below %%pool, and shows a bar of text while they run."""
    terminal.send("%%pool threads -c 4\r")
    terminal.expect_exact("...:")
    terminal.send("len(pool.map(nap, range(40)))\r\r\r")
    terminal.expect(r"<lambda>:.*\d+/40 .* of 4 busy")
    terminal.expect(r"100%.*40/40")
    terminal.expect_exact("Out[3]:")
    terminal.expect_exact("40")


@forks
def test_ctrl_c_in_a_terminal(terminal: pexpect.spawn[str]) -> None:
    """Ctrl-C ends a map; the bar says so, and the prompt comes back."""
    terminal.send("%%pool threads -c 4\r")
    terminal.expect_exact("...:")
    terminal.send("len(pool.map(nap, range(4000)))\r\r\r")
    terminal.expect("busy")
    terminal.sendintr()
    terminal.expect_exact("interrupted")
    terminal.expect_exact("KeyboardInterrupt")
    terminal.expect_exact("In [4]:")
    terminal.send("pool.config.kind.name\r")
    terminal.expect_exact("'prefork'")


@forks
def test_a_background_cell_in_a_terminal(terminal: pexpect.spawn[str]) -> None:
    """The prompt comes back at once, what the cell prints later appears above it, and the prompt works on."""
    terminal.send("import threading; met = threading.Event()\r")
    terminal.expect_exact("In [4]:")
    terminal.send("%%pool threads -c 4 -b -o total\r")
    terminal.expect_exact("...:")
    terminal.send("met.wait(); print('be' + 'gun'); sum(pool.map(nap, range(40)))\r\r\r")
    terminal.expect(r"in the background: %pool wait \d+")
    terminal.expect_exact("In [5]:")
    terminal.send("met.set()\r")
    terminal.expect_exact("begun")
    terminal.expect(r"Out\[4\]: .*780")
    terminal.send("total + 1\r")
    terminal.expect(r"Out\[6\]: .*781")
