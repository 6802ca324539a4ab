"""One measurement: a workload done by a peer, in this process. Prints one line of JSON and ends.

``python -m tests.benchmarks.one squares loky`` runs one by hand. The line holds either the figures or why there are
none. The functions of the workload are made in a ``__main__`` without a file, as those of a notebook are.

This module imports little: a peer with green threads must patch the process before anything else is loaded.
"""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the status to exit with; blocks until the peer has ended.

    Args:
        arguments: The names of a workload and a peer, and the number of items if it is not the usual one.
    """
    # What libraries print must not come between: they write to stderr instead, and the answer to what was stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer: dict[str, Any]
    adapter = None
    try:
        cell = _notebook()
        from tests.benchmarks.peers import PEERS

        kind = PEERS[arguments[1]].load()

        from tests.benchmarks.suite import WORKLOADS
        from tests.benchmarks.workload import Job

        workload = WORKLOADS[arguments[0]]
        items = int(arguments[2]) if len(arguments) > 2 else workload.items_of(arguments[1])
        _run_cell(workload.cell, cell)
        _raise_limit()
        adapter = kind(workload.concurrency, workload.chunk)
        answer = {"figures": workload.measure(Job(adapter, cell, items, workload.concurrency))}
    except Exception as error:
        answer = {"failure": _reason(error)}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()  # before the end of the peer, which may hang
    if adapter is not None and "figures" in answer:
        adapter.close()
    return 0 if "figures" in answer else 1


def _reason(error: Exception) -> str:
    """Say in a line what happened, without the names of this machine's files: it goes on a page."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"\s*\(?(?<!\w)/[\w./+-]+\)?", "", line)
    return f"{type(error).__name__}: {line[:120]}"


def _notebook() -> types.ModuleType:
    """Put a module in the place of ``__main__`` as IPython does: empty, and without a file."""
    notebook = types.ModuleType("__main__")
    _KEPT.append(sys.modules["__main__"])
    sys.modules["__main__"] = notebook
    return notebook


_KEPT: list[types.ModuleType] = []


def _run_cell(name: str, notebook: types.ModuleType) -> None:
    path = Path(__file__).parent / "cells" / f"{name}.py"
    exec(compile(path.read_text(encoding="utf-8"), "<cell>", "exec", dont_inherit=True), vars(notebook))  # noqa: S102


def _raise_limit() -> None:
    """Allow as many open files as this user may have: a thousand downloads take more than the usual thousand."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
