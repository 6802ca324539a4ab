"""Descriptors travel through a real socket pair, with the bytes that they belong to."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from poolmagic import descriptors as module
from poolmagic.descriptors import MOST, transmit
from tests.conftest import descriptors

Pair = tuple[socket.socket, socket.socket]


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, arrived = module.receive(connection)
    return bytes(data), arrived


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: what is written to one end tells where a copy of the other leads to."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_bytes_travel_without_descriptors(pair: Pair) -> None:
    """As through any socket; no bytes are the end."""
    assert 5 == transmit(pair[0], [b"hello"], [])
    assert (b"hello", []) == receive(pair[1])
    pair[0].close()
    assert (b"", []) == receive(pair[1])


def test_a_descriptor_leads_to_the_same_file(pair: Pair, pipe: tuple[int, int]) -> None:
    """It is another number, and no program that the receiver starts inherits it."""
    transmit(pair[0], [b"x"], [pipe[1]])
    data, (copy,) = receive(pair[1])
    os.write(copy, b"through the copy")

    assert b"x" == data
    assert b"through the copy" == os.read(pipe[0], 100)
    assert not os.get_inheritable(copy)
    os.close(copy)


def test_as_many_travel_as_a_message_can_have(pair: Pair, pipe: tuple[int, int]) -> None:
    """In their order; none is left behind in between."""
    before = descriptors()
    transmit(pair[0], [b"x"], [pipe[number % 2] for number in range(MOST)])
    _, arrived = receive(pair[1])

    assert MOST == len(arrived)
    inodes = [os.fstat(descriptor).st_mode for descriptor in arrived]
    assert [os.fstat(pipe[number % 2]).st_mode for number in range(MOST)] == inodes
    for descriptor in arrived:
        os.close(descriptor)
    assert descriptors() <= before  # warm workers of other tests may end meanwhile


def test_descriptors_of_two_messages_do_not_mix(pair: Pair, pipe: tuple[int, int]) -> None:
    """Each comes with the bytes that it was sent with, or before the rest of them."""
    for number in range(3):
        transmit(pair[0], [b"%d" % number], [pipe[0]] * number)
    transmit(pair[0], [b"end"], [])
    came: dict[bytes, int] = {}
    rest = b"012end"
    while rest:
        data, arrived = receive(pair[1])
        assert rest.startswith(data)
        rest = rest[len(data) :]
        came[data[:1]] = len(arrived)
        for descriptor in arrived:
            os.close(descriptor)

    assert 3 == sum(came.values())
    assert 2 == came[b"2"]


def test_all_descriptors_go_with_the_first_bytes_of_a_long_message(pair: Pair, pipe: tuple[int, int]) -> None:
    """However little of it the socket takes at once."""
    pair[0].setblocking(False)
    message = memoryview(bytes(50_000_000))
    sent = transmit(pair[0], [message], [pipe[0]])
    assert 0 < sent < len(message)

    data, (copy,) = receive(pair[1])
    assert data
    os.close(copy)


def test_descriptors_without_room_are_not_leaked(pair: Pair, pipe: tuple[int, int]) -> None:
    """A process at its limit gets what it has room for; the decoder sees that some are missing."""
    before = descriptors()
    transmit(pair[0], [b"x"], [pipe[0]] * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(pipe[0])
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 5, hard))
    try:
        data, arrived = receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert b"x" == data
    assert len(arrived) <= 5
    for descriptor in arrived:
        os.close(descriptor)
    assert descriptors() <= before  # warm workers of other tests may end meanwhile
