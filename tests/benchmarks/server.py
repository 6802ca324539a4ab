"""A web server on loopback that keeps each answer back for 50 ms, in a process of its own.

`Server` starts this file as a script, which says its port in a line on stdout and ends when its stdin does. As a script
it imports nothing of this package.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import TracebackType
from typing import IO, Final, Self, cast

__all__ = ["BODY", "LATENCY", "Server"]

LATENCY: Final = 0.05
"""Seconds."""
BODY: Final = b"x" * 200

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY


class Server:
    """The server's process; blocks until it listens, and ``with`` ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        port = int(cast("IO[bytes]", self._process.stdout).readline())
        self.url = f"http://127.0.0.1:{port}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # which closes its stdin


class _Answer(asyncio.Protocol):
    """One connection: a request comes, time passes, the answer goes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            asyncio.get_running_loop().call_later(LATENCY, self._answer)

    def _answer(self) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def _serve() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answer, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
