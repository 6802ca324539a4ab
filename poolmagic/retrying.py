"""A function on its way to the workers together with the errors that it may be tried again for. Owns no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Retrying"]


class Retrying:
    """A function, and the types of its failures after which an item may be tried again. Can be called as the function.

    Attributes:
        function: The user's function.
        retry_on: The types of exceptions.
    """

    __slots__ = ("function", "retry_on")

    def __init__(self, function: Callable[..., Any], retry_on: tuple[type[BaseException], ...]) -> None:
        self.function = function
        self.retry_on = retry_on

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, for those who look for the one that the user wrote."""
        return self.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; blocks as long as it does."""
        return self.function(*args, **kwargs)
