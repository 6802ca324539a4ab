"""The IPython shell that this process is, if it is one, found without importing IPython. Owns no state; any thread."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["find_kernel", "find_shell"]


def find_shell() -> Any:
    """Return IPython's shell; None in a process that has not imported it, and shall not pay for it. Does not block."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def find_kernel() -> Any:
    """Return the Jupyter kernel that this process is; None in a terminal or a script. Does not block."""
    return getattr(find_shell(), "kernel", None)
