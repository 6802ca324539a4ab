"""How a worker comes to see the world as the kernel saw it when the pool started."""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

from poolmagic.worker.preload import import_quietly

__all__ = ["take_over"]


def take_over(start: dict[str, Any]) -> None:
    """Take over the kernel's warning filters; its `sys.path`, working directory and environment are here already.

    A filter for a category that cannot be imported here is left out: it belongs to a module that is not loaded.
    """
    filters: list[Any] = []
    for action, message, module_of_category, category, module, line in start["filters"]:
        if module_of_category not in sys.modules:
            import_quietly(module_of_category)
        found = getattr(sys.modules.get(module_of_category), category, None)
        if isinstance(found, type) and issubclass(found, Warning):
            filters.append((action, _pattern(message), found, _pattern(module), line))
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001 - or the change goes unnoticed


def _pattern(text: str | None) -> re.Pattern[str] | None:
    return None if text is None else re.compile(text, re.IGNORECASE)
