"""The panel of a run in a real JupyterLab: it moves, its buttons work, and a report stays, in both themes.

With ``POOLMAGIC_PICTURES=1`` in the environment the pictures of the docs are made anew, in docs/images.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.notebook.conftest import Notebook
from tests.notebook.kernels import _folder_of
from tests.notebook.test_lab import WATCH, assert_all_is_well, outputs_in, reopen, write

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.notebook.conftest import Lab

pytestmark = pytest.mark.browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"

SECONDS = 60_000
"""How long a test waits, in milliseconds; no measure of anything."""

NAP = """\
import time
import poolmagic as pm
pool = pm.Pool("threads", 2)
def nap(item):
    time.sleep(0.05)
    return item"""

CANCEL = """() => new Promise(resolve => {
    const start = performance.now();
    const look = () => {
        if (document.querySelector('.jp-Notebook .poolmagic-panel')) return;
        observer.disconnect();
        resolve((performance.now() - start) / 1000);
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, {subtree: true, childList: true});
    [...document.querySelectorAll('.jp-Notebook button')].find(one => one.textContent === 'Cancel').click();
})"""
"""Presses Cancel; tells how many seconds later the report was in the panel's place."""


class Panel:
    """The panel under a cell, as a person sees it."""

    def __init__(self, notebook: Notebook, cell: int) -> None:
        self.cell = notebook.page.locator(".jp-Notebook .jp-Cell").nth(cell)
        self.page = notebook.page

    def wait(self) -> None:
        """Wait until it is there."""
        self.cell.locator(".poolmagic-panel").wait_for(timeout=SECONDS)

    def press(self, name: str) -> None:
        """Press a button, as from the keyboard."""
        self.cell.get_by_role("button", name=name, exact=True).press("Enter")

    @property
    def buttons(self) -> list[str]:
        """The texts of its buttons."""
        return self.cell.locator("button.jupyter-button").all_inner_texts()

    def says(self, part: str, text: str) -> None:
        """Wait until a part of it has this text."""
        self.part(part).filter(has_text=text).first.wait_for(timeout=SECONDS)

    def part(self, name: str) -> Locator:
        """Return what is called ``poolmagic-name`` in it."""
        return self.cell.locator(f".poolmagic-{name}")

    @property
    def done(self) -> int:
        """How many items are done, it says."""
        found = re.match(r"([\d,]+) of", self.part("figures").inner_text())
        assert found, self.part("figures").inner_text()
        return int(found[1].replace(",", ""))

    def wait_for_more(self) -> None:
        """Wait until more is done than now."""
        before = self.done
        while self.done <= before:
            self.page.wait_for_timeout(20)  # lets the page go on


def opened(lab: Lab, page: Page, name: str, cells: list[str], kernel: str = "python3") -> Notebook:
    """Write and open a notebook, and run its first two cells."""
    path = lab.root / f"{name}.ipynb"
    write(path, cells, kernel)
    notebook = Notebook(lab, page, path)
    notebook.open()
    for index in (0, 1):
        notebook.run(index)
    notebook.wait(1)
    return notebook


def test_the_buttons_work_while_a_cell_waits(lab: Lab, page: Page) -> None:
    """The bar moves; Pause, Resume, + and - do what they say, and Cancel ends the run within half a second."""
    notebook = opened(lab, page, "buttons", ["%load_ext poolmagic", NAP, "pool.map(nap, range(20_000))"])
    page.evaluate(WATCH)
    notebook.run(2)
    panel = Panel(notebook, 2)
    panel.wait()
    assert panel.buttons == ["Cancel", "Pause", "\u2212 slot", "+ slot"]
    assert panel.part("lane").count() == 2
    page.wait_for_function("window.seen.length >= 3", timeout=SECONDS)

    panel.press("Pause")
    panel.says("state", "paused")
    panel.says("figures", "0 of 2 busy")
    before = panel.done
    panel.press("+ slot")
    panel.says("figures", "0 of 3 busy")
    assert panel.part("lane").count() == 3
    assert panel.done == before
    panel.press("Resume")
    panel.says("figures", "3 of 3 busy")
    panel.wait_for_more()
    panel.press("\u2212 slot")
    panel.says("figures", "of 2 busy")

    seconds = page.evaluate(CANCEL)
    assert seconds < 0.5
    notebook.wait(2)
    report, error = notebook.outputs(2)
    assert "cancelled" in report
    assert "RunCancelled" in error
    assert panel.buttons == []
    widths = page.evaluate("window.seen")
    assert widths == sorted(widths)


def test_a_panel_goes_on_under_a_cell_that_has_ended(lab: Lab, page: Page) -> None:
    """It belongs to the cell that started the run, whatever runs meanwhile; saved and reopened there is its report."""
    cells = ["%load_ext poolmagic", NAP, "run = pool.start(nap, range(20_000))", "pool.map(nap, range(40))[-1]"]
    notebook = opened(lab, page, "background", cells)
    for index in (2, 3):
        notebook.run(index)
    notebook.wait(2)
    panel = Panel(notebook, 2)
    panel.wait()
    notebook.wait(3)
    assert "39" in notebook.outputs(3)
    panel.wait_for_more()
    panel.press("Cancel")
    panel.part("report").wait_for(timeout=SECONDS)
    (report,) = notebook.outputs(2)
    assert "cancelled" in report
    saved = notebook.save()
    assert_all_is_well(saved)
    assert "poolmagic-report" in "".join(outputs_in(saved)[0]["data"]["text/html"])
    reopen(notebook)
    assert notebook.outputs(2) == [report]


def test_a_kernel_that_hears_no_buttons_offers_none(lab: Lab, page: Page) -> None:
    """While a cell waits it says what helps, and that does; for a run that nobody waits for the buttons work."""
    spec = lab.root.parent / "data" / "kernels" / "old" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, (str(_folder_of("6.31.0")), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(
        json.dumps({"argv": command, "display_name": "old", "language": "python", "env": {"PYTHONPATH": path}})
    )
    cells = ["%load_ext poolmagic", NAP, "pool.map(nap, range(20_000))", "run = pool.start(nap, range(20_000))"]
    notebook = opened(lab, page, "old", cells, "old")
    notebook.run(2)
    panel = Panel(notebook, 2)
    panel.wait()
    assert panel.buttons == []
    assert "Interrupt the kernel to cancel" in panel.part("panel").inner_text()
    page.locator('[data-jp-item-name="interrupt"]').first.click()
    notebook.wait(2)
    assert "KeyboardInterrupt" in notebook.outputs(2)[-1]

    notebook.run(3)
    notebook.wait(3)
    panel = Panel(notebook, 3)
    panel.wait()
    panel.press("Cancel")
    panel.part("report").wait_for(timeout=SECONDS)
    assert "cancelled" in notebook.outputs(3)[0]


FETCH = """\
import time
import poolmagic as pm

def fetch(page):
    time.sleep(3.5 if page == 17 else 0.15 + page % 7 / 6)
    if page % 11 == 9:
        raise LookupError(f"<script>no page {page % 3}</script>")
    return page"""

CONTRASTS = """cell => {
    const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const light = colours => {
        colours.forEach(colour => { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); });
        const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = element => {
        const layers = [];
        for (let one = element; one; one = one.parentElement) layers.unshift(getComputedStyle(one).backgroundColor);
        const [low, high] = [light(layers), light([...layers, getComputedStyle(element).color])].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const hasText = element => [...element.childNodes].some(one => one.nodeType === 3 && one.textContent.trim());
    return [...cell.querySelectorAll('.poolmagic-panel *, .poolmagic-report *')].filter(hasText).map(contrast);
}"""
"""How much each text of ours in a cell stands out from what is behind it, as WCAG defines it: from 1 to 21."""


def choose_theme(page: Page, theme: str) -> None:
    """Give JupyterLab its light or its dark theme."""
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", theme)
    page.locator(f'body[data-jp-theme-name="{theme}"]').wait_for(state="attached", timeout=SECONDS)


def keep(what: Locator, name: str, theme: str) -> None:
    """Keep a picture for the docs, if that is asked for."""
    if os.environ.get("POOLMAGIC_PICTURES"):
        IMAGES.mkdir(exist_ok=True)
        what.screenshot(path=IMAGES / f"{name}-{theme.rsplit(maxsplit=1)[-1].lower()}.png")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_panel_can_be_read_in_every_theme(lab: Lab, page: Page, theme: str) -> None:
    """All its text stands out from what is behind it, so does that of the report, and what a task says is no HTML."""
    pool = 'pm.Pool("threads", 6)'
    cells = [
        "%load_ext poolmagic",
        FETCH,
        f'pages = {pool}.map(fetch, range(60), on_error="skip")',
        f"pages = {pool}.map(fetch, range(9))",
    ]
    notebook = opened(lab, page, "themes", cells)
    choose_theme(page, theme)
    notebook.run(2)
    panel = Panel(notebook, 2)
    panel.wait()
    panel.says("slowest", "item 17 for 1")
    contrasts = panel.cell.evaluate(CONTRASTS)
    assert len(contrasts) > 15
    assert min(contrasts) > 3
    keep(panel.cell, "panel-running", theme)
    notebook.wait(2)
    (report,) = notebook.outputs(2)
    assert "5 x LookupError" in report
    assert "<script>no page" in report
    assert min(panel.cell.evaluate(CONTRASTS)) > 3
    keep(panel.cell, "panel-failed", theme)
    notebook.run(3)
    notebook.wait(3)
    keep(Panel(notebook, 3).cell, "panel-done", theme)
    assert_all_is_well(notebook.save())
    notebook.shut_down()
