"""Errors that the shell would not show well: groups of exceptions, and those that were raised by poolmagic itself.

IPython prints a group as plain Python does; here each of its members is shown by the shell's own traceback formatter.
And it always shows the innermost frame, hidden or not; where that is ours it says nothing about the user's error.
Everything runs in the thread that runs cells. The module owns no state; the shell has one handler, which is ours only
if nobody else has set one.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Final

from poolmagic.errors import InternalError, PoolMagicError

__all__ = ["install", "render", "uninstall"]

_KINDS: Final = (BaseExceptionGroup, PoolMagicError)
MOST_MEMBERS: Final = 15
"""So many members of a group are shown, as plain Python does it."""


def install(shell: Any) -> None:
    """Have the shell show such errors that come from a pool in our way; does not block."""
    if not shell.custom_exceptions:
        shell.set_custom_exc(_KINDS, _show)


def uninstall(shell: Any) -> None:
    """Undo that, unless somebody else has set a handler since; does not block."""
    if shell.custom_exceptions == _KINDS:
        shell.set_custom_exc((), None)


def _show(shell: Any, kind: type[BaseException], error: BaseException, trace: Any, tb_offset: int | None = None) -> Any:
    """Show an exception that a cell raised; return what is kept as the last traceback."""
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    frames = _frames(trace)
    if isinstance(error, InternalError) or not any(map(_is_own, frames)):
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        return None
    lines = _lines(shell.InteractiveTB, error, _without_own_end(frames), tb_offset)
    shell._showtraceback(kind, error, lines)  # noqa: SLF001 - which front ends override, to show a traceback their way
    return lines


def render(shell: Any, error: BaseException) -> list[str]:
    """Return the text of an exception as the shell shows it, in our way if it is one of such errors.

    Args:
        shell: The shell.
        error: The exception, whose traceback begins in a cell.
    """
    own = getattr(error, "_render_traceback_", None)
    if own is not None:
        return list(own())
    frames = _frames(error.__traceback__)
    shown = error.__traceback__ if isinstance(error, InternalError) else _without_own_end(frames)
    return _lines(shell.InteractiveTB, error, shown, 0)


def _without_own_end(frames: list[TracebackType]) -> TracebackType | None:
    """Return a traceback of all these frames but the innermost ones that are ours."""
    count = len(frames)
    while count > 1 and _is_own(frames[count - 1]):
        count -= 1
    return _joined(frames[:count])


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    frames: list[TracebackType] = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _is_own(trace: TracebackType) -> bool:
    from poolmagic.records import OWN_CODE  # noqa: PLC0415 - it loads what unpickles; loading the extension is fast

    return trace.tb_frame.f_code.co_filename.startswith(OWN_CODE)


def _joined(frames: list[TracebackType]) -> TracebackType | None:
    """Return a traceback of these frames."""
    joined: TracebackType | None = None
    for one in reversed(frames):
        joined = TracebackType(joined, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return joined


def _lines(formatter: Any, error: BaseException, trace: Any, tb_offset: int | None) -> list[str]:
    """Return the text of an exception, and of its members if it is a group."""
    lines = [*formatter.structured_traceback(type(error), error, trace, tb_offset=tb_offset)]
    if isinstance(error, BaseExceptionGroup):
        count = len(error.exceptions)
        for number, member in enumerate(error.exceptions[:MOST_MEMBERS], 1):
            text = "\n".join(_lines(formatter, member, member.__traceback__, 0))
            lines.append(f"\n+---------------- {number} of {count} ----------------")
            lines.append("\n".join(f"| {line}" for line in text.splitlines()))
        if count > MOST_MEMBERS:
            lines.append(f"\nand {count - MOST_MEMBERS} more, in .exceptions")
    return lines
