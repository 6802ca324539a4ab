"""Sizes, rates and seconds as people write them: ``"2GB"``, ``"100/m"``, ``0.5``. Owns no state."""

from __future__ import annotations

import math
import re
from typing import Final

from poolmagic.errors import UsageError

__all__ = ["read_rate", "read_seconds", "read_size", "show_size"]

_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def read_size(option: str, value: object) -> int:
    """Return a size in bytes, from a number of bytes or a text such as ``"2GB"``, ``"512 MiB"``; does not block.

    K, M, G and T are powers of 1024, with or without the i, as memory is counted.

    Raises:
        UsageError: It is something else, or nothing.
    """
    size = 0.0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?)(i?B)?\s*", value, re.IGNORECASE)
        size = float(found[1]) * _SIZES[found[2].upper()] if found else 0.0
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        size = value
    if size < 1:
        raise UsageError(f"{option}={value!r}: use a number of bytes or a text such as '2GB'")
    return int(size)


def show_size(size: int) -> str:
    """Return a size in bytes in words, such as ``"1.5 GB"``; does not block."""
    for unit in ("T", "G", "M", "K"):
        if size >= _SIZES[unit]:
            return f"{size / _SIZES[unit]:.3g} {unit}B"
    return f"{size} bytes"


def read_rate(option: str, value: object) -> float:
    """Return items per second, from a number of them or a text such as ``"100/m"`` as in Celery; does not block.

    Raises:
        UsageError: It is something else, or not above zero.
    """
    rate = 0.0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(?:/\s*([smh]))?\s*", value)
        rate = float(found[1]) / _PERIODS[found[2] or "s"] if found else 0.0
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        rate = float(value)
    if rate <= 0:
        raise UsageError(f"{option}={value!r}: use items per second or a text such as '100/m', for s, m or h")
    return rate


def read_seconds(option: str, value: object) -> float:
    """Return a number of seconds above zero; raises `UsageError` for all else; does not block."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    seconds = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{option}={value!r}: use a number of seconds above zero")
    return seconds
