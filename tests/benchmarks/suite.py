"""The table of all workloads, in the order in which they are run and shown."""

from __future__ import annotations

from typing import Final

from tests.benchmarks import arrays, computing, internals, latency, waiting
from tests.benchmarks.workload import Workload

__all__ = ["WORKLOADS"]

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for module in (computing, latency, arrays, waiting, internals)
    for workload in module.WORKLOADS
}
"""By name."""
