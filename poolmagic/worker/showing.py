"""Rich results in a worker process: what tasks give to `display` goes home as the MIME bundle that a kernel would make.

There is no IPython in a worker until a task needs it: the builtin `display` imports it when it is called, and whatever
imports IPython finds functions there that do the same. This module owns the builtin, and a hook of the import system.
"""

from __future__ import annotations

import base64
import builtins
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from poolmagic.worker.output import current_task
from poolmagic.worker.printing import Printer

__all__ = ["show_at_home"]

MOST: Final = 16 << 20
"""Most letters of a bundle: a message takes four times as many bytes, and a notebook far fewer."""

_FUNCTIONS: Final = "IPython.core.display_functions"
_PLOTS: Final = "matplotlib.pyplot"


def show_at_home(printer: Printer) -> None:
    """Have `display`, and what IPython and matplotlib offer beside it, show in the notebook; does not import them."""
    display = partial(_display, printer)
    builtins.display = display  # type: ignore[attr-defined]
    adaptations: dict[str, Callable[[Any], None]] = {
        _FUNCTIONS: partial(_adapt_functions, printer),
        _PLOTS: _adapt_plots,
    }
    for name, adapt in adaptations.items():
        if name in sys.modules:
            adapt(sys.modules[name])
    sys.meta_path.insert(0, _Adapter(adaptations))


def _display(
    printer: Printer,
    *objects: Any,
    include: Any = None,
    exclude: Any = None,
    metadata: dict[str, Any] | None = None,
    display_id: Any = None,
    raw: bool = False,
    **_: Any,
) -> Any:
    """Show objects in the cell that started the task, as IPython's `display` does.

    Returns:
        A handle if there is a `display_id`; updating it shows the object anew.
    """
    for one in objects:
        data, own = (one, {}) if raw else _formatter().format(one, include=include, exclude=exclude)
        if data:  # nothing if the object has displayed itself
            _publish(printer, data, {**own, **(metadata or {})})
    if display_id:
        handle = import_module(_FUNCTIONS).DisplayHandle
        return handle(None if display_id is True else display_id)
    return None


@cache
def _formatter() -> Any:
    """Return what makes MIME bundles; takes half a second the first time."""
    formatter = import_module("IPython.core.formatters").DisplayFormatter()
    print_figure = import_module("IPython.core.pylabtools").print_figure
    draw = partial(print_figure, fmt="png", base64=True)
    formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", draw)
    return formatter


def _publish(printer: Printer, data: dict[str, Any], metadata: dict[str, Any] | None = None, **_: Any) -> None:
    """Show a MIME bundle in the cell that started the task."""
    bundle = json.dumps({"data": data, "metadata": metadata or {}}, default=_as_json)
    if len(bundle) > MOST:
        text = (
            f"poolmagic: a task displays {len(bundle) / 1e6:.0f} MB, and {MOST / 1e6:.0f} MB are shown at most: "
            "write it to a file instead\n"
        )
        printer.write(current_task(), "stderr", text)
    else:
        printer.show(current_task(), bundle)


def _as_json(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


class _Adapter(MetaPathFinder, Loader):
    """Changes modules when they have been imported.

    Args:
        adaptations: What is called with a module, by the name of the module.
    """

    def __init__(self, adaptations: dict[str, Callable[[Any], None]]) -> None:
        self._adaptations = adaptations
        self._loaders: dict[str, Loader] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as the others do, and load it here."""
        if fullname not in self._adaptations or fullname in self._loaders:
            return None
        self._loaders[fullname] = self  # until the others have been asked
        spec = find_spec(fullname)
        del self._loaders[fullname]
        if spec is not None and spec.loader is not None:
            self._loaders[fullname] = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module as its own loader does."""
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and change it."""
        loader = self._loaders.pop(module.__name__)
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = loader
        loader.exec_module(module)
        self._adaptations[module.__name__](module)


def _adapt_functions(printer: Printer, functions: Any) -> None:
    """Have IPython's functions do what ours do, in whatever module they are known by now, and by whatever name."""
    functions.poolmagic_display = partial(_display, printer)
    functions.poolmagic_publish = partial(_publish, printer)
    functions.display.__code__ = _call_display.__code__
    functions.publish_display_data.__code__ = _call_publish.__code__
    functions.clear_output.__code__ = _do_nothing.__code__


def _call_display(*objects: Any, **options: Any) -> Any:
    return poolmagic_display(*objects, **options)  # type: ignore[name-defined]  # noqa: F821 - of IPython's module


def _call_publish(*data: Any, **options: Any) -> Any:
    return poolmagic_publish(*data, **options)  # type: ignore[name-defined]  # noqa: F821 - of IPython's module


def _do_nothing(wait: bool = False) -> None:
    """Clear no output: it may be another task's."""


def _adapt_plots(plots: Any) -> None:
    """Have `show` show figures where else it would only say that it cannot."""
    show = plots.show

    def show_figures(*args: Any, **kwargs: Any) -> None:
        if plots.get_backend().lower() != "agg":
            show(*args, **kwargs)
            return
        for number in plots.get_fignums():
            builtins.display(plots.figure(number))  # type: ignore[attr-defined]
        plots.close("all")

    plots.show = show_figures
