"""The public names are what the package says they are, and the promises that a look at the source can check."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import poolmagic

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "poolmagic").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_public_name_is_there_and_nothing_else_is_public() -> None:
    """`__all__` names what the package has, sorted; `dir` shows the same; each is the object of its home module."""
    assert sorted(set(poolmagic.__all__)) == sorted(poolmagic.__all__)
    for name in poolmagic.__all__:
        assert getattr(poolmagic, name) is not None
    assert set(poolmagic.__all__) <= set(dir(poolmagic))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy package answers a wrong name as any module does."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = poolmagic.no_such_name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_what_it_exports(path: Path) -> None:
    """Each name in a module's `__all__` exists, once."""
    if path.name == "__main__.py":
        return
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    exported = getattr(module, "__all__", [])
    assert sorted(set(exported)) == sorted(exported)
    assert [] == [name for name in exported if not hasattr(module, name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_on_a_page_exist(page: Path) -> None:
    """A page names nothing as `pm.Something` or `poolmagic.Something` that is not public."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:pm|poolmagic)\.([A-Z]\w+)", text))
    named |= set(re.findall(r"^from poolmagic import (\w+)", text, re.MULTILINE))
    assert set() == named - set(poolmagic.__all__)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_sleeps_and_no_error_is_swallowed(path: Path) -> None:
    """Waiting has an owner that is woken, never a nap; an error is handled, named and suppressed, or let through."""
    text = path.read_text(encoding="utf-8")
    assert "sleep(" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and len(node.body) == 1:
            assert not isinstance(node.body[0], ast.Pass), f"line {node.lineno}: except with nothing but pass"
