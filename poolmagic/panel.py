"""The panel of a run in a notebook: its picture while it goes on, buttons to steer it, and its report at the end.

A panel is made of ipywidgets, which are imported when the first one is made. It is shown in the cell that started the
run, through `Origin.publish`, and its last act is to put a static report in its own place: JupyterLab does not save the
state of widgets, and a widget left in a saved notebook is a "model not found" in the reopened one.

Threads. A panel is made, updated and closed by the run's asking thread. Its buttons are pressed in whatever thread the
kernel hands the click to, while a cell blocks too: all they do is to post to the run or the pool, and to leave a word
for the next update. A kernel that cannot hear clicks while a cell blocks shows no buttons there.

What is known of all panels is which are open: the more there are, the more rarely each is updated, because Jupyter's
server drops what is beyond 1000 messages a second.
"""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from poolmagic.errors import UsageError
from poolmagic.painting import Lanes, paint
from poolmagic.report import report_html, report_text

if TYPE_CHECKING:
    from poolmagic.runs import Run
    from poolmagic.snapshot import RunSnapshot

__all__ = ["MOST_PANELS", "Panel", "count_open"]

MOST_PANELS: Final = 20
"""Panels at once; each takes a dozen messages to be made."""
OFTEN: Final = 50
"""Updates a second, of all panels together."""
SLACK: Final = 0.02
"""Seconds that an update may come too early."""

BY_INTERRUPT: Final = "Interrupt the kernel to cancel: this kernel hears no buttons while a cell runs."
CANCEL: Final = "Stop what runs; what is done is kept. If nothing happens, interrupt the kernel"
BETWEEN_CELLS: Final = "The buttons answer when no cell runs: this kernel hears none meanwhile."

_open: weakref.WeakSet[Panel] = weakref.WeakSet()


def count_open() -> int:
    """Return how many panels are open."""
    return len(_open)


class Panel:
    """Shows one run; raises `ImportError` where there is no ipywidgets. Does not block.

    Args:
        run: The run.
        hears: Whether the kernel hears buttons while a cell blocks.
    """

    def __init__(self, run: Run, *, hears: bool) -> None:
        import ipywidgets  # noqa: PLC0415 - 130 ms, and only wanted once a map is slow

        self._run = run
        self._lanes = Lanes()
        self._word = ""
        self._is_cancelled = False
        self._next = 0.0
        # The main thread runs the cells, so it is a cell that waits for this run; other threads hold up nothing.
        blocks = threading.current_thread() is threading.main_thread()
        self._hint = "" if hears else BY_INTERRUPT if blocks else BETWEEN_CELLS
        self._display = f"poolmagic-{uuid.uuid4().hex}"
        self._picture = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%", margin="0"))
        self._buttons: dict[str, Any] = {}
        if hears or not blocks:
            self._add_buttons(ipywidgets)
        children = [self._picture, *self._buttons.values()]
        self._box = ipywidgets.Box(children, layout=ipywidgets.Layout(flex_flow="row wrap", padding="4px 0"))
        self.update(run.snapshot())
        _open.add(self)
        try:
            run.origin.publish(self._box._repr_mimebundle_(), display_id=self._display)
        except BaseException:  # Stop, as soon as there is something to see: nobody else would clear it away
            self.close(run.snapshot())
            raise

    def _add_buttons(self, ipywidgets: Any) -> None:
        """Make the buttons that this run's kind has a use for, with texts that say what they do."""
        layout = ipywidgets.Layout(width="auto", height="26px", margin="4px 6px 2px 0")
        style = ipywidgets.ButtonStyle(font_size="12px")
        unit = {"workers": "worker", "slots": "slot", None: ""}[self._run.pool.config.kind.scales]

        def add(name: str, text: str, tooltip: str, press: Callable[[], None]) -> None:
            button = ipywidgets.Button(description=text, tooltip=tooltip, layout=layout, style=style)
            button.on_click(lambda _: self._press(press))
            _keep_its_thread(button)
            self._buttons[name] = button

        add("cancel", "Cancel", CANCEL, self._cancel)
        if not self._run.is_inline:
            add("pause", "Pause", "Start nothing more until Resume is pressed", self._pause)
        if unit and not self._run.is_inline:
            add("shrink", f"\u2212 {unit}", f"One {unit} less", self._run.pool.shrink)
            add("grow", f"+ {unit}", f"One {unit} more", self._run.pool.grow)

    # Any thread ----------------------------------------------------------------------------------------------------

    def _press(self, press: Callable[[], None]) -> None:
        try:
            press()
        except UsageError as error:  # the pool was closed meanwhile, say
            self._word = str(error)

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._run.cancel()

    def _pause(self) -> None:
        if self._run.snapshot().paused:
            self._run.unpause()
        else:
            self._run.pause()

    # Asking thread -------------------------------------------------------------------------------------------------

    def update(self, snapshot: RunSnapshot) -> None:
        """Show how far the run is, if that is not too often; does not block."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + len(_open) / OFTEN - SLACK
        state = "cancelling" if self._is_cancelled else "paused" if snapshot.paused else "running"
        by_worker = self._run.pool.config.kind.scales == "workers"
        hint = self._word or self._hint
        # A widget that is told what it shows already sends nothing.
        self._picture.value = paint(snapshot, self._lanes, by_worker=by_worker, state=state, hint=hint)
        if "pause" in self._buttons:
            self._buttons["pause"].description = "Resume" if snapshot.paused else "Pause"
        if self._is_cancelled:
            for button in self._buttons.values():
                button.disabled = True

    def close(self, snapshot: RunSnapshot) -> None:
        """Leave the report in the panel's place, and nothing of the widgets; does not block."""
        _open.discard(self)
        bundle = {"text/html": report_html(self._run), "text/plain": report_text(self._run)}
        self._run.origin.publish(bundle, display_id=self._display, update=True)
        # Only after the report: a front end shows an error in the place of a widget whose model is gone.
        widgets = [self._box, self._picture, *self._buttons.values()]
        parts = [part for widget in widgets for part in (widget.layout, getattr(widget, "style", None))]
        for one in [*widgets, *filter(None, parts)]:
            one.close()


def _keep_its_thread(widget: Any) -> None:
    """Let clicks on a widget come in the thread that the front end has chosen for them.

    ipykernel 7.4 sends them to the thread that last changed the widget, which is the one that a cell blocks.
    """
    comm = widget.comm
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default  # noqa: SLF001 - nothing else changes it
