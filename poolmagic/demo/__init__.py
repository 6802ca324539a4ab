"""The main job as a program: ``poolmagic demo``, and the console entry point ``poolmagic`` itself.

Workers import this package for the demo's tasks, so it loads the rest only when the command runs. It owns no state.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import poolmagic as pm

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the status to exit with; blocks until the command is done.

    Args:
        arguments: The words after the program's name; None for those of this process.
    """
    parser = argparse.ArgumentParser(prog="poolmagic", description="Parallel work from a notebook.")
    parser.add_argument("--version", action="version", version=f"poolmagic {pm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="show the pools at work on Python's own standard library",
        description="Fetch the standard library from a slow web server on this machine with gevent and eventlet, "
        "measure every file with prefork and a sample with solo, check all results, and print what each pool took.",
    )
    demo.add_argument(
        "-c", "--concurrency", type=int, default=200, metavar="N", help="green threads of a pool (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    from poolmagic.demo import job  # noqa: PLC0415 - it brings asyncio and more, which no worker needs

    try:
        problems = job.run(options.concurrency)
    except pm.UsageError as error:
        demo.error(str(error))
    except KeyboardInterrupt:
        return 130  # as a shell reports a program that Ctrl-C ended
    for problem in problems:
        sys.stderr.write(f"poolmagic demo: {problem}\n")
    return 1 if problems else 0
