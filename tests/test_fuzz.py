"""What a broken or malicious worker may send: bytes, payloads and descriptors of any kind. Seeded, a few seconds."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poolmagic import messages as ms
from poolmagic.errors import WireError
from poolmagic.memory import MemoryFile, Payload
from poolmagic.payload import Pickled, seal, unseal
from poolmagic.wire import HEADER, Decoder, encode

SEED = 20261122
LARGE = bytes(range(256)) * 4096
SAMPLES: list[ms.Message] = [
    ms.Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, b"payload"),
    ms.Batch(1, 0, 0, 10, b"x" * 100),
    ms.Hello(1),
    ms.Done(1, ((0, 5), (7, 9)), (6,), (6,), 0.5, b"times", b"values"),
    ms.Returned(1, ((0, 5),)),
    ms.Output(1, 2, "stdout", "printed\n"),
    ms.Gone(1, -9, 1 << 20),
    ms.Stop(),
]


def stream(random: Random, count: int) -> bytes:
    """Return some valid messages as bytes."""
    return b"".join(piece for message in random.choices(SAMPLES, k=count) for piece in encode(message)[0])


def mutated(random: Random, data: bytes) -> bytes:
    """Return bytes with some of them changed, left out, doubled or put elsewhere."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(found) or 1)
        match random.randrange(6):
            case 0 if found:
                found[place] ^= 1 << random.randrange(8)
            case 1:
                del found[place : place + random.randint(1, 20)]
            case 2:
                found[place:place] = random.randbytes(random.randint(1, 20))
            case 3:
                found[place : place + 8] = random.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
            case 4:
                found[place:place] = found[place : place + random.randint(1, 50)]
            case _:
                del found[place:]
    return bytes(found)


def fed(random: Random, data: bytes) -> tuple[list[ms.Message], bool]:
    """Feed a decoder in pieces of any size; return the messages, and whether all of it was good so far."""
    decoder = Decoder()
    found: list[ms.Message] = []
    place = 0
    try:
        while place < len(data):
            size = random.choice((1, 2, 17, 18, 19, 64, 4096))
            found += decoder.feed(data[place : place + size])
            place += size
        decoder.finish()
    except WireError:
        return found, False
    return found, True


def test_any_bytes_are_messages_or_an_error() -> None:
    """Random ones, with and without a good header before them; nothing else is raised, and no memory is wasted."""
    random = Random(SEED)
    tracemalloc.start()
    try:
        for _ in range(1_500):
            data = random.randbytes(random.randint(0, 200))
            if random.random() < 0.5:
                lengths = [random.choice((0, 5, 100, 2**16, 2**31, 2**32 - 1)) for _ in range(2)]
                head = HEADER.pack(b"pm", 2, random.randrange(256), random.choice((0, 1, 65_535)), *lengths)
                data = head + data
            fed(random, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_a_good_stream_that_was_changed_somewhere_is_messages_or_an_error() -> None:
    """Whatever comes out has fields of the right types, so it can be sent again."""
    random = Random(SEED)
    for _ in range(1_500):
        found, _ = fed(random, mutated(random, stream(random, random.randint(1, 5))))
        for message in found:
            assert encode(message)[0]


def test_any_split_of_a_good_stream_is_the_same() -> None:
    """However it is cut, and in linear time."""
    random = Random(SEED)
    for _ in range(200):
        chosen = random.choices(SAMPLES, k=random.randint(1, 8))
        data = b"".join(piece for message in chosen for piece in encode(message)[0])
        assert (chosen, True) == fed(random, data)


def test_a_long_frame_in_crumbs_is_read_in_linear_time() -> None:
    """No worker can keep the loop busy by being slow."""
    whole = b"".join(encode(ms.Done(1, ((0, 5),), (), (), 0.5, b"", bytes(1 << 20)))[0])
    decoder = Decoder()
    began = time.perf_counter()
    found = [one for place in range(0, len(whole), 16) for one in decoder.feed(whole[place : place + 16])]
    assert 1 == len(found)
    assert time.perf_counter() - began < 5


ENVELOPES: list[Any] = [
    None,
    5,
    (),
    (b"",),
    (b"", []),
    (b"", None),
    (b"", [(0, 0, 10)] * 3),
    (b"no pickle", []),
    (b"", [(0,)]),
    (b"", [("0", 0, 1)]),
    (b"", [(0, -1, 5)]),
    (b"", [(0, 5, -1)]),
    (b"", [(0, 2**62, 5)]),
    (b"", [(0, 0, 2**70)]),
    (b"", [(1, 0, 5)]),
    (b"", [(-7, 0, 5)]),
    (pickle.dumps((True, [1], [])), [(0, 0, 5)]),
]


def memory_file(data: bytes = LARGE) -> MemoryFile:
    return MemoryFile.create([memoryview(data)], [0])


@pytest.mark.parametrize("number", range(len(ENVELOPES)))
def test_an_envelope_that_is_wrong_is_an_error_in_the_thread_that_asks(number: int) -> None:
    """Or opens to something; it takes no time and no memory beyond the file's own, and touches nothing beside it."""
    tracemalloc.start()
    try:
        try:
            opened = Pickled().open_values(Payload(pickle.dumps(ENVELOPES[number]), (memory_file(),)))
        except Exception:
            return
        assert 3 == len(opened)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(LARGE)
    finally:
        tracemalloc.stop()


def test_a_payload_that_was_changed_somewhere_is_an_error_or_something_else() -> None:
    """`unseal` ends, with an `Exception` if it fails.

    The opcodes that call and that import are left alone: what they can do is any program, and they run in the thread
    that asks, which belongs to the user whose worker it is.
    """
    random = Random(SEED)
    values = [1, 2.5, "text", b"bytes", None, (3, 4)]
    plain = seal((False, [pickle.dumps(value) for value in values], []))
    assert isinstance(plain, bytes)
    dangerous = set(b"cRio\x81\x92\x93bRPQ\x82\x83\x84")
    for _ in range(1_500):
        data = mutated(random, plain)
        if dangerous & set(data) - set(plain):
            continue
        try:
            unseal(data)
        except Exception:  # noqa: S112 - any of them is right
            continue


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that may crash or hang, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
        cwd=Path(__file__).parents[1],
    )


def odd_files() -> list[str]:
    """Return paths of files that are not as long as they say."""
    found = ["/proc/self/maps", "/dev/null", "/dev/zero", "/"]
    folders = (Path("/sys/kernel"), Path("/sys/module/kernel/parameters"))
    attributes = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()))
    readable = (str(path) for path in attributes if path.is_file() and os.access(path, os.R_OK))
    return [*found, *itertools.islice(readable, 1)]


@pytest.mark.parametrize("path", odd_files())
def test_a_descriptor_of_any_other_file_does_not_hang_the_loop(path: str) -> None:
    """Such as one that ends before its length: those of /sys say they are 4096 bytes long."""
    done = run(
        f"""
        import os
        from poolmagic.memory import MemoryFile
        file = MemoryFile.receive(os.open({path!r}, os.O_RDONLY))
        """
    )
    assert 0 == done.returncode, done.stderr


def test_a_file_that_claims_to_be_huge_costs_nothing() -> None:
    """Its memory is spent when it is touched, and no earlier."""
    descriptor = os.memfd_create("huge")
    os.ftruncate(descriptor, 1 << 45)
    tracemalloc.start()
    try:
        file = MemoryFile.receive(descriptor)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert 1 << 45 == file.size
    file.close()


def test_a_file_that_is_cut_off_after_it_arrived_does_not_end_the_kernel() -> None:
    """It is an error for who wants its bytes, and no SIGBUS."""
    done = run(
        """
        import os
        from poolmagic.memory import MemoryFile
        descriptor = os.memfd_create("cut", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, 1 << 20)
        file = MemoryFile.receive(os.dup(descriptor))
        try:
            os.ftruncate(descriptor, 0)
        except PermissionError:
            pass  # it was sealed
        try:
            sum(file.view()[:: 4096])
        except (OSError, ValueError):
            pass
        """
    )
    assert 0 == done.returncode, done.returncode


def test_a_board_that_is_cut_off_by_its_worker_does_not_end_the_kernel() -> None:
    """A task may do anything with the descriptors and the maps of its process."""
    done = run(
        """
        import os, pathlib
        import poolmagic as pm
        def cut(x):
            if x == 3:
                for entry in pathlib.Path("/proc/self/map_files").iterdir() if os.geteuid() == 0 else ():
                    try:
                        if "poolmagic-board" in os.readlink(entry):
                            os.truncate(entry, 0)
                    except OSError:
                        continue
            return x
        pool = pm.Pool("prefork", 1)
        results = pool.map(cut, range(10), on_error="return", chunksize=1)
        assert [x for x in range(10) if x != 3] == [x for x in results if not isinstance(x, pm.Failure) and x != 3]
        pool.snapshot()
        """
    )
    assert 0 == done.returncode, (done.returncode, done.stderr)
