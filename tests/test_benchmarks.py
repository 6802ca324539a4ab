"""The benchmarks reckon, show and clean up as they should. How fast anything is, no test says."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.chart import bars_of, draw
from tests.benchmarks.family import MARK, end_family, family
from tests.benchmarks.page import render
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import Report, Row
from tests.benchmarks.rounds import measure
from tests.benchmarks.server import BODY, Server
from tests.benchmarks.suite import WORKLOADS
from tests.benchmarks.tables import cells_of, markdown_table, show, text_table
from tests.benchmarks.workload import Figure

SQUARES = WORKLOADS["squares"]
SHORT = WORKLOADS["short"]


def report_of_squares() -> Report:
    """Three rounds of poolmagic and of a peer with fewer items, one peer that failed, and others that did not run."""
    ours, scaled, failed = Row.of(SQUARES, "poolmagic"), Row.of(SQUARES, "futures"), Row.of(SQUARES, "ray")
    for seconds in (2.0, 1.0, 4.0):
        ours.add(SQUARES, {"seconds": seconds})
        scaled.add(SQUARES, {"seconds": seconds / 10})
    failed.failure = "ImportError: No module named 'ray'"
    return Report({"Python": "3.x"}, {"joblib": "1.0"}, [ours, scaled, failed])


# ---------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: str(workload.name))
def test_a_workload_names_what_there_is(workload: object) -> None:
    """Its peers are in their table, its cell is a file, and fewer items are fewer."""
    named = WORKLOADS[getattr(workload, "name", "")]
    assert set(named.peers) | set(named.cannot) <= set(PEERS)
    assert not set(named.peers) & set(named.cannot)
    assert set(named.reduced) <= set(named.peers)
    assert all(0 < items < named.items for items in named.reduced.values())
    assert (Path(__file__).parent / "benchmarks" / "cells" / f"{named.cell}.py").is_file()
    assert all(PEERS[peer].against in PEERS for peer in named.peers)


# ------------------------------------------------------------------------------------------------------ the reckoning


def test_a_row_has_the_median_and_the_best_of_its_rounds() -> None:
    """The best is the smallest, or the largest where more is better."""
    row = Row.of(SHORT, "poolmagic")
    for seconds, efficiency in ((2.0, 50.0), (1.0, 99.0), (5.0, 20.0)):
        row.add(SHORT, {"seconds": seconds, "efficiency": efficiency})
    assert (2.0, 1.0) == (row.median("seconds"), row.best(SHORT.figures[0]))
    assert (50.0, 99.0) == (row.median("efficiency"), row.best(SHORT.figures[1]))
    assert row.median("unknown") is None


def test_fewer_items_are_reckoned_up_and_marked() -> None:
    """A figure that grows with the number of items is; one that does not, such as an efficiency, is not."""
    row = Row.of(SHORT, "dask")
    row.add(SHORT, {"seconds": 1.0, "efficiency": 50.0})
    factor = SHORT.items / SHORT.reduced["dask"]
    assert (factor, 50.0) == (row.median("seconds"), row.median("efficiency"))
    assert f"scaled from {SHORT.reduced['dask']:,}" == row.note
    assert "" == Row.of(SHORT, "poolmagic").note


def test_a_quick_look_does_not_scale() -> None:
    """With fewer items for all, there is nothing to be reckoned up to."""
    row = Row.of(SHORT, "dask", items=10)
    assert (10, 10) == (row.items, row.usual)


def test_the_ratio_is_to_poolmagic() -> None:
    """It is None where one of the two is missing."""
    report = report_of_squares()
    scaled, failed = report.row("squares", "futures"), report.row("squares", "ray")
    assert scaled is not None
    assert failed is not None
    factor = SQUARES.items / SQUARES.reduced["futures"] / 10
    assert factor == pytest.approx(report.ratio(scaled, "seconds", "poolmagic"))
    assert report.ratio(failed, "seconds", "poolmagic") is None
    assert report.ratio(scaled, "seconds", "loky") is None


def test_a_report_survives_its_file() -> None:
    """All of it comes back."""
    report = report_of_squares()
    assert report == Report.from_json(report.to_json())


def test_newer_rows_take_the_place_of_older_ones() -> None:
    """Other rows stay."""
    newer = Row.of(SQUARES, "ray")
    newer.add(SQUARES, {"seconds": 3.0})
    merged = report_of_squares().merged(Report({}, {}, [newer]))
    assert ["poolmagic", "futures", "ray"] == [row.peer for row in merged.rows]
    assert newer == merged.row("squares", "ray")


# --------------------------------------------------------------------------------------------------------- the showing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (0.01234, "0.012"),
        (0.0996, "0.10"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (-1.5, "-1.50"),
    ],
)
def test_a_figure_has_three_digits(value: float | None, text: str) -> None:
    """Or as many as a whole number needs."""
    assert text == show(value)


def test_the_table_shows_medians_ratios_and_what_is_missing() -> None:
    """A peer that failed says why, one that was not asked is left out, and one that cannot has dashes."""
    rows = {row[0]: row for row in cells_of(report_of_squares(), SQUARES)}
    assert ["poolmagic prefork", "2.00 s", "1.00 s", "1.00 x", "3", ""] == rows["poolmagic prefork"]
    assert "scaled from 10,000" == rows["ProcessPoolExecutor"][-1]
    assert ["ray", "-", "-", "-", "0", "failed: ImportError: No module named 'ray'"] == rows["ray"]
    assert "dask.distributed" not in rows
    assert ["joblib", "-", "-", "-", "-", "has no such thing"] == cells_of(Report({}, {}), WORKLOADS["one-submit"])[-1]


def test_a_workload_for_poolmagic_alone_has_no_ratios() -> None:
    """There is nobody to be compared with."""
    stream = WORKLOADS["stream"]
    row = Row.of(stream, "poolmagic")
    row.add(stream, {"memory": 12.0, "seconds": 9.0})
    assert [
        ["", "more memory", "best", "time", "rounds", ""],
        ["poolmagic prefork", "12.0 MB", "12.0 MB", "9.00 s", "1", ""],
    ] == cells_of(Report({}, {}, [row]), stream)


def test_a_text_table_is_aligned() -> None:
    """Names to the left, figures to the right, and no space at the end of a line."""
    assert "       a  b\nlong   1\nx     22  !" == text_table([["", " a", "b"], ["long", "1", ""], ["x", "22", "!"]])


def test_a_markdown_table_cannot_be_broken_by_its_words() -> None:
    """Signs that Markdown knows are escaped, and poolmagic stands out."""
    table = markdown_table([["", "m", ""], ["poolmagic", "1", ""], ["a|b", "2", "<x_y>"]])
    assert "|  | m |  |\n| :--- | ---: | :--- |\n| **poolmagic** | **1** |  |\n| a\\|b | 2 | \\<x\\_y> |" == table


def test_the_page_has_a_section_for_each_workload_that_was_run() -> None:
    """And the facts of the machine, and the chart."""
    page = render(report_of_squares())
    assert ["## 500,000 times x\\*x"] == [line for line in page.splitlines() if line.startswith("## 5")]
    assert "Tasks that get longer" not in page
    assert "| Python | 3.x |" in page
    assert "| joblib | 1.0 |" in page
    assert "(benchmarks.svg)" in page


def test_the_chart_is_well_formed_and_cuts_long_bars() -> None:
    """The bar of poolmagic can be seen beside one that is a hundred times as long."""
    report = report_of_squares()
    slow = Row.of(SQUARES, "multiprocessing")
    slow.add(SQUARES, {"seconds": 200.0})
    report.rows.append(slow)
    bars = {bar.label: bar for bar in bars_of(report, SQUARES)}
    assert 0.2 == pytest.approx(bars["poolmagic prefork"].length)
    assert (1.0, True) == (bars["multiprocessing.Pool"].length, bars["multiprocessing.Pool"].is_cut)
    assert "failed" == bars["ray"].text
    picture = ET.fromstring(draw(report, [SQUARES, SHORT]))  # noqa: S314 - our own
    words = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"500,000 times x*x", "poolmagic prefork", "200 s"} <= words
    assert SHORT.title not in words


# --------------------------------------------------------------------------------------------------------- the running


def test_a_run_from_one_end_to_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two peers, a few items: there is a table, a file and a page, and no process is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    file, page = tmp_path / "new" / "bench.json", tmp_path / "benchmarks.md"
    words = ["--only", "squares", "--peers", "poolmagic,multiprocessing", "--rounds", "2", "--items", "50"]
    assert 0 == main([*words, "--json", str(file), "--page", str(page)])

    report = Report.from_json(file.read_text(encoding="utf-8"))
    assert [("poolmagic", ""), ("multiprocessing", "")] == [(row.peer, row.failure) for row in report.rows]
    assert [2, 2] == [len(row.samples["seconds"]) for row in report.rows]
    assert "**poolmagic prefork**" in page.read_text(encoding="utf-8")
    assert page.with_name("benchmarks.svg").exists()
    assert "multiprocessing.Pool" in capsys.readouterr().out
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before

    assert 0 == main(["--read", str(file)])
    assert "poolmagic prefork" in capsys.readouterr().out


def test_a_peer_that_cannot_be_loaded_is_a_failure_of_one_line() -> None:
    """It is reported, without the names of this machine's files, and the others go on."""
    answer, _ = measure(SQUARES, "no such peer", 1)
    assert {"failure": "KeyError: 'no such peer'"} == answer


def test_a_measurement_that_does_not_end_is_given_up() -> None:
    """What it has started ends with it."""
    import dataclasses

    endless = dataclasses.replace(WORKLOADS["sleeps"], timeout=1.0)
    answer, _ = measure(endless, "asyncio", 30_000_000)
    assert {"failure": "not done in 1 s"} == answer


def test_names_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names those that do."""
    with pytest.raises(SystemExit):
        main(["--only", "sqares"])
    assert "'sqares' is none of squares, short" in capsys.readouterr().err


def test_a_family_is_told_by_its_mark() -> None:
    """Also a grandchild, which is in a session of its own, is found and ended."""
    mark = f"test-{os.getpid()}"
    code = (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, start_new_session=True); "
        "print('started', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {MARK: mark}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"started\n" == process.stdout.readline()
        assert len(list(family(mark))) == 2
        assert 2 == end_family(mark)
    assert [] == list(family(mark))


def test_the_server_answers() -> None:
    """And its process ends."""
    with Server() as server, urlopen(server.url) as page:  # noqa: S310 - our own server
        assert BODY == page.read()


def test_a_figure_without_a_scale_is_the_default() -> None:
    """Nothing is reckoned up that nobody said can be."""
    assert not Figure("x", "", "s").scales
