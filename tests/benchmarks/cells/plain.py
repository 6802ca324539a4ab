"""A cell with a task that takes no time."""

from __future__ import annotations


def square(x: int) -> int:
    """Return the square."""
    return x * x
