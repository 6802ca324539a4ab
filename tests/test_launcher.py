"""What workers take over from the kernel, and how their ends are told."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path

import pytest

from poolmagic.config import PoolConfig
from poolmagic.errors import UsageError
from poolmagic.launcher import Surroundings, check_platform
from poolmagic.processes import explain_trouble


def test_surroundings_are_equal_if_nothing_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that warm workers can be used again, and only then."""
    before = Surroundings.now({})

    assert before == Surroundings.now({})
    assert hash(before) == hash(Surroundings.now({}))
    monkeypatch.setenv("COLOUR", "blue")
    assert before != Surroundings.now({})
    monkeypatch.delenv("COLOUR")
    assert before == Surroundings.now({})
    monkeypatch.chdir(tmp_path)
    assert before != Surroundings.now({})
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BytesWarning)
        assert before != Surroundings.now({})


def test_surroundings_do_not_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end up in error reports."""
    monkeypatch.setenv("PASSWORD", "hunter2")

    assert "hunter2" not in repr(Surroundings.now({}))


def test_odd_entries_of_the_path_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """People append all sorts of things; the import system itself looks at text alone."""
    monkeypatch.setattr(sys, "path", ["", Path("/somewhere"), "/elsewhere"])

    assert (os.getcwd(), "/elsewhere") == Surroundings.now({}).path  # noqa: PTH109 - as it is in sys.path


def test_plots_need_no_kernel_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter's inline backend would fail there."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    assert ("MPLBACKEND", "Agg") in Surroundings.now({}).environment


def test_process_pools_are_refused_where_there_are_none() -> None:
    """With the way out: WSL, or threads."""
    with pytest.raises(UsageError, match="WSL"):
        check_platform(PoolConfig.make("prefork"), system="nt")
    check_platform(PoolConfig.make("threads"), system="nt")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EMFILE, "raise the limit of open files (ulimit -n), or use fewer workers"),
        (errno.ENFILE, "raise the limit of open files"),
        (errno.EAGAIN, "the limit of processes or of memory is reached, use fewer workers"),
        (errno.ENOENT, "No such file or directory: 'python'"),
    ],
)
def test_what_the_system_does_not_give_is_told_with_the_way_out(code: int, words: str) -> None:
    """Not as a bug of ours or of the user."""
    assert words in explain_trouble(OSError(code, os.strerror(code), "python"))
