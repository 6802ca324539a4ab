"""The layers of the house hold: who may import whom, what a worker loads, and how large a room may be."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "poolmagic"

PARENT_SIDE = {"poolmagic.core", "poolmagic.futures", "poolmagic.launcher", "poolmagic.pools", "poolmagic.supervisor"}
FACES = {"poolmagic.magics", "poolmagic.panel", "poolmagic.progress", "IPython", "ipykernel", "ipywidgets", "tqdm"}
# gevent and eventlet must patch the process before any of these is loaded, or what they hold stays unpatched.
TOO_EARLY = {"asyncio", "concurrent.futures", "http.client", "requests", "ssl", "urllib.request", "urllib3"}


def modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of the modules it has loaded."""
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names: list[str] = json.loads(answer.stdout)
    return set(names)


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What an interpreter loads before it does anything, `site` and all."""
    return modules_after("pass")


def test_no_module_imports_what_stands_above_it() -> None:
    """The contracts in pyproject.toml are kept."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == answer.returncode, answer.stdout + answer.stderr


def test_the_worker_side_never_loads_the_parent_side(bare: set[str]) -> None:
    """A worker loads neither the supervisor nor Jupyter nor anything that must come after monkey-patching."""
    loaded = modules_after("import poolmagic.worker.__main__") - bare
    assert "poolmagic.worker.__main__" in loaded
    assert set() == loaded & (PARENT_SIDE | FACES | TOO_EARLY)


def test_importing_the_package_loads_nothing_of_it(bare: set[str]) -> None:
    """`import poolmagic` is free: no module of the package, and nothing that it depends on."""
    loaded = modules_after("import poolmagic") - bare
    assert {"poolmagic"} == {name for name in loaded if name.partition(".")[0] == "poolmagic"}
    assert set() == loaded & (FACES | TOO_EARLY | {"cloudpickle", "psutil", "gevent", "eventlet"})


def test_using_the_library_does_not_load_jupyter(bare: set[str]) -> None:
    """A script that imports `Pool` has no IPython in it: the library is complete without its faces."""
    loaded = modules_after("from poolmagic import Pool") - bare
    assert set() == loaded & {"poolmagic.magics", "poolmagic.panel", "IPython", "ipykernel", "ipywidgets"}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_keeps_to_the_sizes_of_the_house(path: Path) -> None:
    """A person can hold a module in the head: 400 lines, functions of 60, classes of 15 public methods."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree), "what is this module responsible for?"
    assert [] == [f.name for f in _functions(tree) if (f.end_lineno or 0) - f.lineno + 1 > 60]
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        methods = {
            f.name
            for f in owner.body
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) and not f.name.startswith("_")
        }
        assert len(methods) <= 15, owner.name
