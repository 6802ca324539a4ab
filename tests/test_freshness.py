"""Which files a function's modules have, which of them have changed, and what becomes of the workers."""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmagic import freshness, installed
from poolmagic.freshness import Sources, tell_of_changes
from poolmagic.payload import Pickled
from poolmagic.references import find_modules, names_in

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write files into the folder of the notebook; what is imported from there is forgotten in the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    assert not {"own", "other", "deep", "package"} & before

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/', 1)}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


class Workers:
    """Workers that are renewed."""

    def __init__(self) -> None:
        self.renewed = 0
        self.sources = Sources()

    def renew(self) -> None:
        """Take note of it."""
        self.renewed += 1

    def follow(self, *names: str) -> int:
        """Look, and return how often they have been renewed."""
        self.sources.follow(names, self.renew)
        return self.renewed


def test_workers_are_renewed_when_the_text_of_a_module_has_changed(write: Write) -> None:
    """Not when they see it for the first time, nor when only its date is another."""
    write(own="a = 1\n")
    workers = Workers()
    assert 0 == workers.follow("own")
    assert 0 == workers.follow("own")
    os.utime("own.py", ns=(5, 5))
    assert 0 == workers.follow("own")
    write(own="a = 2\n")
    assert 1 == workers.follow("own")
    assert 1 == workers.follow("own")


def test_new_workers_have_seen_nothing_else(write: Write) -> None:
    """What changed while they were not there is no change for them."""
    write(own="a = 1\n", other="a = 1\n")
    workers = Workers()
    workers.follow("own")
    workers.follow("other")
    write(own="a = 2\n", other="a = 2\n")
    assert 1 == workers.follow("own")
    assert 1 == workers.follow("other")
    workers.sources.forget()
    write(own="a = 3\n")
    assert 1 == workers.follow("own")


@pytest.mark.parametrize(
    "statement",
    [
        "import deep",
        "import os, deep as d",
        "if True:\n    import deep",
        "def f():\n\tfrom deep import a",
        "from deep import (\n    a,  # one, two\n    b,\n)",
        "import package.part",
        "from package import part",
        "from package import os, part as p",
        "import package.near",
        "import package.up",
    ],
)
def test_what_a_module_imports_is_followed(statement: str, write: Write) -> None:
    """However it says so, and without any of it being imported here."""
    write(own=f"{statement}\n", deep="a = b = 1\n", package____init__="import os\n", package__part="import deep\n")
    write(package__near="from . import part\n", package__up="from .part import x\n")
    workers = Workers()
    workers.follow("own")
    write(deep="a = b = 2\n")
    assert 1 == workers.follow("own")
    assert not {"own", "deep", "package"} & set(sys.modules)


def test_a_package_is_imported_with_its_modules(write: Write) -> None:
    """So a change in its own file counts."""
    write(package____init__="", package__part="")
    workers = Workers()
    workers.follow("package.part")
    write(package____init__="a = 1\n")
    assert 1 == workers.follow("package.part")


def test_modules_that_import_each_other_are_no_trouble(write: Write) -> None:
    """Nor is one that imports itself, or nothing that exists."""
    write(own="import own, other, no_such_module\n", other="import own\nfrom . import nothing\nfrom .. import more\n")
    workers = Workers()
    assert 0 == workers.follow("own", "no_such_module", "", "__main__")
    write(other="import own\n\n")
    assert 1 == workers.follow("own")


def test_installed_modules_are_not_looked_at(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither Python's own nor those of others, whether they are loaded or not."""
    asked: list[str] = []
    monkeypatch.setattr(freshness, "_look", lambda name, path: asked.append(path))
    Workers().follow("json", "json.tool", "numpy", "pytest", "poolmagic.pools", "lib2to3", "this")
    assert [] == asked
    write(own="")
    Workers().follow("own")
    monkeypatch.setattr(installed, "_folders", lambda: (str(tmp_path) + os.sep,))
    Workers().follow("own")
    assert [str(tmp_path / "own.py")] == asked


def test_an_error_in_the_syntax_is_raised_each_time_until_it_is_repaired(write: Write) -> None:
    """The workers are not renewed for what cannot be imported."""
    write(own="a = 1\n")
    workers = Workers()
    workers.follow("own")
    write(own="a = 1\nb = = 2\n")
    for _ in range(2):
        with pytest.raises(SyntaxError) as caught:
            workers.follow("own")
        assert 2 == caught.value.lineno
    write(own="a = 1\n")
    assert 0 == workers.follow("own")
    write(own="a = 1\nb = 2\n")
    assert 1 == workers.follow("own")


def test_many_changes_are_one_line(write: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It names some of them, as they are seen from the working directory."""
    names = [f"own{number}" for number in range(5)]
    write(**dict.fromkeys(names, "a = 1\n"), package____init__="", package__part="")
    workers = Workers()
    workers.follow(*names, "package.part")
    write(**dict.fromkeys(names, "a = 2\n"))
    assert 1 == workers.follow(*names)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("poolmagic: own")
    assert line.endswith(".py and 2 more have changed: new workers run them")

    workers.follow("package.part")
    write(package__part="a = 1\n")
    workers.follow("package.part")
    line = f"poolmagic: {Path('package') / 'part.py'} has changed: new workers run it\n"
    assert line == capsys.readouterr().err


def test_bytecode_that_python_would_take_for_the_new_text_is_removed(write: Write) -> None:
    """It knows the source by its size and its second only."""
    write(own="a = 1\n")
    os.utime("own.py", ns=(10**18, 10**18))
    compiled = Path(py_compile.compile("own.py", doraise=True) or "")
    workers = Workers()
    workers.follow("own")
    assert compiled.exists()

    write(own="a = 2\n")
    os.utime("own.py", ns=(10**18 + 5, 10**18 + 5))
    assert 1 == workers.follow("own")
    assert not compiled.exists()

    compiled = Path(py_compile.compile("own.py", doraise=True) or "")
    write(own="a = 33\n")
    workers.follow("own")
    assert compiled.exists()  # Python sees by itself that it is of another text


def test_the_kernels_own_modules_are_told_of_until_they_are_reloaded(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for each change; what is not imported here cannot be old."""
    write(own="a = 1\n", other="a = 1\n")
    own = importlib.import_module("own")
    tell_of_changes(["own", "other"], "threads")
    write(own="a = 2\n", other="a = 2\n")
    tell_of_changes(["own", "other"], "threads")
    tell_of_changes(["own", "other"], "threads")
    wanted = "poolmagic: own.py has changed; threads run the version that this notebook has imported: "
    assert [f"{wanted}importlib.reload(own)"] == capsys.readouterr().err.splitlines()
    os.utime("own.py", ns=(7, 7))
    importlib.reload(own)
    tell_of_changes(["own"], "threads")
    assert "" == capsys.readouterr().err


# What a function refers to ----------------------------------------------------------------------------------------


def test_a_packed_function_names_the_modules_of_ones_own(write: Write) -> None:
    """Those that are loaded, next to the installed ones."""
    write(own="import colorsys\nclass Thing: pass\n", other="")
    own: Any = importlib.import_module("own")
    importlib.import_module("other")
    thing = own.Thing()

    needs = find_modules(Pickled().pack_function(lambda _: (thing, "other_")))
    assert ("own",) == needs.own
    assert "colorsys" in needs.installed


def test_the_names_in_a_function_are_those_of_what_it_uses(write: Write) -> None:
    """Its globals, what it captures and calls, and what it imports while it runs."""
    write(own="def f(x): return x\n", other="class C: pass\n")
    cell: dict[str, Any] = {
        "__name__": "__main__",
        "own": importlib.import_module("own"),
        "thing": importlib.import_module("other").C(),
    }
    code = """
def helper(x): return [own.f(y) for y in x]
def task(x):
    import late.part
    from deep import one, two as three
    def inner(): return helper(x), __import__
    return inner
class Job:
    def run(self, x): return thing
def unused(): import never
job = Job()
method = lambda x: job.run(x)
recursive = lambda x: recursive(x)
"""
    exec(code, cell)  # noqa: S102 - the cell is ours
    found = names_in(cell["task"])
    assert {"own", "late.part", "deep", "deep.one", "deep.two"} <= found
    assert not {"never", "other"} & found
    assert "other" in names_in(cell["Job"])
    assert {"__main__"} == names_in(cell["recursive"])
    assert "own" in names_in(cell["own"].f)

    def captures(x: Any) -> Any:
        return cell_of(x), later

    cell_of = cell["own"].f
    assert "own" in names_in(captures)  # though one of its variables has no value yet
    later = 1
    assert "builtins" in names_in(later)
