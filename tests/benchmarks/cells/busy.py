"""A cell with tasks that keep a CPU busy for as long as they are told."""

from __future__ import annotations

import time


def busy(seconds: float) -> float:
    """Return `seconds`, after as many of them.

    It looks at the clock, so a task is not done sooner or later for what else the machine does: what is lost, is lost
    between the tasks.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds
