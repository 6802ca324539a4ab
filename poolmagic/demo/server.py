"""A loopback HTTP server of the standard library's sources that takes its time, and the handle on it.

`Site` starts this file as a script in a process of its own, so that neither a client's patches nor its load slow the
server down. The server says the port it listens on in one line on stdout, and ends when its stdin does: also when the
process that started it was killed. One thread owns everything there: an asyncio loop, which holds as many waiting
requests as there are clients. A `Site` belongs to the thread that made it.

This file imports nothing of poolmagic, and so runs by its path wherever the package is.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self, cast
from urllib.parse import quote

__all__ = ["LATENCY", "Site", "sources"]

LATENCY: Final = 0.05
"""How long each answer is kept back, in seconds: about what a web service in the next country takes."""

_MAX_CONNECTIONS: Final = 4096
_MAX_REQUEST: Final = 16_384
"""Most bytes of the head of one request."""
_PATIENCE: Final = 30.0
"""How long a client may take for all of one exchange, and a server for its end, in seconds."""

_LEFT_OUT: Final = frozenset({"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"})


def sources(root: Path) -> list[str]:
    """Return the paths, relative to `root`, of its Python files without tests and installed packages; sorted."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names if name.endswith(".py")]
    return sorted(found)


class Site:
    """The standard library as a slow web site; blocks until it is up. Ends with `close`, or with this process.

    Attributes:
        root: The folder of the standard library.
        files: The files that the site has, in the order of `urls`.
        urls: Where to fetch them.
    """

    def __init__(self) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))
        # In a process group of its own: Stop in a notebook interrupts the kernel's whole group.
        self._server = subprocess.Popen(  # noqa: S603 - our own file, run by our own interpreter
            [sys.executable, "-I", __file__, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        port = cast("IO[bytes]", self._server.stdout).readline().decode().strip()
        if not port:
            raise RuntimeError(f"the demo's web server ended at once, with status {self._server.wait()}")
        names = sources(self.root)
        self.files = [self.root / name for name in names]
        self.urls = [f"http://127.0.0.1:{port}/{quote(name)}" for name in names]

    def close(self) -> None:
        """End the server; blocks until it has ended. To close twice does no harm."""
        for pipe in (self._server.stdin, self._server.stdout):
            cast("IO[bytes]", pipe).close()
        try:
            self._server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Exchange(asyncio.Protocol):
    """One connection: one request, a pause, one answer, and the connection is closed."""

    open_ones = 0

    def __init__(self, pages: dict[bytes, bytes]) -> None:
        self._pages = pages
        self._head = b""
        self._pause: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the client's clock, or turn it away if there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)
        _Exchange.open_ones += 1
        if _Exchange.open_ones > _MAX_CONNECTIONS:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect the head of the request, then pause."""
        if self._pause is not None:
            return  # A body or a second request: neither is for us.
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._pause = asyncio.get_running_loop().call_later(LATENCY, self._answer)
        elif len(self._head) > _MAX_REQUEST:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers of a client that is gone."""
        _Exchange.open_ones -= 1
        self._deadline.cancel()
        if self._pause is not None:
            self._pause.cancel()

    def _answer(self) -> None:
        """Send the page that the request names; only those of the list can be had, whatever the path says."""
        method, _, rest = self._head.partition(b" ")
        page = self._pages.get(rest.partition(b" ")[0]) if method == b"GET" else None
        self._transport.write(_response(b"404 Not Found", b"") if page is None else page)
        self._transport.close()


def _response(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)


async def _serve(root: Path) -> None:
    """Serve the sources below `root` on a free port of the loopback interface until stdin ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # All in memory, ready to send: the two CPUs of a small machine are for the clients.
    pages = {b"/" + quote(path).encode(): _response(b"200 OK", (root / path).read_bytes()) for path in sources(root)}
    server = await loop.create_server(lambda: _Exchange(pages), "127.0.0.1", 0, backlog=_MAX_CONNECTIONS)
    # Nobody writes to this pipe: it becomes readable when its other end is closed, however the process there ended.
    loop.add_reader(sys.stdin.fileno(), ended.set)
    with suppress(BrokenPipeError):  # whoever started us has ended by now, and so shall we
        os.write(sys.stdout.fileno(), b"%d\n" % server.sockets[0].getsockname()[1])
    await ended.wait()
    server.close()


def _allow_connections() -> None:
    """Let this process have as many sockets open as it takes connections; macOS begins with 256 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + 64
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    _allow_connections()
    asyncio.run(_serve(Path(sys.argv[1])))
