"""How many threads the libraries in a task may use: those of BLAS and of OpenMP.

Each process of a pool would start as many as there are CPUs, and together they would be in each other's way. Their
number is set by environment variables, which libraries read when they are loaded, and by threadpoolctl for those that
are loaded already. This module owns no state; the environment and the libraries belong to the main thread of a worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["SINGLE", "VARIABLES", "choose_variables", "limit_loaded", "set_variables"]

VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

SINGLE: Final = {
    **dict.fromkeys(VARIABLES, "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # Arrow's allocator would start one, and pandas imports Arrow
}
"""An environment in which the usual libraries start no thread when they are loaded."""


def choose_variables(environment: Mapping[str, str], given: int | None, otherwise: int) -> dict[str, str]:
    """Return which of `VARIABLES` a worker has, and with what values.

    Args:
        environment: The kernel's: what the user has set there himself stays.
        given: The number that he gave with ``inner_threads=``, which goes before everything.
        otherwise: The number if he said nothing.
    """
    if given is not None:
        return dict.fromkeys(VARIABLES, str(given))
    own = {name: environment[name] for name in VARIABLES if name in environment}
    if "OMP_NUM_THREADS" in own:  # most of the others follow it where they are not set
        return own
    return dict.fromkeys(VARIABLES, str(otherwise)) | own


def set_variables(variables: Mapping[str, str]) -> None:
    """Replace the variables of `SINGLE` in the environment by these."""
    for name in SINGLE:
        os.environ.pop(name, None)
    os.environ.update(variables)


def limit_loaded(variables: Mapping[str, str]) -> None:
    """Give libraries that were loaded in the environment `SINGLE` the wanted number; blocks for some milliseconds.

    Does nothing, at once, if that is 1. Only for a process that nobody is forked off any more.
    """
    openmp = variables.get("OMP_NUM_THREADS", "")
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
    blas = next((variables[name] for name in names if name in variables), openmp)
    # A list means levels of nested parallelism; the first counts.
    wanted = {"openmp": openmp.partition(",")[0].strip(), "blas": blas.partition(",")[0].strip()}
    limits = {api: int(number) for api, number in wanted.items() if number.isdecimal() and int(number) > 1}
    if limits:
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - most workers need none of it

        threadpool_limits(limits)
