"""A task that kills its own process says so first, on the board: or it would look as if somebody else had done it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from poolmagic.board import Board

__all__ = ["confess_on"]


def confess_on(board: Board) -> None:
    """Have the functions of this process that send signals note on the board if it is the end of itself.

    For SIGKILL only, which leaves no other trace. C code that does so goes unnoticed.
    """
    os.kill = _noting(os.kill, board)
    os.killpg = _noting(os.killpg, board)
    signal.raise_signal = _noting(signal.raise_signal, board)


def _noting(send: Callable[..., None], board: Board) -> Callable[..., None]:
    """Return a function that sends a signal to this process, or to whom its first argument says."""

    def send_and_note(*target: Any) -> None:
        *whom, number = target
        if number == signal.SIGKILL and (not whom or whom[0] in (0, -1, os.getpid(), -os.getpgrp())):
            board.confess()
        send(*target)

    return send_and_note
