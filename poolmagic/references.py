"""The modules that a pickled function needs, so that they are imported once, before workers are forked.

Only the text of the pickle is looked at: each string in it that is the name of a loaded module counts. That finds the
modules and classes that it refers to, those imported inside of functions (their names are in the code), and now and
then one that merely has a common name and costs little. It takes microseconds where going through the opcodes of the
pickle takes milliseconds.

Owns a cache, which any thread may use.
"""

from __future__ import annotations

import functools
import pickle
import re
from typing import Any, Final

from poolmagic.installed import installed

__all__ = ["find_modules"]

_STRING: Final = re.compile(
    rb"\x8c(?<!__name__\x94\x8c)(?<!__module__\x94\x8c)(?<!__package__\x94\x8c)(.)([A-Za-z_][A-Za-z0-9_.]*)\x94",
    re.DOTALL,
)
"""A short string in a pickle: opcode, length, text, and the opcode that remembers it. Behind these keys stands where a
function was written that travels itself: that module need not be imported."""
_CACHED_SIZE: Final = 1 << 16
"""Bytes of the largest pickle whose modules are remembered: the cache must not keep the user's data."""


def find_modules(payload: Any) -> tuple[str, ...]:
    """Return the installed modules that a packed function refers to, as far as they are loaded; does not block.

    Args:
        payload: As `payload.Pickled.pack_function` returns it.
    """
    if not isinstance(payload, bytes):
        # A large one. The pickle of the function is the first of its buffers, those that it captures come behind.
        _, ((file, start, length), *_) = pickle.loads(payload.body)
        return _modules_in(payload.files[file].view()[start : start + length])
    if len(payload) > _CACHED_SIZE:
        return _modules_in(payload)
    return _cached_modules_in(payload)


@functools.lru_cache(maxsize=64)
def _cached_modules_in(pickled: bytes) -> tuple[str, ...]:
    return _modules_in(pickled)


def _modules_in(pickled: bytes | memoryview) -> tuple[str, ...]:
    found = {name for length, name in _STRING.findall(pickled) if length[0] == len(name)}
    return installed(name.decode() for name in found)
