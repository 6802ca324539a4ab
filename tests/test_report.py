"""What a run shows of itself: as text, as HTML, as pictures with and without matplotlib, and as a table."""

from __future__ import annotations

import builtins
import gc
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import charts, pictures
from poolmagic.charts import Bar, Histogram, Timeline, make_histogram, make_timeline
from poolmagic.report import report_html, report_text
from poolmagic.timings import Stretch, Timings, pack
from tests.conftest import MakePool

SCRIPT = "<script>alert(1)</script>"


def hostile(x: int) -> int:
    """Fail for some, with a text that a page must not believe."""
    if x % 10 == 3:
        raise ValueError(SCRIPT)
    if x == 7:
        raise KeyError("price")
    return x


@pytest.fixture
def run(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> pm.Run:
    """A run that is over, of which items failed and one was tried again."""
    monkeypatch.setattr(hostile, "__name__", f"f{SCRIPT}")
    return make_pool("solo").start(
        hostile, range(50), on_error="skip", retries=1, retry_on=KeyError, retry_backoff=0.001
    )


@pytest.fixture(autouse=True)
def leave_no_figures() -> Iterator[None]:
    """Collect them here: they are cycles, and what is called when they go would be called in a later test."""
    yield
    gc.collect()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make modules look as if they were not installed."""

    def hide(*names: str) -> None:
        real = builtins.__import__

        def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] in names:
                raise ImportError(f"no {name} here")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return hide


def stretches(*some: tuple[int, float, float, int]) -> list[Stretch]:
    """Return items with their times and workers."""
    return [Stretch(index, index + 1, began, ended, worker, 0) for index, began, ended, worker in some]


def parse(svg: str) -> ET.Element:
    """Read an SVG element, which must be well formed and hold nothing that a page could run."""
    root = ET.fromstring(svg)  # noqa: S314 - it is our own
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "title", "rect", "text", "line", "polygon"}
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name]
    return root


def test_a_run_tells_how_it_went_in_a_few_lines(run: pm.Run) -> None:
    """Failures in groups, what was tried again, how long items took, and the seed."""
    lines = report_text(run).splitlines()

    assert re.fullmatch(r"f<script>.* on solo: 50/50 in .* s, .*/s, 6 failed", lines[0])
    assert 4 <= len(lines) <= 10
    labels = [line.strip().partition("  ")[0] for line in lines[1:]]
    assert ["failed", "failed", "durations", "tried again", "work", "seed"] == labels
    assert "5 x ValueError: <script>alert(1)</script> at test_report.py:" in lines[1]
    assert lines[1].endswith("e.g. items 3, 13, 23")
    assert "1 x KeyError 'price' at test_report.py:" in lines[2]
    assert "once: 1 x KeyError 'price' at test_report.py:" in lines[4]
    assert f"{run.seed}" in lines[-1]
    assert re.fullmatch(r"<Run \d+: .*6 failed>", repr(run))


def test_a_notebook_gets_html_and_a_terminal_gets_text(run: pm.Run) -> None:
    """As IPython asks for it."""
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(run)

    assert report_html(run) == data["text/html"]
    assert report_text(run) == data["text/plain"]


def test_what_comes_from_the_user_is_text_on_the_page(run: pm.Run) -> None:
    """Names of functions and messages of errors may look like a script."""
    page = report_html(run)

    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    root = ET.fromstring(page)  # noqa: S314 - as above
    assert "poolmagic-report" == root.get("class")
    parse(re.search(r"<svg.*</svg>", page)[0])  # type: ignore[index]
    for chart in (
        charts.make_histogram(SCRIPT, stretches((0, 0, 1, 0)), lambda _: 0),
        make_timeline(SCRIPT, [], [], lambda _: 0),
    ):
        parse(chart.svg())
        parse(chart.svg(small=True))


def test_the_page_needs_nothing_else(run: pm.Run) -> None:
    """It stays in a saved notebook: no style sheet, no script, no picture elsewhere; colours have a second choice."""
    page = report_html(run)

    assert not re.search(r"<(style|link|img|script)|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert all("," in use for use in re.findall(r"var\(([^)]*)\)", page))


def test_a_run_that_was_ended_says_by_what(make_pool: MakePool) -> None:
    """A failure is among the failures; anything else has a line."""

    def items() -> Any:
        yield 1
        raise OSError("the disk is gone")

    run = make_pool("solo").start(abs, items())
    assert "ended by  OSError: the disk is gone" in re.sub(" {2,}", "  ", report_text(run))
    failed = make_pool("solo").start(hostile, range(3, 4))
    assert "ended by" not in report_text(failed)


def test_lost_workers_are_counted_once(make_pool: MakePool) -> None:
    """However many items they took along."""
    run = make_pool("solo").start(abs, [])
    gone: list[BaseException] = [pm.WorkerLostError("died", pid=pid) for pid in (11, 11, 12)]
    run._outcomes.attempts = {0: gone[:2]}
    run._outcomes.failures = {1: pm.Failure(1, 1, gone[2], "worker 2")}

    assert re.search(r"lost workers +2 \(pid 12, 11\)", report_text(run))
    assert "2 times: 1 x WorkerLostError: died, item 0" in report_text(run)


def test_an_empty_run_and_one_of_which_nothing_is_known_show_themselves(make_pool: MakePool) -> None:
    """There is always a report."""
    run = make_pool("solo").start(abs, [])

    assert "abs on solo: 0/0" in report_text(run)
    assert "<svg" not in report_html(run)
    assert repr(run.timeline())
    assert repr(run.durations())
    assert 0 == len(run.to_frame())


# Pictures ----------------------------------------------------------------------------------------------------------


def test_tasks_at_the_same_time_have_lanes_of_their_own() -> None:
    """As many as the worker had slots in use; the first of them is labelled."""
    some = stretches((0, 5.0, 7.0, 0), (1, 5.5, 6.0, 0), (2, 6.0, 9.0, 0), (3, 5.0, 6.0, 1))
    found = make_timeline("f", some, ["worker 1", "worker 2"], lambda one: 2 if one.first == 1 else 0)

    assert ("worker 1", "", "worker 2") == found.labels
    assert 4.0 == found.span
    assert {
        Bar(0, 0.0, 2.0, 0, 0, 1),
        Bar(1, 0.5, 1.0, 2, 1, 2),
        Bar(1, 1.0, 4.0, 0, 2, 3),
        Bar(2, 0.0, 1.0, 0, 3, 4),
    } == set(found.bars)
    assert [
        "f, 4.0 s  (# busy, r tried again, x failed)",
        f"worker 1 |{'#' * 30}{'.' * 30}|",
        f"         |{'.' * 7}{'x' * 8}{'#' * 45}|",
        f"worker 2 |{'#' * 15}{'.' * 45}|",
    ] == found.text().splitlines()


def test_the_picture_has_a_bar_for_each_item_and_a_scale() -> None:
    """And what the colours mean, if there is more than one."""
    some = stretches((0, 0.0, 1.0, 0), (1, 1.0, 4.0, 0))
    plain = make_timeline("f", some, ["worker 1"], lambda _: 0).svg()
    coloured = make_timeline("f", some, ["worker 1"], lambda one: one.first)
    texts = [element.text for element in parse(coloured.svg()).iter() if element.tag.endswith("text")]

    assert ["worker 1", "0", "1 s", "2 s", "3 s", "4 s", "ok", "tried again"] == texts
    assert "tried again" not in plain
    widths = [float(one.get("width", "0")) for one in parse(plain) if one.tag.endswith("rect")]
    assert 3.0 == pytest.approx(widths[1] / widths[0], rel=0.01)
    assert "item 1: 3 s, tried again" in coloured.svg()
    assert not [one for one in parse(coloured.svg(small=True)).iter() if one.tag.endswith("text")]


def test_many_items_are_drawn_as_few_bars() -> None:
    """Failures among them are seen all the same, and nothing gets longer by it than the width of a line."""
    some = stretches(*((n, n * 0.001, n * 0.001 + 0.0009, n % 2) for n in range(20_000)))
    found = make_timeline("f", some, ["a", "b"], lambda one: 2 if one.first in (5000, 5001) else 0)

    assert len(found.bars) <= charts.MOST_BARS
    bad = [bar for bar in found.bars if bar.outcome == 2]
    assert [5000, 5001] == sorted(bar.first for bar in bad)
    assert all(bar.ended - bar.began < 0.1 for bar in bad)
    assert len(found.svg(small=True)) < 200_000


def test_hundreds_of_slots_are_drawn_as_how_many_were_busy() -> None:
    """On average over short parts of the time."""
    some = stretches(*((n, 0.0, 10.0 if n < 100 else 5.0, 0) for n in range(200)))
    found = make_timeline("f", some, ["worker 1"], lambda _: 0)

    assert (200, ()) == (len(found.labels), found.bars)
    assert [200.0] * 100 + [100.0] * 100 == pytest.approx(found.busy)
    assert found.text().splitlines()[1] == f"|{'█' * 30}{'▄' * 30}| of 200 slots"
    assert "200 slots" in found.svg()
    parse(found.svg())
    parse(found.svg(small=True))


def test_part_of_the_time_is_counted_as_a_part() -> None:
    """The area under the curve is what was worked."""
    some = stretches(*((n, n * 0.0131, 3.0 + n * 0.0777, 0) for n in range(50)))
    found = make_timeline("f", some, ["worker 1"], lambda _: 0)
    worked = sum(one.ended - one.began for one in some)

    assert worked == pytest.approx(sum(found.busy) * found.span / len(found.busy))


def test_durations_are_counted_in_bins() -> None:
    """Items that share their time count with its average."""
    some = [Stretch(0, 10, 0.0, 1.0, 0, 0), *stretches((10, 0.0, 0.2, 0), (11, 0.0, 0.3, 0))]
    found = make_histogram("f", some, lambda one: 2 if one.first == 11 else 0)

    assert (12, (11, 0, 1)) == (sum(map(sum, found.counts)), tuple(map(sum, found.counts)))
    assert (0.1, 0.3) == pytest.approx((found.edges[0], found.edges[-1]))
    assert (10, 1) == (found.counts[0][0], found.counts[2][-1])
    assert not found.is_wide
    assert ["f", f"  100 ms {'#' * 40} 10"] == found.text().splitlines()[:2]
    parse(found.svg())
    parse(found.svg(small=True))


def test_durations_of_all_sizes_have_bins_that_grow() -> None:
    """Or all short ones would be one bin."""
    found = make_histogram("f", stretches((0, 0.0, 0.001, 0), (1, 0.0, 0.03, 0), (2, 0.0, 10.0, 0)), lambda _: 0)

    assert found.is_wide
    assert 3 == sum(1 for count in found.counts[0] if count)
    assert ["1 ms", "28.1 ms", "10 s"][0] == pictures.fine_seconds(found.edges[0])


def test_a_duration_is_written_in_few_letters() -> None:
    """With the unit that suits it."""
    assert ["0 µs", "12 µs", "1.5 ms", "2 s", "2:03"] == [
        pictures.fine_seconds(one) for one in (0.0, 12e-6, 0.0015, 2.0, 123.4)
    ]


def test_without_matplotlib_a_chart_shows_itself(run: pm.Run, without: Any) -> None:
    """As SVG in a notebook, as text in a terminal."""
    without("matplotlib")
    timeline, durations = run.timeline(), run.durations()

    assert isinstance(timeline, Timeline)
    assert isinstance(durations, Histogram)
    for chart in (timeline, durations):
        assert parse(chart._repr_svg_()).tag.endswith("svg")
        assert chart._repr_svg_() in chart._repr_html_()
        assert repr(chart) == chart.text()


def test_with_matplotlib_there_is_a_figure_which_pyplot_does_not_know(run: pm.Run) -> None:
    """It is shown once, and goes away with the last reference; in a terminal it is text."""
    from matplotlib.figure import Figure

    timeline, durations = run.timeline(), run.durations()

    for figure in (timeline, durations):
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
        figure.savefig(io.BytesIO(), format="svg")
    assert "the kernel (solo) |" in repr(timeline)
    assert ["the kernel (solo)"] == [label.get_text() for label in timeline.axes[0].get_yticklabels()]
    assert ["ok", "tried again", "failed"] == [text.get_text() for text in timeline.axes[0].get_legend().get_texts()]
    items = sum(round(patch.get_height()) for patch in durations.axes[0].patches)
    assert 51 == items  # one of them twice
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_hundreds_of_slots_are_an_area_in_matplotlib_too() -> None:
    """With how many were busy at its side."""
    some = stretches(*((n, 0.0, 1.0 + n, 0) for n in range(100)))
    figure = charts.draw(make_timeline("f", some, ["worker 1"], lambda _: 0))

    assert "busy slots" == figure.axes[0].get_ylabel()
    assert 100.0 == pytest.approx(figure.axes[0].get_xlim()[1])


def test_drawing_is_left_to_when_it_is_wanted() -> None:
    """`import poolmagic.runs` loads neither matplotlib nor pandas."""
    import subprocess

    code = "import poolmagic.runs, sys; sys.exit(bool({'matplotlib', 'pandas'} & set(sys.modules)))"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode


# Tables ------------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_item(run: pm.Run) -> None:
    """What became of it, and how often it was tried."""
    frame = run.to_frame()

    assert ("item", list(range(50))) == (frame.index.name, list(frame.index))
    assert ["outcome", "attempts", "seconds", "started", "worker", "peak_memory", "error"] == list(frame.columns)
    assert [3, 7, 13, 23, 33, 43] == list(frame.index[frame.outcome == "failed"])
    assert {7: 2} == dict(frame.attempts[frame.attempts != 1])
    assert ["KeyError", "ValueError"] == sorted(frame.error.dropna().unique())
    assert frame.seconds.between(0, 5).all()
    assert frame.started.is_monotonic_increasing
    assert (frame.peak_memory > 1_000_000).all()
    assert {"the kernel (solo)"} == set(frame.worker)


def test_what_is_not_known_is_missing(make_pool: MakePool) -> None:
    """Items that did not run have no time, no place and no memory."""
    run = make_pool("solo").start(hostile, range(10))
    frame = run.to_frame()

    assert ["done"] * 3 + ["failed"] + ["not run"] * 6 == list(frame.outcome)
    assert [1] * 4 + [0] * 6 == list(frame.attempts)
    for column in ("seconds", "started", "worker", "peak_memory"):
        assert frame[column].iloc[4:].isna().all()
        assert frame[column].iloc[:4].notna().all()


def test_the_last_attempt_counts_whatever_the_order_of_the_reports(make_pool: MakePool) -> None:
    """That of a worker which was slow to tell may come late."""
    run = make_pool("solo").start(abs, [0])
    timings: Timings = run._outcomes.timings
    now = perf_counter()
    timings.take(pack(2, [0, 1, now, now]), "late", 1, lambda span: range(*span))
    timings.take(pack(1, [0, 1, now - 50, now - 49]), "early", 1, lambda span: range(*span))

    assert ["late", 2] == run.to_frame().iloc[0][["worker", "peak_memory"]].tolist()


def test_without_pandas_one_line_says_what_to_install(run: pm.Run, without: Any) -> None:
    """It is an extra."""
    without("pandas")
    with pytest.raises(pm.UsageError, match=r"pandas, which is not installed: pip install 'poolmagic\[report\]'"):
        run.to_frame()
