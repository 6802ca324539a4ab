"""What items print is kept to the last byte, and shown as a person can read it."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from poolmagic import echo as echoes
from poolmagic import outputs as keeping
from poolmagic.echo import Echo
from poolmagic.inbox import next_number
from poolmagic.outputs import Outputs
from poolmagic.pages import NOBODY, Page

# Keeping --------------------------------------------------------------------------------------------------------------


def test_the_pieces_of_an_item_are_put_together_in_order() -> None:
    """Stdout and stderr are one text; other items do not matter."""
    outputs = Outputs()
    for index, stream, text in [(3, "stdout", "one\n"), (4, "stdout", "x\n"), (3, "stderr", "two\n")]:
        outputs.keep(index, stream, text)
    assert {3: "one\ntwo\n", 4: "x\n"} == outputs
    assert [3, 4] == list(outputs)
    assert 3 in outputs
    assert 5 not in outputs
    assert "" == outputs[5]


def test_what_belongs_to_no_item_is_the_rest() -> None:
    """It is none of the items."""
    outputs = Outputs()
    outputs.keep(NOBODY, "stderr", "a thread\n")
    assert "a thread\n" == outputs.rest
    assert not outputs
    assert NOBODY not in outputs


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files_in(folder: Path) -> int:
    """How many files in a folder this process has open, with a name or without."""
    count = 0
    for entry in Path("/dev/fd").iterdir():
        with suppress(OSError):  # that of a worker of another test, which ended just now
            count += str(entry.readlink()).startswith(str(folder))
    return count


def test_what_is_more_than_memory_may_hold_is_in_a_file_without_a_name(
    monkeypatch: pytest.MonkeyPatch, own_folder: Path
) -> None:
    """It reads as if it were in memory, and the file is closed with the outputs."""
    monkeypatch.setattr(keeping, "IN_MEMORY", 1000)
    outputs = Outputs()
    for number in range(300):
        outputs.keep(number % 3, "stdout", f"line {number}\n")
    assert 1 == files_in(own_folder)
    assert [] == list(own_folder.iterdir())
    for index in range(3):
        assert "".join(f"line {number}\n" for number in range(index, 300, 3)) == outputs[index]
    del outputs
    assert 0 == files_in(own_folder)


def test_a_small_output_makes_no_file(own_folder: Path) -> None:
    """A descriptor for each run would be many."""
    outputs = Outputs()
    outputs.keep(0, "stdout", "x" * 100_000)
    assert 0 == files_in(own_folder)


def test_a_full_disk_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written stays in memory."""
    monkeypatch.setattr(keeping, "IN_MEMORY", 1000)
    outputs = Outputs()
    outputs.keep(0, "stdout", "a" * 2000)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(5):
        outputs.keep(0, "stdout", "b" * 2000)
    assert "a" * 2000 + "b" * 10_000 == outputs[0]


def test_it_can_be_read_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads gets a beginning of what is there in the end."""
    monkeypatch.setattr(keeping, "IN_MEMORY", 500)
    outputs = Outputs()
    whole = [f"{number}\n" for number in range(3000)]

    def write() -> None:
        for line in whole:
            outputs.keep(0, "stdout", line)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert "".join(whole).startswith(outputs[0])
    assert "".join(whole) == outputs[0]


def test_it_is_saved_as_it_was_printed(tmp_path: Path) -> None:
    """Also bytes that are no text, which Python has as halves of surrogate pairs."""
    outputs = Outputs()
    outputs.keep(0, "stdout", "naïve\r\n")
    outputs.keep(0, "stdout", b"\xff\xfe".decode("utf-8", "surrogateescape"))
    outputs.keep(0, "stdout", "\ud800")
    outputs.save(0, tmp_path / "out.txt")
    assert "naïve\r\n".encode() + b"\xff\xfe" + b"\xed\xa0\x80" == (tmp_path / "out.txt").read_bytes()


def test_displays_are_no_text() -> None:
    """They are kept apart, as bundles."""
    outputs = Outputs()
    outputs.keep(0, "stdout", "before\n")
    outputs.keep(0, "display", json.dumps({"data": {"text/html": "<b>"}, "metadata": {"width": 3}}))
    assert "before\n" == outputs[0]
    assert [({"text/html": "<b>"}, {"width": 3})] == outputs.displays(0)
    assert [] == outputs.displays(1)


def test_an_output_far_out_costs_little() -> None:
    """Of ten million items two have printed something."""
    outputs = Outputs()
    outputs.keep(9_999_999, "stdout", "last\n")
    outputs.keep(5, "stdout", "first\n")
    assert [5, 9_999_999] == list(outputs)
    assert 2 == len(outputs._last)


# Pages ----------------------------------------------------------------------------------------------------------------


class Shown:
    """What has been written so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._out = self._err = ""

    def _read(self) -> None:
        out, err = self._capsys.readouterr()
        self._out += out
        self._err += err

    @property
    def out(self) -> str:
        """To stdout."""
        self._read()
        return self._out

    @property
    def err(self) -> str:
        """To stderr."""
        self._read()
        return self._err


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """What is written to stdout and stderr."""
    return Shown(capsys)


def seen(text: str) -> list[str]:
    """The lines as a terminal shows them: what follows a carriage return covers what was there."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_each_line_has_the_name_of_its_item(shown: Shown) -> None:
    """What belongs to no item has none."""
    page = Page(is_named=True, is_live=False)
    page.put((3, "stdout"), "a\nb\n")
    page.put((NOBODY, "stdout"), "c\n")
    page.print(paint=True)
    assert "[3] a\n[3] b\nc\n" == shown.out


def test_lines_of_two_items_are_not_mixed(shown: Shown) -> None:
    """A line waits for its end, which comes at last when the page is closed."""
    page = Page(is_named=True, is_live=False)
    page.put((1, "stdout"), "one ")
    page.put((2, "stdout"), "two ")
    page.put((1, "stdout"), "eins\nthree")
    page.put((2, "stdout"), "zwei\n")
    page.print(paint=True)
    assert "[1] one eins\n[2] two zwei\n" == shown.out
    page.close()
    page.print(paint=True)
    assert shown.out.endswith("\n[1] three\n")


def test_dots_appear_one_by_one(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody looks on, a line that grows is shown as it grows."""
    monkeypatch.setattr("poolmagic.pages.REPAINT", 0.0)
    page = Page(is_named=True, is_live=True)
    for _ in range(3):
        page.put((1, "stdout"), ".")
        page.print(paint=True)
    assert "[1] ..." == shown.out
    page.put((1, "stdout"), " done\n")
    page.print(paint=True)
    assert "[1] ... done\n" == shown.out


def test_a_progress_bar_of_a_task_moves_in_its_line(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of others come above it."""
    monkeypatch.setattr("poolmagic.pages.REPAINT", 0.0)
    page = Page(is_named=True, is_live=True)
    for percent in (10, 50):
        page.put((1, "stdout"), f"\rdone {percent} %")
        page.print(paint=True)
    assert ["[1] done 50 %"] == seen(shown.out)
    page.put((2, "stdout"), "hi\n")
    page.print(paint=True)
    assert ["[2] hi", "[1] done 50 %"] == seen(shown.out)
    page.put((1, "stdout"), "\rdone 100 %\n")
    page.print(paint=True)
    assert ["[2] hi", "[1] done 100 %", ""] == seen(shown.out)


def test_a_bar_that_ends_its_text_with_the_return_moves_as_well(shown: Shown) -> None:
    """What comes next covers it, and the last state stays."""
    page = Page(is_named=False, is_live=False)
    for percent in (10, 50):
        page.put((1, "stdout"), f"done {percent} %\r")
    page.close()
    page.print(paint=True)
    assert "done 50 %\n" == shown.out


def test_the_streams_keep_their_order(shown: Shown) -> None:
    """An error line ends the line of the bar that is painted on the other stream."""
    page = Page(is_named=False, is_live=True)
    page.put((1, "stdout"), "half")
    page.print(paint=True)
    page.put((1, "stderr"), "oops\n")
    page.print(paint=False)
    assert "half\n" == shown.out
    assert "oops\n" == shown.err


# Echo -----------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the allowance."""
    clock = Clock()
    monkeypatch.setattr(echoes, "time", clock)
    return clock


def make_echo(*, is_kept: bool = True) -> Echo:
    """Return an echo that puts names before lines."""
    return Echo(next_number(), is_named=True, is_kept=is_kept)


def test_what_is_taken_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to ask for it."""
    written = threading.Event()
    stream = io.StringIO()
    stream.flush = written.set  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    make_echo().take(3, "stdout", "hello\n")
    assert written.wait(30)
    assert "[3] hello\n" == stream.getvalue()


def test_many_small_prints_are_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's server takes a thousand messages in a second, and this is not all that it has to do."""
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    echo = make_echo()
    for number in range(5000):
        echo.take(0, "stdout", f"{number}\n")
    echo.flush()
    assert "".join(f"[0] {number}\n" for number in range(5000)) == "".join(writes)
    assert len(writes) < 100


def test_a_flood_is_cut_and_one_line_says_so(shown: Shown, clock: Clock) -> None:
    """It names the item, says how much was left out, and where all of it is."""
    echo = make_echo()
    text = "x" * 99 + "\n"
    for _ in range(2000):
        echo.take(17, "stdout", text * 100)
    echo.flush()
    lines = shown.out.count("\n")
    assert lines * 105 <= echoes.BURST < (lines + 2) * 105
    assert (
        f"[poolmagic: {200_000 - lines:,} lines (18.8 MB) of item 17 not shown; "
        "all of it is in .outputs[17] of the run, pool.last_run]\n"
    ) == shown.err


def test_after_a_flood_more_is_shown_when_some_time_has_passed(shown: Shown, clock: Clock) -> None:
    """What was left out is told where it is missing, and a line that was cut is left out as a whole."""
    echo = make_echo(is_kept=False)
    echo.take(1, "stdout", "x" * 10 * echoes.BURST)
    clock.now += 1
    echo.take(1, "stdout", "too early\n")
    clock.now += 10
    echo.take(2, "stdout", "in time\n")
    echo.flush()
    assert "[2] in time\n" == shown.out
    assert "[poolmagic: 1 line (2.44 MB) of item 1 not shown; map and start keep all of it]\n" == shown.err


def test_a_run_shows_no_more_than_a_notebook_can_be_saved_with(shown: Shown, clock: Clock) -> None:
    """However slowly it comes."""
    echo = make_echo()
    for _ in range(100):
        clock.now += 100
        echo.take(0, "stdout", "x" * 99_999 + "\n")
    echo.flush()
    assert echoes.MOST * 0.8 < len(shown.out) <= echoes.MOST
    assert 1 == shown.err.count("not shown")


def test_displays_are_shown_up_to_a_number(shown: Shown) -> None:
    """In order with what is printed."""
    echo = make_echo()
    for number in range(echoes.MOST_DISPLAYS + 5):
        echo.take(2, "stdout", f"{number}:\n")
        echo.take(2, "display", json.dumps({"data": {"text/plain": f"table {number}"}, "metadata": {}}))
    echo.flush()
    lines = shown.out.split("\n")
    assert ["[2] 0:", "table 0", "[2] 1:", "table 1"] == lines[:4]
    assert f"table {echoes.MOST_DISPLAYS}" not in lines
    assert "[poolmagic: 5 displays (" in shown.err


def test_an_error_of_the_users_stream_is_raised_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not end the thread that prints for all runs."""
    broken = io.StringIO()
    broken.close()
    monkeypatch.setattr(sys, "stdout", broken)
    echo = make_echo()
    echo.take(0, "stdout", "lost\n")
    with pytest.raises(ValueError, match="closed file"):
        echo.flush()
    echo.flush()
