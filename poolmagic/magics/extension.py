"""What is loaded into one IPython shell: the magics, the hooks that carry them, and the pools they made.

All state belongs to the thread that runs cells: the registry of pools (so that a second ``%%pool gevent -c 200`` finds
the warm one) and one `ExitStack` for each cell that is running (cells nest: a cell may call ``run_cell``), which
``%%pool`` fills and the end of the cell empties.
"""

from __future__ import annotations

import ast
import functools
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import IPython.core.error
from IPython.core.magic import no_var_expand

import poolmagic
from poolmagic import progress
from poolmagic.config import is_coroutine_function
from poolmagic.errors import UsageError, note_once
from poolmagic.magics.arguments import PoolLine, Verb, parse_pmap_line, parse_pool_line, parse_verb
from poolmagic.magics.cells import PMAP, POOL, TASK, CellRewriter, transform_first_line
from poolmagic.magics.completion import make_matcher
from poolmagic.magics.tables import PoolTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from IPython.core.interactiveshell import InteractiveShell

    from poolmagic.config import PoolConfig
    from poolmagic.options import RunOptions
    from poolmagic.pools import Pool

__all__ = ["Extension"]

P = ParamSpec("P")
T = TypeVar("T")

_OVER: Final = ("closing", "closed", "broken")


def _pools() -> ModuleType:
    """The module that makes pools; it loads when a magic first needs one, or loading the extension would be slow."""
    pools: ModuleType = import_module("poolmagic.pools")
    return pools


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


class Extension:
    """poolmagic in one shell, from ``%load_ext`` to ``%unload_ext``."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell: Any = shell  # IPython's own annotations do not survive strict checking
        self._pools: dict[tuple[PoolConfig, RunOptions] | str, tuple[tuple[PoolConfig, RunOptions], Pool]] = {}
        self._cells: list[ExitStack] = []
        self._session = ExitStack()
        self._rewriter = CellRewriter()
        self._matcher = make_matcher(lambda: [pool.name for pool in self._known_pools()])
        self._magics: tuple[tuple[str, str, Any], ...] = (
            ("line_cell", "pool", self.pool),
            ("cell", "pmap", self.pmap),
            ("line", POOL, self.enter_cell),
            ("line", PMAP, self.run_pmap),
        )

    def load(self) -> None:
        """Put everything in its place; does not block."""
        for kind, name, function in self._magics:
            self._shell.register_magic_function(function, kind, name)
        self._shell.input_transformers_cleanup.append(transform_first_line)
        self._shell.ast_transformers.append(self._rewriter)
        self._shell.Completer.custom_matchers.append(self._matcher)
        self._shell.events.register("pre_run_cell", self._before_cell)
        self._shell.events.register("post_run_cell", self._after_cell)
        if self._shell.user_ns.get("pool", poolmagic.pool) is poolmagic.pool:
            self._shell.push({"pool": poolmagic.pool}, interactive=False)
        else:
            note_once("you have a variable 'pool'; the current pool is: from poolmagic import pool as current_pool")

    def unload(self) -> None:
        """Take everything away again, and end the pools that the magics made; does not block."""
        for _, name, _ in self._magics:
            for magics in self._shell.magics_manager.magics.values():
                magics.pop(name, None)
            delattr(self._shell.magics_manager.user_magics, name)
        _discard(self._shell.input_transformers_cleanup, transform_first_line)
        _discard(self._shell.ast_transformers, self._rewriter)
        _discard(self._shell.Completer.custom_matchers, self._matcher)
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._shell.drop_by_id({"pool": poolmagic.pool})
        while self._cells:
            self._cells.pop().close()
        self._session.close()
        _pools().set_session_pool(None)
        for _, pool in self._pools.values():
            pool.terminate()
        self._pools.clear()

    # What the user types. The docstrings of these two are the help that `%pool?` and `%%pmap?` print.

    @no_var_expand
    @_one_line
    def pool(self, line: str, cell: str | None = None) -> Any:
        """Choose the pool that `pool` means, for one cell or for all that follow.

        For one cell, in its first line, or for all later cells:

            %%pool gevent -c 200
            %pool prefork -c 4

        Kinds of pool:

            prefork   processes: for computing (the default; also: processes)
            gevent    green threads in a process of their own: for network and disk, by the hundred
            eventlet  the same with eventlet
            threads   threads of this kernel, which share your objects (also: thread)
            asyncio   a loop in a process of its own: for `async def` functions
            solo      here and now, one after the other: for debugging (also: serial)

        Options, spelled as for a Celery worker:

            -c, --concurrency N  tasks at once; without it the number of CPUs
            -w, --workers N      processes that share them (gevent, eventlet, asyncio)
            --autoscale 8,2      tasks at once by need, at most 8 and at least 2, instead of -c
            --time-limit S, --soft-time-limit S, --rate-limit 100/m, --retries N, --crash-retries N
            --max-tasks-per-child N, --max-memory-per-child 2GB, --memory-limit 12GB, --idle-timeout S
            --inner-threads N, --preload A,B
            -n, --name NAME      a name of your own, to use the same pool again
            -q, --quiet          no progress bar
            -o, --out VAR        keep the value of the cell's last expression in VAR (%%pool only)
            -P, --pool KIND      the kind, if you would rather name it here

        The same line again finds the same pool, still warm. To look after pools:

            %pool                  a table
            %pool stop [NAME]      end it, or all of them, and what they run
            %pool restart [NAME]   new workers, which see your changed modules
            %pool grow N [NAME]    more processes or green threads for the current pool, or for that one
            %pool shrink N [NAME]  fewer of them

        See also %%pmap?, which makes the cell itself the function.
        """
        __tracebackhide__ = True
        if cell is not None:
            return self._run_cell("pool", line, cell)
        if not line.strip():
            return self._table()
        verb = parse_verb(line)
        if verb is not None:
            self._do(verb)
            return None
        options = parse_pool_line(line, "%pool")
        pool = self._pool_for(options)
        _pools().set_session_pool(pool)
        self._session.close()
        if options.quiet:
            self._session.enter_context(progress.quiet())
        _say(f"{pool.name} ({pool.config}) is the pool of all later cells")
        return None

    @no_var_expand
    def pmap(self, line: str, cell: str) -> Any:
        """Run the cell's body once for each item, in parallel; the last expression is the item's result.

            %%pmap url in urls -> pages
            raw = urlopen(url).read()
            raw.decode()

        The line reads like that of a `for` loop. `pages` is then the list of results, in order; without
        `-> pages` the list is shown. Several variables unpack an item:

            %%pmap i, row in df.iterrows() -> rows

        All variables that the body sets are its own, as in a function; it sees the notebook's variables,
        functions and imports. `return` works, and with `await` in the body the items run on an asyncio pool.

        The items go to the current pool, or to the one that the options of %%pool name:

            %%pmap -P gevent -c 200 url in urls -> pages

        See %pool? for the pools and their options.
        """
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
        pool = self._pool_for(options)
        if not self._cells:  # a silent cell has no events
            self._cells.append(ExitStack())
        self._cells[-1].enter_context(_pools().cell_pool(pool))
        if options.quiet:
            self._cells[-1].enter_context(progress.quiet())

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
        self._shell.user_ns.pop(TASK, None)
        name = options.out or "pmap"
        function: Any = task
        function.__name__ = function.__qualname__ = name
        # In a traceback it is the cell that it was written as. Besides, there is no `def` line in the cell, by which
        # IPython and `inspect` would find the source of a function.
        function.__code__ = function.__code__.replace(co_name="<module>", co_qualname="<module>")
        pool = self._pool_for(options)
        chosen = options.has_settings or options.name is not None
        if not chosen and is_coroutine_function(function) and pool.config.kind.coroutines == "never":
            pool = self._pool_for(PoolLine(kind="asyncio"))
        with ExitStack() as stack:
            if options.quiet:
                stack.enter_context(progress.quiet())
            return pool.map(function, items)

    def _run_cell(self, magic: str, line: str, cell: str) -> Any:
        """Run ``%%pool`` or ``%%pmap`` for somebody who calls ``run_cell_magic``; returns the last expression's value.

        IPython's own way to run a cell shows errors instead of raising them, and cannot be nested where a loop runs.
        """
        __tracebackhide__ = True
        shell = self._shell
        source = shell.transform_cell(f"%%{magic} {line}\n{cell}")
        filename = shell.compile.cache(source, shell.execution_count, raw_code=source)
        module = shell.transform_ast(shell.compile.ast_parse(source, filename=filename))
        last = module.body.pop() if module.body and isinstance(module.body[-1], ast.Expr) else None
        self._cells.append(ExitStack())
        with self._cells[-1]:
            try:
                exec(shell.compile(module, filename, "exec"), shell.user_global_ns, shell.user_ns)  # noqa: S102 - a cell
                if last is None:
                    return None
                code = shell.compile(ast.Expression(last.value), filename, "eval")
                return eval(code, shell.user_global_ns, shell.user_ns)  # noqa: S307 - a cell's last line
            finally:
                self._cells.pop()

    def _before_cell(self, info: Any) -> None:
        self._cells.append(ExitStack())

    def _after_cell(self, result: Any) -> None:
        if self._cells:  # the cell that loads the extension had no beginning
            self._cells.pop().close()

    # Pools.

    def _pool_for(self, options: PoolLine) -> Pool:
        """The pool that a line describes: a warm one if there is, else a new one."""
        if options.name is None and not options.has_settings:
            return poolmagic.Pool.current()
        if options.name is not None and not options.has_settings:
            for pool in self._known_pools():
                if pool.name == options.name:
                    return pool
        config = options.config()
        key = options.name or config
        if key in self._pools:
            known, pool = self._pools[key]
            if known == config and pool.snapshot().state not in _OVER:
                return pool
            pool.close()
        kind = options.kind or "prefork"
        pool = poolmagic.Pool(kind, options.concurrency, name=options.name, **options.settings)
        self._pools[key] = config, pool
        return pool

    def _known_pools(self) -> list[Pool]:
        """All pools that are alive, and those that the magics made and nobody has used yet."""
        alive = _pools().live_pools()
        made = [pool for _, pool in self._pools.values() if pool not in alive and pool.snapshot().state not in _OVER]
        return [*alive, *made]

    def _table(self) -> PoolTable:
        return PoolTable([pool.snapshot() for pool in self._known_pools()], current=poolmagic.Pool.current().name)

    def _do(self, verb: Verb) -> None:
        known = self._known_pools()
        if verb.name is not None:
            chosen = [pool for pool in known if pool.name == verb.name]
            if not chosen:
                names = ", ".join(pool.name for pool in known) or "none"
                raise UsageError(f"no pool is called {verb.name!r}; alive: {names}")
        elif verb.verb in ("stop", "restart"):
            chosen = known
            if not chosen:
                _say("no pool is alive")
        else:
            chosen = [poolmagic.Pool.current()]
        for pool in chosen:
            if verb.verb == "stop":
                self._stop(pool)
            elif verb.verb == "restart":
                pool.restart()
            elif verb.verb == "grow":
                pool.grow(verb.number)
            else:
                pool.shrink(verb.number)
            _say(f"{pool.name} has ended" if verb.verb == "stop" else f"{pool.name}: {pool.config}")

    def _stop(self, pool: Pool) -> None:
        if poolmagic.Pool.current() is pool:
            _pools().set_session_pool(None)
        pool.terminate()
        self._pools = {key: made for key, made in self._pools.items() if made[1] is not pool}


def _discard(items: list[Any], item: Any) -> None:
    if item in items:
        items.remove(item)


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the answer of a magic
