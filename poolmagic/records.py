"""Exceptions as plain data, so that any of them travels: pickled where it survives that, and told as text.

This module owns no state.
"""

from __future__ import annotations

import os
import pickle
import traceback
import types
from pathlib import Path
from typing import Any, Final

from poolmagic import traces
from poolmagic.errors import RemoteError, annotate
from poolmagic.picklers import Pickler, dumps, is_aimed_at_thread

__all__ = ["OWN_CODE", "below_own_code", "pack", "remote_error", "restore"]

OWN_CODE: Final = str(Path(__file__).parent) + os.sep
LONGEST: Final = 100_000
"""Characters of a message, or of a traceback as text."""


class _BarePickler(Pickler):
    """Takes exceptions apart itself: unpickling calls their constructor with `args`, which may be not what it takes."""

    def reducer_override(self, value: Any) -> Any:
        reduce: object = type(value).__reduce__
        if isinstance(value, BaseException) and reduce in (BaseException.__reduce__, OSError.__reduce__):
            # The last one does what `__setstate__` does, which frozen dataclasses do not let it do.
            made = (type(value), self.keep(value.__reduce__()[1]))
            return _new_exception, made, self.keep(_attributes_of(value)), None, None, _set_attributes
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
    except BaseException as error:  # whatever it is, a `__reduce__` that exits included, that is the answer
        if is_aimed_at_thread(error):
            raise
        return False
    return True


def _attributes_of(error: BaseException) -> dict[str, Any]:
    """Return the attributes of an exception, those in slots included, which its own `__reduce__` leaves out."""
    slots = {name: getattr(error, name) for name in _slots_of(type(error)) if hasattr(error, name)}
    return {**slots, **error.__dict__}


def _set_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        object.__setattr__(error, name, value)


def _slots_of(cls: type) -> list[str]:
    """Return the names of the slots of a class and of its bases."""
    members = [vars(one).items() for one in cls.__mro__ if "__slots__" in vars(one)]
    return [name for items in members for name, value in items if isinstance(value, types.MemberDescriptorType)]


def _new_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    try:
        error = cls.__new__(cls, *args)
    except TypeError:  # a `__new__` of its own, that takes something else: do without
        native = next(one for one in cls.__mro__ if one.__module__ == "builtins")
        error = native.__new__(cls, *args)
    if isinstance(error, OSError):
        OSError.__init__(error, *args)  # which takes a file name out of them, unless that was done already
    else:
        _set(error, "args", args)
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

    text = _cut(_text_of(error))
    records = [
        {
            "pickled": _pickled_if_it_survives(one),
            "type": type(one).__qualname__,
            "message": _safe_str(one),
            "notes": _notes_of(one),
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
    for record, one in zip(records, found, strict=True):
        if record["pickled"] is None and isinstance(one, ExceptionGroup):  # because of a member that cannot travel
            record["group"] = _pickled_without_members(one)
    return records


def _text_of(error: BaseException) -> str:
    """Return the traceback as text."""
    try:
        return "".join(traceback.format_exception(type(error), error, below_own_code(error.__traceback__)))
    except Exception:  # the `__getattr__` of the user's class, which the standard library does not expect to raise
        return f"{type(error).__qualname__}: {_safe_str(error)}\n"


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
    usual = () if _slots_of(type(error)) else (Pickler,)  # which forgets what is in slots
    for pickler in (*usual, _BarePickler, _LossyPickler):
        try:
            pickled = dumps(error, pickler=pickler)
            loaded = pickle.loads(pickled)
        except BaseException as other:  # whatever the user's class does here, the record still tells of it as text
            if is_aimed_at_thread(other):
                raise
            continue
        if type(loaded) is type(error):
            survivors.append(pickled)
            if _safe_str(loaded) == _safe_str(error):
                return pickled
    return survivors[0] if survivors else None


def _pickled_without_members(group: ExceptionGroup[Exception]) -> bytes | None:
    """Pickle what makes a group besides its members; None if that cannot be."""
    facts = {name: part for name, part in _attributes_of(group).items() if _can_travel(part)}
    parts = (type(group), group.message, facts)
    return dumps(parts, pickler=_BarePickler) if _can_travel(parts) else None


def restore(records: list[dict[str, Any]]) -> BaseException:
    """Rebuild an exception, its traceback and those of its causes and members from records."""
    errors: dict[int, BaseException] = {}
    for place in range(len(records)):
        _restore(records, place, errors)
    for place, record in enumerate(records):
        error = errors[place]
        for name, linked in record["links"].items():
            _set(error, name, errors[linked])
        _set(error, "__suppress_context__", record["suppress"])
        _set(error, "__traceback__", traces.rebuild(record["frames"]))
    return errors[0]


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set one of the attributes that all exceptions have, whatever their own `__setattr__` says about it."""
    getattr(BaseException, name).__set__(error, value)


def _restore(records: list[dict[str, Any]], place: int, errors: dict[int, BaseException]) -> BaseException:
    """Put an exception, and its members if it is a group, into `errors`, and return it."""
    if place not in errors:  # else it came as a member of a group
        record = records[place]
        if record.get("group") is None:
            errors[place] = _load_exception(record)
        else:
            errors[place] = _regroup(record, [_restore(records, member, errors) for member in record["members"]])
    group = errors[place]
    if isinstance(group, BaseExceptionGroup):
        errors.update(zip(records[place]["members"], group.exceptions, strict=False))
    return group


def _regroup(record: dict[str, Any], members: list[BaseException]) -> BaseException:
    """Return a group of members that came one by one, those that could not travel as `RemoteError`."""
    try:
        cls, message, facts = pickle.loads(record["group"])
        group: BaseException = cls.__new__(cls, message, members)
        _set_attributes(group, facts)
    except Exception:  # the user's class is not here, or wants to be made in another way
        return _load_exception(record)
    return group


def _load_exception(record: dict[str, Any]) -> BaseException:
    error: BaseException | None = None
    if record["pickled"] is not None:
        try:
            error = pickle.loads(record["pickled"])
        except BaseException as other:  # it loaded in the worker, but not here: a class that is missing, say
            if is_aimed_at_thread(other):
                raise
    if not isinstance(error, BaseException):
        error = remote_error(record["type"], record["message"], record["text"])
    if "__notes__" not in error.__dict__:  # not `hasattr`, which asks a `__getattr__` of the user's
        for note in record["notes"]:
            annotate(error, note)
    return error


def remote_error(name: str, message: str, text: str) -> RemoteError:
    """Return what stands for an exception that cannot be here itself."""
    return RemoteError(f"the task raised {name}: {message}", type_name=name, text=text)


def _safe_str(value: object) -> str:
    try:
        return _cut(str(value))
    except BaseException as error:  # a broken __str__ must not hide the exception it belongs to, even if it exits
        if is_aimed_at_thread(error):
            raise
        return f"<no text: {type(error).__name__} in __str__>"


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [_safe_str(note) for note in getattr(error, "__notes__", ())]
    except Exception:  # what is there instead of a list, or the `__getattr__` of the user's class, is no note
        return []


def _cut(text: str) -> str:
    """Shorten a text that somebody put his data into: the exception itself still has all of it."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}\n... {len(text) - LONGEST:,} characters ...\n{text[-LONGEST // 2 :]}"
