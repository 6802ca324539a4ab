"""Every example of the README and of the site is run, and shows what the page says it shows.

The ``python`` blocks of a page are the cells of one notebook, run from the top. A ``text`` block right after one is
what the cell shows: each of its lines must be among the lines shown, in this order, with ``...`` for anything and any
space for any other. A comment ``<!-- raises: ZeroDivisionError -->`` right before a cell says how it ends. `urls`
stands for the reader's own list of addresses; here it holds pages on the loopback interface.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)
RAISES = re.compile(r"<!-- raises: (\w+) -->\s*\Z")


@dataclass(frozen=True)
class Cell:
    """One example of a page."""

    line: int
    source: str
    raises: str
    shows: str


def cells_of(page: str) -> list[Cell]:
    """Find the examples in the text of a page."""
    found: list[Cell] = []
    fences = list(FENCE.finditer(page))
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        if fence["language"] != "python":
            continue
        raises = RAISES.search(page, 0, fence.start())
        shows = ""
        if after is not None and after["language"] == "text" and not page[fence.end() : after.start()].strip():
            shows = after["body"]
        line = page.count("\n", 0, fence.start()) + 2
        found.append(Cell(line, fence["body"], raises[1] if raises else "", shows))
    return found


def missing_line(wanted: str, shown: str) -> str | None:
    """Return the first line of `wanted` that `shown` lacks, or None; ``...`` stands for anything."""
    rest = iter([" ".join(line.split()) for line in shown.splitlines()])
    for line in filter(None, (" ".join(line.split()) for line in wanted.splitlines())):
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        if not any(re.fullmatch(pattern, other) for other in rest):
            return line
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_work_as_it_says(page: Path, tmp_path: Path) -> None:
    """The cells of a page run from the top without an error it does not announce, and show what it says."""
    cells = cells_of(page.read_text(encoding="utf-8"))
    if not cells:
        return
    report = tmp_path / "report"
    session = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "docs_session.py"), str(report)],
        input=json.dumps([{"source": cell.source, "raises": cell.raises} for cell in cells]),
        env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert 0 == session.returncode, session.stderr
    for cell, line in zip(cells, report.read_text(encoding="utf-8").splitlines(), strict=False):
        result = json.loads(line)
        where = f"{page.name}, line {cell.line}, showed:\n{result['shown']}"
        assert cell.raises == result["raised"], where
        assert missing_line(cell.shows, result["shown"]) is None, where
    assert "" == session.stderr


def test_the_readme_and_the_tutorial_have_examples() -> None:
    """The test above finds the examples: it would be green as well if it found none."""
    found = {page.name: len(cells_of(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert found["README.md"] >= 5
    assert found["tutorial.md"] >= 8
    assert found["magics.md"] >= 5


def test_a_page_is_read_as_it_says() -> None:
    """Cells are found with their line, their announced exception and what they show; other blocks are not cells."""
    page = "a\n```sh\nls\n```\n<!-- raises: KeyError -->\n```python\n{}[1]\n```\n\n"
    page += "```text\nno ...\n```\n```python\n2\n```\n"
    assert [Cell(7, "{}[1]\n", "KeyError", "no ...\n"), Cell(14, "2\n", "", "")] == cells_of(page)
    assert missing_line("no ...\n2  3", "no way\n1\n 2 3") is None
    assert "2" == missing_line("1\n2", "2\n1")


def test_the_diagrams_show_every_state_and_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of the design page hold all of the core's transitions, and the page shows every table."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import state_pictures

    from poolmagic.core import state

    tables = [name for name in vars(state) if name.endswith("_TRANSITIONS")]
    assert {"POOL_TRANSITIONS", "RUN_TRANSITIONS", "WORKER_TRANSITIONS"} <= set(tables)
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for name in tables:
        table = getattr(state, name)
        assert table, name
        picture = state_pictures.draw(table, name)
        for (source, event), target in table.items():
            for word in (source.name.lower().replace("_", " "), event.__name__, target.name.lower().replace("_", " ")):
                assert f">{word}<" in picture
        assert f"{{state-diagram}} {name}" in design
    with pytest.raises(ValueError, match="empty"):
        state_pictures.draw({}, "nothing")
