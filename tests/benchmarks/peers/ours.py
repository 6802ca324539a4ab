"""poolmagic, through its public interface: an adapter for each kind of pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from poolmagic import Pool
from tests.benchmarks.peers.adapter import Adapter

__all__ = ["Asyncio", "Eventlet", "Gevent", "Ours", "Prefork", "Threads", "TwoGevents"]


class Ours(Adapter):
    """Any kind of poolmagic's pools."""

    kind: ClassVar[str]
    workers: ClassVar[int | None] = None
    pool: Pool

    def start(self) -> None:
        self.pool = Pool(self.kind, self.concurrency, workers=self.workers)

    def start_ours(self) -> Pool:
        self.start()
        return self.pool

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return self.pool.map(f, items, progress=False)

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self.pool.submit(f, item).result()

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Prefork(Ours):
    kind = "prefork"


class Gevent(Ours):
    kind = "gevent"


class TwoGevents(Ours):
    kind = "gevent"
    workers = 2


class Eventlet(Ours):
    kind = "eventlet"


class Threads(Ours):
    kind = "threads"


class Asyncio(Ours):
    kind = "asyncio"
    coroutines = True
