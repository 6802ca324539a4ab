"""gevent as a script of its own uses it. Importing this patches the process, so nothing else comes before it."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from collections.abc import Callable, Sequence  # noqa: E402 - after the patch
from typing import Any  # noqa: E402

import gevent.pool  # noqa: E402

from tests.benchmarks.peers.adapter import Adapter  # noqa: E402

__all__ = ["Gevent"]


class Gevent(Adapter):
    """`gevent.pool.Pool` in the measuring process."""

    _pool: Any

    def start(self) -> None:
        self._pool = gevent.pool.Pool(self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.imap(f, items))

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.spawn(f, item).get()

    def close(self) -> None:
        self._pool.kill()
