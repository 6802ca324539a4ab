"""The cells as code: how ``%%pool`` and ``%%pmap`` become Python without moving a line.

A cell magic of IPython receives its cell as text, and what it runs has neither top-level `await` nor the cell's own
line numbers. So an *input transformer* replaces line 1, and only line 1, by a call of one of the hidden line magics,
and IPython runs the rest as it runs any cell::

    %%pool gevent -c 200            get_ipython().run_line_magic('_pool', 'gevent -c 200')
    pages = pool.map(fetch, urls)   pages = pool.map(fetch, urls)

For ``%%pool`` with ``-o`` or ``-b``, and for ``%%pmap``, an *AST transformer* then rewrites the parsed cell, its
positions kept::

    %%pmap url in urls -> pages     def _pmap(url):
    raw = get(url)                      raw = get(url)
    raw.decode()                        return raw.decode()
                                    pages = get_ipython().find_line_magic('_pmap')('url in urls -> pages', _pmap, urls)

Line 1 of a ``%%pmap`` starts with ``return``, which only the AST transformer takes away: the body can never run as an
ordinary cell by mistake, and IPython does not take an `await` in it for one of the cell's own (Stop could not reach a
map in an asynchronous cell).

With ``-b`` the body stays in the cell in a block that is never entered, so that Python finds its errors of syntax, and
the call that follows takes it from the rewriter, compiles it for itself and starts it.

Both transformers are pure (IPython calls them several times per cell), but for the last few bodies that the rewriter
keeps. They never raise: IPython unregisters an AST transformer that does. What is wrong with a cell becomes a call that
says so when the cell runs.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from poolmagic.errors import UsageError
from poolmagic.magics.arguments import PmapLine, parse_pmap_line, parse_pool_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["BACKGROUND", "PMAP", "POOL", "TASK", "CellCode", "CellRewriter", "transform_first_line"]

POOL: Final = "_pool"
PMAP: Final = "_pmap"
BACKGROUND: Final = "_pool_background"
"""The hidden line magics that the first lines become."""

TASK: Final = "_pmap"
"""What the function made of a ``%%pmap`` cell is called until it runs."""

KEPT: Final = 16
"""How many bodies of background cells are kept: each is wanted right after it was made, if ever, or in a loop."""

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

    def __init__(self) -> None:
        self._bodies: dict[int, list[ast.stmt]] = {}
        self._numbers = itertools.count()

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Rewrite a ``%%pmap`` cell, or a ``%%pool`` cell with ``-o`` or ``-b``; leaves all others as they are."""
        match node.body:
            case [ast.Return(value=ast.Call() as call), *_] if (line := _line_of(call, PMAP)) is not None:
                rewrite = self._pmap_cell
            case [ast.Expr(value=ast.Call() as call), *_] if (line := _line_of(call, POOL)) is not None:
                rewrite = self._pool_cell
            case _:
                return node
        try:
            node.body = rewrite(call, line, node.body)
        except UsageError:
            # The same text is parsed once more when the hidden magic runs, and is refused there, where it is seen.
            node.body = [ast.copy_location(ast.Expr(call), call)]
        return node

    def body(self, number: int) -> list[ast.stmt]:
        """Return the body of a background cell, for the call that is to start it; does not block."""
        return self._bodies[number]

    def _pool_cell(self, call: ast.Call, line: str, cell: list[ast.stmt]) -> list[ast.stmt]:
        """``-o``: turn the last expression into an assignment, and show the variable in its place. And ``-b``."""
        options = parse_pool_line(line)
        out, last = options.out, cell[-1]
        if out is not None and (len(cell) == 1 or not isinstance(last, ast.Expr)):
            text = f"-o {out}: the last line of the cell is not an expression; assign to {out} in it"
            return _refusal(call, POOL, line, text)
        if options.background:
            return self._in_background(call, POOL, line, cell[1:])
        if out is None or not isinstance(last, ast.Expr):
            return cell
        keep = ast.Assign(targets=[ast.Name(out, ast.Store())], value=last.value)
        show = ast.Expr(ast.Name(out, ast.Load()))
        for node in (keep, keep.targets[0], show, show.value):
            ast.copy_location(node, last)
        return [*cell[:-1], keep, show]

    def _pmap_cell(self, call: ast.Call, line: str, cell: list[ast.stmt]) -> list[ast.stmt]:
        """The cell's body as a function, and the call that maps it."""
        body = cell[1:]
        header = parse_pmap_line(line)
        if not body:
            return _refusal(call, PMAP, line, "the cell has no body: write below %%pmap what is done with one item")
        if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _own_nodes(body)):
            return _refusal(call, PMAP, line, "yield: the last expression of the cell is the result of one item")
        function = _function(call, header, body)
        run = _call(call, PMAP, ast.Constant(line), ast.Name(TASK, ast.Load()), header.items)
        show = ast.copy_location(ast.Expr(run), call)
        out = header.options.out
        if header.options.background:
            return self._in_background(call, PMAP, line, [function, show])
        if out is None:
            return [function, show]
        keep = ast.Assign(targets=[ast.copy_location(ast.Name(out, ast.Store()), call)], value=run)
        return [function, ast.copy_location(keep, call)]

    def _in_background(self, call: ast.Call, magic: str, line: str, body: list[ast.stmt]) -> list[ast.stmt]:
        """The call that starts a body, behind the body itself in a block that is never entered."""
        if not body:
            return _refusal(call, magic, line, "-b: the cell has no body: write below it what is to be done")
        if any(_awaits(node) for node in _own_nodes(body)):
            text = "-b: await needs the loop of the kernel, and a background cell runs beside it: leave one of them out"
            return _refusal(call, magic, line, text)
        number = next(self._numbers)
        self._bodies = dict([*self._bodies.items(), (number, body)][-KEPT:])
        here = _unplaced("lambda: None")  # tells the file of the cell
        start = _call(call, BACKGROUND, ast.Constant(magic), ast.Constant(line), ast.Constant(number), here)
        check = ast.If(test=ast.Constant(False), body=body, orelse=[])
        return [ast.copy_location(check, body[0]), ast.copy_location(ast.Expr(start), call)]


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
    name = _unplaced(f"get_ipython().find_line_magic({magic!r})")
    call = ast.Call(func=name, args=list(arguments), keywords=[])
    for node in ast.walk(call):
        if isinstance(node, ast.expr) and not hasattr(node, "lineno"):
            ast.copy_location(node, at)
    return ast.copy_location(call, at)


def _unplaced(expression: str) -> ast.expr:
    """An expression that stands nowhere in the cell."""
    node = ast.parse(expression, mode="eval").body
    for part in ast.walk(node):
        for name in getattr(part, "_attributes", ()):
            delattr(part, name)
    return node


def _refusal(at: ast.Call, magic: str, line: str, text: str) -> list[ast.stmt]:
    """The whole of a cell that is refused: it says why when it runs, and does nothing else."""
    call = _call(at, magic, ast.Constant(line), ast.Constant(text))
    return [ast.copy_location(ast.Expr(call), at)]


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


class CellCode:
    """A cell, compiled: its statements, and the expression that may be its last.

    Args:
        shell: Compiles it as its cells, and has its names.
        nodes: The statements.
        filename: What the cell is called in tracebacks.

    Raises:
        SyntaxError: The compiler found it; the parser would have found most of it before.
    """

    def __init__(self, shell: Any, nodes: list[ast.stmt], filename: str) -> None:
        self._shell = shell
        last = nodes[-1] if nodes and isinstance(nodes[-1], ast.Expr) else None
        body = nodes if last is None else nodes[:-1]
        self._body = shell.compile(ast.Module(body, []), filename, "exec")
        self._last = None if last is None else shell.compile(ast.Expression(last.value), filename, "eval")

    def run(self, names: dict[str, Any] | None = None) -> Any:
        """Return the value of the last expression, None if there is none; blocks for it, raises what it raises.

        Args:
            names: Takes the names that are assigned, instead of the user's namespace.
        """
        __tracebackhide__ = True
        user = self._shell.user_global_ns
        local = self._shell.user_ns if names is None else names
        exec(self._body, user, local)  # noqa: S102 - a cell
        return None if self._last is None else eval(self._last, user, local)  # noqa: S307 - a cell's last line

    def own_part(self, trace: TracebackType | None) -> TracebackType | None:
        """Return a traceback from the frame of the cell on; all of it if there is none."""
        part = trace
        while part is not None and part.tb_frame.f_code not in (self._body, self._last):
            part = part.tb_next
        return part or trace
