"""Bytes and descriptors through a Unix socket.

Only the C module of sockets is imported, so that a green worker's control thread gets real calls. Owns no state.
"""

from __future__ import annotations

import _socket
from array import array
from collections.abc import Sequence
from typing import Final

__all__ = ["READ_SIZE", "receive", "transmit"]

READ_SIZE: Final = 1 << 18
MOST: Final = 253
"""Descriptors that can arrive with one message on Linux."""
_INT: Final = array("i").itemsize


def transmit(connection: _socket.socket, pieces: Sequence[bytes | memoryview], descriptors: list[int]) -> int:
    """Send bytes, with descriptors along, and return how many went; blocks if the socket does.

    If any bytes went, so did all the descriptors.
    """
    if not descriptors:
        return connection.send(pieces[0]) if len(pieces) == 1 else connection.sendmsg(pieces)
    return connection.sendmsg(pieces, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", descriptors))])


def receive(connection: _socket.socket, buffer: bytearray | None = None) -> tuple[memoryview, list[int]]:
    """Return bytes that arrived (none: the stream is at its end) and descriptors along; blocks if the socket does.

    Args:
        connection: A stream socket.
        buffer: Where the bytes go; used again and again, because to make one costs more than a short message. None
            makes one.
    """
    buffer = bytearray(READ_SIZE) if buffer is None else buffer
    size, ancillary, _, _ = connection.recvmsg_into(
        [buffer],
        _socket.CMSG_SPACE(MOST * _INT),
        getattr(_socket, "MSG_CMSG_CLOEXEC", 0),  # macOS has none; each is closed again in a moment
    )
    descriptors = array("i")
    for level, kind, rights in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.frombytes(rights[: len(rights) // _INT * _INT])
    return memoryview(buffer)[:size], descriptors.tolist()
