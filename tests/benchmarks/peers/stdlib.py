"""The standard library's own pools; what is forked is forked from the measuring process, as a notebook would."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.pool
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from tests.benchmarks.peers.adapter import Adapter

__all__ = ["Asyncio", "Futures", "Interpreter", "Processes", "Threads"]


class Processes(Adapter):
    """`multiprocessing.Pool`."""

    _pool: multiprocessing.pool.Pool

    def start(self) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return self._pool.map(f, items)

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.apply_async(f, (item,)).get()

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Futures(Adapter):
    """`concurrent.futures.ProcessPoolExecutor`."""

    _pool: ProcessPoolExecutor

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(self.concurrency, mp_context=multiprocessing.get_context("fork"))

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(f, items))

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.submit(f, item).result()

    def close(self) -> None:
        self._pool.shutdown()


class Threads(Adapter):
    """`concurrent.futures.ThreadPoolExecutor`."""

    _pool: ThreadPoolExecutor

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(f, items))

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.submit(f, item).result()

    def close(self) -> None:
        self._pool.shutdown()


class Asyncio(Adapter):
    """A task for each item, and a semaphore."""

    coroutines = True

    def start(self) -> None:
        """There is nothing to be made."""

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return asyncio.run(self._all(f, items))

    async def _all(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        room = asyncio.Semaphore(self.concurrency)

        async def one(item: Any) -> Any:
            async with room:
                return await f(item)

        return await asyncio.gather(*[one(item) for item in items])

    def close(self) -> None:
        """There is nothing to be ended."""


class Interpreter(Adapter):
    """A new interpreter that imports what a worker would need; a yardstick, and no pool."""

    def start(self) -> None:
        """Run it once, so that the files are in the cache."""
        self.call(str, "numpy, pandas")

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return [self.call(f, item) for item in items]

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return subprocess.run([sys.executable, "-c", f"import {f(item)}"], check=True).returncode

    def close(self) -> None:
        """Nothing is left."""
