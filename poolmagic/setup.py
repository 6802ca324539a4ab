"""What is done once wherever a pool's tasks run: its initializer before them, its finalizer after. Owns no state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolmagic.sharing import Shared

__all__ = ["Setup"]


@dataclass(frozen=True, eq=False)
class Setup:
    """The initializer and the finalizer of one pool. No other has an equal one, so nobody shares its warm workers.

    Attributes:
        initializer: What is called before the first task of a worker; None for nothing.
        initargs: Its arguments; where they travel, they are shared: packed once for all runs of the pool.
        finalizer: What is called at the end of a worker that was prepared; None for nothing.
    """

    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...] | Shared[tuple[Any, ...]]
    finalizer: Callable[[], Any] | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments themselves; unpickles them in a worker, the first time."""
        return self.initargs if isinstance(self.initargs, tuple) else self.initargs.value

    def begin(self) -> Any:
        """Call the initializer and return what it returns, which may have to be awaited; blocks as long as it does."""
        return None if self.initializer is None else self.initializer(*self.arguments)
