"""What is loaded into one IPython shell: the magics, the hooks that carry them, and the pools they made.

Each thread that runs cells has an `ExitStack` for each cell that is running (cells nest: a cell may call ``run_cell``),
which ``%%pool`` fills and the end of the cell empties. All other state belongs to the thread that loads and unloads.
"""

from __future__ import annotations

import functools
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import IPython.core.error
from IPython.core.magic import no_var_expand

import poolmagic
from poolmagic import logbook
from poolmagic.background import quiet
from poolmagic.config import is_coroutine_function
from poolmagic.errors import UsageError, note_once
from poolmagic.magics.arguments import PoolLine, parse_pmap_line, parse_pool_line
from poolmagic.magics.background import start_cell
from poolmagic.magics.cells import BACKGROUND, PMAP, POOL, TASK, CellCode, CellRewriter, transform_first_line
from poolmagic.magics.completion import make_matcher
from poolmagic.magics.help import PMAP_HELP, POOL_HELP, with_help
from poolmagic.magics.tables import PoolTable
from poolmagic.magics.tracebacks import install, uninstall
from poolmagic.magics.verbs import find_verb
from poolmagic.magics.warm import WarmPools, pools_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType

    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Extension"]

P = ParamSpec("P")
T = TypeVar("T")


def _one_line(function: Callable[P, T]) -> Callable[P, T]:
    """Show a wrong use as IPython shows one: a line, no traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            if hasattr(error, "run"):  # a task raised it, it is not about this call
                raise
            raise IPython.core.error.UsageError(str(error)) from None

    return wrapper


class _Running(threading.local):
    """The cells that a thread runs, one inside of the other: each a stack of what its end takes away again."""

    def __init__(self) -> None:
        self.cells: list[ExitStack] = []


class Extension:
    """poolmagic in one shell, from ``%load_ext`` to ``%unload_ext``.

    Attributes:
        shell: The shell.
        warm: The pools that its magics made.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell: Any = shell  # IPython's own annotations do not survive strict checking
        self.warm = WarmPools()
        self._running = _Running()
        self._session = ExitStack()
        self._rewriter = CellRewriter()
        self._matcher = make_matcher(lambda: [pool.name for pool in self.warm.known()])
        self._magics: tuple[tuple[str, str, Any], ...] = (
            ("line_cell", "pool", self.pool),
            ("cell", "pmap", self.pmap),
            ("line", POOL, self.enter_cell),
            ("line", PMAP, self.run_pmap),
            ("line", BACKGROUND, self.start_background),
        )

    def load(self) -> None:
        """Put everything in its place; does not block."""
        for kind, name, function in self._magics:
            self.shell.register_magic_function(function, kind, name)
        self.shell.input_transformers_cleanup.append(transform_first_line)
        self.shell.ast_transformers.append(self._rewriter)
        self.shell.Completer.custom_matchers.append(self._matcher)
        self.shell.events.register("pre_run_cell", self._before_cell)
        self.shell.events.register("post_run_cell", self._after_cell)
        install(self.shell)
        if self.shell.user_ns.get("pool", poolmagic.pool) is poolmagic.pool:
            self.shell.push({"pool": poolmagic.pool}, interactive=False)
        else:
            note_once("you have a variable 'pool'; the current pool is: from poolmagic import pool as current_pool")

    def unload(self) -> None:
        """Take everything away again, and end the pools that the magics made; does not block."""
        for _, name, _ in self._magics:
            for magics in self.shell.magics_manager.magics.values():
                magics.pop(name, None)
            delattr(self.shell.magics_manager.user_magics, name)
        _discard(self.shell.input_transformers_cleanup, transform_first_line)
        _discard(self.shell.ast_transformers, self._rewriter)
        _discard(self.shell.Completer.custom_matchers, self._matcher)
        self.shell.events.unregister("pre_run_cell", self._before_cell)
        self.shell.events.unregister("post_run_cell", self._after_cell)
        uninstall(self.shell)
        self.shell.drop_by_id({"pool": poolmagic.pool})
        while self._running.cells:
            self._running.cells.pop().close()
        self._session.close()
        pools_module().set_session_pool(None)
        for entry in logbook.list_runs():
            if entry.is_cell:
                entry.cancel()
        self.warm.terminate()

    # What the user types.

    @no_var_expand
    @with_help(POOL_HELP)
    @_one_line
    def pool(self, line: str, cell: str | None = None) -> Any:
        """Do what ``%pool`` and ``%%pool`` are for; a cell blocks as long as it takes, unless it is one with ``-b``."""
        __tracebackhide__ = True
        if cell is not None:
            return self._run_cell("pool", line, cell)
        if not line.strip():
            snapshots = [pool.snapshot() for pool in self.warm.known()]
            return PoolTable(snapshots, current=poolmagic.Pool.current().name)
        verb = find_verb(line)
        if verb is not None:
            act, words = verb
            return act(self, words)
        options = parse_pool_line(line, "%pool")
        pool = self.warm.find_for(options)
        pools_module().set_session_pool(pool)
        self._session.close()
        if options.quiet:
            self._session.enter_context(quiet())
        _say(f"{pool.name} ({pool.config}) is the pool of all later cells")
        return None

    @no_var_expand
    @with_help(PMAP_HELP)
    def pmap(self, line: str, cell: str) -> Any:
        """Do what ``%%pmap`` is for; blocks as long as it takes, unless it has ``-b``."""
        __tracebackhide__ = True
        return self._run_cell("pmap", line, cell)

    # What the first lines of cells become; see `cells`.

    @no_var_expand
    @_one_line
    def enter_cell(self, line: str, refusal: str | None = None) -> None:
        """Do what the line ``%%pool ...`` says, until the cell ends; does not block."""
        if refusal is not None:
            raise UsageError(refusal)
        options = parse_pool_line(line)
        if options.background:
            raise UsageError("%%pool -b must be the first line of a cell")
        pool = self.warm.find_for(options)
        if not self._running.cells:  # a silent cell has no events
            self._running.cells.append(ExitStack())
        self._running.cells[-1].enter_context(pools_module().cell_pool(pool))
        if options.quiet:
            self._running.cells[-1].enter_context(quiet())

    @no_var_expand
    @_one_line
    def run_pmap(self, line: str, task: Callable[[Any], Any] | str | None = None, items: Any = ()) -> list[Any]:
        """Map the function that a ``%%pmap`` cell became over its items; blocks until all are done."""
        __tracebackhide__ = True
        if isinstance(task, str):
            raise UsageError(task)
        options = parse_pmap_line(line).options
        if task is None:
            raise UsageError("%%pmap must be the first line of a cell")
        self.shell.user_ns.pop(TASK, None)
        name = options.out or "pmap"
        function: Any = task
        function.__name__ = function.__qualname__ = name
        # In a traceback it is the cell that it was written as. Besides, there is no `def` line in the cell, by which
        # IPython and `inspect` would find the source of a function.
        function.__code__ = function.__code__.replace(co_name="<module>", co_qualname="<module>")
        pool = self.warm.find_for(options)
        chosen = options.has_settings or options.name is not None
        if not chosen and is_coroutine_function(function) and pool.config.kind.coroutines == "never":
            pool = self.warm.find_for(PoolLine(kind="asyncio"))
        with ExitStack() as stack:
            if options.quiet:
                stack.enter_context(quiet())
            return pool.map(function, items)

    @no_var_expand
    @_one_line
    def start_background(self, magic: str, line: str, number: int, here: FunctionType) -> None:
        """Start the body of a cell with ``-b``; does not block.

        Args:
            magic: The hidden magic that the first line would be without ``-b``.
            line: The rest of the first line.
            number: That of the body, by which the rewriter knows it.
            here: A function whose code is in the cell.
        """
        options = parse_pool_line(line) if magic == POOL else parse_pmap_line(line).options
        code = CellCode(self.shell, self._rewriter.body(number), here.__code__.co_filename)
        start_cell(self.shell, code, options, self.warm.find_for(options), is_private=magic == PMAP)

    def _run_cell(self, magic: str, line: str, cell: str) -> Any:
        """Run ``%%pool`` or ``%%pmap`` for somebody who calls ``run_cell_magic``; returns the last expression's value.

        IPython's own way to run a cell shows errors instead of raising them, and cannot be nested where a loop runs.
        """
        __tracebackhide__ = True
        shell = self.shell
        source = shell.transform_cell(f"%%{magic} {line}\n{cell}")
        filename = shell.compile.cache(source, shell.execution_count, raw_code=source)
        module = shell.transform_ast(shell.compile.ast_parse(source, filename=filename))
        code = CellCode(shell, module.body, filename)
        self._running.cells.append(ExitStack())
        with self._running.cells[-1]:
            try:
                return code.run()
            finally:
                self._running.cells.pop()

    def _before_cell(self, info: Any) -> None:
        self._running.cells.append(ExitStack())

    def _after_cell(self, result: Any) -> None:
        if self._running.cells:  # the cell that loads the extension had no beginning
            self._running.cells.pop().close()


def _discard(items: list[Any], item: Any) -> None:
    if item in items:
        items.remove(item)


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the answer of a magic
