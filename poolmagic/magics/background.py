"""Background cells: a cell's body in a thread of its own, whose outputs stay in the cell that started it.

The thread owns what it works on. The variable of ``-o`` is a `Handle` until the value is there; both are put into the
user's namespace, by the thread that starts the cell and by its own.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import IPython.core.error

from poolmagic import logbook
from poolmagic.background import Background, quiet
from poolmagic.magics.tracebacks import render
from poolmagic.origin import Origin
from poolmagic.snapshot import show_seconds

if TYPE_CHECKING:
    from poolmagic.magics.arguments import PoolLine
    from poolmagic.magics.cells import CellCode

__all__ = ["Handle", "start_cell"]


class Handle:
    """Stands in a variable for the value of a background cell, until that is there.

    Its text says how the cell is doing. Using it as if it was the value is refused with a one-line `UsageError`.

    Args:
        name: Of the variable.
        work: The background cell.
    """

    def __init__(self, name: str, work: Background) -> None:
        self._name = name
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        """Return the value; blocks until the cell is over.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: The cell goes on.
            Exception: The cell's own.
        """
        __tracebackhide__ = True
        return self._work.result(timeout)

    def done(self) -> bool:
        """Return whether the cell is over, however it ended. Does not block."""
        return self._work.done()

    def cancel(self) -> None:
        """Cancel what the cell maps, as ``%pool cancel`` does; does not block."""
        self._work.cancel()

    def __repr__(self) -> str:
        return f"<{self._name}: {self._state()}>"

    def _state(self) -> str:
        snapshot, error = self._work.snapshot(), self._work.error
        seconds = show_seconds(snapshot.elapsed)
        if error is not None:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            return f"{snapshot.state} after {seconds}, {what}; {self._name}.result() raises it"
        done = "" if snapshot.total is None else f", {snapshot.done + snapshot.failed:,}/{snapshot.total:,}"
        return f"running since {seconds}{done}; %pool wait {self._work.id}"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        __tracebackhide__ = True
        raise IPython.core.error.UsageError(f"{self._name} is not there: {self._state()}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # Python and IPython ask for what most objects do not have
            raise AttributeError(name)
        raise AttributeError(f"{self._name} is not there: {self._state()}")


_USES: Final = (
    *("array", "bool", "call", "contains", "float", "getitem", "index", "int", "iter", "len", "next", "reduce_ex"),
    *(
        "reversed",
        "setitem",
        "add",
        "radd",
        "sub",
        "rsub",
        "mul",
        "rmul",
        "truediv",
        "rtruediv",
        "lt",
        "le",
        "gt",
        "ge",
    ),
)
"""What people do to the value of a cell. A handle cannot, and says why."""

for _use in _USES:
    setattr(Handle, f"__{_use}__", Handle._refuse)  # noqa: SLF001 - their class stands right above


@dataclass(frozen=True)
class _Cell:
    """A cell that is about to run in the background.

    Attributes:
        shell: Its shell.
        origin: Itself, as a place for outputs.
        number: The one in its prompt.
        code: Its body.
        is_private: Its names are not the user's.
        options: Its first line.
        is_silent: Its last line ends with a semicolon.
        handle: What stands in its variable; None if it has none.
    """

    shell: Any
    origin: Origin
    number: int
    code: CellCode
    is_private: bool
    options: PoolLine
    is_silent: bool
    handle: Handle | None

    def run(self, work: Background) -> Any:
        """Do all that a cell does, and return its value; raises its error after it was shown."""
        __tracebackhide__ = True
        try:
            with ExitStack() as stack:
                if self.options.quiet:
                    stack.enter_context(quiet())
                value = self.code.run({} if self.is_private else None)
        except BaseException as error:
            error.__traceback__ = self.code.own_part(error.__traceback__)
            if work.ends_by_cancel(error):
                sys.stderr.write(f"background cell {work.id} was cancelled\n")
            else:
                self._show_error(error)
            raise
        if self.handle is not None and self.shell.user_ns.get(self.options.out) is self.handle:
            self.shell.user_ns[self.options.out] = value
        shown = value if self.handle is None or not self.is_private else None
        if shown is not None and not self.is_silent:
            self._show(shown)
        return value

    def _show(self, value: Any) -> None:
        """Show a value as that of a cell; its text goes into ``Out``, too, under the number of the cell."""
        data, metadata = self.shell.display_formatter.format(value)
        self.shell.user_ns["_oh"][self.number] = value
        if not data:  # it has shown itself
            return
        if self.origin.is_kernel:
            self.origin.send("execute_result", {"execution_count": self.number, "data": data, "metadata": metadata})
        else:
            text = data.get("text/plain", "")
            sys.stdout.write(f"Out[{self.number}]: {chr(10) if chr(10) in text else ''}{text}\n")

    def _show_error(self, error: BaseException) -> None:
        if type(error) is IPython.core.error.UsageError:
            sys.stderr.write(f"UsageError: {error}\n")
            return
        lines = render(self.shell, error)
        if self.origin.is_kernel:
            name = type(error).__name__
            self.origin.send("error", {"ename": name, "evalue": str(error), "traceback": lines})
        else:
            sys.stdout.write("\n".join(lines) + "\n")


def start_cell(shell: Any, code: CellCode, options: PoolLine, pool: Any, *, is_private: bool) -> None:
    """Run the body of the cell that this thread runs in a thread of its own; does not block.

    Args:
        shell: The shell.
        code: The body.
        options: What its first line says.
        pool: The current pool inside of it.
        is_private: The names that it assigns are not for the user's namespace.
    """
    number = shell.displayhook.prompt_count  # not the shell's, which some versions set to the next cell's already
    work = Background(options.out or f"In[{number}]", pool)
    entry = logbook.note(work, pool.name, is_cell=True)
    handle = None if options.out is None else Handle(options.out, work)
    origin = Origin.here()
    silent = shell.displayhook.quiet()
    cell = _Cell(shell, origin, number, code, is_private, options, silent, handle)
    if handle is not None:
        shell.user_ns[options.out] = handle
    if not options.quiet:
        text = f"in the background: %pool wait {work.id} waits for it, %pool cancel {work.id} cancels it\n"
        sys.stdout.write(text)
    work.start(partial(cell.run, work), origin, entry.close)
