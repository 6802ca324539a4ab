"""How many threads the libraries in a task may use."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from poolmagic.inner_threads import SINGLE, VARIABLES, choose_variables, limit_loaded, set_variables


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, None, dict.fromkeys(VARIABLES, "4")),
        ({}, 2, dict.fromkeys(VARIABLES, "2")),
        ({"HOME": "/"}, None, dict.fromkeys(VARIABLES, "4")),
        ({"MKL_NUM_THREADS": "8"}, None, dict.fromkeys(VARIABLES, "4") | {"MKL_NUM_THREADS": "8"}),
        ({"MKL_NUM_THREADS": "8"}, 2, dict.fromkeys(VARIABLES, "2")),
        ({"OMP_NUM_THREADS": "8,2"}, None, {"OMP_NUM_THREADS": "8,2"}),
        ({"OMP_NUM_THREADS": "8"}, 2, dict.fromkeys(VARIABLES, "2")),
    ],
)
def test_who_decides(environment: dict[str, str], given: int | None, expected: dict[str, str]) -> None:
    """The option, then what the user has set, then the share of the CPUs."""
    assert expected == choose_variables(environment, given, 4)


def test_the_environment_is_that_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only kept libraries from starting threads is taken away again."""
    for name, value in SINGLE.items():
        monkeypatch.setenv(name, value)

    set_variables({"OMP_NUM_THREADS": "3"})

    assert {"OMP_NUM_THREADS": "3"} == {name: os.environ[name] for name in SINGLE if name in os.environ}


@pytest.mark.parametrize("text", ["", "1", "many", "0", " 1 , 4"])
def test_a_number_that_says_nothing_changes_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the library for it loaded."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    limit_loaded({"OMP_NUM_THREADS": text})


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_a_loaded_library_is_given_the_number(name: str) -> None:
    """The one of its own variable, or of the one that all follow."""

    def numbers() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    before = numbers()
    np.dot(np.ones((2, 2)), np.ones((2, 2)))
    limit_loaded({name: "3,1"})
    assert {3} == numbers()
    limit_loaded({"OPENBLAS_NUM_THREADS": str(max(before))})


@pytest.mark.parametrize("module", ["numpy", "pandas"])
def test_the_usual_libraries_start_no_threads(module: str) -> None:
    """In the environment in which they are preloaded; or all that is forked would have to import them again."""
    code = f"import {module}; from poolmagic.worker.preload import count_other_threads as n; print(n())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | SINGLE, capture_output=True, text=True, check=True
    )
    assert "0\n" == done.stdout
