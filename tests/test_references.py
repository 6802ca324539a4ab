"""Which modules a pickled function needs: those that are installed, wherever in the pickle they are mentioned."""

from __future__ import annotations

import colorsys
import functools
import importlib
import os
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from poolmagic import installed
from poolmagic.memory import Payload
from poolmagic.payload import Pickled
from poolmagic.references import find_modules


def modules_of(function: Callable[..., Any]) -> set[str]:
    """Pack a function and look."""
    return set(find_modules(Pickled().pack_function(function)).installed)


def import_own(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Write a module as a user does, next to the notebook, and import it."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that what is imported now is taken out again
    del sys.modules[name]
    return importlib.import_module(name)


def test_modules_that_a_function_mentions_are_found() -> None:
    """As its global variables, also of the functions that it calls."""

    def helper(x: float) -> Any:
        return np.sqrt(x)

    def task(x: float) -> Any:
        return colorsys.rgb_to_hsv(helper(x), 0, 0)

    assert {"colorsys", "numpy"} <= modules_of(task)
    assert "wave" not in modules_of(task)


def test_modules_of_what_it_captures_are_found() -> None:
    """Objects and classes of a library need it, too."""
    generator = np.random.default_rng(1)

    assert any(name.startswith("numpy.random") for name in modules_of(lambda _: generator.random()))
    assert "wave" in modules_of(lambda name: wave.Wave_read(name).getparams())
    assert "colorsys" in modules_of(colorsys.rgb_to_hls)
    assert "colorsys" in modules_of(functools.partial(colorsys.rgb_to_hls, 1, 1))


def test_imports_within_a_function_are_found() -> None:
    """As far as the kernel has done them, too."""
    assert "wave" in sys.modules

    def task(x: str) -> Any:
        import wave

        return wave.open(x)

    assert "wave" in modules_of(task)


def test_modules_of_a_large_function_are_found() -> None:
    """One whose data travels beside it."""
    data = np.zeros(1_000_000)
    payload = Pickled().pack_function(lambda x: colorsys.rgb_to_hls(*data[:3]))

    assert isinstance(payload, Payload)
    assert {"colorsys", "numpy"} <= set(find_modules(payload).installed)


def test_what_is_not_loaded_or_only_here_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that says nothing, and modules that only this process has."""
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    text = ["made_up", "no_such_module", "__main__", "sys"]

    assert not {"made_up", "no_such_module", "__main__", "sys"} & modules_of(lambda _: text)


def test_modules_of_ones_own_are_left_but_not_what_they_have_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have changed when the next worker starts; a library has not."""
    import_own(tmp_path, "own_deep", "from wave import Wave_read\n", monkeypatch)
    own = import_own(tmp_path, "own", "import own_deep, own\nfrom colorsys import rgb_to_hsv as convert\n", monkeypatch)

    found = modules_of(lambda _: own.convert(1, 1, 1))

    assert {"colorsys", "wave"} <= found
    assert not {"own", "own_deep"} & found


def test_values_in_a_module_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be anything; what one of them does when it is looked at must not harm a map."""
    text = "class Odd:\n    @property\n    def __module__(self): raise RuntimeError\nodd = Odd()\nimport colorsys\n"
    own = import_own(tmp_path, "own", text, monkeypatch)

    assert "colorsys" in modules_of(lambda _: own.odd)


def test_an_environment_within_the_project_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is where a module is installed, not where the notebook is."""
    folder = tmp_path / ".venv" / "site-packages"
    folder.mkdir(parents=True)
    own = import_own(folder, "own", "", monkeypatch)
    monkeypatch.chdir(tmp_path)

    assert "own" not in modules_of(lambda _: own.__doc__)
    monkeypatch.setattr(installed, "_folders", lambda: (str(folder) + os.sep,))
    assert "own" in modules_of(lambda x: own.__doc__)
