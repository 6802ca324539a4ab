"""A picture of a run as HTML: bar, figures, one lane for each slot or one bar for hundreds of them, the slowest item.

Only inline styles: the colours are the front end's own (JupyterLab's variables, so both its themes), with fallbacks
elsewhere. Whatever comes from a user is escaped. The only state is which item stands in which lane, so that it stays
there; it belongs to the thread that paints.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from poolmagic.snapshot import show_seconds

if TYPE_CHECKING:
    from poolmagic.snapshot import ItemSnapshot, RunSnapshot

__all__ = ["MOST_LANES", "Lanes", "paint"]

MOST_LANES: Final = 16
"""Slots beyond which nobody reads a lane for each: they are counted by how long they have been busy instead."""

_TEXT: Final = "var(--jp-ui-font-color1, currentColor)"
_DIM: Final = "var(--jp-ui-font-color2, #767676)"
_TRACK: Final = "var(--jp-layout-color2, rgba(128, 128, 128, 0.2))"
_ACCENT: Final = "var(--jp-brand-color1, #1976d2)"
_BAD: Final = "var(--jp-error-color1, #d32f2f)"
_HALTED: Final = "var(--jp-warn-color1, #b26a00)"
_FONT: Final = "font: 13px/1.55 var(--jp-ui-font-family, system-ui, sans-serif); font-variant-numeric: tabular-nums"

_AGES: Final = ((0.1, "under 0.1 s"), (1.0, "under 1 s"), (10.0, "under 10 s"), (60.0, "under 1 min"))
"""Bounds by which the busy slots are counted; the last group is beyond them."""
_OLDEST: Final = "over 1 min"


class Lanes:
    """Which item stands in which lane: where it stood before, else where its worker's last one stood, else anywhere."""

    def __init__(self) -> None:
        self._lanes: list[tuple[int, int] | None] = []
        """The worker and the item that each lane shows, or showed last."""

    def place(self, snapshot: RunSnapshot) -> list[ItemSnapshot | None]:
        """Return what each lane shows; as many lanes as there are slots, or items if those are more."""
        lanes = self._lanes
        size = max(snapshot.slots, len(snapshot.running))
        del lanes[size:]
        lanes += [None] * (size - len(lanes))
        shown: list[ItemSnapshot | None] = [None] * size
        new: list[ItemSnapshot] = []
        known = {lane: place for place, lane in enumerate(lanes) if lane is not None}
        for item in snapshot.running:
            place = known.get((item.worker, item.index))
            if place is None or shown[place] is not None:
                new.append(item)
            else:
                shown[place] = item
        for item in sorted(new, key=lambda one: (one.worker, one.index)):
            free = [place for place in range(size) if shown[place] is None]
            place = min(free, key=lambda one: self._strangeness(one, item.worker))
            shown[place] = item
            lanes[place] = (item.worker, item.index)
        return shown

    def worker(self, place: int) -> int | None:
        """Return the worker of what a lane shows, or showed last."""
        lane = self._lanes[place]
        return None if lane is None else lane[0]

    def _strangeness(self, place: int, worker: int) -> int:
        before = self.worker(place)
        return 1 if before is None else 0 if before == worker else 2


def paint(snapshot: RunSnapshot, lanes: Lanes, *, by_worker: bool, state: str, hint: str = "") -> str:
    """Return the picture of a run that goes on; does not block.

    Args:
        snapshot: The run.
        lanes: Those of the picture before.
        by_worker: Each worker has one slot, so that a lane is a worker.
        state: What the run does, in a word.
        hint: A line for the person who looks on.
    """
    many = snapshot.slots > MOST_LANES
    parts = [
        _head(snapshot, state),
        _bar(snapshot),
        _figures(snapshot),
        _density(snapshot) if many else _lanes(lanes, snapshot, by_worker),
        _slowest(snapshot),
        f'<div style="color: {_DIM}">{html.escape(hint)}</div>' if hint else "",
    ]
    return f'<div class="poolmagic-panel" style="{_FONT}; color: {_TEXT}; max-width: 720px">{"".join(parts)}</div>'


def _head(snapshot: RunSnapshot, state: str) -> str:
    look = f"color: {_DIM}" if state == "running" else "font-weight: 600"
    return (
        '<div style="display: flex; justify-content: space-between; gap: 16px">'
        f'<span><b>{html.escape(snapshot.name)}</b> <span style="color: {_DIM}">on {html.escape(snapshot.kind)}</span>'
        f'</span><span class="poolmagic-state" style="{look}">{html.escape(state)}</span></div>'
    )


def _bar(snapshot: RunSnapshot) -> str:
    """Return the bar. That of a run of unknown length is full and pale, and says only that something goes on."""
    name = html.escape(snapshot.name, quote=True)
    colour = _HALTED if snapshot.paused else _ACCENT
    if snapshot.total:
        over = snapshot.done + snapshot.failed
        value = f' aria-valuemax="{snapshot.total}" aria-valuenow="{over}"'
        pieces = [(snapshot.done / snapshot.total, colour, 1.0), (snapshot.failed / snapshot.total, _BAD, 1.0)]
    else:
        value = ""
        pieces = [(1.0, colour, 0.35)]
    return (
        f'<div role="progressbar" aria-label="{name}" aria-valuemin="0"{value} class="poolmagic-bar"'
        f' style="{_row(8)}; margin: 4px 0 6px">{_pieces(pieces)}</div>'
    )


def _row(height: int) -> str:
    return f"display: flex; height: {height}px; border-radius: 2px; overflow: hidden; background: {_TRACK}"


def _pieces(pieces: list[tuple[float, str, float]]) -> str:
    """Return parts of a row, each with its share of the width, its colour and how strong that is."""
    return "".join(
        f'<div style="width: {100 * share:.2f}%; background: {colour}; opacity: {strength:g}"></div>'
        for share, colour, strength in pieces
        if share
    )


def _figures(snapshot: RunSnapshot) -> str:
    of = "" if snapshot.total is None else f" of {snapshot.total:,}"
    figures = [f"<b>{snapshot.done:,}</b>{of} done"]
    figures.append(f'<span style="color: {_BAD if snapshot.failed else _DIM}">{snapshot.failed:,} failed</span>')
    figures.append(f"{snapshot.rate:,.1f}/s")
    figures.append(f"{show_seconds(snapshot.elapsed)} so far")
    if snapshot.eta is not None:
        figures.append(f"{show_seconds(snapshot.eta)} left")
    if snapshot.speedup is not None:
        figures.append(f"{snapshot.speedup:,.1f} times one worker")
    figures.append(f"{snapshot.busy:,} of {snapshot.slots:,} busy")
    cells = "".join(f"<span>{figure}</span>" for figure in figures)
    return f'<div class="poolmagic-figures" style="display: flex; flex-wrap: wrap; gap: 0 18px">{cells}</div>'


def _lanes(lanes: Lanes, snapshot: RunSnapshot, by_worker: bool) -> str:
    shown = lanes.place(snapshot)
    longest = max([1.0, *(item.seconds for item in snapshot.running)])
    rows = [_lane(item, place, lanes.worker(place) if by_worker else None, longest) for place, item in enumerate(shown)]
    return (
        '<div style="display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 0 24px;'
        f' margin-top: 6px">{"".join(rows)}</div>'
    )


def _lane(item: ItemSnapshot | None, place: int, worker: int | None, longest: float) -> str:
    label = f"slot {place + 1}" if worker is None else f"worker {worker}"
    what, seconds, share = "idle", "", 0.0
    if item is not None:
        what, seconds, share = f"item {item.index:,}", show_seconds(item.seconds), item.seconds / longest
    pieces = [(share, _ACCENT, 0.7)]
    return (
        '<div class="poolmagic-lane" style="display: grid; align-items: center; gap: 8px;'
        ' white-space: nowrap; grid-template-columns: 72px 84px 1fr 52px">'
        f'<span style="color: {_DIM}">{label}</span><span style="color: {"inherit" if item else _DIM}">{what}</span>'
        f'<div style="{_row(5)}">{_pieces(pieces)}</div><span style="text-align: right">{seconds}</span></div>'
    )


def _density(snapshot: RunSnapshot) -> str:
    """Return one bar of all slots, by how long they have been busy with what they run."""
    counts = [0] * (len(_AGES) + 1)
    for item in snapshot.running:
        counts[sum(item.seconds >= bound for bound, _ in _AGES)] += 1
    names = [*(name for _, name in _AGES), _OLDEST]
    total = max(snapshot.slots, sum(counts), 1)
    pieces = [(count / total, _ACCENT, 0.25 + 0.1875 * age) for age, count in enumerate(counts)]
    texts = [f"{count:,} {name}" for count, name in zip(counts, names, strict=True) if count]
    idle, others = total - max(snapshot.busy, sum(counts)), snapshot.busy - sum(counts)
    texts += [f"{count:,} {what}" for count, what in ((idle, "idle"), (others, "busy with other runs")) if count > 0]
    return (
        f'<div style="margin-top: 8px"><div class="poolmagic-density" style="{_row(14)}">{_pieces(pieces)}</div>'
        f'<div style="color: {_DIM}">running for: {", ".join(texts)}</div></div>'
    )


def _slowest(snapshot: RunSnapshot) -> str:
    slowest = snapshot.slowest
    if slowest is None:
        text = "nothing runs"
    else:
        text = f"slowest now: item {slowest.index:,} for {show_seconds(slowest.seconds)} on worker {slowest.worker}"
    return f'<div class="poolmagic-slowest" style="color: {_DIM}; margin-top: 4px">{text}</div>'
