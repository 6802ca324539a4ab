"""What ``%pool?`` and ``%%pmap?`` print: texts for a person, with all options and verbs. The module owns no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from poolmagic.magics.arguments import OPTIONS, spellings
from poolmagic.magics.verbs import VERBS

__all__ = ["PMAP_HELP", "POOL_HELP", "with_help"]

F = TypeVar("F", bound=Callable[..., object])


def _rows(pairs: list[tuple[str, str]]) -> str:
    """Two columns of text, indented as code is."""
    width = max(len(left) for left, _ in pairs)
    return "\n".join(f"    {left:{width}}  {right}" for left, right in pairs)


def _options() -> str:
    return _rows([(f"{', '.join(spellings(name))} {takes or ''}", what) for name, (_, takes, what) in OPTIONS.items()])


def _verbs() -> str:
    return _rows([(f"%pool {name} {verb.takes}", verb.does) for name, verb in VERBS.items()])


POOL_HELP: Final = f"""Choose the pool that `pool` means, for one cell or for all that follow.

For one cell, in its first line, or for all later cells:

    %%pool gevent -c 200
    %pool prefork -c 4

Kinds of pool:

    prefork   processes: for computing (the default; also: processes)
    gevent    green threads in a process of their own: for network and disk, by the hundred
    eventlet  the same with eventlet
    threads   threads of this kernel, which share your objects (also: thread)
    asyncio   a loop in a process of its own: for `async def` functions
    solo      here and now, one after the other: for debugging (also: serial)

Options, spelled as for a Celery worker:

{_options()}

The same line again finds the same pool, still warm. A cell with -b runs in the background:

    %%pool gevent -c 200 -b -o pages
    pool.map(fetch, urls)

To look after pools and runs; bare %pool shows a table of the pools:

{_verbs()}

See also %%pmap?, which makes the cell itself the function.
"""

PMAP_HELP: Final = """Run the cell's body once for each item, in parallel; the last expression is the item's result.

    %%pmap url in urls -> pages
    raw = urlopen(url).read()
    raw.decode()

The line reads like that of a `for` loop. `pages` is then the list of results, in order; without
`-> pages` the list is shown. Several variables unpack an item:

    %%pmap i, row in df.iterrows() -> rows

All variables that the body sets are its own, as in a function; it sees the notebook's variables,
functions and imports. `return` works, and with `await` in the body the items run on an asyncio pool.

The items go to the current pool, or to the one that the options of %%pool name:

    %%pmap -P gevent -c 200 url in urls -> pages

See %pool? for the pools and their options.
"""


def with_help(text: str) -> Callable[[F], F]:
    """Return a decorator that puts a text where IPython looks for the help of a magic."""

    def decorate(function: F) -> F:
        function.__doc__ = text
        return function

    return decorate
