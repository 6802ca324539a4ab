"""What stands for an item that has no result. Owns no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poolmagic.describe import describe_value

__all__ = ["Failure"]


@dataclass(frozen=True)
class Failure:
    """An item that has no result. It is false, so that ``filter(None, results)`` and ``if result`` do what one means.

    Attributes:
        index: Its place in the input, from 0.
        item: The item itself.
        exception: What its task raised, with the remote traceback, or what kept the task from running.
        worker: Who ran it.
    """

    index: int
    item: Any
    exception: BaseException
    worker: str

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        text = describe_value(self.exception)
        return f"<Failure of item {self.index} ({describe_value(self.item, 40)}): {text}>"
