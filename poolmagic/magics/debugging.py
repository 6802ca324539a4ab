"""``%pool debug`` and ``%pool stacks``: one item again under the debugger, and what all tasks do now.

Everything runs in the thread that runs cells, where the debugger asks. The module owns no state.
"""

from __future__ import annotations

import bdb
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from IPython.core.display_trap import DisplayTrap
from IPython.core.error import StdinNotImplementedError

from poolmagic import logbook
from poolmagic.describe import describe_value
from poolmagic.errors import UsageError
from poolmagic.magics.arguments import read_number
from poolmagic.places import is_library
from poolmagic.pools import live_pools
from poolmagic.records import OWN_CODE
from poolmagic.replay import Replay, latest
from poolmagic.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from poolmagic.pools import Pool
    from poolmagic.stacks import Stacks

__all__ = ["debug", "stacks"]


class _Wish(NamedTuple):
    """What the words after ``%pool debug`` say."""

    item: int | None = None
    run: int | None = None
    step: bool = False
    force: bool = False


def debug(shell: Any, pool: Pool, words: Sequence[str]) -> Any:
    """Run one item of a run again, here, and open the debugger where it fails; blocks as long as somebody debugs.

    Args:
        shell: The IPython shell whose debugger is used.
        pool: The current pool.
        words: What follows ``%pool debug``: an item's index, ``--run N``, ``--step``, ``--force``.

    Returns:
        What the item returned, if it did not fail this time.

    Raises:
        UsageError: There is no such item; nothing was run.
    """
    __tracebackhide__ = True
    wish = _read(words)
    run = _run_of(pool, wish)
    index = _first_failed(run) if wish.item is None else wish.item
    replay = Replay(run, index)
    if replay.lost is not None and not wish.force:
        what = f"item {index} ended its worker, and would end this kernel in the same way"
        raise UsageError(f"{what}; %pool debug {index} --force tries it all the same")
    if wish.step and replay.is_coroutine:
        raise UsageError("--step cannot go through an async def: write breakpoint() into it, or leave --step out")
    return _replay(_debugger(shell), replay, step=wish.step)


def stacks(pool: Pool) -> Stacks:
    """Return what each task of a pool does now; blocks for about a second at most."""
    return pool.stacks()


def _read(words: Sequence[str]) -> _Wish:
    """Return what the words say; raises `UsageError`."""
    wish, rest = _Wish(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--step":
            wish = wish._replace(step=True)
        elif word == "--force":
            wish = wish._replace(force=True)
        elif word == "--run" and rest:
            wish = wish._replace(run=read_number("debug --run", rest.pop(0)))
        elif word.isdecimal() and wish.item is None:
            wish = wish._replace(item=int(word))
        else:
            raise UsageError(f"unknown word {word!r}; use %pool debug [ITEM] [--run N] [--step]")
    return wish


def _run_of(pool: Pool, wish: _Wish) -> Run:
    """Return the run of that number; without one the latest of which items failed, or that ended early."""
    if wish.run is not None:
        named = logbook.find(wish.run).work
        if not isinstance(named, Run):
            raise UsageError(f"run {wish.run} is not there any more: a run is kept as long as somebody has it")
        return named
    listed = [entry.work for entry in logbook.list_runs()]
    known = [run for run in listed if isinstance(run, Run) and run.failures]
    known += [pool.last_run for pool in (pool, *live_pools()) if pool.last_run is not None]
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    shown = getattr(error, "run", None)  # that of a pool which is gone, too
    if isinstance(shown, Run):
        known.append(shown)
    if not known:
        raise UsageError("no run has failed; %pool debug ITEM --run N takes an item of another (see %pool runs)")
    return latest(known)


def _first_failed(run: Run) -> int:
    if not run.failures:
        raise UsageError(f"no item of {run.name} has failed; name one: %pool debug ITEM")
    return run.failures[0].index


def _replay(debugger: Any, replay: Replay, *, step: bool) -> Any:
    """Run the item, and debug it if it raises; else say that it did not, and return its value."""
    __tracebackhide__ = True
    what = f"item {replay.index} of {replay.name}"
    try:
        value = replay(_stepping(debugger)) if step else replay()
    except bdb.BdbQuit:
        _say(f"{what} was left before its end")
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a task's SystemExit, too
        error.__traceback__ = _users(error.__traceback__)
        _say(f"{what} raises {describe_value(error, 100)}; the debugger is there, q ends it")
        _debug(debugger, error)
        return None
    _say(f"{what} returned {describe_value(value)}")
    return value


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame on that is neither ours nor a library's, else without ours."""
    own = trace
    while own is not None and own.tb_next is not None and own.tb_frame.f_code.co_filename.startswith(OWN_CODE):
        own = own.tb_next
    found = own
    while found is not None and _is_foreign(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found or own


def _is_foreign(file: str) -> bool:
    return file.startswith(OWN_CODE) or is_library(file)


def _debugger(shell: Any) -> Any:
    """Return the shell's own debugger, which starts at the innermost frame of the user's code."""
    base: Any = shell.debugger_cls

    class Debugger(base):  # type: ignore[misc]  # it is another class in a terminal
        def setup(self, frame: Any, trace: Any) -> Any:
            left = super().setup(frame, trace)
            if trace is not None:
                _start_at_users(self)
            return left

    return Debugger()


def _start_at_users(debugger: Any) -> None:
    """Have a debugger begin at the innermost frame that is neither ours nor a library's, if there is one."""
    for place in range(debugger.curindex, -1, -1):
        frame = debugger.stack[place][0]
        if not _is_foreign(frame.f_code.co_filename):
            debugger.curindex, debugger.curframe, debugger.curframe_locals = place, frame, frame.f_locals
            return


def _stepping(debugger: Any) -> Callable[..., Any]:
    """Return what calls a function under the debugger, which stops at its first line."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        __tracebackhide__ = True
        before = sys.gettrace()
        with DisplayTrap(hook=sys.__displayhook__):
            debugger.reset()
            sys.settrace(debugger.trace_dispatch)
            try:
                return function(*args)
            finally:
                sys.settrace(before)
                debugger.quitting = True

    return call


def _debug(debugger: Any, error: BaseException) -> None:
    """Debug an error post mortem; ``%debug`` finds it afterwards, too. Blocks as long as somebody debugs."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    with DisplayTrap(hook=sys.__displayhook__):
        debugger.reset()
        try:
            debugger.interaction(None, error)
        except StdinNotImplementedError:
            raise UsageError("nobody can be asked here, so there is no debugger") from None


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the answer of a magic
