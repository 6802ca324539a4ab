"""The items of a run as a table of pandas, which is imported when one is wanted. No state; any thread."""

from __future__ import annotations

import math
from array import array
from typing import Any

from poolmagic.errors import UsageError
from poolmagic.outcomes import MISSING, Outcomes

__all__ = ["make_frame"]


def make_frame(outcomes: Outcomes, total: int | None, otherwise: str) -> Any:
    """Return a `pandas.DataFrame` with a row for each item.

    Args:
        outcomes: Those of a run.
        total: How many items there are; None for as many as have an outcome.
        otherwise: What became of items that have no outcome.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - half a second, and not installed everywhere
    except ImportError:
        text = "to_frame() makes a DataFrame of pandas, which is not installed: pip install 'poolmagic[report]'"
        raise UsageError(text) from None
    count = max(total or 0, len(outcomes.values), 1 + max(outcomes.attempts.copy(), default=-1))
    began, seconds, worker, peak = _last_attempts(outcomes, count)
    failures, attempts = outcomes.failures.copy(), outcomes.attempts.copy()
    kinds = ["done" if value is not MISSING else otherwise for value in outcomes.values]  # noqa: PD011 - no frame's
    kinds += [otherwise] * (count - len(kinds))
    errors: list[str | None] = [None] * count
    workers: list[str | None] = [None if place < 0 else outcomes.timings.workers[place] for place in worker]
    for index, failure in failures.items():
        kinds[index] = "failed"
        errors[index] = type(failure.exception).__name__
        workers[index] = workers[index] or failure.worker or None
    tries = [int(kind != otherwise) for kind in kinds]
    for index, earlier in attempts.items():
        tries[index] += len(earlier)
    columns = {
        "outcome": kinds,
        "attempts": tries,
        "seconds": seconds,
        "started": began,
        "worker": workers,
        "peak_memory": pd.array(peak, dtype="Int64"),
        "error": errors,
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(count, name="item"))


def _last_attempts(outcomes: Outcomes, count: int) -> tuple[array[float], array[float], array[int], list[int | None]]:
    """Return when the last attempt of each item began, how long it took, where, and the memory its worker had had."""
    began, seconds = array("d", [math.nan]) * count, array("d", [math.nan]) * count
    worker = array("l", [-1]) * count
    peak: list[int | None] = [None] * count
    for stretch in outcomes.timings:
        each = stretch.seconds
        for place, index in enumerate(range(stretch.first, min(stretch.stop, count))):
            if not stretch.began + place * each < began[index]:  # reports of an earlier attempt may come later
                began[index], seconds[index] = stretch.began + place * each, each
                worker[index], peak[index] = stretch.worker, stretch.peak or None
    return began, seconds, worker, peak
