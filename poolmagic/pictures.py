"""Charts as SVG, for pages, and on axes of matplotlib, which is imported when a figure is wanted. No state.

The SVG stands in pages of any theme: its colours are those of JupyterLab where there are such, else ones that can be
seen on dark and on light; its text has the colour of the text around it. It holds neither names nor scripts.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from poolmagic.snapshot import show_seconds

if TYPE_CHECKING:
    from poolmagic.charts import Bar

__all__ = [
    "area_svg",
    "bars_svg",
    "figure",
    "fine_seconds",
    "histogram_svg",
    "paint_area",
    "paint_bars",
    "paint_histogram",
]

GREEN, AMBER, RED = "#43a047", "#ef9a00", "#e53935"
COLOURS: Final = (GREEN, AMBER, RED)
"""Of the outcomes, as in `charts.OUTCOMES`."""
_FILLS: Final = (
    f"fill:var(--jp-success-color1,{GREEN})",
    f"fill:var(--jp-warn-color1,{AMBER})",
    f"fill:var(--jp-error-color1,{RED})",
)
_NAMES: Final = ("ok", "tried again", "failed")
_TEXT: Final = "fill:currentColor;font-size:11px;font-family:var(--jp-ui-font-family,sans-serif)"
_LINE: Final = "stroke:currentColor;stroke-opacity:.35"
WIDTH: Final = 640
LEFT: Final = 130
"""Room for the labels of lanes."""
TICKS: Final = 4


def fine_seconds(seconds: float) -> str:
    """Return a duration in few letters, short ones as well: ``12 ms``, ``3.4 s``, ``2:03``."""
    if seconds >= 59.5:
        return show_seconds(seconds)
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError("there is a smallest unit")


def _svg(title: str, height: float, body: list[str], *, small: bool) -> str:
    size = 'width="100%" preserveAspectRatio="none"' if small else f'width="{WIDTH}" style="max-width:100%"'
    told = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" {size} height="{height:g}" '
        f'role="img" aria-label="{told}"><title>{told}</title>{"".join(body)}</svg>'
    )


def _rectangle(x: float, y: float, width: float, height: float, outcome: int, tip: str = "") -> str:
    inner = f"<title>{html.escape(tip)}</title>" if tip else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.7):.1f}" height="{height:.1f}"'
    return f'<rect {place} style="{_FILLS[outcome]}">{inner}</rect>'


def _write(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{_TEXT}">{html.escape(text)}</text>'


def _axis(y: float, left: float, texts: Sequence[str]) -> list[str]:
    """Return a line with texts at equal distances."""
    found = [f'<line x1="{left}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" style="{_LINE}"/>']
    step = (WIDTH - left) / max(1, len(texts) - 1)
    for place, text in enumerate(texts):
        anchor = "start" if place == 0 else "end" if place == len(texts) - 1 else "middle"
        found.append(_write(left + step * place, y + 13, text, anchor))
    return found


def _times(span: float) -> list[str]:
    return ["0", *(fine_seconds(span * place / TICKS) for place in range(1, TICKS + 1))]


def _legend(y: float, outcomes: set[int]) -> list[str]:
    """Return what the colours mean, as far as there is more than one."""
    found = []
    for place, outcome in enumerate(sorted(outcomes) if outcomes - {0} else ()):
        x = LEFT + 100 * place
        found += [_rectangle(x, y - 8, 9, 9, outcome), _write(x + 14, y, _NAMES[outcome])]
    return found


def bars_svg(title: str, span: float, labels: Sequence[str], bars: Sequence[Bar], *, small: bool) -> str:
    """Return bars on lanes over time."""
    low, high, whole = (2.0, 10.0, 60.0) if small else (8.0, 20.0, 300.0)
    lane = max(low, min(high, whole / max(1, len(labels))))
    left = 0 if small else LEFT
    scale = (WIDTH - left) / span if span else 0.0
    body = [] if small else [_write(0, lane * (place + 0.75), text) for place, text in enumerate(labels) if text]
    for bar in bars:
        items = f"item {bar.first}" if bar.stop == bar.first + 1 else f"items {bar.first} to {bar.stop - 1}"
        tip = "" if small else f"{items}: {fine_seconds(bar.ended - bar.began)}, {_NAMES[bar.outcome]}"
        x, width = left + bar.began * scale, (bar.ended - bar.began) * scale
        body.append(_rectangle(x, lane * bar.lane + 0.5, width, lane - 1, bar.outcome, tip))
    height = lane * len(labels)
    if small:
        return _svg(title, height, body, small=True)
    body += _axis(height + 2, left, _times(span)) + _legend(height + 32, {bar.outcome for bar in bars})
    return _svg(title, height + 38, body, small=False)


def area_svg(title: str, span: float, slots: int, busy: Sequence[float], *, small: bool) -> str:
    """Return how many slots were busy over time."""
    left, height = (0, 40.0) if small else (LEFT, 120.0)
    step = (WIDTH - left) / max(1, len(busy))
    tops = [f"{left + step * (place + 0.5):.1f},{height * (1 - share / slots):.1f}" for place, share in enumerate(busy)]
    points = " ".join([f"{left},{height}", *tops, f"{WIDTH},{height}"])
    body = [f'<polygon points="{points}" style="{_FILLS[0]};fill-opacity:.8"/>']
    if small:
        return _svg(title, height, body, small=True)
    body += [
        _write(0, 10, f"{slots:,} slots"),
        _write(0, height, "0 busy"),
        *_axis(height + 2, left, _times(span)),
    ]
    return _svg(title, height + 20, body, small=False)


def histogram_svg(title: str, edges: Sequence[float], counts: Sequence[Sequence[int]], *, small: bool) -> str:
    """Return counts as columns, the outcomes on top of each other."""
    left, height = (0, 40.0) if small else (LEFT, 120.0)
    totals = [sum(column) for column in zip(*counts, strict=True)]
    scale = height / max(1, *totals)
    step = (WIDTH - left) / len(totals)
    body: list[str] = []
    for place, column in enumerate(zip(*counts, strict=True)):
        y = height
        for outcome, count in enumerate(column):
            if count:
                y -= count * scale
                tip = f"{count:,} items of {fine_seconds(edges[place])} to {fine_seconds(edges[place + 1])}"
                x, tip = left + step * place + 0.5, "" if small else tip
                body.append(_rectangle(x, y, step - 1, count * scale, outcome, tip))
    if small:
        return _svg(title, height, body, small=True)
    marks = [fine_seconds(edges[place * (len(edges) - 1) // TICKS]) for place in range(TICKS + 1)]
    body += [_write(0, 10, f"{max(totals):,} items"), _write(0, height, "0"), *_axis(height + 2, left, marks)]
    body += _legend(height + 32, {outcome for outcome, column in enumerate(counts) if any(column)})
    return _svg(title, height + 38, body, small=False)


def figure(paint: Callable[[Any], None], text: str) -> Any:
    """Return a figure that shows itself in a notebook, and as text elsewhere; raises `ImportError` without matplotlib.

    It is none of pyplot's, which would show it a second time, and keep it for ever.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, and not installed everywhere

    class ChartFigure(Figure):
        """A figure that says in words what it shows."""

        def __repr__(self) -> str:
            return text

        def _repr_png_(self) -> bytes:
            # IPython knows figures only where pyplot was imported.
            found = io.BytesIO()
            self.savefig(found, format="png")
            return found.getvalue()

    made = ChartFigure(figsize=(8.0, 3.2), layout="constrained")
    paint(made.subplots())
    return made


def paint_bars(axes: Any, labels: Sequence[str], bars: Sequence[Bar]) -> None:
    """Draw bars on lanes over time."""
    for outcome, colour in enumerate(COLOURS):
        for lane in range(len(labels)):
            pieces = [(bar.began, bar.ended - bar.began) for bar in bars if (bar.lane, bar.outcome) == (lane, outcome)]
            if pieces:
                axes.broken_barh(pieces, (lane - 0.4, 0.8), facecolors=colour)
    named = [place for place, label in enumerate(labels) if label]
    axes.set_yticks(named, [labels[place] for place in named])
    axes.invert_yaxis()
    _explain(axes, {bar.outcome for bar in bars})


def paint_area(axes: Any, span: float, busy: Sequence[float]) -> None:
    """Draw how many slots were busy over time."""
    axes.fill_between([span * (place + 0.5) / len(busy) for place in range(len(busy))], busy, color=GREEN)
    axes.set_ylabel("busy slots")
    axes.set_ylim(bottom=0)


def paint_histogram(axes: Any, edges: Sequence[float], counts: Sequence[Sequence[int]]) -> None:
    """Draw counts as columns, the outcomes on top of each other."""
    widths = [stop - start for start, stop in pairwise(edges)]
    below = [0] * len(widths)
    for colour, column in zip(COLOURS, counts, strict=True):
        if any(column):
            axes.bar(edges[:-1], column, widths, bottom=below, align="edge", color=colour)
        below = [before + count for before, count in zip(below, column, strict=True)]
    _explain(axes, {outcome for outcome, column in enumerate(counts) if any(column)})


def _explain(axes: Any, outcomes: set[int]) -> None:
    """Say what the colours mean, as far as there is more than one."""
    if outcomes - {0}:
        from matplotlib.patches import Patch  # noqa: PLC0415 - as above

        patches = [Patch(color=COLOURS[one], label=_NAMES[one]) for one in sorted(outcomes)]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
