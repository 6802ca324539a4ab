"""What a worker process writes beside Python's streams: to its descriptors 1 and 2, from C code or another program.

Both are tapes (see `tapes`), which the worker reads itself. This module owns the two descriptors, and the buffer of C's
own stdout.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from poolmagic.tapes import Tape

__all__ = ["Capture", "silenced"]

STREAMS: Final = ("stdout", "stderr")
"""Their descriptors are 1 and 2."""

_libc: Final = ctypes.CDLL(None)
_LINE_BUFFERED: Final = 1


def _find_stdout() -> ctypes.c_void_p | None:
    """Return C's stdout; None where it has an unknown name."""
    try:
        return ctypes.c_void_p.in_dll(_libc, "__stdoutp" if sys.platform == "darwin" else "stdout")
    except ValueError:
        return None


_stdout: Final = _find_stdout()


class Capture:
    """The tapes of this process. Its methods are called by one thread at a time, `flush` and `has_more` by any.

    Args:
        tapes: For stdout and for stderr. What goes to the descriptors 1 and 2 goes there from now on.
    """

    def __init__(self, tapes: tuple[Tape, Tape]) -> None:
        self._tapes = dict(zip(STREAMS, tapes, strict=True))
        self._out, self._err = tapes
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("surrogateescape") for stream in STREAMS}
        _flush_all()
        for descriptor, tape in enumerate(tapes, start=1):
            os.dup2(tape.descriptor, descriptor)
        if _stdout is not None:
            _libc.setvbuf(_stdout, None, _LINE_BUFFERED, 0)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.reconfigure(line_buffering=True)

    @classmethod
    def begin(cls, out: int, err: int) -> Capture | None:
        """Return a capture with the tapes behind two descriptors; None if the numbers 1 and 2 may be something else."""
        for descriptor in (out, err):
            os.set_inheritable(descriptor, False)
        return None if sys.__stdout__ is None or sys.__stderr__ is None else cls((Tape(out), Tape(err)))

    def flush(self) -> None:
        """Flush C's own stdout; costs less than a microsecond."""
        if _stdout is not None:
            _libc.fflush(_stdout)

    @property
    def has_more(self) -> bool:
        """Whether something was written that has not been taken; costs a microsecond."""
        return self._out.has_more or self._err.has_more

    def take(self) -> Iterator[tuple[str, str]]:
        """Yield what was written by now: stream and text, in large parts."""
        for stream, tape in self._tapes.items():
            for data in tape.take():
                yield stream, self._decoders[stream].decode(data)

    def close(self) -> None:
        """Let go of the tapes; what is written from then on is lost."""
        for tape in self._tapes.values():
            tape.close()


@contextmanager
def silenced() -> Iterator[None]:
    """Let nothing that is written to the descriptors 1 and 2 in this block be seen by anybody."""
    if sys.__stdout__ is None or sys.__stderr__ is None:
        yield
        return
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        _flush_all()
        for descriptor, before in enumerate(kept, start=1):
            os.dup2(before, descriptor)
        for one in (*kept, nowhere):
            os.close(one)


def _flush_all() -> None:
    """Flush the streams of C and of Python's beginning."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    _libc.fflush(None)
