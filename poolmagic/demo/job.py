"""The main job: fetch the standard library from a slow server, measure every file, and say how fast each pool was.

Every result is checked: a page against the file on disk, a measure against what solo finds. Everything here runs in
the calling thread, which owns it all.
"""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import poolmagic as pm
from poolmagic.demo.server import LATENCY, Site
from poolmagic.demo.tasks import Measure, fetch, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["run"]

T = TypeVar("T")

SAMPLE: Final = 40
"""Files in the sample that a plain loop works through: with these, what it says of the whole is good to some 5 %."""

HEADER: Final = "pool               task      items   first s     all s  serial s  speed-up  failures"
LEGEND: Final = """\
  first s    until the first result of a new pool: the start of its workers is in it
  all s      all items, then, with warm workers
  serial s   the same items in a plain loop in one process, reckoned from {sample} of them"""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        pool: Kind and concurrency.
        task: The name of the function.
        items: How many tasks the pool ran.
        first: Seconds until the first result of a new pool, the start of its workers included.
        seconds: What all items took the pool then, with its workers warm.
        serial: Seconds that a plain loop in one process takes for the same items.
        failures: How many tasks failed.
    """

    pool: str
    task: str
    items: int
    first: float
    seconds: float
    serial: float
    failures: int

    def __str__(self) -> str:
        return (
            f"{self.pool:<18} {self.task:<8} {self.items:>6}  {self.first:>8.2f}  {self.seconds:>8.2f}"
            f"  {self.serial:>8.2f}  {self.serial / self.seconds:>8.1f}  {self.failures:>8}"
        )


def run(concurrency: int) -> list[str]:
    """Run the whole job, print its table, and return what was wrong, a line each; blocks for some ten seconds.

    Args:
        concurrency: Of the green pools.
    """
    greens = [pm.Pool(kind, concurrency) for kind in ("gevent", "eventlet")]  # refused before anything is started
    with Site() as site:
        disk = [path.read_bytes() for path in site.files]
        sample = sample_of(disk)
        share = len(disk) / len(sample)
        _say(
            f"{len(disk)} files of the standard library of Python {platform.python_version()}, "
            f"{sum(map(len, disk)) / 1e6:.1f} MB, from a web server that answers after {LATENCY * 1000:.0f} ms\n"
        )
        loop_fetch = _loop(fetch, [site.urls[index] for index in sample])
        loop_measure = _loop(measure, [disk[index] for index in sample])

        _say(HEADER)
        problems: list[str] = []
        pages: list[Any] = []
        for pool in greens:
            pages = _race(pool, fetch, site.urls, loop_fetch * share)
            problems += compare(f"{pool.config.kind.name}: the page of", pages, disk, site.files)
        found = _race(pm.Pool("prefork"), measure, pages, loop_measure * share)
        checked = _race(pm.Pool("solo"), measure, [pages[index] for index in sample], loop_measure)
        files = [site.files[index] for index in sample]
        problems += compare("prefork: the measure of", [found[index] for index in sample], checked, files)

    _say(LEGEND.format(sample=len(sample)))
    if not problems:
        total = sum(found, Measure())
        _say(
            "Checked: all pages are the files on disk, byte for byte, and prefork's measures are solo's.\n"
            f"Found: {total.functions:,} functions, {total.branches:,} branches and {total.imports:,} imports "
            f"in {total.lines:,} lines."
        )
    return problems


def sample_of(pages: Sequence[bytes]) -> list[int]:
    """Return the indices of a sample with pages of all sizes, small and large as often as among all."""
    by_size = sorted(range(len(pages)), key=lambda index: len(pages[index]))
    count = min(SAMPLE, len(pages))
    return [by_size[(2 * place + 1) * len(pages) // (2 * count)] for place in range(count)]


def compare(what: str, found: Sequence[Any], expected: Sequence[Any], files: Sequence[Path]) -> list[str]:
    """Return a line for the first result that is not as expected, and how many there are; nothing if all are."""
    wrong = [index for index, value in enumerate(expected) if found[index] != value]
    if not wrong:
        return []
    first = found[wrong[0]]
    reason = repr(first.exception) if isinstance(first, pm.Failure) else "it differs"
    return [f"{what} {files[wrong[0]]} is wrong ({reason}), as {len(wrong)} of {len(expected)} are"]


def _loop(function: Callable[[T], object], items: Sequence[T]) -> float:
    """Return the seconds of a plain loop."""
    started = time.perf_counter()
    for item in items:
        function(item)
    return time.perf_counter() - started


def _race(pool: pm.Pool, function: Callable[[T], object], items: Sequence[T], serial: float) -> list[Any]:
    """Let a new pool do all items, print its line of the table, and return the results; a failure is one of them."""
    with pool:
        started = time.perf_counter()
        pool.map(function, items[:1], on_error="return")
        warm = time.perf_counter()
        results: list[Any] = pool.map(function, items, on_error="return")
        ended = time.perf_counter()
    failures = sum(isinstance(result, pm.Failure) for result in results)
    name = f"{pool.config.kind.name} -c {pool.config.concurrency}"
    _say(str(Row(name, function.__name__, len(items), warm - started, ended - warm, serial, failures)))
    return results


def _say(text: str) -> None:
    """Print at once, so that a line of the table appears when its pool is done."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
