"""Libraries with pools of processes on one machine. Making an adapter imports its library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.peers.adapter import Adapter

__all__ = ["Joblib", "Loky", "Mpire", "Pathos"]


class Joblib(Adapter):
    """joblib with its own choice of everything but the number of processes."""

    _parallel: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import joblib

        self._joblib = joblib

    def start(self) -> None:
        self._parallel = self._joblib.Parallel(n_jobs=self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        delayed = self._joblib.delayed(f)
        results: list[Any] = self._parallel(delayed(item) for item in items)
        return results

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Loky(Adapter):
    """loky's executor, with a size of batches that was chosen by hand for each workload."""

    _pool: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import loky

        self._loky = loky

    def start(self) -> None:
        self._pool = self._loky.get_reusable_executor(max_workers=self.concurrency, timeout=300)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(f, items, chunksize=self.chunk))

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.submit(f, item).result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


class Mpire(Adapter):
    """mpire's pool, with workers that stay."""

    _pool: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import mpire

        self._mpire = mpire

    def start(self) -> None:
        self._pool = self._mpire.WorkerPool(n_jobs=self.concurrency, start_method="fork", keep_alive=True)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        # By default it joins arrays to one, which is another task than that of the others.
        results: list[Any] = self._pool.map(f, items, concatenate_numpy_output=False)
        return results

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.apply(f, (item,))

    def close(self) -> None:
        self._pool.stop_and_join()


class Pathos(Adapter):
    """pathos's pool of processes."""

    _pool: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import pathos.multiprocessing

        self._pathos = pathos.multiprocessing

    def start(self) -> None:
        self._pool = self._pathos.ProcessingPool(self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        results: list[Any] = self._pool.map(f, items)
        return results

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.apipe(f, item).get()

    def close(self) -> None:
        self._pool.close()
        self._pool.join()
        self._pool.clear()
