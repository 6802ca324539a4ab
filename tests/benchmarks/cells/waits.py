"""A cell with tasks that wait."""

from __future__ import annotations

import asyncio
import time
from urllib.request import urlopen


def wait(seconds: float) -> float:
    """Wait, and return how long."""
    time.sleep(seconds)
    return seconds


async def wait_async(seconds: float) -> float:
    """Wait as a coroutine, and return how long."""
    await asyncio.sleep(seconds)
    return seconds


def fetch(url: str) -> int:
    """Return how long a page is."""
    with urlopen(url) as page:  # noqa: S310 - the benchmark's own server
        return len(page.read())
