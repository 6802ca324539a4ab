"""Whether and how a blocking run shows its progress.

`wants_progress` decides whether anybody looks on, `find_display` picks what is shown: a panel in a notebook, a line of
text (tqdm) everywhere else. Both are called by the thread that starts the run; what is shown belongs to the thread that
drives it.

The module owns no state.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from poolmagic import panel
from poolmagic.background import here, is_quiet, quiet
from poolmagic.shell import find_kernel

if TYPE_CHECKING:
    from poolmagic.runs import Run
    from poolmagic.snapshot import RunSnapshot

__all__ = ["Progress", "find_display", "quiet", "wants_progress"]


class Progress(Protocol):
    """What a run tells its progress to; all calls come from one thread."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show how far the run is; called at most ten times a second. Does not block."""

    def close(self, snapshot: RunSnapshot) -> None:
        """Show how the run ended; called once, also after a failure or an interrupt. Does not block."""


def wants_progress(option: bool | None) -> bool:
    """Return whether a run shows progress; does not block.

    Args:
        option: The user's ``progress=``. True and False are obeyed; None means where a person looks on: in a notebook
            that is being used, or with a terminal at stderr, and neither in a `quiet` block nor with
            ``POOLMAGIC_NONINTERACTIVE=1`` in the environment.
    """
    if option is not None:
        return option
    if is_quiet() or os.environ.get("POOLMAGIC_NONINTERACTIVE", "0") not in ("", "0"):
        return False
    kernel = find_kernel()
    if kernel is not None:
        # nbclient, and so nbconvert, papermill and myst-nb, run a notebook while nobody is there to be asked.
        return bool(_request(kernel).get("content", {}).get("allow_stdin", True))
    return sys.stderr is not None and sys.stderr.isatty()


def find_display(option: bool | None, *, background: bool = False) -> Callable[[Run], Progress] | None:
    """Return what starts to show the progress of a run, in the way the front end can; None if nobody wants it.

    Call it in the thread that starts the run, and what it returns in the one that drives it; neither blocks.

    Args:
        option: As for `wants_progress`.
        background: Nobody waits for the run. It is shown in notebooks only: at a terminal something else is going on.
    """
    if not wants_progress(option):
        return None
    kernel = find_kernel()
    if kernel is not None and _has_widgets(kernel):
        return partial(_open_panel, hears=_hears(kernel))
    return None if background or here() is not None else _open_bar


def _open_panel(run: Run, hears: bool) -> Progress:
    if panel.count_open() >= panel.MOST_PANELS and threading.current_thread() is not threading.main_thread():
        return _Unseen()
    try:
        return panel.Panel(run, hears=hears)
    except ImportError:  # no ipywidgets in this kernel's environment
        return _open_bar(run)


def _open_bar(run: Run) -> Progress:
    return TextBar(run.snapshot())


def _hears(kernel: Any) -> bool:
    """Whether a kernel can hear buttons while a cell blocks it."""
    return "kernel subshells" in kernel.kernel_info.get("supported_features", ())


def _request(kernel: Any) -> dict[str, Any]:
    """The message that asked for the cell that runs; empty if the kernel is of another make."""
    try:
        return dict(kernel.get_parent("shell"))
    except (AttributeError, LookupError, TypeError):
        return {}


def _has_widgets(kernel: Any) -> bool:
    """Whether the front end that asked for this cell can show a widget.

    No front end says so. But those that can show one tell the kernel which cell they run, or started the kernel through
    a Jupyter server or in Colab; consoles do neither.
    """
    if "cellId" in (_request(kernel).get("metadata") or {}):
        return True
    return "JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules


class _Unseen:
    """Shows nothing of a run that nobody waits for, beside many others."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Do nothing."""

    def close(self, snapshot: RunSnapshot) -> None:
        """Do nothing."""


class TextBar:
    """A line of text at stderr, by tqdm; inside a bar of the user's own it goes away at the end."""

    def __init__(self, snapshot: RunSnapshot) -> None:
        # Nothing is shown yet: an interrupt may strike here, and nobody would say how the run ended.
        self._bar = _text_bar(snapshot)

    def update(self, snapshot: RunSnapshot) -> None:
        """Show how far the run is; does not block."""
        self._show(snapshot, f"{snapshot.busy} of {snapshot.slots} busy")

    def close(self, snapshot: RunSnapshot) -> None:
        """Leave the bar as it ended; does not block."""
        self._show(snapshot, "" if snapshot.state == "done" else snapshot.state)
        self._bar.close()

    def _show(self, snapshot: RunSnapshot, state: str) -> None:
        failed = f"{snapshot.failed} failed" if snapshot.failed else ""
        self._bar.n = snapshot.done + snapshot.failed
        self._bar.set_postfix_str(", ".join(filter(None, (failed, state))), refresh=False)
        self._bar.refresh()


def _text_bar(snapshot: RunSnapshot) -> Any:
    from tqdm import tqdm  # noqa: PLC0415 - 30 ms, and only wanted once a map is slow

    if not hasattr(tqdm, "_lock"):
        # Its own choice includes a lock of multiprocessing, which starts a helper process on some Pythons.
        tqdm.set_lock(threading.RLock())

    class Bar(tqdm):  # type: ignore[type-arg] # at run time it takes no type
        monitor_interval = 0  # no thread of tqdm's own: the run updates the bar

    # The delay keeps a bar at 0 from being shown before the first update.
    bar = Bar(total=snapshot.total, desc=snapshot.name, file=sys.stderr, dynamic_ncols=True, leave=None, delay=0.001)
    bar.start_t -= snapshot.elapsed  # the run is older than its bar
    return bar
