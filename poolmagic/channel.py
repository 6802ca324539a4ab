"""One end of a socket pair in the supervisor: messages out without blocking, messages in as they come.

A channel belongs to the supervisor's loop thread.
"""

from __future__ import annotations

import socket
from collections import deque

from poolmagic.errors import WireError
from poolmagic.messages import Message
from poolmagic.wire import Decoder, encode

__all__ = ["Channel"]

READ_SIZE = 1 << 18


class Channel:
    """A non-blocking socket that speaks frames.

    Args:
        connection: A connected stream socket; the channel owns it from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._decoder = Decoder()
        self._out: deque[tuple[memoryview, list[int]]] = deque()

    def fileno(self) -> int:
        """The descriptor, for a selector; -1 once closed."""
        return self._socket.fileno()

    @property
    def is_backed_up(self) -> bool:
        """Whether something waits until the socket can be written to."""
        return bool(self._out)

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Queue a message and write what can be written; never blocks.

        Args:
            message: It arrives in the order of the calls.
            descriptors: Descriptors that travel with it; they must stay open until `is_backed_up` is False.
        """
        for piece in encode(message):
            self._out.append((memoryview(piece), descriptors or []))
            descriptors = None
        self.write()

    def write(self) -> None:
        """Write what can be written; never blocks. A line that is broken is noticed when it is read."""
        while self._out:
            piece, descriptors = self._out[0]
            try:
                count = socket.send_fds(self._socket, [piece], descriptors)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                return
            if count == len(piece):
                self._out.popleft()
            else:
                self._out[0] = (piece[count:], [])

    def read(self) -> tuple[list[Message], bool]:
        """Return the messages that have arrived, and whether the stream goes on; never blocks.

        It does not go on for a peer that stops speaking the protocol: nothing after that can be trusted.
        """
        messages: list[Message] = []
        while True:
            try:
                data = self._socket.recv(READ_SIZE)
            except BlockingIOError:
                return messages, True
            except OSError:
                return messages, False
            if not data:
                return messages, False
            try:
                messages += self._decoder.feed(data)
            except WireError:
                return messages, False
            if len(data) < READ_SIZE:  # most likely all; if not, the selector says so again
                return messages, True

    def close(self) -> None:
        """Close the socket. Calling it twice equals once."""
        self._out.clear()
        self._socket.close()
