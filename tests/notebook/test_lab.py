"""A person's day: JupyterLab opens a notebook, runs it, sees the bar, saves, restarts, opens it again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from tests.notebook.conftest import Notebook

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.notebook.conftest import Lab

pytestmark = pytest.mark.browser

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"

WIDGET = "application/vnd.jupyter.widget-view+json"

CELLS = [
    "%load_ext poolmagic",
    "import time\ndef nap(item):\n    time.sleep(0.1)\n    return item * item",
    "%%pool threads -c 4\nresults = pool.map(nap, range(100))\nsum(results)",
    "%%pmap -P threads -c 4 x in range(4) -> squares\nx * x",
    "squares",
    "%pool",
    "%pool stop",
]

WATCH = """() => {
    window.seen = [];
    const look = () => document.querySelectorAll('.jp-Notebook .poolmagic-bar > div:first-child').forEach(bar => {
        const width = parseFloat(bar.style.width);
        if (!window.seen.includes(width)) window.seen.push(width);
    });
    new MutationObserver(look).observe(
        document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['style']});
}"""
"""Notes every width that a progress bar in the notebook ever has."""


def write(path: Path, sources: list[str], kernel: str = "python3") -> None:
    """Write a notebook of code cells for a kernel of that name."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    # Without the name of a kernel JupyterLab would ask for one.
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)


def save_as_picture(page: Page, path: Path) -> None:
    """Keep what the page looks like, for a person who wants to see it."""
    page.screenshot(path=path)


def outputs_in(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """All outputs in a saved notebook."""
    return [output for cell in saved["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def assert_all_is_well(saved: dict[str, Any]) -> None:
    """Check that a saved notebook has no errors and no widgets in it."""
    outputs = outputs_in(saved)
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output for output in outputs if WIDGET in output.get("data", {})] == []


def reopen(notebook: Notebook) -> None:
    """End the kernel and open the saved notebook again, with a new one."""
    notebook.shut_down()
    notebook.open()
    text = notebook.page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in text
    assert "model not found" not in text


def test_a_bar_moves_and_a_summary_stays(lab: Lab, page: Page, tmp_path: Path) -> None:
    """The bar of a slow map moves; the saved and reopened notebook has its summary and no dead widget."""
    path = lab.root / "bar.ipynb"
    write(path, CELLS)
    notebook = Notebook(lab, page, path)
    notebook.open()
    page.evaluate(WATCH)
    for index in (0, 1, 2):
        notebook.run(index)
    page.wait_for_function("window.seen.length >= 5", timeout=60_000)
    save_as_picture(page, tmp_path / "1-running.png")
    for index in range(3, len(CELLS)):
        notebook.run(index)
    notebook.wait(len(CELLS) - 1)
    save_as_picture(page, tmp_path / "2-done.png")
    widths = page.evaluate("window.seen")
    assert widths == sorted(widths)
    assert 0 < widths[0] < 50
    summary, total = notebook.outputs(2)
    assert "100/100" in summary
    assert total == str(sum(item * item for item in range(100)))
    assert notebook.outputs(4) == ["[0, 1, 4, 9]"]
    assert "threads" in notebook.outputs(5)[0]
    assert page.locator(".jp-Notebook .jupyter-widgets").count() == 0
    assert_all_is_well(notebook.save())
    reopen(notebook)
    save_as_picture(page, tmp_path / "3-reopened.png")
    assert notebook.outputs(2) == [summary, total]


def test_stop_leaves_a_summary(lab: Lab, page: Page, tmp_path: Path) -> None:
    """The Interrupt button ends a map; its bar becomes a line, and the next cell runs."""
    path = lab.root / "stop.ipynb"
    write(path, [*CELLS[:2], CELLS[2].replace("100", "10000"), "len([1])"])
    notebook = Notebook(lab, page, path)
    notebook.open()
    page.evaluate(WATCH)
    for index in (0, 1, 2):
        notebook.run(index)
    page.wait_for_function("window.seen.length >= 2", timeout=60_000)
    page.locator('[data-jp-item-name="interrupt"]').first.click()
    notebook.wait(2)
    save_as_picture(page, tmp_path / "1-stopped.png")
    summary, error = notebook.outputs(2)
    assert "/10,000" in summary
    assert "KeyboardInterrupt" in error
    notebook.run(3)
    notebook.wait(3)
    assert notebook.outputs(3) == ["1"]


def test_the_quickstart_runs_and_is_reopened(lab: Lab, page: Page, tmp_path: Path) -> None:
    """The quickstart runs from top to bottom, its bars move, and with its results it is the same when reopened."""
    path = lab.root / QUICKSTART.name
    shutil.copy(QUICKSTART, path)
    cells = json.loads(path.read_text())["cells"]
    code = [index for index, cell in enumerate(cells) if cell["cell_type"] == "code"]
    notebook = Notebook(lab, page, path)
    notebook.open()
    page.evaluate(WATCH)
    for index in code:
        notebook.run(index)
        notebook.wait(index)
    save_as_picture(page, tmp_path / "1-done.png")
    saved = notebook.save()
    assert_all_is_well(saved)
    shown = [notebook.outputs(index) for index in code]
    assert len(page.evaluate("window.seen")) >= 2
    (fetched,) = [index for index in code if "len(pages)" in "".join(cells[index]["source"])]
    assert re.fullmatch(r"\(\d+, \d+\)", notebook.outputs(fetched)[-1])
    assert any("Failure" in texts[-1] for texts in shown if texts)
    reopen(notebook)
    save_as_picture(page, tmp_path / "2-reopened.png")
    assert shown == [notebook.outputs(index) for index in code]
