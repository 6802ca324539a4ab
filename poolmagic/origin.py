"""The cell that started something: what is printed and displayed for it appears there, from any thread, at any time.

A kernel knows which cell an output belongs to by context variables, so an origin keeps the context that it was made in,
and lends it to whoever prints. Kernels before ipykernel 7 do not know that of displays: there a hook of the displaying
thread's own corrects the message.

Threads. An origin never changes, and any thread may use it, several at once. The origins of runs are process-wide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from poolmagic.shell import find_kernel, find_shell

__all__ = ["Origin", "origin_of"]

P = ParamSpec("P")
T = TypeVar("T")

_origins: WeakValueDictionary[int, Origin] = WeakValueDictionary()
_header: ContextVar[dict[str, Any] | None] = ContextVar("poolmagic_header", default=None)


class Origin:
    """Where outputs go: the cell that `here` was called in, or just this terminal.

    Args:
        context: The context of the cell.
        publisher: The display publisher of the kernel; None outside of a kernel.
        header: The header of the cell's message, if the publisher has just one for all threads.
    """

    __slots__ = ("__weakref__", "_context", "_header", "_publisher")

    def __init__(self, context: Context, publisher: Any, header: dict[str, Any] | None) -> None:
        self._context = context
        self._publisher = publisher
        self._header = header

    @classmethod
    def here(cls) -> Origin:
        """Return the cell that this thread runs, or works for; does not block."""
        publisher = _publisher()
        header = None
        # A property where the header is a context variable's (ipykernel 7), a plain attribute where there is just one.
        if publisher is not None and not hasattr(publisher, "_parent_header"):
            header = _header.get() or getattr(publisher, "parent_header", None)
        return cls(copy_context(), publisher, header)

    def remember(self, run: int) -> None:
        """Be the origin of the run that has this number in the books, for as long as anybody has this object."""
        _origins[run] = self

    @property
    def is_kernel(self) -> bool:
        """Whether it is a cell of a Jupyter kernel."""
        return self._publisher is not None

    def run(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `f` and return what it returns: what it prints in this thread goes to the cell. Raises what `f` does."""
        __tracebackhide__ = True
        if not self._header:
            return self._context.copy().run(self._call, f, *args, **kwargs)
        self._publisher.register_hook(self._redirect)
        try:
            return self._context.copy().run(self._call, f, *args, **kwargs)
        finally:
            self._publisher.unregister_hook(self._redirect)

    def _call(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        _header.set(self._header)
        return f(*args, **kwargs)

    def _redirect(self, message: dict[str, Any]) -> dict[str, Any]:
        message["parent_header"] = self._header
        return message

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Show a MIME bundle in the cell; outside of a kernel print its plain text. Blocks for a few milliseconds.

        Args:
            data: The bundle, by MIME type; binary data as base64 text.
            metadata: Of the bundle.
            display_id: Names what is shown, so that an update finds it.
            update: Change what is shown under `display_id`. Outside of a kernel nothing is: what is printed stays.
        """
        if self._publisher is None:
            if not update:
                self.run(print, data.get("text/plain", ""))
            return
        transient = {} if display_id is None else {"display_id": display_id}
        # Looked up again: inside of `%%capture` it is another one, whose business this then is.
        publisher = _publisher() or self._publisher
        self.run(publisher.publish, data, metadata or {}, transient=transient, update=update)

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send another message than a display for the cell, such as ``error``; in a kernel only. Blocks as `publish`.

        Args:
            kind: Of the message, as the protocol of Jupyter calls it.
            content: Of the message.
        """
        self.run(self._send, kind, content)

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):  # what was printed before it comes before it
            stream.flush()
        publisher = self._publisher
        header = self._header or publisher.parent_header
        publisher.session.send(publisher.pub_socket, kind, content, parent=header, ident=kind.encode())


def origin_of(run: int) -> Origin | None:
    """Return the origin of a run, by its number in the books; None if that is over. Does not block."""
    return _origins.get(run)


def _publisher() -> Any:
    """What publishes displays in this kernel; None outside of one."""
    return None if find_kernel() is None else find_shell().display_pub
