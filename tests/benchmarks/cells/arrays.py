"""A cell with a large array, of which tasks sum up parts, and a task that takes arrays and returns them."""

from __future__ import annotations

from typing import Any

import numpy as np

PARTS = 64
big: Any = np.ones(0)


def make_big(size: int) -> None:
    """Let there be an array of `size` bytes."""
    global big
    big = np.ones(size // 8)


def part_sum(part: int) -> float:
    """Return the sum of one part of the array, which the function captures as a notebook's functions do."""
    step = len(big) // PARTS
    return float(big[part * step : (part + 1) * step].sum())


def next_array(array: Any) -> Any:
    """Return another array of the same size."""
    return array + 1
