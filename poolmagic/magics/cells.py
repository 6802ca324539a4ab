"""The cells as code: how ``%%pool`` and ``%%pmap`` become Python without moving a line.

A cell magic of IPython receives its cell as text, and what it runs has neither top-level `await` nor the cell's own
line numbers. So an *input transformer* replaces line 1, and only line 1, by a call of one of the hidden line magics,
and IPython runs the rest as it runs any cell::

    %%pool gevent -c 200            get_ipython().run_line_magic('_pool', 'gevent -c 200')
    pages = pool.map(fetch, urls)   pages = pool.map(fetch, urls)

For ``%%pool -o VAR`` and for ``%%pmap`` an *AST transformer* then rewrites the parsed cell, its positions kept::

    %%pmap url in urls -> pages     def _pmap(url):
    raw = get(url)                      raw = get(url)
    raw.decode()                        return raw.decode()
                                    pages = get_ipython().find_line_magic('_pmap')('url in urls -> pages', _pmap, urls)

Line 1 of a ``%%pmap`` starts with ``return``, which only the AST transformer takes away: the body can never run as an
ordinary cell by mistake, and IPython does not take an `await` in it for one of the cell's own (Stop could not reach a
map in an asynchronous cell).

Both transformers are pure (IPython calls them several times per cell) and never raise: IPython unregisters an AST
transformer that does. What is wrong with a cell becomes a call that says so when the cell runs.
"""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING, Final

from poolmagic.errors import UsageError
from poolmagic.magics.arguments import PmapLine, parse_pmap_line, parse_pool_line

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PMAP", "POOL", "TASK", "CellRewriter", "transform_first_line"]

POOL: Final = "_pool"
PMAP: Final = "_pmap"
"""The hidden line magics that the first lines become."""

TASK: Final = "_pmap"
"""What the function made of a ``%%pmap`` cell is called until it runs."""

_ITEM: Final = "_pmap_item"
_FIRST_LINE: Final = re.compile(r"%%(pool|pmap)(?:[ \t]+(.*?))?\s*$")

_Scopes: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def transform_first_line(lines: list[str]) -> list[str]:
    """Replace a first line ``%%pool ...`` or ``%%pmap ...`` by a call of its hidden line magic; does not block."""
    match = _FIRST_LINE.match(lines[0]) if lines else None
    if match is None:
        return lines
    magic, line = match[1], match[2] or ""
    start = "return " if magic == "pmap" else ""
    return [f"{start}get_ipython().run_line_magic({'_' + magic!r}, {line!r})\n", *lines[1:]]


# Not a side effect, but the way to have IPython's check for a complete cell see the ``%%``: a person who types
# in a terminal ends such a cell with an empty line.
transform_first_line.has_side_effects = True  # type: ignore[attr-defined]


class CellRewriter(ast.NodeTransformer):
    """The AST transformer for cells that begin with what `transform_first_line` writes."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Rewrite a ``%%pmap`` cell, or a ``%%pool`` cell with ``-o``; leaves all others as they are."""
        match node.body:
            case [ast.Return(value=ast.Call() as call), *_] if (line := _line_of(call, PMAP)) is not None:
                rewrite = _pmap_cell
            case [ast.Expr(value=ast.Call() as call), *_] if (line := _line_of(call, POOL)) is not None:
                rewrite = _pool_cell
            case _:
                return node
        try:
            node.body = rewrite(call, line, node.body)
        except UsageError:
            # The same text is parsed once more when the hidden magic runs, and is refused there, where it is seen.
            node.body = [ast.copy_location(ast.Expr(call), call)]
        return node


def _line_of(call: ast.Call, magic: str) -> str | None:
    """The line that a call of a hidden magic gives it; None if the call is anything else."""
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr="run_line_magic"),
            args=[ast.Constant(value=name), ast.Constant(value=str(line))],
        ) if name == magic:
            return line
    return None


def _call(at: ast.Call, magic: str, *arguments: ast.expr) -> ast.Call:
    """``get_ipython().find_line_magic(magic)(*arguments)``, at the place of another call."""
    name = ast.parse(f"get_ipython().find_line_magic({magic!r})", mode="eval").body
    call = ast.Call(func=name, args=list(arguments), keywords=[])
    for node in ast.walk(name):
        if isinstance(node, ast.expr):
            ast.copy_location(node, at)
    return ast.copy_location(call, at)


def _refusal(at: ast.Call, magic: str, line: str, text: str) -> list[ast.stmt]:
    """The whole of a cell that is refused: it says why when it runs, and does nothing else."""
    call = _call(at, magic, ast.Constant(line), ast.Constant(text))
    return [ast.copy_location(ast.Expr(call), at)]


def _pool_cell(call: ast.Call, line: str, cell: list[ast.stmt]) -> list[ast.stmt]:
    """``-o VAR``: turn the last expression into an assignment, and show the variable in its place."""
    out = parse_pool_line(line).out
    if out is None:
        return cell
    last = cell[-1]
    if len(cell) == 1 or not isinstance(last, ast.Expr):
        text = f"-o {out}: the last line of the cell is not an expression; assign to {out} in it"
        return _refusal(call, POOL, line, text)
    keep = ast.Assign(targets=[ast.Name(out, ast.Store())], value=last.value)
    show = ast.Expr(ast.Name(out, ast.Load()))
    for node in (keep, keep.targets[0], show, show.value):
        ast.copy_location(node, last)
    return [*cell[:-1], keep, show]


def _pmap_cell(call: ast.Call, line: str, cell: list[ast.stmt]) -> list[ast.stmt]:
    """The cell's body as a function, and the call that maps it."""
    body = cell[1:]
    header = parse_pmap_line(line)
    if not body:
        return _refusal(call, PMAP, line, "the cell has no body: write below %%pmap what is done with one item")
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _own_nodes(body)):
        return _refusal(call, PMAP, line, "yield: the last expression of the cell is the result of one item")
    function = _function(call, header, body)
    run = _call(call, PMAP, ast.Constant(line), ast.Name(TASK, ast.Load()), header.items)
    for argument in run.args[:2]:
        ast.copy_location(argument, call)
    end: ast.stmt
    if header.options.out is None:
        end = ast.Expr(run)
    else:
        end = ast.Assign(targets=[ast.copy_location(ast.Name(header.options.out, ast.Store()), call)], value=run)
    return [function, ast.copy_location(end, call)]


def _function(call: ast.Call, header: PmapLine, body: list[ast.stmt]) -> ast.stmt:
    """The body as a function of one item."""
    parameter = header.target.id if isinstance(header.target, ast.Name) else _ITEM
    if parameter == _ITEM:
        unpack = ast.Assign(targets=[header.target], value=ast.copy_location(ast.Name(_ITEM, ast.Load()), call))
        body = [ast.copy_location(unpack, call), *body]
    is_async = any(_awaits(node) for node in _own_nodes(body))
    arguments = ast.arguments(posonlyargs=[], args=[ast.arg(parameter)], kwonlyargs=[], kw_defaults=[], defaults=[])
    kind = ast.AsyncFunctionDef if is_async else ast.FunctionDef
    function = kind(name=TASK, args=arguments, body=[*body[:-1], *_as_tail(body[-1])], decorator_list=[])
    if sys.version_info >= (3, 12):
        function.type_params = []
    for node in (function, arguments.args[0]):
        ast.copy_location(node, call)
    return function


def _as_tail(last: ast.stmt) -> list[ast.stmt]:
    """A statement in the last place of the body, as one that returns its value.

    The last expression of a `with` or `if` block in the last place counts: it is the last expression of the cell.
    """
    match last:
        case ast.Expr():
            return [ast.copy_location(ast.Return(last.value), last)]
        case ast.With() | ast.AsyncWith():
            last.body[-1:] = _as_tail(last.body[-1])
        case ast.If():
            last.body[-1:] = _as_tail(last.body[-1])
            if last.orelse:
                last.orelse[-1:] = _as_tail(last.orelse[-1])
        case ast.Try():
            for block in (last.orelse or last.body, *(handler.body for handler in last.handlers)):
                block[-1:] = _as_tail(block[-1])
    return [last]


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes of a body that are not inside a function, lambda or class of its own."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, _Scopes):
            # Defaults and decorators belong to the scope around, but an `await` there is rare enough to be refused.
            continue
        todo.extend(ast.iter_child_nodes(node))


def _awaits(node: ast.AST) -> bool:
    if isinstance(node, ast.comprehension):
        return bool(node.is_async)
    return isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith))
