"""Short texts for a user's values. This module owns no state."""

from __future__ import annotations

import reprlib
from typing import Final

__all__ = ["describe_value"]

_short: Final = reprlib.Repr()
_short.maxother = _short.maxstring = _short.maxlong = 1000
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 20


def describe_value(value: object, most: int = 80) -> str:
    """Return a short text for any value, whatever its ``__repr__`` does; does not block."""
    if isinstance(value, str | bytes | bytearray):
        value = value[: most + 1]  # the text of a large one costs seconds
    try:
        text = _short.repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a broken __repr__ must not hide the error that is being told, even if it exits
        text = object.__repr__(value)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
