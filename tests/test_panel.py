"""The panel without a front end: what its buttons do, what they say, and what is left of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import poolmagic as pm
from poolmagic import panel as panel_module
from poolmagic.panel import BETWEEN_CELLS, BY_INTERRUPT, Panel, count_open
from tests.conftest import MakePool, open_once_struck, wait_until
from tests.tasks import Gate, gated

CANCEL, PAUSE, RESUME = "Cancel", "Pause", "Resume"


class Cell:
    """Takes the place of the cell that a run belongs to."""

    def __init__(self) -> None:
        self.shown: list[tuple[dict[str, Any], str, bool]] = []

    def publish(self, data: dict[str, Any], *, display_id: str, update: bool = False) -> None:
        self.shown.append((data, display_id, update))


@pytest.fixture(autouse=True)
def as_often_as_one_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for the time of the next update."""
    monkeypatch.setattr(panel_module, "SLACK", 3600.0)


@pytest.fixture
def show(make_pool: MakePool, gate: Gate) -> Iterator[Callable[..., tuple[Panel, Any]]]:
    """Start a run whose tasks wait at the gate, and show it. The run is over when the test is."""
    runs: list[Any] = []

    def show(kind: str = "threads", slots: int = 2, *, hears: bool = True) -> tuple[Panel, Any]:
        run: Any = make_pool(kind, slots).start(gated(kind, gate.port), range(20))
        gate.wait_for(slots)
        runs.append(run)
        run.origin = Cell()
        return Panel(run, hears=hears), run

    yield show
    gate.open()
    for run in runs:
        run.unpause()
        wait_until(run.done, "the run is over")


def texts(panel: Panel) -> list[str]:
    return [button.description for button in panel._buttons.values()]


def press(panel: Panel, text: str) -> None:
    """Press a button in a thread of its own, as a kernel's subshell does."""
    (button,) = [one for one in panel._buttons.values() if one.description == text]
    thread = threading.Thread(target=button.click)
    thread.start()
    thread.join()


@pytest.mark.parametrize(("which", "unit"), [("prefork", "worker"), ("threads", "slot"), ("gevent", "slot")])
def test_the_buttons_say_what_they_do(show: Callable[..., tuple[Panel, Any]], which: str, unit: str) -> None:
    """In words, and at length in a tooltip."""
    panel, _ = show(which)
    assert [CANCEL, PAUSE, f"\u2212 {unit}", f"+ {unit}"] == texts(panel)
    assert all(button.tooltip for button in panel._buttons.values())


def test_pause_and_resume(show: Callable[..., tuple[Panel, Any]], gate: Gate) -> None:
    """One button; its text is what it would do next."""
    panel, run = show()
    press(panel, PAUSE)
    wait_until(lambda: bool(run.snapshot().paused), "the run is paused")
    panel.update(run.snapshot())
    assert RESUME in texts(panel)
    assert ">paused<" in panel._picture.value
    press(panel, RESUME)
    wait_until(lambda: not run.snapshot().paused, "the run goes on")
    gate.open()
    assert 20 == len(run.result(30))


def test_more_and_less(show: Callable[..., tuple[Panel, Any]]) -> None:
    """At once, though nothing ends meanwhile."""
    panel, run = show()
    press(panel, "+ slot")
    wait_until(lambda: 3 == run.snapshot().slots, "there is one more")
    press(panel, "\u2212 slot")
    wait_until(lambda: 2 == run.snapshot().slots, "there is one less")


def test_cancel(show: Callable[..., tuple[Panel, Any]], gate: Gate) -> None:
    """The buttons cannot be pressed any more, and the panel says so."""
    panel, run = show()
    press(panel, CANCEL)
    panel.update(run.snapshot())
    assert all(button.disabled for button in panel._buttons.values())
    assert ">cancelling<" in panel._picture.value
    open_once_struck(run.pool, gate)
    with pytest.raises(pm.RunCancelled):
        run.result(30)


def test_a_button_that_is_refused_says_why(show: Callable[..., tuple[Panel, Any]], gate: Gate) -> None:
    """In the panel, where the person looks."""
    panel, run = show()
    run.pool.close()
    press(panel, PAUSE)
    panel.update(run.snapshot())
    assert "the pool is closed" in panel._picture.value
    gate.open()
    run.result(30)


def test_where_no_click_is_heard_there_are_no_buttons(show: Callable[..., tuple[Panel, Any]]) -> None:
    """But a line that says what helps."""
    panel, _ = show(hears=False)
    assert [] == texts(panel)
    assert BY_INTERRUPT in panel._picture.value


def test_a_run_that_holds_up_no_cell_has_buttons_everywhere(show: Callable[..., tuple[Panel, Any]]) -> None:
    """It is driven by a thread of its own."""
    panels: list[Panel] = []
    thread = threading.Thread(target=lambda: panels.append(show(hears=False)[0]))
    thread.start()
    thread.join()
    assert CANCEL in texts(panels[0])
    assert BETWEEN_CELLS in panels[0]._picture.value


def test_the_report_takes_the_panels_place(show: Callable[..., tuple[Panel, Any]], gate: Gate) -> None:
    """As HTML and as text, and no widget is left open."""
    panel, run = show()
    gate.open()
    run.result(30)
    panel.close(run.snapshot())
    (first, name, _), (last, same, update) = run.origin.shown
    assert "application/vnd.jupyter.widget-view+json" in first
    assert (name, True) == (same, update)
    assert {"text/html", "text/plain"} == set(last)
    assert "20/20" in last["text/plain"]
    assert all(one.comm is None for one in [panel._box, panel._picture, *panel._buttons.values()])


def test_many_panels_are_updated_more_rarely(
    show: Callable[..., tuple[Panel, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together they must not say more than the server hands on; the report comes all the same."""
    monkeypatch.setattr(panel_module, "SLACK", 0.0)
    monkeypatch.setattr(panel_module, "OFTEN", 1e-6)
    panel, run = show()
    panel.update(run.snapshot())
    before = panel._picture.value
    press(panel, "+ slot")
    wait_until(lambda: 3 == run.snapshot().slots, "there is one more")
    panel.update(run.snapshot())
    assert before == panel._picture.value
    opened = count_open()
    panel.close(run.snapshot())
    assert opened - 1 == count_open()
    assert 2 == len(run.origin.shown)


def test_a_solo_run_can_only_be_cancelled(make_pool: MakePool) -> None:
    """It has one slot, and nothing of it waits elsewhere."""
    run: Any = make_pool("solo").start(abs, range(3))
    run.origin = Cell()
    assert [CANCEL] == texts(Panel(run, hears=True))
