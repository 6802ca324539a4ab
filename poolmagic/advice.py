"""Texts about errors of pickling and unpickling: what they say, who raised them, what to do. Owns no state."""

from __future__ import annotations

import io
import os
import pickle
import types
from pathlib import Path
from typing import Any, Final

__all__ = ["advice_for", "origin", "say"]

_OWN_CODE: Final = str(Path(__file__).parent) + os.sep
_INSIDE: Final = "make it inside the task, or lazily once per worker with pm.once(make_it) or initializer="
_BY_MODULE: Final = {
    "_thread": _INSIDE,
    "threading": _INSIDE,
    "socket": _INSIDE,
    "_socket": _INSIDE,
    "ssl": _INSIDE,
    "_ssl": _INSIDE,
    "select": _INSIDE,
    "selectors": _INSIDE,
    "sqlite3": _INSIDE,
    "asyncio": _INSIDE,
    "_asyncio": _INSIDE,
    "queue": _INSIDE,
    "_queue": _INSIDE,
    "subprocess": _INSIDE,
    "multiprocessing": _INSIDE,
    "concurrent": _INSIDE,
    "gevent": _INSIDE,
    "greenlet": _INSIDE,
    "tkinter": "it lives in the process that made it; send the values that it shows",
    "_tkinter": "it lives in the process that made it; send the values that it shows",
    "mmap": "send the path, and map it inside the task",
    "weakref": "send the object itself",
    "_ctypes": "send the value that it points to",
    "ctypes": "send the value that it points to",
}
"""By the first part of the module's name."""
_ENDINGS: Final = (
    "Client",
    "Connection",
    "Session",
    "Cursor",
    "Engine",
    "Lock",
    "Socket",
    "Channel",
    "Executor",
    "Pool",
)
"""Of the names of classes that hold something of their process."""


def advice_for(culprit: Any, error: BaseException, root: str = "") -> str:
    """Return what its user can do, in one clause; "" for what nothing general can be said about. Never raises.

    Args:
        culprit: What cannot be pickled.
        error: What its pickling raised.
        root: What the value is called that holds it.
    """
    verb = "return" if root == "result" else "pass"
    kind = type(culprit)
    if isinstance(error, RecursionError) or (isinstance(error, pickle.PicklingError) and "recursion" in str(error)):
        return "it is nested too deeply, or its __reduce__ never ends"
    if issubclass(kind, types.GeneratorType | types.AsyncGeneratorType):
        return f"{verb} a list"
    if issubclass(kind, types.CoroutineType):
        return "await it inside the task" if root == "result" else "make it inside the task"
    if issubclass(kind, io.IOBase):
        return f"{verb} the path" + ("" if root == "result" else ", and open it inside the task")
    if issubclass(kind, types.FrameType | types.TracebackType):
        return f"{verb} its text"
    if issubclass(kind, type | types.FunctionType):
        return "define it at the top of a module or in a cell, under its own name"
    module = getattr(kind, "__module__", "")
    advice = _BY_MODULE.get(module.partition(".")[0], "") if isinstance(module, str) else ""
    return advice or (_INSIDE if kind.__name__.endswith(_ENDINGS) else "")


def say(error: BaseException) -> str:
    """Return what an exception says, with its type where the text alone would not be understood; never raises."""
    try:
        text = " ".join(str(error).split())[:500]
    except Exception:  # a broken __str__ must not hide the error that is being told
        text = ""
    if text and isinstance(error, pickle.PickleError | TypeError | ImportError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def origin(error: BaseException) -> str:
    """Return what raised an exception while something was unpickled, such as "Model.__setstate__ raised"; or ""."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith((_OWN_CODE, "<frozen ")):
            is_library = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("cloudpickle", "importlib")
            return "" if is_library else f"{code.co_qualname} raised "
        trace = trace.tb_next
    return ""
