"""Whatever a cell can define can be mapped, on every kind.

The functions are made in a script's ``__main__``, as those of a notebook are, in an interpreter of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = '''
import asyncio, dataclasses, enum, functools, sys
import poolmagic as pm

kind = sys.argv[1]
pool = pm.Pool(kind, None if kind == "solo" else 2)


def task(f):
    if kind != "asyncio":
        return f
    async def g(*args):
        return f(*args)
    return g


offset = 1000
class Color(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    def shifted(self, by):
        return Point(self.x + by, self.y)

class Shape:
    def __init__(self, side): self.side = side
    def area(self, x): return self.side * x
    @classmethod
    def of(cls, x): return cls(x).area(x)
    @staticmethod
    def static(x): return x + 1

class Square(Shape):
    def area(self, x): return super().area(x) + 1

def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)

@functools.lru_cache(maxsize=7)
def cached(x): return x * 3

def outer(n):
    def inner(x): return x + n + offset
    return inner

def check(f, items):
    """The pool gives what the builtin gives."""
    expected, found = list(map(f, items)), pool.map(task(f), items)
    assert expected == found, (f, expected, found)
    return found

check(lambda x: x + offset, range(5))
check(outer(7), range(5))
check(even, range(6))
check(cached, range(5))
check(lambda x: cached(x) + cached(x + 1), range(5))
check(functools.partial(pow, 2), range(5))
check(Square(3).area, range(5))
check(Shape.of, range(5))
check(Shape.static, range(5))
check(Point(1).shifted, range(5))
check(str.upper, ["a", "b"])
points = check(lambda x: Point(x), range(5))
assert all(type(point) is Point for point in points)
assert all(type(point) is Point for point in check(lambda p: p.shifted(1), points))
colors = pool.map(task(lambda x: Color.RED if x else Color.BLUE), [1, 0])
assert colors[0] is Color.RED and colors[1] is Color.BLUE
assert pool.map(task(lambda c: c is Color.RED), [Color.RED, Color.BLUE]) == [True, False]
assert pool.starmap(task(lambda a, b: a - b), [(5, 3), (2, 2)]) == [2, 0]

class Odd(Exception): pass
def fail(x): raise Odd(x)
try:
    pool.map(task(fail), [1])
except Odd as error:
    assert type(error) is Odd and error.args == (1,)
else:
    raise AssertionError("not raised")
offset = 5
assert pool.map(task(lambda x: x + offset), [1]) == [6], "a map sees the variables as they are when it starts"
print("all right")
'''


def run(script: Path, kind: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own, with the kind as its argument."""
    return subprocess.run(
        [sys.executable, str(script), kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_whatever_a_cell_can_define_can_be_mapped(kind: str, tmp_path: Path) -> None:
    """With the same results as the builtin `map`, the same types, the same members of enums."""
    script = tmp_path / "cells.py"
    script.write_text(SCRIPT)

    done = run(script, kind)

    assert "all right\n" == done.stdout, done.stderr


def test_what_a_task_prints_is_printed_by_the_kernel(kind: str, tmp_path: Path) -> None:
    """Whole lines, to the stream they were meant for, whether they end or not."""
    script = tmp_path / "prints.py"
    script.write_text(
        """
import sys
import poolmagic as pm
def say(x):
    print("hello", x)
    print("error", x, file=sys.stderr)
    print("no end", x, end="")
async def say_async(x):
    say(x)
pm.Pool(sys.argv[1]).map(say_async if sys.argv[1] == "asyncio" else say, [7])
"""
    )

    done = run(script, kind)

    assert 0 == done.returncode, done.stderr
    assert "hello 7\nno end 7" == done.stdout.removesuffix("\n")  # of a worker, a last line is ended with its task
    assert "error 7\n" in done.stderr
