"""What the items of a run printed and displayed, all of it: the last megabyte in memory, the rest in a file.

What comes is written one piece behind the other, each with the place of the piece before it of the same item, so that
memory holds one number for each item, and never their texts. The file has no name, so nobody else opens it, and it is
gone with the process however that ends.

Threads. One thread adds; any thread reads. What they share is behind a lock, which is held for moments only: what is
written never changes.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from poolmagic.pages import NOBODY

__all__ = ["Outputs"]

IN_MEMORY: Final = 1 << 20
"""Bytes that are kept in memory before they are written to the file."""
PAGE: Final = 1024
"""Items whose places are kept together."""

_HEAD: Final = struct.Struct("<qqB")
"""Before each piece: the place of the one before it of the same item (-1 for none), its length, its kind."""
_TEXT: Final = 0
_DISPLAY: Final = 1


class Outputs(Mapping[int, str]):
    """What each item printed, stdout and stderr in order, by its index in the input; grows while the run goes on.

    An item that has printed and displayed nothing has ``""``, and is not among the keys. One that was tried again has
    the output of all its tries, one behind the other. No method blocks for longer than reading takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log = _Log()
        self._last: dict[int, array[int]] = {}

    def keep(self, index: int, stream: str, text: str) -> None:
        """Add what an item printed, or displayed if `stream` is ``"display"``; `NOBODY` stands for no item."""
        data = text.encode("utf-8", "surrogatepass")
        number, offset = divmod(index, PAGE)
        with self._lock:
            page = self._last.get(number)
            if page is None:
                page = self._last[number] = array("q", [-1]) * PAGE
            page[offset] = self._log.add(_HEAD.pack(page[offset], len(data), _kind(stream)), data)

    def __getitem__(self, index: int) -> str:
        if not isinstance(index, int):
            raise KeyError(index)
        return "".join(self._pieces(index, _TEXT))

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index >= 0 and self._place(index) >= 0

    def __iter__(self) -> Iterator[int]:
        with self._lock:
            numbers = sorted(self._last)
        for number in numbers:
            for offset, place in enumerate(self._last[number]):
                if place >= 0 and number >= 0:
                    yield number * PAGE + offset

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<outputs of {len(self):,} items>"

    @property
    def rest(self) -> str:
        """What was printed in the workers by no item: between two, or by a thread that one of them left behind."""
        return self[NOBODY]

    def displays(self, index: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return what an item gave to ``display()``, as pairs of the MIME bundle and its metadata."""
        bundles = [json.loads(piece) for piece in self._pieces(index, _DISPLAY)]
        return [(bundle["data"], bundle["metadata"]) for bundle in bundles]

    def save(self, index: int, path: str | Path) -> None:
        """Write what an item printed into a file, in UTF-8, without having all of it in memory at once."""
        with Path(path).open("wb") as file:
            file.writelines(_bytes_of(piece) for piece in self._pieces(index, _TEXT))

    def _place(self, index: int) -> int:
        number, offset = divmod(index, PAGE)
        page = self._last.get(number)
        return -1 if page is None else page[offset]

    def _pieces(self, index: int, kind: int) -> Iterator[str]:
        """Yield what an item has of one kind, in order."""
        with self._lock:
            place, log = self._place(index), self._log.seen()
        found: list[tuple[int, int]] = []
        while place >= 0:
            before, length, its_kind = _HEAD.unpack(log.read(place, _HEAD.size))
            if its_kind == kind:
                found.append((place + _HEAD.size, length))
            place = before
        for start, length in reversed(found):
            yield log.read(start, length).decode("utf-8", "surrogatepass")


def _kind(stream: str) -> int:
    return _DISPLAY if stream == "display" else _TEXT


def _bytes_of(text: str) -> bytes:
    """Return the bytes that a text stands for, those that are no UTF-8 included."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a half of a pair that stands for no byte
        return text.encode("utf-8", "surrogatepass")


class _View:
    """A log as it was at one moment: its beginning is in the file, its end in memory."""

    def __init__(self, file: BinaryIO | None, written: int, tail: bytes) -> None:
        self._file = file
        self._written = written
        self._tail = tail

    def read(self, start: int, length: int) -> bytes:
        """Return bytes; a piece is either in the file or in memory."""
        if start >= self._written:
            return self._tail[start - self._written : start - self._written + length]
        assert self._file is not None
        parts = []
        while length and (part := os.pread(self._file.fileno(), length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)


class _Log:
    """Bytes that are only ever added. Who uses it locks it."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._written = 0
        self._tail = bytearray()
        self._is_full = False

    def add(self, *parts: bytes) -> int:
        """Add bytes; return where they begin."""
        place = self._written + len(self._tail)
        for part in parts:
            self._tail += part
        if len(self._tail) > IN_MEMORY and not self._is_full:
            self._write()
        return place

    def _write(self) -> None:
        """Move what is in memory into the file; where there is no room for it, it stays."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the log
                weakref.finalize(self, self._file.close)
            done = 0
            while done < len(self._tail):
                done += os.pwrite(self._file.fileno(), bytes(self._tail[done:]), self._written + done)
        except OSError:
            self._is_full = True
            return
        self._written += len(self._tail)
        self._tail = bytearray()

    def seen(self) -> _View:
        """Return all of it as it is now."""
        return _View(self._file, self._written, bytes(self._tail))
