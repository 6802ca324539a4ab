"""A frozen `RunSnapshot` as something to look at in a notebook: a bar while it runs, one line when it has ended.

Nothing else: no state but the widgets, which belong to the thread that made them. Whatever comes from a user (the name
of a function) is escaped. ipywidgets is imported when the first bar is made.

The bar is shown through a display handle, and its last act is to put a static summary in its own place: JupyterLab does
not save the state of widgets, and a widget left in a saved notebook is a "model not found" in the reopened one.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Final

from poolmagic.snapshot import run_line

if TYPE_CHECKING:
    from poolmagic.snapshot import RunSnapshot

__all__ = ["Summary", "WidgetBar"]

_GOOD: Final = "#2e7d32"
_BAD: Final = "#c62828"
_HALFWAY: Final = "#b26a00"


class Summary:
    """What stays of a run in a saved notebook: one line, as text and as HTML without widget, style sheet or script."""

    def __init__(self, snapshot: RunSnapshot) -> None:
        self._text = run_line(snapshot)
        halfway = snapshot.state in ("cancelled", "interrupted")
        self._colour = _HALFWAY if halfway else _GOOD if snapshot.state == "done" and not snapshot.failed else _BAD

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f'<div style="border-left: 3px solid {self._colour}; padding-left: 8px">{html.escape(self._text)}</div>'


class WidgetBar:
    """A progress bar of ipywidgets; raises `ImportError` where there are none. Does not block."""

    def __init__(self, snapshot: RunSnapshot) -> None:
        import ipywidgets  # noqa: PLC0415 - 130 ms, and only wanted once a map is slow
        from IPython.display import DisplayHandle  # noqa: PLC0415 - a script without IPython shows no widgets

        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0, layout=ipywidgets.Layout(width="30%"))
        self._line = ipywidgets.HTML()
        self._box = ipywidgets.HBox([self._bar, self._line])
        self._paint(snapshot)
        self._handle: Any = DisplayHandle()
        try:
            self._handle.display(self._box)
        except BaseException:  # Stop, as soon as there is something to see: nobody else would clear it away
            self.close(snapshot)
            raise

    def update(self, snapshot: RunSnapshot) -> None:
        """Show how far the run is; does not block."""
        self._paint(snapshot)

    def close(self, snapshot: RunSnapshot) -> None:
        """Leave the summary in the bar's place, and nothing of the widgets; does not block."""
        self._handle.update(Summary(snapshot))
        # Only after the summary: a front end shows an error in the place of a widget whose model is gone.
        for widget in (self._box, self._bar, self._line):
            for part in (widget.layout, getattr(widget, "style", None)):
                if part is not None:
                    part.close()
            widget.close()

    def _paint(self, snapshot: RunSnapshot) -> None:
        # The bar of a run of unknown length is full and says only that something goes on; the line counts.
        self._bar.value = (snapshot.done + snapshot.failed) / snapshot.total if snapshot.total else 1.0
        self._bar.bar_style = "danger" if snapshot.failed else "info"
        self._line.value = html.escape(run_line(snapshot))
