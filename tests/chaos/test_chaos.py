"""A short storm, in a process of its own: it sends signals, and what hangs in it must not hang the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults


def test_a_short_storm_loses_nothing() -> None:
    """Nor is anything wrong, hung or left behind; `make chaos` runs a long one."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seconds", "15", "--seed", "4", "--patience", "60"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert 0 == done.returncode, f"{done.stdout}\n{done.stderr[-20_000:]}"
