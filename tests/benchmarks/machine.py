"""The facts that a reader needs to judge a figure: what machine, what Python, what versions. No names, no paths."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil

from poolmagic.config import usable_cpus
from tests.benchmarks.peers import Peer

__all__ = ["facts", "versions"]


def facts() -> dict[str, str]:
    """Return what is to be said of this machine, with its captions."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "processors": f"{usable_cpus()} of {os.cpu_count()}, {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    """The model of the processor, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def versions(peers: Iterable[Peer]) -> dict[str, str]:
    """Return the versions of the libraries that are installed, by their names."""
    found: dict[str, str] = {}
    for name in [*(peer.distribution for peer in peers), "numpy", "pandas", "cloudpickle"]:
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):  # no name: the standard library's
            continue
    return found
