"""What a run did over time, as numbers that can be drawn: tasks on workers, and how long items took.

A chart shows itself: as SVG in a notebook, as text in a terminal. `draw` makes a figure of it where matplotlib is
installed, which is loaded then and not before. No state; any thread.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

from poolmagic import pictures
from poolmagic.snapshot import show_seconds
from poolmagic.timings import Stretch

__all__ = ["OUTCOMES", "Bar", "Chart", "Histogram", "Timeline", "draw", "make_histogram", "make_timeline"]

OUTCOMES: Final = ("ok", "retried", "failed")
"""What came of an attempt, the better first: ``"retried"`` failed and had another one after it."""
MOST_BARS: Final = 2000
"""With more a picture says nothing more, and its file grows: neighbours are drawn as one."""
MOST_LANES: Final = 32
"""With more slots than this only how many of them were busy is drawn."""
PARTS: Final = 200
"""So many parts of the time tell how many slots were busy."""
TEXT_WIDTH: Final = 60
BINS: Final = 24
WIDE: Final = 50.0
"""Times that the longest item takes longer than the shortest, for a scale on which each step is a factor."""
_LETTERS: Final = ".#rx"
"""Of nothing, and of the outcomes."""
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


class Bar(NamedTuple):
    """Something that a slot did: a place in `OUTCOMES`, and the indices of the items."""

    lane: int
    began: float
    ended: float
    outcome: int
    first: int
    stop: int


class Chart(ABC):
    """Something that can be drawn, and shows itself."""

    @abstractmethod
    def svg(self, *, small: bool = False) -> str:
        """Return it as an SVG element without names, scripts or links; a small one has no labels."""

    @abstractmethod
    def text(self) -> str:
        """Return it as lines of text."""

    @abstractmethod
    def paint(self, axes: Any) -> None:
        """Draw it on axes of matplotlib."""

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f"<div>{self.svg()}</div>"

    def __repr__(self) -> str:
        return self.text()


def draw(chart: Chart) -> Any:
    """Return a figure of matplotlib; where that is not installed, the chart itself."""
    try:
        return pictures.figure(chart.paint, chart.text())
    except ImportError:
        return chart


@dataclass(frozen=True, repr=False)
class Timeline(Chart):
    """Tasks on slots over time.

    Attributes:
        title: What it shows.
        span: Seconds from the left to the right.
        labels: For each slot what its worker is called; empty if that is said above it.
        bars: What the slots did; empty if there are too many of them.
        busy: How many slots were busy on average, for equal parts of the time.
    """

    title: str
    span: float
    labels: tuple[str, ...]
    bars: tuple[Bar, ...]
    busy: tuple[float, ...]

    def svg(self, *, small: bool = False) -> str:
        """Return it as an SVG element; a small one has no labels."""
        if self.bars or not self.labels:
            return pictures.bars_svg(self.title, self.span, self.labels, self.bars, small=small)
        return pictures.area_svg(self.title, self.span, len(self.labels), self.busy, small=small)

    def text(self) -> str:
        """Return it as lines of text."""
        width = max(map(len, self.labels), default=0)
        head = f"{self.title}, {show_seconds(self.span)}"
        if not self.bars and self.labels:
            most = len(self.labels)
            columns = [self.busy[place * PARTS // TEXT_WIDTH] for place in range(TEXT_WIDTH)]
            line = "".join(_BLOCKS[min(8, math.ceil(8 * share / most))] for share in columns)
            return f"{head}\n|{line}| of {most} slots"
        rows = [[0] * TEXT_WIDTH for _ in self.labels]
        for bar in self.bars:
            scale = TEXT_WIDTH / self.span if self.span else 0.0
            start = min(int(bar.began * scale), TEXT_WIDTH - 1)
            for place in range(start, max(start + 1, min(math.ceil(bar.ended * scale), TEXT_WIDTH))):
                rows[bar.lane][place] = max(rows[bar.lane][place], 1 + bar.outcome)
        lines = [
            f"{label:{width}} |{''.join(_LETTERS[one] for one in row)}|"
            for label, row in zip(self.labels, rows, strict=True)
        ]
        return "\n".join([f"{head}  (# busy, r tried again, x failed)", *lines])

    def paint(self, axes: Any) -> None:
        """Draw it on axes of matplotlib."""
        if self.bars or not self.labels:
            pictures.paint_bars(axes, self.labels, self.bars)
        else:
            pictures.paint_area(axes, self.span, self.busy)
        axes.set_title(self.title)
        axes.set_xlabel("seconds")
        axes.set_xlim(0.0, self.span or 1.0)


@dataclass(frozen=True, repr=False)
class Histogram(Chart):
    """How long items took.

    Attributes:
        title: What it shows.
        edges: Seconds between which items are counted; one more than there are counts.
        counts: For each of `OUTCOMES`, and there for each bin, how many items.
        is_wide: Whether each bin begins at a multiple of the one before it.
    """

    title: str
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    is_wide: bool

    def svg(self, *, small: bool = False) -> str:
        """Return it as an SVG element; a small one has no labels."""
        return pictures.histogram_svg(self.title, self.edges, self.counts, small=small)

    def text(self) -> str:
        """Return it as lines of text."""
        totals = [sum(column) for column in zip(*self.counts, strict=True)]
        most = max(totals, default=0)
        lines = [
            f"{pictures.fine_seconds(start):>8} {'#' * math.ceil(40 * total / most):40} {total:,}"
            for start, total in zip(self.edges, totals, strict=False)
            if total
        ]
        return "\n".join([self.title, *lines])

    def paint(self, axes: Any) -> None:
        """Draw it on axes of matplotlib."""
        pictures.paint_histogram(axes, self.edges, self.counts)
        axes.set_title(self.title)
        axes.set_xlabel("seconds")
        axes.set_ylabel("items")
        if self.is_wide:
            axes.set_xscale("log")


def make_timeline(
    title: str, stretches: Iterable[Stretch], workers: list[str], outcome: Callable[[Stretch], int]
) -> Timeline:
    """Return what ran where and when; `outcome` tells the place in `OUTCOMES`. Takes a microsecond or two for each."""
    found = sorted(stretches, key=attrgetter("worker", "began"))
    if not found:
        return Timeline(title, 0.0, (), (), ())
    left = min(one.began for one in found)
    span = max(one.ended for one in found) - left
    labels: list[str] = []
    bars: list[Bar] = []
    free: list[tuple[float, int]] = []  # when a slot of this worker became free, and its lane
    worker = -1
    for one in found:
        first, stop, began, ended, now, _ = one
        label = workers[now] if now != worker else ""
        if label:
            worker, free = now, []
        if free and free[0][0] <= began:
            _, lane = heapq.heapreplace(free, (ended, free[0][1]))
        else:
            lane = len(labels)
            labels.append(label)
            heapq.heappush(free, (ended, lane))
        bars.append(Bar(lane, began - left, ended - left, outcome(one), first, stop))
    if len(labels) > MOST_LANES:
        return Timeline(title, span, tuple(labels), (), _busy(bars, span))
    return Timeline(title, span, tuple(labels), tuple(_merged(bars, span, len(labels))), ())


def _merged(bars: list[Bar], span: float, lanes: int) -> list[Bar]:
    """Return the same bars, or not many more than `MOST_BARS` if there are too many."""
    if len(bars) <= MOST_BARS:
        return bars
    smallest = 2 * span * lanes / MOST_BARS
    merged: list[Bar] = []
    for bar in sorted(bars, key=lambda one: (one.lane, one.began)):
        last = merged[-1] if merged else bar
        is_near = last.lane == bar.lane and bar.began - last.ended < smallest
        is_like = last.outcome == bar.outcome or max(last.ended - last.began, bar.ended - bar.began) < smallest
        if merged and is_near and is_like:
            outcome = max(last.outcome, bar.outcome)
            items = min(last.first, bar.first), max(last.stop, bar.stop)
            merged[-1] = Bar(bar.lane, last.began, bar.ended, outcome, *items)
        else:
            merged.append(bar)
    return merged


def _busy(bars: list[Bar], span: float) -> tuple[float, ...]:
    """Return how many slots were busy on average, for equal parts of the time."""
    scale = PARTS / span if span else 0.0
    partly, wholly = [0.0] * (PARTS + 1), [0] * (PARTS + 2)
    for bar in bars:
        start, stop = bar.began * scale, bar.ended * scale
        first, last = int(start), int(stop)
        if first == last:
            partly[first] += stop - start
        else:
            partly[first] += first + 1 - start
            partly[last] += stop - last
            wholly[first + 1] += 1
            wholly[last] -= 1
    found, now = [], 0
    for place in range(PARTS):
        now += wholly[place]
        found.append(now + partly[place])
    return tuple(found)


def make_histogram(title: str, stretches: Iterable[Stretch], outcome: Callable[[Stretch], int]) -> Histogram:
    """Return how long items took; those that share their time count with the average of it."""
    found = [(max(one.seconds, 1e-9), one.stop - one.first, outcome(one)) for one in stretches]
    if not found:
        return Histogram(title, (0.0, 1.0), ((0,),) * len(OUTCOMES), is_wide=False)
    low, high = min(found)[0], max(found)[0]
    is_wide = high > WIDE * low
    if is_wide:
        step = math.log(high / low) / BINS
        edges = [low * math.exp(step * place) for place in range(BINS + 1)]
    else:
        low, high = (low, high) if high > low else (0.0, 2 * high)
        step = (high - low) / BINS
        edges = [low + step * place for place in range(BINS + 1)]
    counts = [[0] * BINS for _ in OUTCOMES]
    for seconds, count, kind in found:
        steps = math.log(seconds / low) if is_wide else seconds - low
        counts[kind][min(BINS - 1, max(0, int(steps / step)))] += count
    return Histogram(title, tuple(edges), tuple(map(tuple, counts)), is_wide=is_wide)
