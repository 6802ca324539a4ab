"""The magics ``%pool``, ``%%pool`` and ``%%pmap`` as an IPython extension: a face of the library, no more.

A magic turns text into frozen options (`arguments`), IPython's own machinery runs the cell (`cells`), and `extension`
calls the public API. All of it runs in the thread that runs cells. The only state of this module is which shell has an
`Extension`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolmagic.magics.extension import Extension

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

_extensions: dict[InteractiveShell, Extension] = {}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Do what ``%load_ext poolmagic`` does; does not block."""
    if shell not in _extensions:
        _extensions[shell] = Extension(shell)
        _extensions[shell].load()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo what `load_ipython_extension` did, and end the pools that the magics made; does not block."""
    extension = _extensions.pop(shell, None)
    if extension is not None:
        extension.unload()
