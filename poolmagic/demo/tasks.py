"""What the demo's pools are given to do: fetch a page, measure a source file.

Both are ordinary functions that know nothing of pools. They live in a module of their own, which imports only the
standard library, because workers import it. It owns no state and may be used from any thread.
"""

from __future__ import annotations

import ast
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Final

__all__ = ["Measure", "fetch", "measure"]

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_BRANCHES: Final = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.match_case)
_IMPORTS: Final = (ast.Import, ast.ImportFrom)

# As `urllib.request.urlopen`, but straight to the server on this machine whatever proxy the environment names.
_browser: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Measure:
    """What there is in one or more source files."""

    functions: int = 0
    branches: int = 0
    imports: int = 0
    lines: int = 0

    def __add__(self, other: Measure) -> Measure:
        return Measure(
            self.functions + other.functions,
            self.branches + other.branches,
            self.imports + other.imports,
            self.lines + other.lines,
        )


def fetch(url: str) -> bytes:
    """Return the body of a page; blocks until it is here, at most the 30 s that the server has for one exchange."""
    with _browser.open(url) as answer:
        body: bytes = answer.read()
        return body


def measure(source: bytes) -> Measure:
    """Return what a source file holds; keeps a CPU busy for some milliseconds."""
    nodes = Counter(type(node) for node in ast.walk(ast.parse(source)))
    return Measure(
        functions=sum(nodes[kind] for kind in _FUNCTIONS),
        branches=sum(nodes[kind] for kind in _BRANCHES),
        imports=sum(nodes[kind] for kind in _IMPORTS),
        lines=len(source.splitlines()),
    )
