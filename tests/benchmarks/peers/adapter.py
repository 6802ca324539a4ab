"""What a peer must be able to do to be measured: start, map, call, end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

__all__ = ["Adapter"]


class Adapter(ABC):
    """One library as its own documentation says to use it. Making one imports the library, and starts nothing.

    Args:
        concurrency: Tasks at once.
        chunk: Items in a batch, for a library that has no good choice of its own.

    Attributes:
        coroutines: Whether its functions are ``async def``.
    """

    coroutines: ClassVar[bool] = False

    def __init__(self, concurrency: int, chunk: int = 1) -> None:
        self.concurrency = concurrency
        self.chunk = chunk

    @abstractmethod
    def start(self) -> None:
        """Make the pool."""

    def start_ours(self) -> Any:
        """Make the pool and return it if it is one of poolmagic's, of which more can be asked; otherwise None."""
        return None

    @abstractmethod
    def map(self, f: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        """Return what the function returns for each item, in order; blocks."""

    def call(self, f: Callable[..., Any], item: Any) -> Any:
        """Submit one task and return its result; blocks."""
        raise NotImplementedError(f"{type(self).__name__} submits no single tasks")

    @abstractmethod
    def close(self) -> None:
        """End all that was started; blocks until it has ended."""
