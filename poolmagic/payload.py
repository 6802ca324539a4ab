"""User objects to opaque payloads and back.

Two codecs have the same methods: `Pickled` for workers that are processes, `Direct` for those in the kernel itself,
where "nothing is pickled" is the point. Functions are pickled by the asking thread and unpickled in the slot that
first needs them; items and results likewise. The supervisor's loop thread only carries what comes out of here.

A list of plain numbers and strings is one pickle. Anything else is pickled item by item, so that one that cannot be
pickled, or unpickled on the other side, fails alone. What is large goes to memory files (see `memory`); where the
system gives none, it stays in the pickle. A codec belongs to one pool, and only its threads that ask use it. This
module owns the set of functions whose heavy variables have been told of.
"""

from __future__ import annotations

import itertools
import pickle
import traceback
import types
import weakref
from collections.abc import Callable, Sequence
from operator import countOf, itemgetter
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias

from poolmagic import records, traces
from poolmagic.advice import origin, say
from poolmagic.culprits import SECONDS, explain
from poolmagic.equipped import Equipped
from poolmagic.errors import PayloadError, TaskCancelled, note_once
from poolmagic.memory import LARGE, ONE_FILE, Payload, Retained, store
from poolmagic.picklers import PROTOCOL, dumps, find_heavy, is_aimed_at_thread
from poolmagic.xray import HEAVY, captures

__all__ = ["Broken", "Codec", "Direct", "Load", "Opened", "Pickled", "seal", "unseal", "weigh"]

_ATOMS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})
KEPT_FILE: Final = 1 << 20
"""Bytes after which a report gets another file: its results may be kept for long, and some of them only."""

Sealed: TypeAlias = "bytes | Payload"
Broken: TypeAlias = dict[int, BaseException]
"""Which values of a list could not be packed (by offset), and why."""
Load: TypeAlias = Callable[[Any], Any]
Opened: TypeAlias = tuple[Sequence[Any], Load | None, Sequence[Any]]
"""Entries, what must be called on each of them to get the value (None: they are it), and packed errors."""


class Codec(Protocol):
    """How functions, items and outcomes travel; see `Pickled`."""

    def pack_function(self, function: Callable[..., Any]) -> Any:
        """Return the payload of a function; raises `PayloadError` naming what it drags along that cannot travel."""
        ...

    def load_function(self, payload: Any) -> Callable[..., Any]:
        """Return the function; runs the user's code. Raises `PayloadError` for what that raises."""
        ...

    def pack_values(self, values: Sequence[Any], errors: Sequence[Any] = ()) -> tuple[Any, Broken]:
        """Return the payload of a list and of packed errors, and what of the list is broken."""
        ...

    def open_values(self, payload: Any) -> Opened:
        """Return what a payload holds; runs none of the user's code. `Load` does, and raises `PayloadError`."""
        ...

    def pack_error(self, error: BaseException) -> Any:
        """Return an exception with its traceback in a form that always travels."""
        ...

    def load_error(self, record: Any) -> BaseException:
        """Return the exception, with its remote traceback."""
        ...


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether all values, or all members of all tuples, are exactly numbers or strings: safe as one pickle."""
    if type(values) is range:
        return True
    first = type(values[0]) if values else int
    if first in _ATOMS and countOf(map(type, values), first) == len(values):  # twice as fast, and the usual case
        return True
    kinds = set(map(type, values))
    return kinds <= _ATOMS or (kinds == {tuple} and set(map(type, itertools.chain.from_iterable(values))) <= _ATOMS)


def seal(content: Any, file_size: int = ONE_FILE, retained: Retained | None = None) -> Sealed:
    """Return a payload of plain data and of `pickle.PickleBuffer`; blocks to copy what is large.

    Args:
        content: Its buffers go to memory files if it is large, and so does its pickle if that is large without them.
        file_size: See `memory.store`.
        retained: See `memory.store`; keeps the buffers of this content from now on.
    """
    outside: list[pickle.PickleBuffer] = []
    body = pickle.dumps(content, PROTOCOL, buffer_callback=outside.append)
    buffers = [buffer.raw() for buffer in outside]
    if len(body) + sum(map(len, buffers)) < LARGE:
        return pickle.dumps(content, PROTOCOL) if buffers else body
    if len(body) >= LARGE:
        buffers.append(memoryview(body))
        body = b""
    try:
        files, places = store(buffers, file_size, retained)
    except OSError:  # a container's limit, or no descriptors left: the frame takes everything
        return pickle.dumps(content, PROTOCOL)
    if retained is not None:
        retained.keep(files, places)
    return Payload(pickle.dumps((body, places), PROTOCOL), files)


def unseal(payload: Sealed) -> Any:
    """Return the content of a payload; its buffers are views of memory that no other process writes to."""
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    body, places = pickle.loads(payload.body)
    views = [payload.files[number].view()[start : start + length] for number, start, length in places]
    return pickle.loads(body or views.pop(), buffers=views)


def weigh(payload: Any) -> int:
    """Return the bytes of a payload, without what is shared; 0 for one that is not packed."""
    if isinstance(payload, Payload):
        return len(payload.body) + sum(file.size for file in payload.files if not file.is_shared)
    return len(payload) if isinstance(payload, bytes) else 0


def _entry(value: Any) -> Any:
    """Pickle one value, as bytes or as a tuple of its pickle and its large buffers; runs the user's code."""
    buffers: list[pickle.PickleBuffer] = []
    body = dumps(value, buffers)
    if not buffers and len(body) < LARGE:
        return body
    return (pickle.PickleBuffer(body), *buffers)


def _size_of(entry: Any) -> int:
    return sum(buffer.raw().nbytes for buffer in entry) if type(entry) is tuple else len(entry)


def _load_entry(entry: Any) -> Any:
    """Return the value of an entry; runs the user's code."""
    if type(entry) is tuple:
        return pickle.loads(entry[0], buffers=entry[1:])
    return pickle.loads(entry)


def _load_argument(entry: Any) -> Any:
    """Return an argument from its entry, in a worker; raises `PayloadError` for what the user's code raises."""
    try:
        if type(entry) is tuple:  # not by `_load_entry`: a call more for each item
            return pickle.loads(entry[0], buffers=entry[1:])
        return pickle.loads(entry)
    except BaseException as error:  # a `__setstate__` that exits fails its item, and ends no worker
        raise _unloadable("argument", "in the worker", error) from error


def _load_result(entry: Any) -> Any:
    """Return a result from its entry, in the kernel; raises `PayloadError` for what the user's code raises."""
    try:
        if type(entry) is tuple:
            return pickle.loads(entry[0], buffers=entry[1:])
        return pickle.loads(entry)
    except BaseException as error:  # see above; here it would end the user's cell, or his kernel
        raise _unloadable("result", "in the kernel", error) from error


def _unloadable(what: str, where: str, error: BaseException) -> PayloadError:
    """Return what tells that something could not be loaded; raises `error` itself if it is not about that."""
    if is_aimed_at_thread(error):
        raise error
    advice = ""
    if isinstance(error, ImportError | AttributeError) and not origin(error):
        advice = f"; its class or function must be importable {where}, too"
    return PayloadError(f"the {what} cannot be unpickled {where}: {origin(error)}{say(error)}{advice}")


def _unpackable(what: str, where: str, value: Any, error: BaseException, seconds: float) -> PayloadError:
    """Return what tells that a value cannot be pickled, and why; looks for the culprit for so many seconds at most."""
    text, culprit = explain(value, error, "" if what == "function" else what, seconds)
    told = PayloadError(f"cannot send the {what} to {where}: {text}", culprit=culprit)
    told.__cause__ = error
    return told


class Pickled:
    """The codec of workers that are processes. Its methods may run the user's pickling code, and no other of his.

    Args:
        in_worker: It packs results and loads arguments, not the other way round. Its results may be kept for long, so
            they are put into files of `KEPT_FILE` bytes.
    """

    def __init__(self, in_worker: bool = False) -> None:
        self._in_worker = in_worker
        self._file_size = KEPT_FILE if in_worker else ONE_FILE
        self._load = _load_argument if in_worker else _load_result
        self._retained = Retained()

    def pack_function(self, function: Callable[..., Any]) -> Sealed:
        """Return the pickled function with the sources of the cells that it was written in."""
        try:
            entry = _entry(function)
        except BaseException as error:  # a `__reduce__` that exits is a function that cannot be sent
            if is_aimed_at_thread(error):
                raise
            told = _unpackable("function", "the workers", function, error, SECONDS)
            note = captures(function.function if isinstance(function, Equipped) else function)
            if note:
                told.add_note(note)
            raise told from error
        users = function.users if isinstance(function, Equipped) else (function,)
        cells = {name: text for user in users for name, text in traces.sources(user).items()}
        payload = seal((entry, cells), ONE_FILE, self._retained)
        if weigh(payload) >= HEAVY:
            _tell_of_weight(users[0])
        return payload

    def load_function(self, payload: Sealed) -> Callable[..., Any]:
        """Return the function, and let this process's tracebacks show the lines of its cells."""
        entry, cells = unseal(payload)
        traces.show_sources(cells)
        try:
            loaded: Callable[..., Any] = _load_entry(entry)
        except BaseException as error:  # see `_load_argument`
            raise _unloadable("function", "in the worker", error) from error
        return loaded

    def pack_values(self, values: Sequence[Any], errors: Sequence[bytes] = ()) -> tuple[Sealed, Broken]:
        """Return a list as one payload; broken values are left out of it and returned with their errors."""
        if _are_plain(values):
            try:
                return seal((True, values, errors), self._file_size), {}
            except MemoryError:
                values = list(values)  # and one by one, so that the largest fails alone
        broken: Broken = {}
        entries = []
        seconds = SECONDS  # for all of them: a thousand broken ones must not take a thousand times as long
        for offset, value in enumerate(values):
            try:
                entries.append(_entry(value))
            except (
                BaseException
            ) as error:  # a `__reduce__` that exits fails its item, and ends neither worker nor kernel
                # In a worker only a cancel is for the thread: the others come from the value, or belong to its item.
                if isinstance(error, TaskCancelled) if self._in_worker else is_aimed_at_thread(error):
                    raise
                since = perf_counter()
                broken[offset] = self._unsendable(value, error, seconds)
                seconds = max(0.0, seconds - (perf_counter() - since))
                entries.append(b"")
        return self._sealed(entries, errors, broken), broken

    def _sealed(self, entries: list[Any], errors: Sequence[bytes], broken: Broken) -> Sealed:
        """Return the payload of entries; those that there is no memory for, the largest first, become broken ones."""
        while True:
            try:
                return seal((False, entries, errors), self._file_size)
            except MemoryError as error:
                offset, size = max(enumerate(map(_size_of, entries)), key=itemgetter(1), default=(0, 0))
                if not size:
                    raise
                what, do = ("result", "return") if self._in_worker else ("argument", "pass")
                text = f"the {what} is too large for the memory there is, {size / 1e6:,.0f} MB pickled; {do} a path"
                broken[offset] = PayloadError(text)
                broken[offset].__cause__ = error
                entries[offset] = b""

    def _unsendable(self, value: Any, error: BaseException, seconds: float) -> PayloadError:
        if self._in_worker:
            return _unpackable("result", "the kernel", value, error, seconds)
        return _unpackable("argument", "a worker", value, error, seconds)

    def open_values(self, payload: Sealed) -> Opened:
        """Return the list; its entries are loaded one by one, so that one that cannot be fails alone."""
        plain, values, errors = unseal(payload)
        return values, None if plain else self._load, errors

    def pack_error(self, error: BaseException) -> bytes:
        """Return a record of plain data: the pickled exception, if it survives that, its frames and its text."""
        return pickle.dumps(records.pack(error), PROTOCOL)

    def load_error(self, record: bytes) -> BaseException:
        """Return the original exception, or a `RemoteError` that tells of it."""
        try:
            return records.restore(pickle.loads(record))
        except Exception as error:  # of the user's class, in some way that is not foreseen: still this item's alone
            raised = f"{type(error).__name__}: {error}"
            return PayloadError(f"the exception of the task cannot be unpickled in the kernel: {raised}")


_weighed: Final[weakref.WeakSet[types.CodeType]] = weakref.WeakSet()


def _tell_of_weight(function: Callable[..., Any]) -> None:
    """Tell the user, once, which captured objects are heavy."""
    code = getattr(function, "__code__", None)
    if code in _weighed:
        return
    if code is not None:
        _weighed.add(code)
    for (path, variable), size in find_heavy(function, HEAVY).items():
        what = f"{path} captures {variable!r}, {size / 1e6:,.0f} MB"
        note_once(f"{what}: it is compared or sent at each run; pm.share({variable}) does that once for all")


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
        if not isinstance(error, Exception):
            text = "".join(traceback.format_exception(error))
            return records.remote_error(type(error).__qualname__, str(error), text)
        return error.with_traceback(records.below_own_code(error.__traceback__))

    def load_error(self, record: BaseException) -> BaseException:
        """Return the exception itself."""
        return record
