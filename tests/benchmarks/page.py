"""The page of the site that a report becomes: how it was measured, the chart, a table for each workload."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.benchmarks.chart import draw
from tests.benchmarks.report import Report
from tests.benchmarks.suite import WORKLOADS
from tests.benchmarks.tables import cells_of, markdown_table
from tests.benchmarks.workload import Workload

__all__ = ["render", "write_page"]

_HEAD: Final = """\
<!-- Written by `make bench`. Change tests/benchmarks/page.py instead. -->

# Benchmarks

What poolmagic costs, beside what others cost for the same work. `make bench` runs all of it on your machine, in about a
quarter of an hour, and writes this page.

Every figure is a median. Each measurement, of one workload done by one library, is a fresh process; all libraries take
their turn before the next round begins, so that whatever slows the machine down for a while befalls them alike. The
functions stand in a `__main__` without a file, as those of a notebook do. Processes are two, and pools are warm unless
a table says otherwise: a small map has gone before.

- *best* is the best of the rounds.
- *ratio* is how many times poolmagic's median a median is; below 1 is less than poolmagic. Green threads, threads and
  coroutines are compared with poolmagic's pool of that kind.
- *efficiency* is the share of the processes' time that was spent in the tasks.
- *scaled from 500* says that a library was given so many items only, because all of them would have taken minutes, and
  that its time is reckoned up.
- *-* stands for what could not be measured.

`multiprocessing`, `ProcessPoolExecutor`, `mpire` and `pathos` fork the measuring process, which is quick, and hands
on for nothing all that it has in memory. poolmagic never forks a notebook: a kernel has threads, and a lock that one of
them holds at that moment is held for ever in the child.

![Bars for each workload: the times of poolmagic and of the others](benchmarks.svg)
"""

_TAIL: Final = """\
## The machine

{facts}

## Run it

```sh
make bench                                                        # everything, and this page
.venv-bench/bin/python -m tests.benchmarks --list                 # the names
.venv-bench/bin/python -m tests.benchmarks --only squares,short --peers poolmagic,joblib --rounds 5
```
"""


def render(report: Report) -> str:
    """Return the page in Markdown, with the workloads that the report has."""
    there = report.workloads()
    sections = [_section(report, workload) for name, workload in WORKLOADS.items() if name in there]
    facts = [["", ""], *([name, value] for name, value in report.facts.items())]
    facts += [[name, version] for name, version in report.versions.items()]
    return "\n".join([_HEAD, *sections, _TAIL.format(facts=markdown_table(facts))])


def write_page(report: Report, path: Path) -> None:
    """Write the page, and the chart beside it."""
    path.write_text(render(report), encoding="utf-8")
    picture = draw(report, list(WORKLOADS.values()))
    path.with_name("benchmarks.svg").write_text(picture, encoding="utf-8")


def _section(report: Report, workload: Workload) -> str:
    table = markdown_table(cells_of(report, workload))
    return f"## {_capital(workload.title)}\n\n{workload.what} The aim: {workload.target}.\n\n{table}\n"


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:].replace("*", "\\*")
