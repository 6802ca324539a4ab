"""Framing, without I/O: messages to bytes, and any split of the bytes back to the same messages.

A frame is a header of 18 bytes, the fields of the message as JSON, and the payload as it is:

    2 bytes  b"pm"
    1 byte   version
    1 byte   kind of message (its place in `messages.MESSAGES`)
    2 bytes  number of descriptors that travel with it, big endian
    4 bytes  length of the fields, big endian
    8 bytes  length of the payload, big endian

The descriptors are those of a payload's memory files. They arrive with the first byte of their frame or before it, in
the order of the frames.

JSON, because decoding it can neither run code nor crash, whatever the bytes are; a payload is never looked into. What
is bytes in a field is text in it, in base 64. A decoder belongs to the thread that reads its socket.
"""

from __future__ import annotations

import binascii
import dataclasses
import json
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from poolmagic.errors import WireError
from poolmagic.memory import MemoryFile, Payload
from poolmagic.messages import MESSAGES, Message

__all__ = ["MAX_FIELDS", "MAX_PAYLOAD", "Decoder", "encode"]

VERSION: Final = 2
MAGIC: Final = b"pm"
HEADER: Final = struct.Struct("!2sBBHIQ")
MAX_FIELDS: Final = 64 << 20
"""Most bytes of fields: a million spans take less. A larger figure in a header is garbage."""
MAX_PAYLOAD: Final = 1 << 40
"""Most bytes of payload, one TiB: more than a machine has. A larger figure in a header is garbage."""

MOST_FILES: Final = 1024
"""Most descriptors that wait for the rest of their frame: a payload has 128, and with one reading come 253."""

_NUMBERS: Final = {cls: number for number, cls in enumerate(MESSAGES)}
_FIELDS: Final = {
    cls: tuple(field.name for field in dataclasses.fields(cls) if field.name != "payload") for cls in MESSAGES
}
_HAS_PAYLOAD: Final = {cls: "payload" in cls.__dataclass_fields__ for cls in MESSAGES}
_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "bool": lambda value: type(value) is bool,
    "float": lambda value: type(value) in (int, float) and 0 <= value < 1e300,  # seconds, and an int may be too large
    "str": lambda value: type(value) is str,
    "bytes": lambda value: type(value) is str and value.isascii(),
    "tuple[int, ...]": lambda value: type(value) is list and all(type(one) is int for one in value),
    "tuple[Span, ...]": lambda value: (
        type(value) is list
        and all(type(one) is list and len(one) == 2 and type(one[0]) is int and type(one[1]) is int for one in value)
    ),
}
_TYPES: Final = {
    cls: tuple(str(field.type) for field in dataclasses.fields(cls) if field.name != "payload") for cls in MESSAGES
}


def encode(message: Message) -> tuple[list[bytes], list[int]]:
    """Return the frame of a message as one or two pieces, and the descriptors that travel with the first of them.

    Does not block, and does not copy a large payload. The descriptors stay open as long as the message lives.

    Raises:
        WireError: The message is longer than a receiver would believe.
    """
    cls = type(message)
    fields = _to_json([getattr(message, name) for name in _FIELDS[cls]]).encode()
    payload = message.payload if _HAS_PAYLOAD[cls] else b""  # type: ignore[union-attr]
    descriptors: list[int] = []
    if isinstance(payload, Payload):
        descriptors = [file.descriptor for file in payload.files]
        payload = payload.body
    if len(fields) > MAX_FIELDS or len(payload) > MAX_PAYLOAD:
        raise WireError(f"{cls.__name__} is too long to send: {len(fields)} + {len(payload)} bytes")
    head = HEADER.pack(MAGIC, VERSION, _NUMBERS[cls], len(descriptors), len(fields), len(payload)) + fields
    if len(payload) < 65_536:  # one small write beats two; beyond this size the copy costs more
        return [head + payload], descriptors
    return [head, payload], descriptors


class Decoder:
    """Turns the bytes of a stream into messages; raises `WireError` at the first that is none, and ever after.

    Memory grows with the bytes that arrived, never with a length that a header claims.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = HEADER.size
        self._files: deque[MemoryFile] = deque()
        self._broken: WireError | None = None

    def feed(self, data: bytes | memoryview, descriptors: Sequence[int] = ()) -> Iterator[Message]:
        """Take the next bytes of the stream and yield the messages that they complete; does not block.

        Args:
            data: The bytes.
            descriptors: Descriptors that came with them; they are closed here, and what is behind them is mapped.

        Raises:
            WireError: The stream is not of this protocol. Nothing after that point can be trusted.
        """
        if self._broken is not None:
            raise self._broken
        self._files.extend(map(MemoryFile.receive, descriptors))
        if len(self._files) > MOST_FILES:
            self._files.clear()
            self._broken = WireError("descriptors that belong to no frame")
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
        magic, version, number, files, fields, payload = HEADER.unpack_from(self._buffer)
        if magic != MAGIC or version != VERSION:
            raise WireError(f"not a frame of this protocol: it begins with {bytes(self._buffer[:4])!r}")
        if number >= len(MESSAGES) or fields > MAX_FIELDS or payload > MAX_PAYLOAD:
            raise WireError(f"a frame of kind {number} with {fields} + {payload} bytes cannot be")
        cls = MESSAGES[number]
        if (payload or files) and not _HAS_PAYLOAD[cls]:
            raise WireError(f"{cls.__name__} has no payload, but the frame has {payload} bytes and {files} files")
        if files > len(self._files):
            raise WireError(f"{cls.__name__} came without its {files} descriptors")
        middle = HEADER.size + fields
        self._need = middle + payload
        if len(self._buffer) < self._need:
            return None
        with memoryview(self._buffer) as view:
            values = _parse(cls, bytes(view[HEADER.size : middle]))
            if _HAS_PAYLOAD[cls]:  # it is the last field
                body = bytes(view[middle : self._need])
                values.append(Payload(body, tuple(self._files.popleft() for _ in range(files))) if files else body)
        del self._buffer[: self._need]
        self._need = HEADER.size
        message: Message = cls(*values)
        return message


def _refuse(constant: str) -> None:
    """Refuse NaN and the infinities, which JSON does not have and Python's decoder knows."""
    raise ValueError(constant)


def _as_text(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


def _from_text(cls: type[Message], text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise WireError(f"{cls.__name__} has a field that is not base 64: {text[:80]!r}") from error


# Made once: the functions of the module make such an object for each call.
_to_json: Final = json.JSONEncoder(separators=(",", ":"), default=_as_text).encode
_from_json: Final = json.JSONDecoder(parse_constant=_refuse).decode


def _parse(cls: type[Message], text: bytes) -> list[Any]:
    """Return the fields of a message from their JSON; raises `WireError` unless number and types are right."""
    try:
        values = _from_json(text.decode())
    except (ValueError, RecursionError) as error:  # text that is not UTF-8 included
        raise WireError(f"the fields of {cls.__name__} are not JSON") from error
    names = _FIELDS[cls]
    if type(values) is not list or len(values) != len(names):
        raise WireError(f"{cls.__name__} has {len(names)} fields, not {text[:80]!r}")
    for position, kind in enumerate(_TYPES[cls]):
        value = values[position]
        if kind == "int" and type(value) is int:  # most of them are
            continue
        if not _CHECKS[kind](value):
            raise WireError(f"{cls.__name__}.{names[position]} cannot be {value!r}"[:200])
        if kind == "tuple[Span, ...]":
            values[position] = tuple((start, stop) for start, stop in value)
        elif kind == "tuple[int, ...]":
            values[position] = tuple(value)
        elif kind == "bytes":
            values[position] = _from_text(cls, value)
    return values
