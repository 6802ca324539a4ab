"""Draws a table of transitions as an SVG picture, with no program and no script from elsewhere.

How it is laid out: the states stand below each other, in the order of their enum. A line that goes down leaves and
arrives on the right, a line that goes up on the left. Every end of a line has a row of its own in its state's box, and
every line a lane of its own, so that neither lines nor words ever lie on each other; lines cross at right angles only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from html import escape

__all__ = ["Transitions", "draw"]

Transitions = Mapping[tuple[Enum, type], Enum]

# Sizes in pixels. The letters are monospaced, so that the width of a word is known without a font.
LETTER, ROW, GAP, LANE, PADDING, CORNER = 7.3, 19, 22, 13, 14, 6


@dataclass
class Edge:
    """All transitions from one state to another, drawn as one line."""

    source: Enum
    target: Enum
    events: list[str]
    row_out: float = 0.0
    row_in: float = 0.0
    lane: int = 0


@dataclass
class Side:
    """One side of the column of boxes: +1 is the right, where lines go down; -1 is the left, where they go up."""

    sign: int
    edges: list[Edge] = field(default_factory=list)

    def rows(self, state: Enum) -> list[tuple[Edge, bool]]:
        """The ends of lines at this side of a box, from the top down, as (line, whether it leaves here)."""
        out = [(edge, True) for edge in self.edges if edge.source is state]
        into = [(edge, False) for edge in self.edges if edge.target is state]
        return into + out if self.sign > 0 else out + into

    def label_width(self) -> float:
        """The room that words need between the boxes and the first lane."""
        return max((len(event) for edge in self.edges for event in edge.events), default=0) * LETTER + 3 * PADDING


def edges_of(table: Transitions) -> list[Edge]:
    """Join the transitions between the same two states; keeps the order of the table."""
    found: dict[tuple[Enum, Enum], Edge] = {}
    for (source, event), target in table.items():
        found.setdefault((source, target), Edge(source, target, [])).events.append(event.__name__)
    return list(found.values())


def states_of(table: Transitions) -> list[Enum]:
    """The states of a table in the order of their enum; states that no transition names are left out."""
    named = {source for source, _ in table} | set(table.values())
    return [state for state in type(next(iter(named))) if state in named]


def draw(table: Transitions, title: str) -> str:
    """Return a table of transitions as the text of an SVG picture; raises `ValueError` for an empty one."""
    if not table:
        raise ValueError(f"{title}: the table of transitions is empty")
    states = states_of(table)
    down, up = Side(+1), Side(-1)
    for edge in edges_of(table):
        (down if states.index(edge.source) <= states.index(edge.target) else up).edges.append(edge)
    tops, heights = _place(states, down, up)
    for side in (down, up):
        _lanes(side)
    width = max(len(state.name) for state in states) * LETTER + 4 * PADDING
    left = up.label_width() + LANE * (1 + len(up.edges)) if up.edges else PADDING
    right = down.label_width() + LANE * (1 + len(down.edges)) if down.edges else PADDING
    shapes = [_arrow(edge, side, left, width) for side in (down, up) for edge in side.edges]
    leaving = {source for source, _ in table}
    shapes += [_box(state, left, tops[state], width, heights[state], last=state not in leaving) for state in states]
    full, height = left + width + right, tops[states[-1]] + heights[states[-1]] + PADDING
    return (
        f'<svg class="state-diagram" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {full:.0f} {height:.0f}" style="max-width:{full:.0f}px;width:100%;height:auto" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12" fill="currentColor">'
        f"<title>{escape(title)}</title>{''.join(shapes)}</svg>"
    )


def _place(states: list[Enum], down: Side, up: Side) -> tuple[dict[Enum, float], dict[Enum, float]]:
    """Give every box its top and height, and every end of a line its row."""
    tops: dict[Enum, float] = {}
    heights: dict[Enum, float] = {}
    y = float(PADDING)
    for state in states:
        tops[state] = y
        bottoms = []
        for side in (down, up):
            row = y + ROW / 2
            for edge, leaves in side.rows(state):
                # The words stand above the line where it leaves its state, one row for each event.
                row += ROW * len(edge.events) if leaves else ROW / 2
                if leaves:
                    edge.row_out = row
                else:
                    edge.row_in = row
            bottoms.append(row)
        heights[state] = max(*bottoms, y + 2 * ROW) + ROW / 2 - y
        y += heights[state] + GAP
    return tops, heights


def _lanes(side: Side) -> None:
    """Give every line a lane; short lines get the inner ones, which saves crossings."""
    for lane, edge in enumerate(sorted(side.edges, key=lambda edge: abs(edge.row_in - edge.row_out))):
        edge.lane = lane


def _arrow(edge: Edge, side: Side, left: float, width: float) -> str:
    """A line from its row of the one box over its lane to its row of the other, with its words."""
    sign = side.sign
    start = left + width if sign > 0 else left
    lane = start + sign * (side.label_width() + LANE * edge.lane)
    turn = CORNER if edge.row_in > edge.row_out else -CORNER
    path = (
        f"M{start:.0f},{edge.row_out:.0f} H{lane - sign * CORNER:.0f} q{sign * CORNER},0 {sign * CORNER},{turn} "
        f"V{edge.row_in - turn:.0f} q0,{turn} {-sign * CORNER},{turn} H{start + sign * 7:.0f}"
    )
    tip = f"{start:.0f},{edge.row_in:.0f}"
    base = start + sign * 8
    head = f"{tip} {base:.0f},{edge.row_in - 4:.0f} {base:.0f},{edge.row_in + 4:.0f}"
    words = "".join(
        f'<text x="{start + sign * PADDING:.0f}" y="{edge.row_out - 5 - ROW * above:.0f}" '
        f'text-anchor="{"start" if sign > 0 else "end"}">{escape(event)}</text>'
        for above, event in enumerate(reversed(edge.events))
    )
    return (
        f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.2" opacity="0.65"/>'
        f'<polygon points="{head}" opacity="0.8"/>{words}'
    )


def _box(state: Enum, x: float, y: float, width: float, height: float, *, last: bool) -> str:
    """A state; one that nothing leaves has a double border."""
    outline = 'fill="currentColor" fill-opacity="0.07" stroke="currentColor" stroke-width="1.4"'
    box = f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="7" {outline}/>'
    if last:
        box += (
            f'<rect x="{x + 3:.0f}" y="{y + 3:.0f}" width="{width - 6:.0f}" height="{height - 6:.0f}" rx="5" '
            'fill="none" stroke="currentColor" stroke-width="0.8"/>'
        )
    name = escape(state.name.lower().replace("_", " "))
    place = f'x="{x + width / 2:.0f}" y="{y + height / 2 + 4:.0f}" text-anchor="middle"'
    return f'{box}<text {place} font-weight="bold">{name}</text>'
