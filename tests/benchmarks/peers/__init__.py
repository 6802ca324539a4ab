"""The peers: a table of who they are and where their adapters stand. It imports none of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.peers.adapter import Adapter

__all__ = ["PEERS", "Peer"]


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: Its name in files and on the command line.
        title: Its name in tables.
        place: Module and class of its adapter.
        distribution: What it is installed as; empty for the standard library.
        against: The kind of poolmagic that it is compared with.
        rounds: Most rounds; one for those whose start alone takes seconds.
    """

    name: str
    title: str
    place: str
    distribution: str = ""
    against: str = "poolmagic"
    rounds: int = 9

    @property
    def is_ours(self) -> bool:
        """Whether this is poolmagic itself."""
        return self.name.startswith("poolmagic")

    def load(self) -> type[Adapter]:
        """Import the adapter's module and return its class. A module of green threads patches this process."""
        module, name = self.place.split(":")
        adapter: type[Adapter] = getattr(importlib.import_module(f"tests.benchmarks.peers.{module}"), name)
        return adapter


PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer("poolmagic", "poolmagic prefork", "ours:Prefork", "poolmagic"),
        Peer("multiprocessing", "multiprocessing.Pool", "stdlib:Processes"),
        Peer("futures", "ProcessPoolExecutor", "stdlib:Futures"),
        Peer("joblib", "joblib", "local:Joblib", "joblib"),
        Peer("loky", "loky, chunksize by hand", "local:Loky", "loky"),
        Peer("mpire", "mpire", "local:Mpire", "mpire"),
        Peer("pathos", "pathos", "local:Pathos", "pathos"),
        Peer("ipyparallel", "ipyparallel", "clusters:Ipyparallel", "ipyparallel", rounds=1),
        Peer("dask", "dask.distributed", "clusters:Dask", "distributed", rounds=1),
        Peer("ray", "ray", "clusters:Ray", "ray", rounds=1),
        Peer("spawn", "python -c 'import …'", "stdlib:Interpreter"),
        Peer("poolmagic-gevent", "poolmagic gevent", "ours:Gevent", "poolmagic", "poolmagic-gevent"),
        Peer("poolmagic-gevent-2", "poolmagic gevent -w 2", "ours:TwoGevents", "poolmagic", "poolmagic-gevent"),
        Peer("gevent", "gevent by hand", "raw_gevent:Gevent", "gevent", "poolmagic-gevent"),
        Peer("poolmagic-eventlet", "poolmagic eventlet", "ours:Eventlet", "poolmagic", "poolmagic-eventlet"),
        Peer("eventlet", "eventlet by hand", "raw_eventlet:Eventlet", "eventlet", "poolmagic-eventlet"),
        Peer("poolmagic-threads", "poolmagic threads", "ours:Threads", "poolmagic", "poolmagic-threads"),
        Peer("threads", "ThreadPoolExecutor", "stdlib:Threads", "", "poolmagic-threads"),
        Peer("poolmagic-asyncio", "poolmagic asyncio", "ours:Asyncio", "poolmagic", "poolmagic-asyncio"),
        Peer("asyncio", "asyncio by hand", "stdlib:Asyncio", "", "poolmagic-asyncio"),
    )
}
"""By name."""
