"""A channel carries messages over a real socket pair, without ever blocking."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from tempfile import TemporaryFile

import pytest

from poolmagic.channel import Channel
from poolmagic.messages import Done, Fork, Hello, Message
from poolmagic.wire import Decoder, encode


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel and the raw socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_messages_arrive_in_order(pair: tuple[Channel, socket.socket]) -> None:
    """Whatever the pieces in which they come."""
    channel, theirs = pair
    sent: list[Message] = [Hello(1), Done(2, ((0, 3),), (4,), (), 0.5, b"", b"payload"), Hello(3)]
    stream = b"".join(piece for message in sent for piece in encode(message)[0])
    received: list[Message] = []
    for byte in stream:
        theirs.send(bytes([byte]))
        messages, goes_on = channel.read()
        received += messages
        assert goes_on

    assert sent == received


def test_a_message_that_does_not_fit_is_written_as_room_appears(pair: tuple[Channel, socket.socket]) -> None:
    """`write` returns at once, and nothing of the message is lost."""
    channel, theirs = pair
    message = Done(1, ((0, 1),), (), (), 1.0, b"", os.urandom(5_000_000))
    channel.send(message)
    channel.write()
    assert channel.is_backed_up

    decoder = Decoder()
    received: list[Message] = []
    while not received:
        received += decoder.feed(theirs.recv(1 << 16))
        channel.write()

    assert [message] == received
    assert not channel.is_backed_up


def test_descriptors_travel_with_their_message(pair: tuple[Channel, socket.socket]) -> None:
    """They are open at the other end, whatever becomes of ours."""
    channel, theirs = pair
    reader, writer = os.pipe()
    channel.send(Fork(7, 1), [writer])
    channel.write()
    os.close(writer)

    data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
    os.write(descriptors[0], b"hello")

    assert [Fork(7, 1)] == list(Decoder().feed(data))
    assert b"hello" == os.read(reader, 10)
    os.close(reader)
    os.close(descriptors[0])


def test_messages_that_wait_are_written_in_one_go(pair: tuple[Channel, socket.socket]) -> None:
    """Whoever owns the channel is told once that there is something to write; descriptors stay with their message."""
    channel, theirs = pair
    told: list[Channel] = []
    channel.wake = told.append
    with TemporaryFile() as first, TemporaryFile() as second:
        sent: list[Message] = [Hello(1), Fork(2, 1), Hello(3), Fork(4, 1), Hello(5)]
        for message, file in zip(sent, [None, first, None, second, None], strict=True):
            channel.send(message, [file.fileno()] if file else None)
        assert [channel] == told
        channel.write()

    received: list[Message] = []
    found: list[int] = []
    decoder = Decoder()
    while len(received) < len(sent):
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
        received += decoder.feed(data)
        found += descriptors
    assert sent == received
    assert 2 == len(found)
    for descriptor in found:
        os.close(descriptor)


@pytest.mark.parametrize("end", ["closed", "garbage"])
def test_a_peer_that_is_gone_or_mad_ends_the_stream(pair: tuple[Channel, socket.socket], end: str) -> None:
    """What came before that is kept."""
    channel, theirs = pair
    theirs.sendall(b"".join(encode(Hello(1))[0]))
    messages, _ = channel.read()
    if end == "closed":
        theirs.close()
    else:
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")

    assert [Hello(1)] == messages
    assert ([], False) == channel.read()


def test_writing_to_a_peer_that_is_gone_is_no_error(pair: tuple[Channel, socket.socket]) -> None:
    """It is noticed when the channel is read."""
    channel, theirs = pair
    theirs.close()

    channel.send(Hello(1))
    channel.write()

    assert not channel.is_backed_up
    assert ([], False) == channel.read()
