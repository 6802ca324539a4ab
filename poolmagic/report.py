"""What a run tells of itself: in a few lines or as HTML, as pictures, and as a table.

The HTML is static: it stays in a saved notebook, in any theme, and whatever comes from the user in it is escaped.
No state of its own; any thread may ask for a report at any time, and gets what is known by then.
"""

from __future__ import annotations

import heapq
import html
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from poolmagic.charts import OUTCOMES, Timeline, draw, make_histogram, make_timeline
from poolmagic.errors import WorkerLostError
from poolmagic.failure import Failure
from poolmagic.frames import make_frame
from poolmagic.groups import brief, describe, group_failures, summarize
from poolmagic.outcomes import Outcomes
from poolmagic.pictures import fine_seconds
from poolmagic.snapshot import run_line
from poolmagic.steering import Steered
from poolmagic.timings import Stretch

__all__ = ["Reported", "report_html", "report_text"]

MOST_GROUPS: Final = 5
MOST_SLOW: Final = 3
_GOOD: Final = "var(--jp-success-color1, #43a047)"
_HALFWAY: Final = "var(--jp-warn-color1, #ef9a00)"
_BAD: Final = "var(--jp-error-color1, #e53935)"
_BOX: Final = (
    "border-left: 3px solid {colour}; padding: 2px 0 2px 10px; max-width: 760px; line-height: 1.5; "
    "font-size: var(--jp-ui-font-size1, 13px); font-family: var(--jp-ui-font-family, sans-serif); "
    "color: var(--jp-content-font-color1, inherit)"
)
_GRID: Final = "display: grid; grid-template-columns: max-content minmax(0, 1fr); column-gap: 12px"


class Reported(Steered):
    """The part of a run that tells how it went."""

    seed: int

    def timeline(self) -> Any:
        """Draw what ran where and when: a lane for each slot, or how many were busy where there are many slots.

        Items that failed, and attempts that were followed by another one, have colours of their own. Does not block,
        but takes a microsecond or two for each item that took a millisecond or more.

        Returns:
            A figure of matplotlib where that is installed; else something that shows itself as SVG in a notebook and as
            text in a terminal.
        """
        return draw(_timeline(self))

    def durations(self) -> Any:
        """Draw how long items took, as a histogram; see `timeline`. Items of microseconds count with their average."""
        timings = self._outcomes.timings
        return draw(make_histogram(f"how long items of {self.name} took", timings, _Judge(self._outcomes)))

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each item; does not block.

        Its columns are `outcome` (``"done"``, ``"failed"``, or for an item without one ``"cancelled"`` if the run was
        stopped, else ``"not run"``), `attempts`, `seconds` that the last attempt took, `started` in seconds since
        the run began, `worker`, `peak_memory` in bytes (the most that the worker had had by then, for whichever of its
        items) and `error`, the name of its type. What is not known is missing: when an item ran whose worker died, say.

        Raises:
            UsageError: pandas is not installed.
        """
        otherwise = "cancelled" if self._state in ("cancelled", "interrupted") else "not run"
        return make_frame(self._outcomes, self._total, otherwise)

    def __repr__(self) -> str:
        return f"<Run {self.id}: {run_line(self.snapshot())}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(report_text(self))

    def _repr_html_(self) -> str:
        return report_html(self)


@dataclass(frozen=True)
class _Report:
    """A report: how it went in one line, and lines with what there is to tell, each with a label."""

    summary: str
    colour: str
    lines: list[tuple[str, str]]


def report_text(run: Reported) -> str:
    """Return the report of a run as lines of text; does not block."""
    report = _make(run)
    width = max((len(label) for label, _ in report.lines), default=0)
    return "\n".join([report.summary, *(f"  {label:{width}}  {text}" for label, text in report.lines)])


def report_html(run: Reported) -> str:
    """Return the report of a run as HTML that needs nothing else: no style sheet, no script; does not block."""
    report = _make(run)
    cells = "".join(
        f'<span style="{_label_style(label)}">{label}</span><span>{html.escape(text)}</span>'
        for label, text in report.lines
    )
    picture = _timeline(run)
    drawn = f'<div style="margin-top: 6px">{picture.svg(small=True)}</div>' if picture.labels else ""
    return (
        f'<div class="poolmagic-report" style="{_BOX.format(colour=report.colour)}">'
        f"<strong>{html.escape(report.summary)}</strong>"
        f'<div style="{_GRID}">{cells}</div>{drawn}</div>'
    )


def _label_style(label: str) -> str:
    return f"color: {_BAD}" if label == "failed" else "opacity: .7"


def _make(run: Reported) -> _Report:
    snapshot, outcomes = run.snapshot(), run._outcomes  # noqa: SLF001 - it is a part of the run
    failures, attempts = outcomes.failures.copy(), outcomes.attempts.copy()
    error = run._error  # noqa: SLF001 - as above
    lines = [("failed", text) for text in _failed(failures.values())]
    if error is not None and not failures:
        lines.append(("ended by", brief(error)))
    lines += [("durations", text) for text in _durations(outcomes)]
    if attempts:
        again = [Failure(index, None, errors[-1], "") for index, errors in attempts.items()]
        count = sum(map(len, attempts.values()))
        times = "once" if count == 1 else f"{count:,} times"
        lines.append(("tried again", f"{times}: {summarize(group_failures(again))}"))
    errors = [failure.exception for failure in failures.values()] + [one for many in attempts.values() for one in many]
    lost = dict.fromkeys(one.pid for one in errors if isinstance(one, WorkerLostError))
    if lost:
        pids = ", ".join(str(pid) for pid in lost if pid is not None)
        lines.append(("lost workers", f"{len(lost)}" + f" (pid {pids})" * bool(pids)))
    worked = outcomes.timings.worked - outcomes.timings.earlier
    if worked and snapshot.elapsed:
        at_once = worked / snapshot.elapsed
        text = f"{fine_seconds(worked)} of work in {fine_seconds(snapshot.elapsed)}"
        lines.append(("work", f"{text}: {at_once:.1f} items at a time" if at_once >= 0.1 else text))
    lines.append(("seed", str(run.seed)))
    if snapshot.state in ("cancelled", "interrupted"):
        colour = _HALFWAY
    else:
        colour = _BAD if snapshot.failed or snapshot.state == "failed" else _GOOD
    return _Report(run_line(snapshot), colour, lines)


def _failed(failures: Iterable[Failure]) -> list[str]:
    groups = group_failures(failures)
    left = sum(group.count for group in groups[MOST_GROUPS:])
    return [describe(group) for group in groups[:MOST_GROUPS]] + [f"{left:,} of other kinds"] * bool(left)


def _durations(outcomes: Outcomes) -> list[str]:
    """Return a line on how long items took; none if nothing is known of it."""
    entries = [
        ((ended - began) / (stop - first), stop - first, first) for first, stop, began, ended, *_ in outcomes.timings
    ]
    if not entries:
        return []
    half, seen, median = sum(count for _, count, _ in entries) / 2, 0, 0.0
    for seconds, count, _ in sorted(entries):
        seen += count
        median = seconds
        if seen >= half:
            break
    # An item that was tried again and again would be there several times.
    single = heapq.nlargest(10 * MOST_SLOW, (entry for entry in entries if entry[1] == 1))
    slowest: dict[int, float] = {}
    for seconds, _, index in single:
        slowest.setdefault(index, seconds)
    text = f"half of the items took at most {fine_seconds(median)}"
    if slowest:
        told = [f"item {index} {fine_seconds(seconds)}" for index, seconds in list(slowest.items())[:MOST_SLOW]]
        text += f"; the slowest: {', '.join(told)}"
    return [text]


def _timeline(run: Reported) -> Timeline:
    outcomes = run._outcomes  # noqa: SLF001 - it is a part of the run
    timings = outcomes.timings
    return make_timeline(f"{run.name} on {run._kind}", timings, timings.workers, _Judge(outcomes))  # noqa: SLF001


class _Judge:
    """Tells what came of a stretch, as a place in `charts.OUTCOMES`: the worst of what came of its items."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._failed = sorted(outcomes.failures.copy())
        self._retried = sorted(outcomes.attempts.copy())
        self._latest: dict[int, float] = {}
        for stretch in outcomes.timings if self._retried else ():
            for index in _within(self._retried, stretch):
                self._latest[index] = max(stretch.began, self._latest.get(index, 0.0))

    def __call__(self, stretch: Stretch) -> int:
        if self._retried and any(stretch.began < self._latest[index] for index in _within(self._retried, stretch)):
            return OUTCOMES.index("retried")
        return OUTCOMES.index("failed" if self._failed and _within(self._failed, stretch) else "ok")


def _within(indices: list[int], stretch: Stretch) -> list[int]:
    """Return which of some sorted indices are in a stretch."""
    return indices[bisect_left(indices, stretch.first) : bisect_left(indices, stretch.stop)]
