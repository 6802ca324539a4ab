"""The command line: ``python -m tests.benchmarks``. Runs workloads, shows tables, writes the file and the page."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.benchmarks.machine import facts, versions
from tests.benchmarks.page import write_page
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import Report
from tests.benchmarks.rounds import run
from tests.benchmarks.suite import WORKLOADS
from tests.benchmarks.tables import cells_of, text_table
from tests.benchmarks.workload import Workload

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the status to exit with; blocks until all is measured.

    Args:
        arguments: The words after the program's name; None for those of this process.
    """
    options = _parser().parse_args(arguments)
    if options.list:
        for workload in WORKLOADS.values():
            _say(f"{workload.name:<16} {', '.join(workload.peers)}")
        return 0
    if options.read:
        report = Report.from_json(options.read.read_text(encoding="utf-8"))
        for workload in _chosen(report.workloads()):
            _show(report, workload)
    else:
        report = _measure(options)
        if options.update and options.json and options.json.exists():
            report = Report.from_json(options.json.read_text(encoding="utf-8")).merged(report)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(report.to_json(), encoding="utf-8")
    if options.page:
        write_page(report, options.page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure poolmagic and its peers.")
    parser.add_argument("--list", action="store_true", help="name the workloads and their peers, and do nothing else")
    parser.add_argument("--only", type=_workloads, metavar="A,B", help="only these workloads")
    parser.add_argument("--peers", type=_peers, metavar="A,B", help="only these peers")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds at most (default: %(default)s)")
    parser.add_argument("--items", type=int, metavar="N", help="another number of items, for a quick look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples there")
    parser.add_argument("--update", action="store_true", help="keep what else the file has of earlier runs")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, take the samples from there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page there, and its chart beside it")
    return parser


def _workloads(text: str) -> list[str]:
    return _names(text, WORKLOADS)


def _peers(text: str) -> list[str]:
    return _names(text, PEERS)


def _names(text: str, known: Collection[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def _measure(options: argparse.Namespace) -> Report:
    """Run what was asked for, and show each table as soon as it is there."""
    report = Report(facts(), versions(PEERS.values()))
    began = time.perf_counter()
    for workload in _chosen(options.only or WORKLOADS):
        peers = [name for name in workload.peers if name in (options.peers or PEERS)]
        report.rows += run(workload, peers, options.rounds, _note, options.items)
        _show(report, workload)
    _note(f"all of it took {time.perf_counter() - began:.0f} s")
    return report


def _chosen(names: Collection[str]) -> list[Workload]:
    """Return the workloads of these names in the order of their table; an old file may name some that are no more."""
    return [workload for name, workload in WORKLOADS.items() if name in names]


def _show(report: Report, workload: Workload) -> None:
    _say(f"{workload.title}\n{text_table(cells_of(report, workload))}\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _note(text: str) -> None:
    """Tell how far it is, beside the tables."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
