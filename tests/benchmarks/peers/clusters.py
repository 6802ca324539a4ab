"""Libraries that run on clusters, with a cluster of one machine. Making an adapter imports its library."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.peers.adapter import Adapter

__all__ = ["Dask", "Ipyparallel", "Ray"]


class Ipyparallel(Adapter):
    """ipyparallel's load-balanced view."""

    _cluster: Any
    _view: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import ipyparallel

        self._ipyparallel = ipyparallel

    def start(self) -> None:
        self._cluster = self._ipyparallel.Cluster(n=self.concurrency, log_level=40)
        client = self._cluster.start_and_connect_sync(activate=False)
        client[:].use_cloudpickle().get()
        self._view = client.load_balanced_view()

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        return list(self._view.map_sync(f, items))

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._view.apply_async(f, item).get()

    def close(self) -> None:
        self._cluster.stop_cluster_sync()


class Dask(Adapter):
    """A dask client with a cluster of processes with one thread each."""

    _cluster: Any
    _client: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        import distributed

        self._distributed = distributed

    def start(self) -> None:
        self._cluster = self._distributed.LocalCluster(
            n_workers=self.concurrency, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = self._distributed.Client(self._cluster)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        # Otherwise equal items would be computed once, and a second map not at all.
        results: list[Any] = self._client.gather(self._client.map(f, items, pure=False))
        return results

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._client.submit(f, item, pure=False).result()

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class Ray(Adapter):
    """ray's stand-in for `multiprocessing.Pool`."""

    _pool: Any

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        super().__init__(concurrency, chunk)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
        import ray.util.multiprocessing

        self._ray = ray
        self._pools = ray.util.multiprocessing

    def start(self) -> None:
        self._ray.init(
            num_cpus=self.concurrency, include_dashboard=False, log_to_driver=False, _temp_dir=os.environ.get("TMPDIR")
        )
        self._pool = self._pools.Pool(self.concurrency)

    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        results: list[Any] = self._pool.map(f, items)
        return results

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        return self._pool.apply_async(f, (item,)).get()

    def close(self) -> None:
        self._pool.terminate()
        self._ray.shutdown()
