"""Being the asking thread of a run until it is over: turn after turn, with a display, and with what an interrupt does.

An interrupt stops the dispatching and gives what runs a moment to end; another one while that goes on stops it at once.
Everything belongs to the asking thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from poolmagic.asking import Asking
from poolmagic.core.events import Verdict
from poolmagic.inline import InlineAsking
from poolmagic.snapshot import RunSnapshot

__all__ = ["TICK", "Display", "Driven", "OpenDisplay", "drive"]

TICK: Final = 0.1
"""Seconds between two looks at a run that is shown or awaited: ten times a second looks live and costs nothing."""
SHOW_AFTER: Final = 0.5
"""Seconds after which a blocking run shows progress."""
GRACE: Final = 0.15
"""Seconds that running items have to end by themselves after an interrupt; then they are stopped."""
LAST: Final = 0.05
"""Seconds that the end of what was stopped is waited for, and again that it may take to unpack what has come."""


class Display(Protocol):
    """Shows a run to a person; see `progress`."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show this."""
        ...

    def close(self, snapshot: RunSnapshot) -> None:
        """Show this for good."""
        ...


OpenDisplay: TypeAlias = Callable[[Any], Display]
"""Starts to show a run, of which a display knows more than is known here."""


class Driven(Protocol):
    """A run, as far as it is driven from here."""

    def done(self) -> bool:
        """Whether it is over."""
        ...

    def snapshot(self) -> RunSnapshot:
        """Return a picture of this moment."""
        ...

    def conclude(self, asking: Asking | InlineAsking) -> None:
        """Take the end that its verdict means."""
        ...

    def end(self, state: str, error: BaseException | None) -> None:
        """Take this end."""
        ...


def drive(
    run: Driven,
    asking: Asking | InlineAsking,
    open_display: OpenDisplay | None,
    *,
    began: float,
    begun: bool = False,
) -> None:
    """Be the asking thread until the run is over; raises interrupts, which carry the run, and nothing of its own.

    Args:
        run: The run.
        asking: Its link to the books.
        open_display: Makes what shows the run to a person; None shows nothing.
        began: When the run began, as `time.monotonic` tells it.
        begun: The run is known to the books already.
    """
    __tracebackhide__ = True
    shown: list[Display] = []
    try:
        with asking.interrupts:
            try:
                if not begun:
                    asking.start()
                _follow(run, asking, open_display, began + SHOW_AFTER, shown)
                run.conclude(asking)
            except KeyboardInterrupt as stop:
                _interrupt(run, asking, stop)
                raise
            except BaseException as error:  # a stream of the user's that is closed, say: nothing a run may end with
                asking.halt(Verdict.FAILED, kill=False)
                run.end("failed", error)
            finally:
                for display in shown:
                    display.close(run.snapshot())
    except KeyboardInterrupt as stop:
        stop.run = run  # type: ignore[attr-defined] # it may have come when all was done
        if not run.done():  # or before anything held it back, or while its end was noted
            asking.halt(Verdict.CANCELLED, kill=True)
            run.end("interrupted", stop)
        raise


def _follow(
    run: Driven,
    asking: Asking | InlineAsking,
    open_display: OpenDisplay | None,
    show_at: float,
    shown: list[Display],
) -> None:
    while asking.verdict is None:
        asking.interrupts.check()
        asking.step(None if open_display is None else max(0.001, show_at - time.monotonic()))
        if open_display is not None and time.monotonic() >= show_at and asking.verdict is None:
            if not shown:
                with asking.interrupts.open():  # for the first one a lot is imported
                    shown.append(open_display(run))
            shown[0].update(run.snapshot())
            show_at = time.monotonic() + TICK


def _interrupt(run: Driven, asking: Asking | InlineAsking, stop: KeyboardInterrupt) -> None:
    """Stop dispatching, give what runs a moment, then stop it; a second interrupt stops it at once."""
    stop.run = run  # type: ignore[attr-defined]
    if run.done():  # it came when all was done
        return
    try:
        asking.halt(Verdict.CANCELLED, kill=False)
        asking.wind_up(GRACE)
    except KeyboardInterrupt as again:
        again.run = run  # type: ignore[attr-defined]
        raise
    finally:
        try:
            if asking.verdict is None:
                asking.halt(Verdict.CANCELLED, kill=True)
                asking.wind_up(LAST)
            asking.show_output()
            asking.unpack(LAST)
        finally:
            run.end("interrupted", stop)
