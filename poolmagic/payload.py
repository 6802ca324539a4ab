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
import os
import pickle
import reprlib
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import cloudpickle

from poolmagic import traces
from poolmagic.errors import PayloadError, RemoteError

__all__ = ["Codec", "Direct", "Pickled", "describe_value"]

PROTOCOL: Final = 5
_ATOMS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})
_CACHED: Final = type(functools.lru_cache(len))
_OWN_CODE: Final = str(Path(__file__).parent) + os.sep

Broken = dict[int, BaseException]
"""Which values of a list could not be packed (by offset), and why."""
Load = Callable[[Any], Any]
Opened = tuple[Sequence[Any], Load | None, Sequence[Any]]
"""Entries, what must be called on each of them to get the value (None: they are it), and packed errors."""


class Codec(Protocol):
    """How functions, items and outcomes travel; see `Pickled`."""

    def pack_function(self, function: Callable[..., Any]) -> Any:
        """Return the payload of a function; raises `PayloadError` naming what it drags along that cannot travel."""
        ...

    def load_function(self, payload: Any) -> Callable[..., Any]:
        """Return the function; runs the user's code."""
        ...

    def pack_values(self, values: Sequence[Any], errors: Sequence[Any] = ()) -> tuple[Any, Broken]:
        """Return the payload of a list and of packed errors, and what of the list is broken."""
        ...

    def open_values(self, payload: Any) -> Opened:
        """Return what a payload holds; runs none of the user's code."""
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
        if isinstance(value, _CACHED) and not _is_importable(value):
            options = value.cache_parameters()
            return _cached, (options["maxsize"], options["typed"], value.__wrapped__)
        return super().reducer_override(value)


class _BarePickler(_Pickler):
    """Takes exceptions apart itself: unpickling calls their constructor with `args`, which may be not what it takes."""

    def reducer_override(self, value: Any) -> Any:
        reduce: object = type(value).__reduce__
        if isinstance(value, BaseException) and reduce in (BaseException.__reduce__, OSError.__reduce__):
            return _new_exception, (type(value), self.keep(value.args)), self.keep(value.__dict__)
        return super().reducer_override(value)

    def keep(self, parts: Any) -> Any:
        """Return what of an exception's arguments or attributes is sent."""
        return parts


class _LossyPickler(_BarePickler):
    """Sends None for what of an exception cannot travel, such as the connection of an HTTP error."""

    def keep(self, parts: Any) -> Any:
        """Return what of an exception's arguments or attributes is sent."""
        if isinstance(parts, dict):
            return {name: part if _can_travel(part) else None for name, part in parts.items()}
        return tuple(part if _can_travel(part) else None for part in parts)


def _can_travel(value: Any) -> bool:
    try:
        pickle.loads(_dumps(value, _BarePickler))
    except Exception:  # whatever it is, that is the answer
        return False
    return True


def _new_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


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


def _dumps(value: Any, pickler: type[_Pickler] = _Pickler) -> bytes:
    stream = io.BytesIO()
    pickler(stream, PROTOCOL).dump(value)
    return stream.getvalue()


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether all values, or all members of all tuples, are exactly numbers or strings: safe as one pickle."""
    kinds = set(map(type, values))
    return kinds <= _ATOMS or (kinds == {tuple} and set(map(type, itertools.chain.from_iterable(values))) <= _ATOMS)


class Pickled:
    """The codec of workers that are processes. Its methods may run the user's pickling code, and no other of his."""

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

    def pack_values(self, values: Sequence[Any], errors: Sequence[bytes] = ()) -> tuple[bytes, Broken]:
        """Return a list as one payload; broken values are left out of it and returned with their errors."""
        if _are_plain(values):
            return pickle.dumps((True, values, errors), PROTOCOL), {}
        broken: Broken = {}
        pieces = []
        for offset, value in enumerate(values):
            try:
                pieces.append(_dumps(value))
            except Exception as error:
                broken[offset] = PayloadError(f"cannot pickle {describe_value(value)}: {error}")
                pieces.append(b"")
        return pickle.dumps((False, pieces, errors), PROTOCOL), broken

    def open_values(self, payload: bytes) -> Opened:
        """Return the list; its entries are loaded one by one, so that one that cannot be fails alone."""
        plain, values, errors = pickle.loads(payload)
        return values, None if plain else pickle.loads, errors

    def pack_error(self, error: BaseException) -> bytes:
        """Return a record of plain data: the pickled exception, if it survives that, its frames and its text."""
        return pickle.dumps(_records(error), PROTOCOL)

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

    def pack_values(
        self, values: Sequence[Any], errors: Sequence[BaseException] = ()
    ) -> tuple[tuple[Sequence[Any], Sequence[BaseException]], Broken]:
        """Return both lists themselves."""
        return (values, errors), {}

    def open_values(self, payload: tuple[Sequence[Any], Sequence[BaseException]]) -> Opened:
        """Return the lists themselves."""
        values, errors = payload
        return values, None, errors

    def pack_error(self, error: BaseException) -> BaseException:
        """Return the exception without poolmagic's frames; one that would end the kernel becomes a `RemoteError`."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
            trace = trace.tb_next
        if not isinstance(error, Exception):
            return _remote_error(type(error).__qualname__, str(error), "".join(traceback.format_exception(error)))
        return error.with_traceback(trace)

    def load_error(self, record: BaseException) -> BaseException:
        """Return the exception itself."""
        return record


def _records(error: BaseException) -> list[dict[str, Any]]:
    """Return an exception, and all that it is linked to, as plain data; links are places in the list."""
    found = [error]
    places = {id(error): 0}

    def place_of(linked: BaseException) -> int:
        place = places.setdefault(id(linked), len(found))
        if place == len(found):
            found.append(linked)
        return place

    text = "".join(traceback.format_exception(type(error), error, _below_own_code(error.__traceback__)))
    return [
        {
            "pickled": _pickled_if_it_survives(one),
            "type": type(one).__qualname__,
            "message": _safe_str(one),
            "notes": [_safe_str(note) for note in getattr(one, "__notes__", ())],
            "text": text if one is error else "",
            "frames": traces.collect(one.__traceback__, hide=_OWN_CODE),
            "links": {
                name: place_of(linked)
                for name in ("__cause__", "__context__")
                if (linked := getattr(one, name)) is not None
            },
            "suppress": one.__suppress_context__,
            "members": [place_of(member) for member in one.exceptions] if isinstance(one, BaseExceptionGroup) else [],
        }
        for one in found  # which grows meanwhile
    ]


def _below_own_code(trace: types.TracebackType | None) -> types.TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        trace = trace.tb_next
    return trace


def _pickled_if_it_survives(error: BaseException) -> bytes | None:
    """Pickle an exception and load it again: many cannot be, or change their text. None if it does not survive."""
    if not isinstance(error, Exception):  # SystemExit and its like would end the kernel
        return None
    survivors: list[bytes] = []
    for pickler in (_Pickler, _BarePickler, _LossyPickler):
        with suppress(Exception):  # whatever the user's class does here, the record still tells of it as text
            pickled = _dumps(error, pickler)
            loaded = pickle.loads(pickled)
            if type(loaded) is type(error):
                survivors.append(pickled)
                if _safe_str(loaded) == _safe_str(error):
                    return pickled
    return survivors[0] if survivors else None


def _restore(records: list[dict[str, Any]]) -> BaseException:
    """Rebuild an exception, its traceback and those of its causes and members from records."""
    errors: dict[int, BaseException] = {}
    for place, record in enumerate(records):
        if place not in errors:  # else it came as a member of a group
            errors[place] = _load_exception(record)
        group = errors[place]
        if isinstance(group, BaseExceptionGroup):
            errors.update(zip(record["members"], group.exceptions, strict=False))
    for place, record in enumerate(records):
        error = errors[place]
        for name, linked in record["links"].items():
            setattr(error, name, errors[linked])
        error.__suppress_context__ = record["suppress"]
        error.__traceback__ = traces.rebuild(record["frames"])
    return errors[0]


def _load_exception(record: dict[str, Any]) -> BaseException:
    error: BaseException | None = None
    if record["pickled"] is not None:
        with suppress(Exception):  # it loaded in the worker, but not here: a class that is missing, say
            error = pickle.loads(record["pickled"])
    if error is None:
        error = _remote_error(record["type"], record["message"], record["text"])
    if not hasattr(error, "__notes__"):
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


_short: Final = reprlib.Repr()
_short.maxother = _short.maxstring = _short.maxlong = 1000
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 20


def describe_value(value: object, most: int = 80) -> str:
    """Return a short text for any value, whatever its ``__repr__`` does; does not block."""
    if isinstance(value, str | bytes | bytearray):
        value = value[: most + 1]  # the text of a large one costs seconds
    try:
        text = _short.repr(value)
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
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:  # a variable of the closure has no value yet
        return ""
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
