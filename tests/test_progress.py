"""Who sees progress, and what they see."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tqdm import tqdm

from poolmagic.progress import TextBar, find_display, quiet, wants_progress
from poolmagic.snapshot import RunSnapshot

if TYPE_CHECKING:
    from pathlib import Path

RUN = RunSnapshot(1, "fetch", "gevent", "running", done=37, failed=0, total=100, elapsed=2.0, busy=4, slots=8)


class Shown:
    """A run, as far as a bar of text knows it."""

    def snapshot(self) -> RunSnapshot:
        """Return how it stands."""
        return RUN


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one, it says."""
        return True


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment speaks against progress."""
    monkeypatch.delenv("POOLMAGIC_NONINTERACTIVE", raising=False)


def test_a_person_at_a_terminal_wants_progress() -> None:
    """With a terminal at stderr progress is shown unless the user says no."""
    with redirect_stderr(Terminal()):
        assert wants_progress(None)
        assert wants_progress(option=True)
        assert not wants_progress(option=False)


def test_a_pipe_wants_none() -> None:
    """Without a terminal, or without a stderr at all, progress is shown only to who asks for it."""
    for stream in (io.StringIO(), None):
        with redirect_stderr(stream):
            assert not wants_progress(None)
            assert wants_progress(option=True)


def test_at_a_terminal_nothing_is_shown_of_what_nobody_waits_for() -> None:
    """The person types something else there meanwhile."""
    with redirect_stderr(Terminal()):
        assert find_display(None) is not None
        assert find_display(None, background=True) is None
        assert find_display(option=True, background=True) is None


def test_quiet_blocks_nest() -> None:
    """In a quiet block only progress=True shows progress, until the last such block ends."""
    with redirect_stderr(Terminal()):
        with quiet():
            with quiet():
                assert not wants_progress(None)
            assert not wants_progress(None)
            assert wants_progress(option=True)
        assert wants_progress(None)


@pytest.mark.parametrize(("value", "wanted"), [("1", False), ("0", True), ("", True)])
def test_the_environment_turns_it_off(monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool) -> None:
    """POOLMAGIC_NONINTERACTIVE=1 turns progress off."""
    monkeypatch.setenv("POOLMAGIC_NONINTERACTIVE", value)
    with redirect_stderr(Terminal()):
        assert wants_progress(None) is wanted


def test_the_line_of_text() -> None:
    """The bar has the count, the rate, the time left and the busy slots; it ends with a line of its own."""
    with redirect_stderr(Terminal()) as terminal:
        open_display = find_display(None)
        assert open_display is not None
        bar = open_display(Shown())  # type: ignore[arg-type]
        assert terminal.getvalue() == ""
        bar.update(RUN)
        for part in ("fetch:", "37%", "37/100", "4 of 8 busy", "it/s"):
            assert part in terminal.getvalue()
        bar.update(replace(RUN, done=50, failed=2))
        assert "52/100" in terminal.getvalue()
        assert "2 failed" in terminal.getvalue()
        bar.close(replace(RUN, state="done", done=98, failed=2, elapsed=4.0, busy=0))
    last = terminal.getvalue().rpartition("\r")[2]
    assert last.endswith("\n")
    assert "100/100" in last
    assert "2 failed" in last
    assert "busy" not in last


def test_a_run_of_unknown_length_counts() -> None:
    """Without a length there is a count."""
    with redirect_stderr(Terminal()) as terminal:
        bar = TextBar(replace(RUN, total=None))
        bar.close(replace(RUN, total=None, state="interrupted"))
    assert "37it" in terminal.getvalue()
    assert "interrupted" in terminal.getvalue()
    assert "%" not in terminal.getvalue()


def test_a_bar_inside_a_bar_goes_away() -> None:
    """Below a bar of the user's own the bar of a map is cleared at the end."""
    with redirect_stderr(Terminal()) as terminal, tqdm(total=2):
        bar = TextBar(RUN)
        bar.update(RUN)
        assert "fetch" in terminal.getvalue()
        bar.close(replace(RUN, state="done", done=100))
        assert terminal.getvalue().rpartition("fetch")[2].endswith("\x1b[A")  # back up, and nothing is left below
        assert terminal.getvalue().rpartition("\r")[2].strip("\x1b[A ") == ""


SCRIPT = """
import sys, time
import poolmagic as pm
with pm.Pool("threads", 4) as pool:
    print(sum(pool.map(lambda item: time.sleep(0.1) or item, range(40), **eval(sys.argv[1]))))
print("IPython" in sys.modules, "ipywidgets" in sys.modules)
"""


@pytest.mark.parametrize(("options", "shown"), [("{}", False), ("dict(progress=True)", True)])
def test_a_script_in_a_pipe(tmp_path: Path, options: str, shown: bool) -> None:
    """A script whose stderr is no terminal shows nothing unless it asks to, and never imports IPython for it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    told = subprocess.run([sys.executable, script, options], capture_output=True, text=True, check=True)
    assert told.stdout == "780\nFalse False\n"
    assert ("40/40" in told.stderr) is shown
    assert shown or told.stderr == ""
