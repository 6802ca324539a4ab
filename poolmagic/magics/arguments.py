"""The first lines of the magics as frozen values: what a person typed, checked and named.

Everything here is pure text work: `PoolLine` is what stands after ``%%pool`` (and what ``%pool`` shares with it),
`PmapLine` is the header ``url in urls -> pages``. Whatever is wrong is refused with poolmagic's one-line `UsageError`,
which names the value and what is allowed. The module owns no state.
"""

from __future__ import annotations

import argparse
import ast
import functools
import keyword
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, cast

from poolmagic.config import ALIASES, KINDS, PoolConfig
from poolmagic.errors import UsageError
from poolmagic.options import PoolOptionsDict, RunOptions, divide

__all__ = [
    "CELL_OPTIONS",
    "OPTIONS",
    "PmapLine",
    "PoolLine",
    "parse_pmap_line",
    "parse_pool_line",
    "read_number",
    "spellings",
    "split_words",
]

OPTIONS: Final[dict[str, tuple[str, str | None, str]]] = {
    "pool": ("-P", "KIND", f"kind of pool: {', '.join([*KINDS, *ALIASES])}"),
    "concurrency": ("-c", "N", "tasks at once: processes or green threads, by kind; default: the number of CPUs"),
    "workers": ("-w", "N", "processes of a green or asyncio pool; default: 1"),
    "inner-threads": ("", "N", "threads of BLAS and OpenMP in each process; default: the CPUs shared out"),
    "preload": ("", "MODULES", "modules to import before the first task, with commas; default: what the tasks need"),
    "autoscale": ("", "MOST,FEWEST", "tasks at once by need, instead of -c"),
    "time-limit": ("", "SECONDS", "how long a task may take before it is stopped"),
    "soft-time-limit": ("", "SECONDS", "how long it may take before SoftTimeLimitExceeded is raised in it"),
    "retries": ("", "COUNT", "how often a task is tried again that fails"),
    "crash-retries": ("", "COUNT", "how often a task is tried again whose worker died; default: 1"),
    "rate-limit": ("", "RATE", "tasks that may start, such as 100/m"),
    "seed": ("", "COUNT", "what the random numbers of the tasks come from"),
    "max-tasks-per-child": ("", "N", "tasks that a process runs before it is replaced"),
    "max-memory-per-child": ("", "SIZE", "memory of a process from which on it is replaced, such as 2GB"),
    "memory-limit": ("", "SIZE", "memory that all processes may take; default: 85 % of what there is"),
    "idle-timeout": ("", "SECONDS", "how long idle processes wait for the next run; default: 300"),
    "name": ("-n", "NAME", "a name of your own, to use this pool again"),
    "quiet": ("-q", None, "no progress bar"),
    "no-prefix": ("", None, "no number of the item before the lines that tasks print"),
    "out": ("-o", "VAR", "keep the value of the cell's last expression in this variable"),
    "background": ("-b", None, "run the cell beside the others, and go on at once"),
}
"""Each option of ``%%pool``: its long name, its short one ("": none), what it takes (None: nothing), and what for."""

CELL_OPTIONS: Final = ("out", "background")
"""Those that mean something for a cell only, so not for ``%pool``."""


@dataclass(frozen=True)
class PoolLine:
    """The options of ``%%pool``, ``%pool`` and ``%%pmap``; None where nothing was given.

    Attributes:
        kind: The name or alias of a kind.
        concurrency: Tasks at once.
        settings: The other settings of the pool, as `Pool` takes them.
        name: The pool's name.
        quiet: Show no progress.
        out: The variable that takes the cell's last value.
        background: Run the cell in the background.
    """

    kind: str | None = None
    concurrency: int | None = None
    settings: PoolOptionsDict = field(default_factory=PoolOptionsDict)
    name: str | None = None
    quiet: bool = False
    out: str | None = None
    background: bool = False

    @property
    def has_settings(self) -> bool:
        """Whether the line describes a pool, and not only a name or how to show its work."""
        return self.kind is not None or self.concurrency is not None or bool(self.settings)

    def config(self) -> tuple[PoolConfig, RunOptions]:
        """Return the settings of the pool, and the options of its runs; raises `UsageError`."""
        own, options = divide(self.settings)
        return PoolConfig.make(self.kind or "prefork", self.concurrency, **own), options


@dataclass(frozen=True)
class PmapLine:
    """The header of ``%%pmap``.

    Attributes:
        options: What stands before the header.
        target: The loop variable, or several to unpack an item into, as in a `for` statement.
        items: The expression that gives the items.
    """

    options: PoolLine
    target: ast.expr
    items: ast.expr


class _Parser(argparse.ArgumentParser):
    """An `argparse` parser that neither prints nor exits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def spellings(option: str) -> tuple[str, ...]:
    """Return how an option of `OPTIONS` may be written; does not block."""
    short = OPTIONS[option][0]
    return (short, f"--{option}") if short else (f"--{option}",)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _number(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of seconds") from None


_TYPES: Final[dict[str, Callable[[str], Any]]] = {
    "N": _number,
    "COUNT": _count,
    "SECONDS": _seconds,
    "MODULES": lambda text: tuple(filter(None, (name.strip() for name in text.split(",")))),
}


@functools.cache
def _parser(magic: str) -> _Parser:
    parser = _Parser(prog=magic, add_help=False, allow_abbrev=False)
    for option, (_, takes, _) in OPTIONS.items():
        if magic == "%pool" and option in CELL_OPTIONS:
            continue
        if option.startswith("no-"):
            parser.add_argument(*spellings(option), dest=option.removeprefix("no-"), action="store_const", const=False)
        elif takes is None:
            parser.add_argument(*spellings(option), action="store_true")
        else:
            parser.add_argument(*spellings(option), metavar=takes, type=_TYPES.get(takes, str))
    return parser


def read_number(what: str, text: str) -> int:
    """Return a whole number of at least 1; raises `UsageError`, which says what the number was for."""
    try:
        return _number(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{what} {error}") from None


def split_words(line: str) -> list[str]:
    """Return the words of a line, of which quotes hold some together; raises `UsageError`."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r}: {str(error).lower()}") from None


def parse_pool_line(line: str, magic: str = "%%pool") -> PoolLine:
    """Read the options of ``%%pool``, ``%pool`` or ``%%pmap``; raises `UsageError`, does not block.

    Args:
        line: What stands after the magic's name.
        magic: For which magic: it decides what is allowed.
    """
    parser = _parser(magic)
    given, extra = parser.parse_known_args(split_words(line))
    # Not a positional of the parser: argparse takes an optional one for missing as soon as an option comes first.
    kind = extra.pop(0) if magic != "%%pmap" and extra and not extra[0].startswith("-") else None
    if extra:
        for option in CELL_OPTIONS:
            if extra[0] in spellings(option):
                raise UsageError(f"{extra[0]} is for one cell: write it behind %%pool, in the first line of the cell")
        allowed = ["/".join(spellings(option)) for option in OPTIONS if magic != "%pool" or option not in CELL_OPTIONS]
        what = "option" if extra[0].startswith("-") else "word"
        raise UsageError(f"unknown {what} {extra[0]!r}; {magic} takes {', '.join(allowed)}")
    if kind is not None and given.pool is not None and kind != given.pool:
        raise UsageError(f"two kinds of pool, {kind!r} and {given.pool!r}: give one")
    out = getattr(given, "out", None)
    if out is not None:
        check_variable("-o", out)
    names = PoolOptionsDict.__annotations__
    settings = {name: value for name, value in vars(given).items() if name in names and value is not None}
    options = PoolLine(
        kind or given.pool,
        given.concurrency,
        cast("PoolOptionsDict", settings),
        given.name,
        given.quiet,
        out,
        getattr(given, "background", False),
    )
    if options.has_settings:
        options.config()
    return options


def check_variable(option: str, name: str) -> str:
    """Return `name` if a variable may be called so; raises `UsageError`."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{option} {name!r}: use the name of a variable")
    return name


_WORD: Final = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[^\s"'])+)""")


def _split_options(line: str) -> tuple[str, str]:
    """Divide a line into the options at its start and the rest.

    Not `shlex`, because the rest is Python and keeps its quotes.
    """
    flags = {name for option, (_, takes, _) in OPTIONS.items() if takes is None for name in spellings(option)}
    end = 0
    while (word := _WORD.match(line, end)) and word[1].startswith("-"):
        end = word.end()
        alone = word[1] in flags or (word[1].startswith("--") and "=" in word[1])
        attached = len(word[1]) > 2 and not word[1].startswith("--")
        if not (alone or attached) and (value := _WORD.match(line, end)):
            end = value.end()
    return line[:end], line[end:].strip()


def parse_pmap_line(line: str) -> PmapLine:
    """Read the header of ``%%pmap``: ``[options] TARGET in ITEMS [-> NAME]``; raises `UsageError`, does not block.

    The positions of the returned nodes are those of line 1 of the cell, as a whole.
    """
    before, header = _split_options(line)
    options = parse_pool_line(before, "%%pmap")
    text, arrow, name = header.rpartition("->")
    loop = _parse_loop(text) if arrow else None
    if loop is not None:
        check_variable("->", name.strip())
        if options.out not in (None, name.strip()):
            raise UsageError(f"-o {options.out} and -> {name.strip()}: give one")
        options = replace(options, out=name.strip())
    else:  # no arrow, or one inside a string of the expression
        loop = _parse_loop(header)
    if loop is None:
        raise UsageError(f"{header!r}: use %%pmap VARIABLE in ITEMS -> RESULTS, such as %%pmap url in urls -> pages")
    for node in ast.walk(loop):
        if isinstance(node, ast.expr):
            node.lineno = node.end_lineno = 1
            node.col_offset, node.end_col_offset = 0, len(line)
    _check_target(loop.target)
    return PmapLine(options, loop.target, loop.iter)


def _parse_loop(header: str) -> ast.For | None:
    """Parse ``url in urls`` as Python parses it in a `for` statement; None if it cannot be one."""
    try:
        module = ast.parse(f"for {header.strip()}:\n pass")
    except (SyntaxError, ValueError):
        return None
    match module.body:
        case [ast.For(body=[ast.Pass()], orelse=[]) as loop]:
            return loop
    return None


def _check_target(target: ast.expr) -> None:
    for node in ast.walk(target):
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            raise UsageError(f"{ast.unparse(target)!r}: use the name of a variable, or several to unpack an item")
