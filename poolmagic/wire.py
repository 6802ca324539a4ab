"""Framing, without I/O: messages to bytes, and any split of the bytes back to the same messages.

A frame is a header of 16 bytes, the fields of the message as JSON, and the payload as it is:

    2 bytes  b"pm"
    1 byte   version
    1 byte   kind of message (its place in `messages.MESSAGES`)
    4 bytes  length of the fields, big endian
    8 bytes  length of the payload, big endian

JSON, because decoding it can neither run code nor crash, whatever the bytes are; a payload is never looked into.
A decoder belongs to the thread that reads its socket.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from poolmagic.errors import WireError
from poolmagic.messages import MESSAGES, Message

__all__ = ["MAX_FIELDS", "MAX_PAYLOAD", "Decoder", "encode"]

VERSION: Final = 1
MAGIC: Final = b"pm"
HEADER: Final = struct.Struct("!2sBBIQ")
MAX_FIELDS: Final = 64 << 20
"""Most bytes of fields: a million spans take less. A larger figure in a header is garbage."""
MAX_PAYLOAD: Final = 1 << 40
"""Most bytes of payload, one TiB: more than a machine has. A larger figure in a header is garbage."""

_NUMBERS: Final = {cls: number for number, cls in enumerate(MESSAGES)}
_FIELDS: Final = {
    cls: tuple(field.name for field in dataclasses.fields(cls) if field.name != "payload") for cls in MESSAGES
}
_HAS_PAYLOAD: Final = {cls: "payload" in cls.__dataclass_fields__ for cls in MESSAGES}
_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in (int, float) and 0 <= value < math.inf,  # all of them are seconds
    "str": lambda value: type(value) is str,
    "tuple[int, ...]": lambda value: type(value) is list and all(type(one) is int for one in value),
    "tuple[Span, ...]": lambda value: (
        type(value) is list
        and all(type(one) is list and len(one) == 2 and type(one[0]) is int and type(one[1]) is int for one in value)
    ),
}
_TYPES: Final = {
    cls: tuple(str(field.type) for field in dataclasses.fields(cls) if field.name != "payload") for cls in MESSAGES
}


def encode(message: Message) -> list[bytes]:
    """Return the frame of a message as one or two pieces, so that a large payload is not copied; does not block.

    Raises:
        WireError: The message is longer than a receiver would believe.
    """
    cls = type(message)
    fields = json.dumps([getattr(message, name) for name in _FIELDS[cls]], separators=(",", ":")).encode()
    payload = message.payload if _HAS_PAYLOAD[cls] else b""  # type: ignore[union-attr]
    if len(fields) > MAX_FIELDS or len(payload) > MAX_PAYLOAD:
        raise WireError(f"{cls.__name__} is too long to send: {len(fields)} + {len(payload)} bytes")
    head = HEADER.pack(MAGIC, VERSION, _NUMBERS[cls], len(fields), len(payload)) + fields
    if len(payload) < 65_536:  # one small write beats two; beyond this size the copy costs more
        return [head + payload]
    return [head, payload]


class Decoder:
    """Turns the bytes of a stream into messages; raises `WireError` at the first that is none, and ever after.

    Memory grows with the bytes that arrived, never with a length that a header claims.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = HEADER.size
        self._broken: WireError | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """Take the next bytes of the stream and yield the messages that they complete; does not block.

        Raises:
            WireError: The stream is not of this protocol. Nothing after that point can be trusted.
        """
        if self._broken is not None:
            raise self._broken
        self._buffer += data
        while len(self._buffer) >= self._need:
            try:
                message = self._next()
            except WireError as error:
                self._broken = error
                self._buffer.clear()
                raise
            if message is not None:
                yield message

    def finish(self) -> None:
        """Say that the stream ended; raises `WireError` if it ended inside a frame."""
        if self._buffer and self._broken is None:
            raise WireError(f"the stream ended inside a frame, after {len(self._buffer)} of {self._need} bytes")

    def _next(self) -> Message | None:
        """Take one frame off the buffer, or learn from its header how many bytes it needs."""
        magic, version, number, fields, payload = HEADER.unpack_from(self._buffer)
        if magic != MAGIC or version != VERSION:
            raise WireError(f"not a frame of this protocol: it begins with {bytes(self._buffer[:4])!r}")
        if number >= len(MESSAGES) or fields > MAX_FIELDS or payload > MAX_PAYLOAD:
            raise WireError(f"a frame of kind {number} with {fields} + {payload} bytes cannot be")
        cls = MESSAGES[number]
        if payload and not _HAS_PAYLOAD[cls]:
            raise WireError(f"{cls.__name__} has no payload, but the frame has one of {payload} bytes")
        middle = HEADER.size + fields
        self._need = middle + payload
        if len(self._buffer) < self._need:
            return None
        with memoryview(self._buffer) as view:
            values = _parse(cls, bytes(view[HEADER.size : middle]))
            if _HAS_PAYLOAD[cls]:
                values["payload"] = bytes(view[middle : self._need])
        del self._buffer[: self._need]
        self._need = HEADER.size
        message: Message = cls(**values)
        return message


def _refuse(constant: str) -> None:
    """Refuse NaN and the infinities, which JSON does not have and Python's decoder knows."""
    raise ValueError(constant)


def _parse(cls: type[Message], text: bytes) -> dict[str, Any]:
    """Return the fields of a message from their JSON; raises `WireError` unless number and types are right."""
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the fields of {cls.__name__} are not JSON") from error
    names = _FIELDS[cls]
    if type(values) is not list or len(values) != len(names):
        raise WireError(f"{cls.__name__} has {len(names)} fields, not {text[:80]!r}")
    for position, (name, kind) in enumerate(zip(names, _TYPES[cls], strict=True)):
        if not _CHECKS[kind](values[position]):
            raise WireError(f"{cls.__name__}.{name} cannot be {values[position]!r}"[:200])
        if kind == "tuple[Span, ...]":
            values[position] = tuple((start, stop) for start, stop in values[position])
        elif kind == "tuple[int, ...]":
            values[position] = tuple(values[position])
    return dict(zip(names, values, strict=True))
