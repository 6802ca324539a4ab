"""A function on its way to the workers together with what they need besides. Owns no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolmagic.setup import Setup

__all__ = ["Equipped"]


class Equipped:
    """A function, and what its workers need besides. Can be called as the function.

    Attributes:
        function: The user's function.
        retry_on: The types of exceptions after which an item may be tried again.
        setup: What a worker does before its first task, and at its end; None for nothing.
    """

    __slots__ = ("function", "retry_on", "setup")

    def __init__(
        self, function: Callable[..., Any], retry_on: tuple[type[BaseException], ...] = (), setup: Setup | None = None
    ) -> None:
        self.function = function
        self.retry_on = retry_on
        self.setup = setup

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, for those who look for the one that the user wrote."""
        return self.function

    @property
    def users(self) -> tuple[Callable[..., Any], ...]:
        """All functions of the user's that are in it."""
        setup = self.setup
        wanted = (self.function,) if setup is None else (self.function, setup.initializer, setup.finalizer)
        return tuple(one for one in wanted if one is not None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; blocks as long as it does."""
        return self.function(*args, **kwargs)
