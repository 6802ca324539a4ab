"""User objects to opaque payloads and back: the only module that pickles.

Two codecs have the same methods: `Pickled` for workers that are processes, `Direct` for those in the kernel itself,
where "nothing is pickled" is the point. Functions are pickled by the asking thread and unpickled in the slot that
first needs them; items and results likewise. The supervisor's loop thread only carries what comes out of here.

A list of plain numbers and strings is one pickle. Anything else is pickled item by item, so that one that cannot be
pickled, or unpickled on the other side, fails alone. This module owns no state.
"""

from __future__ import annotations

import functools
import inspect
import io
import itertools
import pickle
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import cloudpickle

from poolmagic import traces
from poolmagic.errors import PayloadError, RemoteError

__all__ = ["Codec", "Direct", "Pickled", "describe_value"]

PROTOCOL: Final = 5
_ATOMS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})
_OWN_CODE: Final = str(Path(__file__).parent)

Broken = dict[int, BaseException]
"""Which values of a list could not be packed (by offset), and why."""
Load = Callable[[Any], Any]


class Codec(Protocol):
    """How functions, items and outcomes travel; see `Pickled`."""

    def pack_function(self, function: Callable[..., Any]) -> Any:
        """Return the payload of a function; raises `PayloadError` naming what it drags along that cannot travel."""
        ...

    def load_function(self, payload: Any) -> Callable[..., Any]:
        """Return the function; runs the user's code."""
        ...

    def pack_values(self, values: list[Any]) -> tuple[Any, Broken]:
        """Return the payload of a list, and what of it is broken."""
        ...

    def open_values(self, payload: Any) -> tuple[list[Any], Load | None]:
        """Return a list, and what must be called on each of its entries to get the value (None: they are it)."""
        ...

    def join(self, values: Any, errors: list[Any]) -> Any:
        """Return packed values and packed errors as one payload."""
        ...

    def split(self, payload: Any) -> tuple[Any, list[Any]]:
        """Undo `join`."""
        ...

    def pack_error(self, error: BaseException) -> Any:
        """Return an exception with its traceback in a form that always travels."""
        ...

    def load_error(self, record: Any) -> BaseException:
        """Return the exception, with its remote traceback."""
        ...


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's, and the functions of `functools.lru_cache` too: they arrive with an empty cache."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper) and not _is_importable(value):
            options = value.cache_parameters()
            return _cached, (options["maxsize"], options["typed"], value.__wrapped__)
        return super().reducer_override(value)


def _cached(maxsize: int | None, typed: bool, function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


def _is_importable(value: Any) -> bool:
    """Whether `value` is found under its own name in an importable module, so that its name is enough."""
    module = getattr(value, "__module__", None)
    if module in (None, "__main__") or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


def _dumps(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, PROTOCOL).dump(value)
    return stream.getvalue()


def _are_plain(values: list[Any]) -> bool:
    """Whether all values, or all members of all tuples, are exactly numbers or strings: safe as one pickle."""
    kinds = set(map(type, values))
    return kinds <= _ATOMS or (kinds == {tuple} and set(map(type, itertools.chain.from_iterable(values))) <= _ATOMS)


class Pickled:
    """The codec of workers that are processes. All methods may run the user's pickling code, and nothing else of his."""

    def pack_function(self, function: Callable[..., Any]) -> bytes:
        """Return the pickled function with the sources of the cells that it was written in."""
        try:
            body = _dumps(function)
        except Exception as error:
            culprit = find_culprit(function)
            what = culprit or getattr(function, "__name__", repr(function))
            raise PayloadError(f"cannot send the function to the workers: {what}: {error}", culprit=culprit) from error
        return pickle.dumps((body, traces.sources(function)), PROTOCOL)

    def load_function(self, payload: bytes) -> Callable[..., Any]:
        """Return the function, and let this process's tracebacks show the lines of its cells."""
        body, cells = pickle.loads(payload)
        traces.show_sources(cells)
        loaded: Callable[..., Any] = pickle.loads(body)
        return loaded

    def pack_values(self, values: list[Any]) -> tuple[bytes, Broken]:
        """Return a list as one payload; broken values are left out of it and returned with their errors."""
        if _are_plain(values):
            return pickle.dumps((True, values), PROTOCOL), {}
        broken: Broken = {}
        pieces = []
        for offset, value in enumerate(values):
            try:
                pieces.append(_dumps(value))
            except Exception as error:
                broken[offset] = PayloadError(f"cannot pickle {describe_value(value)}: {error}")
                pieces.append(b"")
        return pickle.dumps((False, pieces), PROTOCOL), broken

    def open_values(self, payload: bytes) -> tuple[list[Any], Load | None]:
        """Return the list; its entries are loaded one by one, so that one that cannot be fails alone."""
        plain, values = pickle.loads(payload)
        return values, None if plain else pickle.loads

    def join(self, values: bytes, errors: list[bytes]) -> bytes:
        """Return packed values and packed errors as one payload."""
        return pickle.dumps((values, errors), PROTOCOL)

    def split(self, payload: bytes) -> tuple[bytes, list[bytes]]:
        """Undo `join`."""
        values, errors = pickle.loads(payload)
        return values, errors

    def pack_error(self, error: BaseException) -> bytes:
        """Return a record of plain data that holds the pickled exception, if it survives that, its frames and its text."""
        return pickle.dumps(_record(error, set()), PROTOCOL)

    def load_error(self, record: bytes) -> BaseException:
        """Return the original exception, or a `RemoteError` that tells of it."""
        return _restore(pickle.loads(record))


class Direct:
    """The codec of workers in the kernel: objects travel as they are."""

    def pack_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself."""
        return function

    def load_function(self, payload: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself."""
        return payload

    def pack_values(self, values: list[Any]) -> tuple[list[Any], Broken]:
        """Return the list itself."""
        return values, {}

    def open_values(self, payload: list[Any]) -> tuple[list[Any], Load | None]:
        """Return the list itself."""
        return payload, None

    def join(self, values: list[Any], errors: list[BaseException]) -> tuple[list[Any], list[BaseException]]:
        """Return both."""
        return values, errors

    def split(self, payload: tuple[list[Any], list[BaseException]]) -> tuple[list[Any], list[BaseException]]:
        """Return both."""
        return payload

    def pack_error(self, error: BaseException) -> BaseException:
        """Return the exception without the frames of poolmagic; one that would end the kernel becomes a `RemoteError`."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
            trace = trace.tb_next
        if not isinstance(error, Exception):
            return _remote_error(type(error).__qualname__, str(error), "".join(traceback.format_exception(error)))
        return error.with_traceback(trace)

    def load_error(self, record: BaseException) -> BaseException:
        """Return the exception itself."""
        return record


def _record(error: BaseException, seen: set[int]) -> dict[str, Any]:
    """Return all that is known of an exception as plain data; `seen` stops circles of causes."""
    seen.add(id(error))
    chain = {
        name: _record(linked, seen)
        for name in ("__cause__", "__context__")
        if (linked := getattr(error, name)) is not None and id(linked) not in seen
    }
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return {
        "pickled": _pickled_if_it_survives(error),
        "type": type(error).__qualname__,
        "message": _safe_str(error),
        "notes": [str(note) for note in getattr(error, "__notes__", ())],
        "text": "".join(traceback.format_exception(type(error), error, _below_own_code(error.__traceback__))),
        "frames": traces.collect(error.__traceback__, hide=_OWN_CODE),
        "chain": chain,
        "suppress": error.__suppress_context__,
        "members": [_record(member, seen) for member in members if id(member) not in seen],
    }


def _below_own_code(trace: types.TracebackType | None) -> types.TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        trace = trace.tb_next
    return trace


def _pickled_if_it_survives(error: BaseException) -> bytes | None:
    """Pickle an exception and load it again: many can be pickled but not loaded. None if it does not survive."""
    if not isinstance(error, Exception):  # SystemExit and its like would end the kernel
        return None
    try:
        pickled = _dumps(error)
        same = type(pickle.loads(pickled)) is type(error)
    except Exception:  # whatever the user's class does here, the record still tells of it as text
        return None
    return pickled if same else None


def _restore(record: dict[str, Any]) -> BaseException:
    """Rebuild an exception, its traceback and those of its causes and members from a record."""
    error = _load_exception(record)
    for name, linked in record["chain"].items():
        setattr(error, name, _restore(linked))
    error.__suppress_context__ = record["suppress"]
    if isinstance(error, BaseExceptionGroup):
        for member, known in zip(error.exceptions, record["members"], strict=False):
            member.__traceback__ = traces.rebuild(known["frames"])
    return error.with_traceback(traces.rebuild(record["frames"]))


def _load_exception(record: dict[str, Any]) -> BaseException:
    if record["pickled"] is not None:
        try:
            loaded: BaseException = pickle.loads(record["pickled"])
        except Exception:  # it loaded in the worker, but not here: a class that is missing, say
            loaded = _remote_error(record["type"], record["message"], record["text"])
        return loaded
    error = _remote_error(record["type"], record["message"], record["text"])
    for note in record["notes"]:
        error.add_note(note)
    return error


def _remote_error(name: str, message: str, text: str) -> RemoteError:
    return RemoteError(f"the task raised {name}: {message}", type_name=name, text=text)


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # a broken __str__ must not hide the exception it belongs to
        return f"<no text: {type(error).__name__} in __str__>"


def describe_value(value: object, most: int = 80) -> str:
    """Return a short text for any value, whatever its ``__repr__`` does; does not block."""
    try:
        text = repr(value)
    except Exception:  # a broken __repr__ must not hide the error that is being told
        text = object.__repr__(value)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def find_culprit(function: Any, path: str = "", seen: set[int] | None = None) -> str:
    """Return the path to a variable of `function`, or of one it calls, that cannot be pickled; "" if none is found."""
    seen = set() if seen is None else seen
    function = getattr(function, "__func__", getattr(function, "func", function))
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return ""
    seen.add(id(function))
    path += f"{function.__name__} -> "
    variables = inspect.getclosurevars(function)
    for place, values in (("global", variables.globals), ("closure", variables.nonlocals)):
        for name, value in values.items():
            if isinstance(value, types.FunctionType):
                found = find_culprit(value, path, seen)
                if found:
                    return found
                continue
            try:
                _dumps(value)
            except Exception:  # any failure to pickle is what we look for
                return f"{path}{place} '{name}' ({type(value).__name__})"
    return ""
