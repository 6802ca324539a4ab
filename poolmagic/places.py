"""Lines of code as people name them: a line of a notebook cell by the number of the cell, others by their file.

This module owns no state.
"""

from __future__ import annotations

import linecache
import sysconfig
from typing import Final

from poolmagic.shell import find_shell

__all__ = ["cell_of", "describe_place", "is_library", "line_at"]

_LIBRARIES: Final = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def is_library(file: str) -> bool:
    """Return whether a file is of the standard library or of an installed package; does not block."""
    return file.startswith((*_LIBRARIES, "<frozen"))


def cell_of(file: str) -> str | None:
    """Return the cell that a file name stands for, such as ``Cell In[12]``; None if it is none. Does not block."""
    shell = find_shell()
    named = None if shell is None else shell.compile.format_code_name(file)
    return None if named is None else " ".join(named)


def describe_place(file: str, line: int) -> str:
    """Return what a person calls a line: ``Cell In[12], line 4``, or as Python names the lines of files."""
    name = cell_of(file) or f'File "{file}"'
    return f"{name}, line {line}"


def line_at(file: str, line: int) -> str:
    """Return the text of a line of a file or a cell, without the blanks around it; empty if it is not known."""
    linecache.checkcache(file)  # a file may have been edited since
    return linecache.getline(file, line).strip()
