"""The directive ``{state-diagram} POOL_TRANSITIONS``: a picture of one of the core's tables of transitions.

The tables are those that `poolmagic.core.state` runs on, so a picture on the site cannot be out of date.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from state_pictures import Transitions, draw


class StateDiagram(SphinxDirective):
    """The directive: its argument is the name of a table in `poolmagic.core.state`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw the table, and have the page built again when the core changes."""
        module = importlib.import_module("poolmagic.core.state")
        name = self.arguments[0]
        table: Transitions | None = getattr(module, name, None)
        if not table:
            raise ExtensionError(f"{self.get_location()}: poolmagic.core.state has no transitions in {name!r}")
        if module.__file__:
            self.env.note_dependency(module.__file__)
        what = name.removesuffix("_TRANSITIONS").lower()
        return [nodes.raw("", draw(table, f"The states of a {what}"), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive."""
    app.add_directive("state-diagram", StateDiagram)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
