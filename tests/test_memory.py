"""Memory files, and what keeps them: bytes arrive exactly, belong to one process each, and end with their last view."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from poolmagic import memory
from poolmagic.memory import (
    ALIGNMENT,
    MAX_FILES,
    ONE_FILE,
    MemoryFile,
    Retained,
    SharedBuffer,
    is_shared,
    share_places,
    store,
)

MB = 1 << 20


def usage() -> tuple[int, int, int]:
    """Descriptors of memory files, memory files, and mappings; others belong to other tests' warm workers."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of a worker that ended just now
            links.append(entry.readlink())
    return sum(str(link).startswith("/memfd:poolmagic ") for link in links), len(memory._open), len(memory._mapped)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Each test must leave descriptors and mappings as they were; warm workers of other tests may end meanwhile."""
    gc.collect()
    before = usage()
    yield
    gc.collect()  # what an error that was caught has in its traceback
    assert all(now <= then for now, then in zip(usage(), before, strict=True))


def some(size: int, seed: int = 1) -> memoryview:
    """Bytes that differ from place to place."""
    pattern = bytes((seed + 7 * number) % 251 for number in range(1009))
    return memoryview(bytearray((pattern * (size // 1009 + 1))[:size]))


def create(content: memoryview) -> MemoryFile:
    return MemoryFile.create([content], [0])


def content_at(files: tuple[MemoryFile, ...], place: memory.Place) -> memoryview:
    number, start, length = place
    return files[number].view()[start : start + length]


# Files -------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_mapped() -> None:
    """Each buffer at its place, and zeros between them."""
    file = MemoryFile.create([some(5000), some(3, seed=2)], [0, 8192])

    assert 8195 == file.size
    assert some(5000) == file.view()[:5000]
    assert bytes(8192 - 5000) == file.view()[5000:8192]
    assert some(3, seed=2) == file.view()[8192:]


def test_nobody_else_sees_what_is_written_into_a_mapping() -> None:
    """Neither the file, nor another mapping of it; so tasks may write into their arguments."""
    file = create(some(MB))
    other = MemoryFile.receive(os.dup(file.descriptor))
    file.view()[0] = 99

    assert some(MB) == other.view()
    assert bytes(some(MB)[:8]) == os.pread(file.descriptor, 8, 0)


def test_a_received_file_needs_no_descriptor() -> None:
    """It is mapped at once, and a kernel that keeps a thousand results has all of its descriptors still."""
    file = create(some(MB))
    before, _, _ = usage()
    received = [MemoryFile.receive(os.dup(file.descriptor)) for _ in range(50)]

    assert before == usage()[0]
    assert all(some(MB) == one.view() for one in received)


def test_a_mapping_lives_as_long_as_a_view_of_it() -> None:
    """Also when the file object is long gone, and no longer."""
    before = usage()
    view = create(some(MB)).view()[1000:2000]
    assert before[:2] == usage()[:2]
    assert before[2] + 1 == usage()[2]

    assert some(MB)[1000:2000] == view
    del view
    assert all(now <= then for now, then in zip(usage(), before, strict=True))


def test_a_file_without_a_byte_can_be_read() -> None:
    """The system refuses to map nothing."""
    file = create(some(0))
    assert b"" == bytes(file.view())


def test_an_unmappable_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no more mappings, bytes are copied; they can be written to just the same."""
    file = create(some(3 * MB))
    before = usage()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_libc", FailingLibrary(memory._libc))
        received = MemoryFile.receive(os.dup(file.descriptor))

    assert some(3 * MB) == received.view()
    received.view()[0] = 99
    assert all(now <= then for now, then in zip(usage(), before, strict=True))


class FailingLibrary:
    """The C library of a process that has as many mappings as it may have."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: ctypes.c_void_p(-1).value) if name == "mmap" else getattr(self._library, name)


def test_threads_and_malloc_keep_half_of_the_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used all of them cannot start a thread any more, so we stop long before."""
    file = create(some(MB))
    most = len(memory._mapped) + 3
    monkeypatch.setattr(memory, "_most_mapped", lambda: most)
    received = [MemoryFile.receive(os.dup(file.descriptor)) for _ in range(5)]

    assert most == len(memory._mapped)
    assert all(some(MB) == one.view() for one in received)


def test_the_users_code_keeps_three_quarters_of_the_descriptors() -> None:
    """A thousand submitted arrays must not leave the notebook without a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[MemoryFile] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        with pytest.raises(OSError, match="enough memory files are open") as caught:
            make_too_many(files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert errno.EMFILE == caught.value.errno
    assert 256 == len(memory._open)


def make_too_many(files: list[MemoryFile]) -> None:
    """Make files, and keep those that were made before it became an error."""
    files.extend(create(some(10)) for _ in range(257))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_could_not_be_finished_is_closed(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the memory ran out or the user pressed Stop."""
    before = usage()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing_after(1, os.pwrite, error))
        with pytest.raises(error):
            store([some(MB), some(MB, seed=2)], 1)
    assert all(now <= then for now, then in zip(usage(), before, strict=True))


def failing_after(calls: int, function: Callable[..., Any], error: type[BaseException]) -> Callable[..., Any]:
    """Return a function that works so many times, and then raises."""
    left = iter(range(calls))

    def call(*args: Any) -> Any:
        if next(left, None) is None:
            raise error
        return function(*args)

    return call


def test_what_cannot_be_mapped_or_read_is_an_error_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for the thread that reads everybody's sockets."""
    file = create(some(MB))

    def full(*_: Any) -> memoryview:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(memory, "_map", full)
        received = MemoryFile.receive(os.dup(file.descriptor))
        with pytest.raises(MemoryError):
            received.view()
    assert some(MB) == received.view()


# Buffers in files --------------------------------------------------------------------------------------------------


def test_buffers_are_stored_in_their_order() -> None:
    """Each starts where arrays like to start."""
    buffers = [some(200_000, seed) for seed in range(5)] + [some(0)]

    files, places = store(buffers, ONE_FILE)

    assert 1 == len(files)
    assert buffers == [content_at(files, place) for place in places]
    assert all(start % ALIGNMENT == 0 for _, start, _ in places)


def test_results_are_spread_over_files_so_that_they_can_be_dropped_alone() -> None:
    """A file's memory is free when all that is in it is dropped; how large it gets is told."""
    buffers = [some(300_000, seed) for seed in range(8)]

    files, places = store(buffers, MB)

    assert [0, 0, 0, 0, 1, 1, 1, 1] == [number for number, _, _ in places]
    assert buffers == [content_at(files, place) for place in places]


def test_a_message_never_has_more_files_than_can_travel() -> None:
    """The files get larger instead."""
    buffers = [some(1000, seed) for seed in range(1000)]

    files, places = store(buffers, 1000)

    assert MAX_FILES // 2 < len(files) <= MAX_FILES + 1
    assert buffers == [content_at(files, place) for place in places]


def test_read_only_buffers_are_stored_too() -> None:
    """As those of `bytes` are."""
    buffer = memoryview(bytes(some(MB)))
    files, (place,) = store([buffer], ONE_FILE)
    assert buffer == content_at(files, place)


# What the run before has left --------------------------------------------------------------------------------------


def kept(retained: Retained, *buffers: memoryview) -> tuple[MemoryFile, ...]:
    """Store buffers as a function's are stored."""
    files, places = store(buffers, ONE_FILE, retained)
    assert list(buffers) == [content_at(files, place) for place in places]
    retained.keep(files, places)
    return files


def test_equal_buffers_are_not_written_again() -> None:
    """Wherever they are now: what counts is what is in them."""
    retained = Retained()
    first = kept(retained, some(MB), some(2 * MB, seed=2))
    assert first == kept(retained, some(2 * MB, seed=2), some(MB))


@pytest.mark.parametrize("at", [0, MB // 2, MB - 1])
def test_one_other_byte_is_another_buffer(at: int) -> None:
    """Exactly compared, not guessed."""
    retained = Retained()
    buffer = some(MB)
    first = kept(retained, buffer)
    buffer[at] ^= 1
    second = kept(retained, buffer)
    assert not set(first) & set(second)
    buffer[at] ^= 1
    assert not set(first) & set(kept(retained, buffer)), "only those of the last function are kept"


def test_a_buffer_of_another_length_is_another_buffer() -> None:
    """Even if it begins the same."""
    retained = Retained()
    first = kept(retained, some(MB))
    assert not set(first) & set(kept(retained, some(MB)[:-1]))


def test_a_large_file_is_not_kept_for_the_sake_of_a_small_buffer_in_it() -> None:
    """The pickle of a function may be the same while its data has changed; the old data must go."""
    retained = Retained()
    before = usage()
    kept(retained, some(1000), some(MB, seed=2))
    kept(retained, some(1000), some(MB, seed=3))
    _, files, mappings = usage()
    assert (before[1] + 1, before[2] + 1) == (files, mappings)


def test_a_large_buffer_is_kept_when_a_small_one_beside_it_has_changed() -> None:
    """The usual case: the function was edited, and its data was not."""
    retained = Retained()
    (first,) = kept(retained, some(1000), some(MB, seed=2))
    second = kept(retained, some(1000, seed=3), some(MB, seed=2))
    assert first in second
    assert 2 == len(second)


# Shared buffers ----------------------------------------------------------------------------------------------------


def shared_buffer(seed: int = 1) -> SharedBuffer:
    files, places = store([some(200_000, seed)], ONE_FILE)
    (shared,) = share_places(files, places)
    return shared


def test_a_shared_buffer_is_sent_as_the_file_it_is_in() -> None:
    """Among others, which are written."""
    shared = shared_buffer()

    files, places = store([some(5), shared.view, some(6)], ONE_FILE)

    assert shared.file == files[places[1][0]]
    assert 2 == len(files)
    assert [some(5), some(200_000), some(6)] == [content_at(files, place) for place in places]


def test_a_buffer_is_shared_as_long_as_somebody_holds_it() -> None:
    """Two may, if what is shared holds something shared."""
    one = shared_buffer()
    view = one.view
    files, places = store([view], ONE_FILE)
    (two,) = share_places(files, places)
    assert one is two

    del one, files
    assert is_shared(view)
    del two
    assert not is_shared(view)


def test_a_part_of_a_shared_buffer_is_not_taken_for_it() -> None:
    """Only the whole of it is where it is."""
    shared = shared_buffer()
    for part in (shared.view[1:], shared.view[:-1]):
        files, (place,) = store([part], ONE_FILE)
        assert shared.file not in files
        assert part == content_at(files, place)


def test_more_shared_buffers_than_can_travel_are_copied() -> None:
    """Three hundred descriptors do not fit into one message."""
    shared = [shared_buffer(seed) for seed in range(300)]

    files, places = store([one.view for one in shared], ONE_FILE)

    assert len(files) <= MAX_FILES + 1
    assert [some(200_000, seed) for seed in range(300)] == [content_at(files, place) for place in places]


def test_what_is_shared_is_not_retained() -> None:
    """Its owner decides how long it lives."""
    retained = Retained()
    shared = shared_buffer()
    files, places = store([shared.view], ONE_FILE, retained)
    retained.keep(files, places)
    assert retained.find(some(200_000)) is None


def test_garbage_is_collected_in_any_order() -> None:
    """Files, views and shared buffers may be parts of one cycle."""
    before = usage()
    cycle: list[Any] = [shared_buffer()]
    cycle += [cycle, cycle[0].view[5:], cycle[0].file]
    del cycle
    gc.collect()
    assert all(now <= then for now, then in zip(usage(), before, strict=True))
