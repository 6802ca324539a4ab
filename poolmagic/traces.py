"""Tracebacks that travel: frames to plain tuples in the worker, and back to real traceback objects in the kernel.

A rebuilt traceback has the original's file names, function names and positions, so IPython and `traceback` show the
notebook cell's own lines with their arrows. Each frame is a stub function compiled at the original position that
raises at once; its locals are not those of the remote frame. (The method was measured to give the stdlib's text
unchanged on Python 3.11, 3.12 and 3.13.) This module owns no state.
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import types
from typing import Any, TypeAlias

__all__ = ["Frame", "collect", "rebuild", "show_sources", "sources", "unwrapped"]

Position: TypeAlias = tuple[int, int | None, int | None, int | None]
Frame: TypeAlias = tuple[str, str, str, int, Position]
"""File name, function name, qualified name, first line of the function, and (line, end line, column, end column)."""


def collect(trace: types.TracebackType | None, hide: str) -> list[Frame]:
    """Return the frames of a traceback, outermost first, without those whose file name begins with `hide`."""
    frames: list[Frame] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        line = trace.tb_lineno or code.co_firstlineno  # code that was not compiled from Python may have no lines
        position: Position = (line, line, None, None)
        if trace.tb_lasti >= 0:
            found = next(itertools.islice(code.co_positions(), trace.tb_lasti // 2, None), None)
            if found and found[0] is not None:
                position = (found[0], *found[1:])
        if not code.co_filename.startswith(hide):
            frames.append((code.co_filename, code.co_name, code.co_qualname, code.co_firstlineno, position))
        trace = trace.tb_next
    return frames


class _Mark(Exception):
    """Raised by the stub of a frame, to have a traceback object made."""


def rebuild(frames: list[Frame]) -> types.TracebackType | None:
    """Return a traceback that shows `frames`, outermost first; None if there are none."""
    trace: types.TracebackType | None = None
    for frame in reversed(frames):
        made = _stub_traceback(frame)
        trace = types.TracebackType(trace, made.tb_frame, made.tb_lasti, made.tb_lineno)
    return trace


def _stub_traceback(frame: Frame) -> types.TracebackType:
    """Compile a function that raises at the place of `frame`, let it, and return its traceback."""
    try:
        types.FunctionType(_stub(frame), {"_MARK": _Mark, "__name__": "remote"})()
    except _Mark as mark:
        assert mark.__traceback__ is not None and mark.__traceback__.tb_next is not None
        return mark.__traceback__.tb_next
    raise AssertionError("a stub frame did not raise")


@functools.lru_cache(maxsize=1024)  # a thousand items that fail at the same line need the same stubs
def _stub(frame: Frame) -> types.CodeType:
    """Compile a function that raises at the place of `frame`."""
    file, name, qualified, first, (line, end_line, column, end_column) = frame
    if end_line is None or column is None or end_column is None:
        end_line, column, end_column = line, -1, -1  # the compiler's own sign for "not known": no arrows are shown
    module = ast.parse("def f():\n raise _MARK")
    for node in ast.walk(module):
        if isinstance(node, ast.stmt | ast.expr):
            node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = line, end_line, column, end_column
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.lineno, function.end_lineno = first, max(end_line, first)
    function.col_offset = function.end_col_offset = 0
    constants: tuple[Any, ...] = compile(module, file, "exec").co_consts
    code = next(one for one in constants if isinstance(one, types.CodeType))
    return code.replace(co_name=name, co_qualname=qualified)


def sources(function: Any, limit: int = 1 << 20) -> dict[str, str]:
    """Return the sources of notebook cells that `function`, or a function it refers to, was written in.

    Args:
        function: Anything; only plain functions, their closures, globals and wrapped functions are followed.
        limit: Most bytes of source in all; tracebacks in the worker show no text for what is beyond.
    """
    found: dict[str, str] = {}
    seen: set[int] = set()
    todo = [function]
    while todo and limit > 0:
        one = todo.pop()
        one = unwrapped(one)
        if not isinstance(one, types.FunctionType) or id(one) in seen:
            continue
        seen.add(id(one))
        entry = linecache.cache.get(one.__code__.co_filename)
        # A cell's source has no modification time, because it is on no disk.
        if entry is not None and len(entry) == 4 and entry[1] is None and one.__code__.co_filename not in found:
            found[one.__code__.co_filename] = "".join(entry[2])
            limit -= entry[0]
        todo += [one.__globals__[name] for name in one.__code__.co_names if name in one.__globals__]
        for cell in one.__closure__ or ():
            try:
                todo.append(cell.cell_contents)
            except ValueError:  # the variable has no value yet
                continue
    return found


def unwrapped(value: Any) -> Any:
    """Return the function that a method, a partial or a decorated function leads to; any other value as it is."""
    try:
        value = getattr(value, "__func__", getattr(value, "func", value))
        return getattr(value, "__wrapped__", value)
    except Exception:  # a `__getattr__` of the user's that raises: whatever this is, it is no function
        return None


def show_sources(found: dict[str, str]) -> None:
    """Let this process's tracebacks show the lines of these files, which are on no disk."""
    for file, text in found.items():
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
