"""Large buffers on their way between processes: in anonymous memory files, which travel as descriptors.

The sender writes buffers into a file once; any number of processes map it, so the bytes are copied once and no socket
sees them. A mapping is private and writable: a task may write into its arguments, and nobody else sees it. Nothing has
a name, so nobody else can open it, and the memory ends with its last user, however that ends.

A file belongs to who made or received it and may be used from any thread. This module owns the numbers of descriptors
and mappings, which have limits, and the table of buffers that are in a file already.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeAlias

__all__ = [
    "LARGE",
    "ONE_FILE",
    "MemoryFile",
    "Payload",
    "Place",
    "Retained",
    "SharedBuffer",
    "is_shared",
    "share_places",
    "store",
]

LARGE: Final = 1 << 18
"""Bytes of a payload from which on its buffers go to memory files. Measured here: a file costs 30 us beyond the copy
into it; a buffer within the frame is copied four times more, 25 us each at this size."""
MAX_FILES: Final = 64
"""Most new files of a payload, and most of those from before. (Linux lets 253 descriptors travel with one message.)"""
ONE_FILE: Final = 1 << 62
"""Bytes after which buffers that are dropped together get another file: never."""
ALIGNMENT: Final = 64
"""As NumPy and Arrow like their data."""

Place: TypeAlias = tuple[int, int, int]
"""Where a buffer is: the number of its file, its first byte there, and its length."""

_libc: Final = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
if _libc is not None:
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    _libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

_open: Final[set[int]] = set()
"""The descriptors of files that were made here."""
_mapped: Final[set[int]] = set()
"""The addresses of what is mapped."""


class MemoryFile:
    """An anonymous file in memory.

    Args:
        descriptor: It belongs to the file object from now on.

    Attributes:
        descriptor: -1 once closed; a received file needs none, because it is mapped.
        size: Bytes.
        is_shared: What is in it is sent more than once, and belongs to no payload alone.
    """

    __slots__ = ("__weakref__", "_view", "descriptor", "is_shared", "size")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._view: memoryview | None = None
        self.is_shared = False
        self.size = os.fstat(descriptor).st_size

    @classmethod
    def create(cls, buffers: Sequence[memoryview], starts: Sequence[int]) -> MemoryFile:
        """Return a new file with `buffers` at `starts`; blocks for the copy, about 0.4 s for a gigabyte.

        Raises:
            OSError: The system gives no memory file, or not so large a one; or there are so many that the process
                would soon have no descriptors left for anything else.
        """
        if len(_open) >= _most_open():
            raise OSError(errno.EMFILE, "enough memory files are open")
        if hasattr(os, "memfd_create"):
            file = cls(os.memfd_create("poolmagic", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        else:
            with tempfile.TemporaryFile() as temporary:
                file = cls(os.dup(temporary.fileno()))
        _open.add(file.descriptor)
        try:
            for buffer, start in zip(buffers, starts, strict=True):
                written = 0
                while written < len(buffer):  # one call writes two gigabytes at most
                    written += os.pwrite(file.descriptor, buffer[written : written + (1 << 30)], start + written)
            file.size = os.fstat(file.descriptor).st_size
        except BaseException:  # whose traceback, which a run may keep, would keep the file
            file.close()
            raise
        return file

    @classmethod
    def receive(cls, descriptor: int) -> MemoryFile:
        """Return the file behind a descriptor that arrived, mapped, so that the descriptor is closed already."""
        file = cls(descriptor)
        with suppress(OSError, MemoryError):  # whoever wants the bytes is told then
            file.view()
            file.close()
        return file

    def view(self) -> memoryview:
        """Return the bytes, mapped privately at the first call: writing into them changes no other process's.

        The mapping goes when the last view of it does.
        """
        if self._view is None:
            self._view = _map(self.descriptor, self.size)
        return self._view

    def close(self) -> None:
        """Close the descriptor; what is mapped stays. Calling it twice equals once."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            _open.discard(descriptor)  # before the number can be another file's
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:  # else it never was one
            self.close()


def _most_open() -> float:
    """Return how many descriptors memory files may take: a quarter, because the user's code needs some, too."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft // 4


@functools.cache
def _most_mapped() -> float:
    """Return how many mappings there may be: half of them, because threads and `malloc` need some, too."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii")) // 2
    except OSError:  # a system without such a limit
        return math.inf


def _map(descriptor: int, size: int) -> memoryview:
    """Map a file; where there are too many mappings, read it."""
    # Not `mmap.mmap`: until Python 3.13 each of its maps keeps a descriptor, and a kernel that holds a thousand
    # results would have none left.
    assert _libc is not None
    import fcntl  # noqa: PLC0415 - Windows has none

    if hasattr(fcntl, "F_ADD_SEALS"):  # else who sent it could cut it off later, and to touch the mapping end us
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    if len(_mapped) >= _most_mapped():
        return _read(descriptor, size)
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        return _read(descriptor, size)
    _mapped.add(address)
    memory = _array_type(_rounded(size)).from_address(address)
    weakref.finalize(memory, _unmap, address, size).atexit = False
    return memoryview(memory).cast("B")[:size]


def _unmap(address: int, size: int) -> None:
    assert _libc is not None
    _mapped.discard(address)  # before the address can be another mapping's
    _libc.munmap(address, size)


def _rounded(size: int) -> int:
    """Round up by at most an eighth: there is a type for each length, and making one costs as much as a mapping."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


@functools.cache
def _array_type(size: int) -> type[ctypes.Array[ctypes.c_ubyte]]:
    return ctypes.c_ubyte * size


def _read(descriptor: int, size: int) -> memoryview:
    content = memoryview(bytearray(size))
    done = 0
    while done < size:
        count = os.preadv(descriptor, [content[done : done + (1 << 30)]], done)
        if not count:
            raise OSError(errno.EIO, "the file is not as long as it says")
        done += count
    return content


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload with large buffers beside it: `body` says what is where in `files`. One without is plain bytes."""

    body: bytes
    files: tuple[MemoryFile, ...]


class Retained:
    """The large buffers of the last function that was packed: they need not be written again while they are equal.

    May be used from any thread. If several pack at once, those of one of them are kept.
    """

    def __init__(self) -> None:
        self._places: dict[int, list[tuple[MemoryFile, int]]] = {}

    def find(self, buffer: memoryview) -> tuple[MemoryFile, int] | None:
        """Return the file, and the start in it, that holds exactly these bytes; blocks to compare, 0.1 s a gigabyte."""
        for file, start in self._places.get(len(buffer), ()):
            if _are_equal(file.view()[start : start + len(buffer)], buffer):
                return file, start
        return None

    def keep(self, files: Sequence[MemoryFile], places: Iterable[Place]) -> None:
        """Keep these, and let go of those from before; what is shared is its owner's to keep."""
        kept: dict[int, list[tuple[MemoryFile, int]]] = {}
        for number, start, length in places:
            if not files[number].is_shared:
                kept.setdefault(length, []).append((files[number], start))
        self._places = kept


class SharedBuffer:
    """A buffer in a file; as long as this object lives, the buffer is sent as that file, and not copied again.

    Attributes:
        file: Where it is.
        start: Its first byte there.
        view: Its bytes in this process, which nobody may write to.
    """

    __slots__ = ("__weakref__", "file", "start", "view")

    def __init__(self, file: MemoryFile, start: int, view: memoryview) -> None:
        self.file = file
        self.start = start
        self.view = view


_shared: Final[weakref.WeakValueDictionary[tuple[int, int], SharedBuffer]] = weakref.WeakValueDictionary()
"""By the address of their view, and its length."""


def share_places(files: Sequence[MemoryFile], places: Iterable[Place]) -> list[SharedBuffer]:
    """Return what is at these places, to be sent again and again."""
    found = []
    for number, start, length in places:
        view = files[number].view()[start : start + length]
        key = (_address(view), length)
        files[number].is_shared = True
        shared = _shared.get(key)  # what is shared may hold what was shared before
        if shared is None:
            shared = _shared[key] = SharedBuffer(files[number], start, view)
        found.append(shared)
    return found


def is_shared(buffer: memoryview) -> bool:
    """Whether a buffer is sent as the file that it is in."""
    return (_address(buffer), len(buffer)) in _shared


def store(
    buffers: Sequence[memoryview], file_size: int, retained: Retained | None = None
) -> tuple[tuple[MemoryFile, ...], list[Place]]:
    """Put buffers into memory files, unless they are in one; return the files, and where each buffer is.

    Blocks for the copy.

    Args:
        buffers: They are one-dimensional and contiguous.
        file_size: Bytes after which the next buffer gets another file: the memory of a file is free only when all the
            arrays in it are, and a process can have only so many descriptors.
        retained: Where to look for equal ones.

    Raises:
        OSError: The system gives no memory file, or not so large a one.
    """
    files: dict[MemoryFile, int] = {}
    places: list[Place | None] = []
    for buffer, found in zip(buffers, _find(buffers, retained), strict=True):
        if found is None or (found[0] not in files and len(files) >= MAX_FILES):
            places.append(None)
        else:
            places.append((files.setdefault(found[0], len(files)), found[1], len(buffer)))
    new = [number for number, place in enumerate(places) if place is None]
    for group in _groups(new, buffers, max(file_size, sum(len(buffers[number]) for number in new) // MAX_FILES)):
        starts = list(itertools.accumulate((_aligned(len(buffers[number])) for number in group), initial=0))
        file = MemoryFile.create([buffers[number] for number in group], starts[:-1])
        for number, start in zip(group, starts, strict=False):
            places[number] = (files.setdefault(file, len(files)), start, len(buffers[number]))
    return tuple(files), [place for place in places if place is not None]


def _find(buffers: Sequence[memoryview], retained: Retained | None) -> list[tuple[MemoryFile, int] | None]:
    """Return for each buffer the file that it is in already, and where; None for one to be written."""
    places: list[tuple[MemoryFile, int] | None] = []
    used: dict[MemoryFile, int] = {}
    for buffer in buffers:
        shared = _shared.get((_address(buffer), len(buffer)))
        place = (shared.file, shared.start) if shared is not None else retained.find(buffer) if retained else None
        places.append(place)
        if place is not None:
            used[place[0]] = used.get(place[0], 0) + len(buffer)
    # A file that is half outdated would keep its memory for the sake of the other half.
    good = {file for file, size in used.items() if file.is_shared or 2 * size >= file.size}
    return [place if place is not None and place[0] in good else None for place in places]


def _groups(numbers: Iterable[int], buffers: Sequence[memoryview], file_size: int) -> list[list[int]]:
    """Return the numbers of the buffers of each file."""
    groups: list[list[int]] = []
    size = file_size
    for number in numbers:
        if size >= file_size:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += len(buffers[number])
    return groups


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _are_equal(one: memoryview, other: memoryview) -> bool:
    # A comparison of views goes byte by byte through Python objects; this one goes at the speed of the memory.
    assert _libc is not None
    return bool(_libc.memcmp(_address(one), _address(other), len(one)) == 0)


class _Buffer(ctypes.Structure):
    """The beginning of a `Py_buffer`, and room for the rest."""

    _fields_: ClassVar = [("address", ctypes.c_void_p), ("rest", ctypes.c_byte * 128)]


def _address(view: memoryview) -> int:
    """Return the address of the first byte of a view, read-only ones included."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address: int = buffer.address or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address
