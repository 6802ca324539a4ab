"""One end of a socket pair in the supervisor: messages out without blocking, messages in as they come.

A channel belongs to the supervisor's loop thread.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from poolmagic.descriptors import READ_SIZE, receive, transmit
from poolmagic.errors import WireError
from poolmagic.messages import Message
from poolmagic.wire import Decoder, encode

__all__ = ["Channel"]

MOST_PIECES: Final = 16
"""As many pieces as any system takes in one call (IOV_MAX of POSIX)."""


class Channel:
    """A non-blocking socket that speaks frames.

    Args:
        connection: A connected stream socket; the channel owns it from now on.

    Attributes:
        wake: Called when something waits to be written that did not before; who owns the channel sets it.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.wake: Callable[[Channel], None] | None = None
        self._socket = connection
        self._decoder = Decoder()
        self._buffer = bytearray(READ_SIZE)
        self._out: deque[tuple[memoryview, list[int], Message]] = deque()

    def fileno(self) -> int:
        """The descriptor, for a selector; -1 once closed."""
        return self._socket.fileno()

    @property
    def is_backed_up(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._out)

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Queue a message for `write`; never blocks.

        Args:
            message: It arrives in the order of the calls.
            descriptors: More descriptors than its own that travel with it; they must stay open until `is_backed_up`
                is False.
        """
        if not self._out and self.wake is not None:
            self.wake(self)
        pieces, own = encode(message)
        descriptors = own + (descriptors or [])
        for piece in pieces:
            self._out.append((memoryview(piece), descriptors, message))  # whose files must stay open until then
            descriptors = []

    def write(self) -> None:
        """Write what can be written; never blocks. A line that is broken is noticed when it is read."""
        while self._out:
            pieces, descriptors = self._next_pieces()
            try:
                count = transmit(self._socket, pieces, descriptors)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:  # that one means: not before the peer has read some more
                    self._out.clear()
                return
            for piece in pieces:
                if count < len(piece):
                    self._out[0] = (piece[count:], [], self._out[0][2])
                    break
                self._out.popleft()
                count -= len(piece)

    def _next_pieces(self) -> tuple[list[memoryview], list[int]]:
        """Return what goes in one call: pieces, of which only the first has descriptors along."""
        pieces: list[memoryview] = []
        for piece, descriptors, _ in itertools.islice(self._out, MOST_PIECES):
            if pieces and descriptors:
                break
            pieces.append(piece)
        return pieces, self._out[0][1]

    def read(self) -> tuple[list[Message], bool]:
        """Return the messages that have arrived, and whether the stream goes on; never blocks.

        It does not go on for a peer that stops speaking the protocol: nothing after that can be trusted.
        """
        messages: list[Message] = []
        while True:
            try:
                data, descriptors = receive(self._socket, self._buffer)
            except BlockingIOError:
                return messages, True
            except OSError:
                return messages, False
            if not data:
                return messages, False
            try:
                messages += self._decoder.feed(data, descriptors)
            except WireError:
                return messages, False
            if len(data) < READ_SIZE:  # most likely all; if not, the selector says so again
                return messages, True

    def close(self) -> None:
        """Close the socket. Calling it twice equals once."""
        self._out.clear()
        self._socket.close()
