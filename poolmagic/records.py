"""Exceptions as plain data, so that any of them travels: pickled where it survives that, and told as text.

This module owns no state.
"""

from __future__ import annotations

import os
import pickle
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from poolmagic import traces
from poolmagic.errors import RemoteError
from poolmagic.picklers import Pickler, dumps

__all__ = ["OWN_CODE", "below_own_code", "pack", "remote_error", "restore"]

OWN_CODE: Final = str(Path(__file__).parent) + os.sep


class _BarePickler(Pickler):
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
        pickle.loads(dumps(value, pickler=_BarePickler))
    except Exception:  # whatever it is, that is the answer
        return False
    return True


def _new_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


def pack(error: BaseException) -> list[dict[str, Any]]:
    """Return an exception, and all that it is linked to, as plain data; links are places in the list."""
    found = [error]
    places = {id(error): 0}

    def place_of(linked: BaseException) -> int:
        place = places.setdefault(id(linked), len(found))
        if place == len(found):
            found.append(linked)
        return place

    text = "".join(traceback.format_exception(type(error), error, below_own_code(error.__traceback__)))
    return [
        {
            "pickled": _pickled_if_it_survives(one),
            "type": type(one).__qualname__,
            "message": _safe_str(one),
            "notes": [_safe_str(note) for note in getattr(one, "__notes__", ())],
            "text": text if one is error else "",
            "frames": traces.collect(one.__traceback__, hide=OWN_CODE),
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


def below_own_code(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without poolmagic's frames at its beginning."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OWN_CODE):
        trace = trace.tb_next
    return trace


def _pickled_if_it_survives(error: BaseException) -> bytes | None:
    """Pickle an exception and load it again: many cannot be, or change their text. None if it does not survive."""
    if not isinstance(error, Exception):  # SystemExit and its like would end the kernel
        return None
    survivors: list[bytes] = []
    for pickler in (Pickler, _BarePickler, _LossyPickler):
        with suppress(Exception):  # whatever the user's class does here, the record still tells of it as text
            pickled = dumps(error, pickler=pickler)
            loaded = pickle.loads(pickled)
            if type(loaded) is type(error):
                survivors.append(pickled)
                if _safe_str(loaded) == _safe_str(error):
                    return pickled
    return survivors[0] if survivors else None


def restore(records: list[dict[str, Any]]) -> BaseException:
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
        error = remote_error(record["type"], record["message"], record["text"])
    if not hasattr(error, "__notes__"):
        for note in record["notes"]:
            error.add_note(note)
    return error


def remote_error(name: str, message: str, text: str) -> RemoteError:
    """Return what stands for an exception that cannot be here itself."""
    return RemoteError(f"the task raised {name}: {message}", type_name=name, text=text)


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # a broken __str__ must not hide the exception it belongs to
        return f"<no text: {type(error).__name__} in __str__>"
